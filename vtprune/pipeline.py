"""One side of a run, from the pixels to the first logits, with the steps of a plan on the way."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from vtprune.backbones.base import Backbone, Encoded, Prompt
from vtprune.cost import Timer
from vtprune.decoder import Decoding, Look, prefill
from vtprune.tokens import Alive, weave
from vtprune.types import Signals, Stage, Step

CLIP = frozenset(("clip_patches", "clip_text"))
FROM_LLM = frozenset(("attention", "query_states", "query_keys", "llm_keys"))
"""Signals that the language model itself gives to a step inside it."""


def tower_needs(steps: Iterable[Step]) -> frozenset[str]:
    """Signals that these steps read and that do not come from the language model."""
    return frozenset(need for step in steps for need in step.needs) - FROM_LLM


class Pass:
    """One pass of one prompt under a list of steps; used once.

    whole_order: also ask the selectors, which must be nested, for the order of all tokens; extra work, so
    never inside a measured pass.

    After `prefill`: stages, what each step did (seconds are the timer's, under "select:<index>"), and
    visual_per_layer, how many visual tokens each layer had in its sequence; crossed, how many image states
    its cross-attention saw; patches, where the visual tokens are not in the sequence, how many were left.
    """

    def __init__(
        self,
        backbone: Backbone,
        prompt: Prompt,
        steps: Sequence[Step],
        timer: Timer,
        *,
        positions: str = "original",
        seed: int = 0,
        whole_order: bool = False,
    ) -> None:
        self.backbone, self.prompt, self.steps = backbone, prompt, steps
        self.timer, self.positions, self.seed, self.whole_order = timer, positions, seed, whole_order
        self.stages: list[Stage] = []
        self.visual_per_layer: list[int] = []
        self.crossed = 0
        self.patches: int | None = None
        self._inside = {step.at[1]: step for step in steps if isinstance(step.at, tuple)}
        self._text = prompt.text
        # where the question's tokens are among the text tokens
        self._instruction = torch.searchsorted(self._text, prompt.instruction)

    def prefill(self, room: int, encoded: Encoded | None = None) -> Decoding:
        """Everything up to the first logits. room: tokens to be decoded at most; encoded: the vision tower's
        output when it is there already, with all signals that the steps need."""
        backbone, prompt, timer = self.backbone, self.prompt, self.timer
        timer.switch("encode")
        needs = tower_needs(self.steps)
        if encoded is None:
            encoded = backbone.encode(prompt, needs)
        known: dict[str, Any] = dict(encoded.signals)
        if needs & CLIP:
            timer.switch("select")
            known["clip_patches"], known["clip_text"], known["clip_sign"] = backbone.clip(prompt, encoded)
        signals = Signals(encoded.features, prompt.segments, seed=self.seed, **known)
        self._alive, self._deep = Alive.start(signals, prompt.visual), list(encoded.deep)

        features = self._select_all((s for s in self.steps if s.at == "vision"), encoded.features)
        timer.switch("encode")
        entry = backbone.enter(prompt, encoded, features, self._alive.signals.image_ids())
        features = self._select_all((s for s in self.steps if s.at == "projected"), entry.tokens)
        places = self._alive.places if prompt.slots is None else prompt.slots

        timer.switch("prefill")
        self._sequence = weave(backbone.embed_text(prompt), self._text, features, places)
        decoding = prefill(
            entry.llm,
            self._sequence.hidden,
            self._positions(),
            room=room,
            next_position=prompt.next_position if self.positions == "original" else None,
            before_layer=self._before_layer if self._inside else None,
            after_layer=self._after_layer if self._deep else None,
        )
        if not self._inside:
            self.visual_per_layer = [len(features)] * backbone.layers
        self.crossed = entry.crossed
        self.patches = None if prompt.slots is None else self._alive.count
        return decoding

    def _select_all(self, steps: Iterable[Step], features: Tensor) -> Tensor:
        for step in steps:
            features = self._select(step, features)
        return features

    def _before_layer(self, k: int, hidden: Tensor, look: Look) -> tuple[Tensor, Tensor] | None:
        change = None
        if k in self._inside:
            sequence = self._sequence = dataclasses.replace(self._sequence, hidden=hidden)
            features = self._select(self._inside[k], hidden[sequence.visual_rows], look)
            self._sequence = weave(hidden[sequence.text_rows], self._text, features, self._alive.places)
            change = self._sequence.hidden, self._positions()
        self.visual_per_layer.append(self._alive.count)
        return change

    def _after_layer(self, hidden: Tensor) -> Tensor:
        """[n, D]: with what deepstack adds to the visual tokens after this layer."""
        return hidden.index_add(0, self._sequence.visual_rows, self._deep.pop(0)) if self._deep else hidden

    @torch.inference_mode()
    def _select(self, step: Step, features: Tensor, look: Look | None = None) -> Tensor:
        """Run one step on the alive tokens' features [M, D]; returns those [K, D] of who is alive then."""
        outer = self.timer.switch(f"select:{len(self.stages)}")
        alive = self._alive
        seen = {} if look is None else self._inside_signals(step, look)
        signals = dataclasses.replace(alive.signals, features=features.float(), **seen)
        if self.whole_order and step.keep is not None:
            selection = step.select(signals, step.keep, full=True)
        else:
            selection = step.select(signals, step.keep)
        alive = dataclasses.replace(alive, signals=signals)
        name, layer = (f"llm:{step.at[1]}", step.at[1]) if isinstance(step.at, tuple) else (step.at, None)
        # what is still to be added to the tokens shares their fate
        self._alive, (features, *self._deep) = alive.apply(
            selection, [features, *self._deep], self.prompt.last_places
        )
        self.timer.switch(None)  # keeping the record is no part of the method
        self.stages.append(alive.stage(selection, name, layer, len(self.prompt.images)))
        self.timer.switch(outer)
        return features

    def _inside_signals(self, step: Step, look: Look) -> dict[str, Any]:
        """Those of the step's needs that come from the language model itself, at its layer."""
        sequence, needs = self._sequence, step.needs
        rows = sequence.text_rows[-1:] if step.queries == "last" else sequence.text_rows[self._instruction]
        found: dict[str, Any] = {}
        if "attention" in needs:
            found["attention"] = look.attention(rows, step.layer_offset)[..., sequence.visual_rows]
        if "query_states" in needs:
            found["query_states"] = sequence.hidden[rows].float()
        if "llm_keys" in needs or "query_keys" in needs:
            keys = look.keys(step.layer_offset)
            found["llm_keys"], found["query_keys"] = keys[sequence.visual_rows], keys[rows]
        return found

    def _positions(self) -> Tensor:
        places = self._sequence.places
        positions = self.prompt.positions[..., places]
        if self.positions == "original":
            return positions
        if positions.dim() == 1:
            return torch.arange(len(places), device=places.device)
        # close the gaps that all axes have in common: a text token goes on having one number on all of them
        return positions.unique(return_inverse=True)[1]
