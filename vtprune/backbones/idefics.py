"""IDEFICS, the open Flamingo: a perceiver sums up each image, and the decoder cross-attends to that."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from vtprune.backbones.base import Encoded, Entry, LanguageModel, Prompt
from vtprune.backbones.parts import tokens_of
from vtprune.backbones.pretrained import Checkpoint
from vtprune.backbones.resampler import ResamplerBackbone, of_each_image
from vtprune.backbones.tower import Tower

MARK, FAKE, END = "<image>", "<fake_token_around_image>", "<end_of_utterance>"


@dataclass(frozen=True)
class _Words:
    """What `tokens_of` reads of a processor."""

    tokenizer: Any
    image_token: str = MARK


@dataclass(frozen=True)
class _Seen:
    """What cross-attention sees in one request. states [1, S, Dv]; mask [1, 1, n, S], added to the scores of
    each token of the prompt; gate [1, n], 0 where a token sees no image."""

    states: Tensor
    mask: Tensor
    gate: Tensor


@dataclass(frozen=True)
class _Layer:
    """A decoder layer with the gated cross-attention in front of it, if any, bound to one request."""

    layer: Any
    cross: Any
    seen: _Seen

    def __call__(self, hidden: Tensor, position_embeddings: Any, past_key_values: Any) -> Tensor:
        if self.cross is not None:
            n, seen = hidden.shape[1], self.seen  # a token to come sees what the last one of the prompt saw
            hidden = self.cross(
                hidden,
                image_hidden_states=seen.states,
                image_attention_mask=seen.mask[:, :, -n:],
                cross_attention_gate=seen.gate[:, -n:],
            )
        return self.layer(hidden, position_ids=position_embeddings[0], past_key_values=past_key_values)


class Idefics(ResamplerBackbone):
    """Adapter of transformers' IdeficsForVisionText2Text.

    Patches are pruned in front of the perceiver, or of the cross-attention in a model without one. As the
    model was trained, a token of the text sees the last image before it and no other.
    """

    family = "idefics"
    architecture = "IdeficsForVisionText2Text"

    def __init__(self, checkpoint: Checkpoint) -> None:
        super().__init__(checkpoint)
        # the processor's own flag for this reads a list of tokens that transformers 5 leaves empty
        self._ends = [END] if END in self.tokenizer.get_vocab() else []
        model = self.model
        self._vision: Any = model.model.vision_model
        self.tower = Tower(list(self._vision.encoder.layers), has_cls=True, drops_first=True)
        self.sees = "sees pictures through cross-attention only"
        if self.config.use_resampler:
            latents = self.config.perceiver_config.resampler_n_latents
            self.sees = f"cross-attends to {latents} latents of an image whatever is pruned"
        # without pictures, which `enter` adds
        self.llm = LanguageModel(
            layers=list(model.model.layers),
            norm=model.model.norm,
            head=model.lm_head,
            # each layer makes its rotation itself, of the position ids that come in place of (cos, sin)
            rotary=lambda x, positions: (positions[None],) * 2,
            rotate=lambda x, cos, sin: x,
            config=self.config,
        )

    @property
    def eos(self) -> frozenset[int]:
        """Also the end of an utterance, in a model that was tuned to chat."""
        return super().eos | frozenset(self.tokenizer.convert_tokens_to_ids(end) for end in self._ends)

    def prepare(self, images: Sequence[Image.Image], question: str) -> Prompt:
        blocks = [MARK] * len(images)
        ids, instruction = tokens_of(_Words(self.tokenizer), self.name, self._template, blocks, question)
        segments = self.segments(images)
        places = (ids == self.tokenizer.convert_tokens_to_ids(MARK)).nonzero().flatten()
        visual = places.repeat_interleave(torch.tensor([segment.length for segment in segments]))
        pixels = self.processor.image_processor(list(images), return_tensors="pt")
        return self.prompt(ids, visual, instruction, pixels, segments, images, question, slots=places[:0])

    def _template(self, images: int, question: str) -> str:
        marks = FAKE + (MARK + FAKE) * images
        return f"{self.tokenizer.bos_token}User:{marks}{question}{''.join(self._ends)}\nAssistant:"

    def start(self, pixels: Tensor) -> Tensor:
        return self._vision.pre_layrnorm(self._vision.embeddings(pixels))

    @torch.inference_mode()
    def enter(self, prompt: Prompt, encoded: Encoded, features: Tensor, owners: Tensor) -> Entry:
        cls, images = encoded.state, torch.arange(len(prompt.images), device=self.device)
        if self.config.use_resampler:
            made = of_each_image(self.model.model.perceiver_resampler, cls, features, owners)
            states, owners = made.flatten(0, 1), images.repeat_interleave(made.shape[1])
        else:
            states, owners = torch.cat([cls[:, 0], features]), torch.cat([images, owners])
        seen = self._seen(prompt, states, owners)
        model = self.model.model
        layers = [
            _Layer(
                layer,
                model.gated_cross_attn_layers[i // model.cross_layer_interval]
                if i % model.cross_layer_interval == 0
                else None,
                seen,
            )
            for i, layer in enumerate(model.layers)
        ]
        nothing = states.new_zeros(0, self.config.hidden_size)
        return Entry(nothing, replace(self.llm, layers=layers), crossed=len(states))

    def _seen(self, prompt: Prompt, states: Tensor, owners: Tensor) -> _Seen:
        """states [S, Dv], owners [S] int64: the image of each."""
        places = torch.arange(len(prompt.ids), device=self.device)
        marks = prompt.ids == self.tokenizer.convert_tokens_to_ids(MARK)
        ends = prompt.ids == self.tokenizer.eos_token_id
        last_mark = places.where(marks, -1).cummax(0).values
        # after the end of a text, no image of it is seen
        last_end = places.where(ends, -1).cummax(0).values.roll(1)
        last_end[0] = -1
        image = (marks.cumsum(0) - 1).where(last_mark > last_end, -1)
        visible = image[:, None] == owners
        mask = torch.zeros_like(visible, dtype=states.dtype).masked_fill(
            ~visible, torch.finfo(states.dtype).min
        )
        return _Seen(states[None], mask[None, None], visible.any(1)[None].to(states.dtype))
