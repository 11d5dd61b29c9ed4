"""A vision transformer run block by block, and the adapters whose signals all come from one."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from vtprune.backbones.base import Backbone, Encoded, Prompt
from vtprune.backbones.parts import why_missing
from vtprune.clip import Companion


@dataclass(frozen=True)
class Tower:
    """A vision transformer of which a layer is read only for a signal that was asked for.

    blocks: each with a `layer_norm1` and a `self_attn` holding num_heads and scale. step(block, hidden) ->
    hidden. query, key: (self_attn, x [B, n, D]) -> [B, n, D], its projections. has_cls: whether place 0 is a
    CLS token, which is no row of any signal.
    """

    blocks: Sequence[Any]
    has_cls: bool
    step: Callable[[Any, Tensor], Tensor] = lambda block, hidden: block(hidden, None)
    query: Callable[[Any, Tensor], Tensor] = lambda attention, x: attention.q_proj(x)
    key: Callable[[Any, Tensor], Tensor] = lambda attention, x: attention.k_proj(x)

    def run(self, hidden: Tensor, needs: Collection[str]) -> tuple[Tensor, dict[str, Tensor]]:
        """Embedded patches [B, n, D] -> the output [B, n, D] of the last block, and those of `needs` that
        come from q and k of a layer: [B, P] or [B, P, h] float32, P = n without the CLS token."""
        depth = len(self.blocks)
        last = depth - 1
        makers: dict[str, tuple[int, Callable[[Any, Tensor], Tensor]]] = {
            "cls_attention": (last, self._cls_row),
            "shallow_attention": (round(depth * 5 / 24), self._cls_row),
            "headless_attention": (last, self._headless_row),
            "received_attention": (last, self._received),
            "middle_attention": (round(depth * 9 / 24), self._received),
            "keys": (last, self._keys),
        }
        signals: dict[str, Tensor] = {}
        for i, block in enumerate(self.blocks):
            for need in needs:
                if need in makers and makers[need][0] == i:
                    signals[need] = makers[need][1](block.self_attn, block.layer_norm1(hidden))
            hidden = self.step(block, hidden)
        return hidden, signals

    def patches(self, rows: Tensor) -> Tensor:
        """[B, n, ...] -> [B, P, ...]: without the CLS token."""
        return rows[:, 1:] if self.has_cls else rows

    def _split(self, projection: Callable[[Any, Tensor], Tensor], attention: Any, x: Tensor) -> Tensor:
        """[B, n, D] -> [B, heads, n, h] float32."""
        return projection(attention, x).unflatten(-1, (attention.num_heads, -1)).transpose(1, 2).float()

    def _cls_row(self, attention: Any, x: Tensor) -> Tensor:
        """[B, P]: mean over heads of what the CLS token pays to each patch."""
        query, keys = self._split(self.query, attention, x[:, :1]), self._split(self.key, attention, x)
        return self.patches((query @ keys.transpose(-1, -2) * attention.scale).softmax(-1).mean(1)[:, 0])

    def _headless_row(self, attention: Any, x: Tensor) -> Tensor:
        """[B, P]: the same with the heads side by side as one."""
        query, keys = self.query(attention, x[:, :1]).float(), self.key(attention, x).float()
        return self.patches((query @ keys.transpose(-1, -2) * keys.shape[-1] ** -0.5).softmax(-1)[:, 0])

    def _received(self, attention: Any, x: Tensor) -> Tensor:
        """[B, P]: mean over heads and query patches of the attention that each patch receives."""
        rows = []
        for one in x:  # an image at a time, since [heads, n, n] is large
            query, keys = (self._split(p, attention, one[None]) for p in (self.query, self.key))
            weights = (query @ keys.transpose(-1, -2) * attention.scale).softmax(-1)[0].mean(0)
            rows.append(self.patches(weights[None])[0].mean(0))
        return self.patches(torch.stack(rows))

    def _keys(self, attention: Any, x: Tensor) -> Tensor:
        """[B, P, h]: mean over heads of the keys."""
        return self.patches(self._split(self.key, attention, x).mean(1))


class TowerBackbone(Backbone):
    """A family whose signals are read from a Tower, with its CLIP, if there is one, as a model of its own."""

    tower: Tower
    companion: Companion | None

    @abstractmethod
    def start(self, pixels: Tensor) -> Tensor:
        """What the vision tower takes -> the input [B, n, Dv] of its first block."""

    @abstractmethod
    def finish(self, hidden: Tensor) -> tuple[Tensor, Any]:
        """Output [B, n, Dv] of the last block -> features [N, D], and the state of `Encoded`."""

    def rows(self, signal: Tensor) -> Tensor:
        """[B, P, ...] -> [N, ...]: a signal of the tower's patches as one of the visual tokens."""
        return signal.flatten(0, 1)

    @torch.inference_mode()
    def encode(self, prompt: Prompt, needs: Collection[str] = ()) -> Encoded:
        needs = frozenset(needs)
        hidden, read = self.tower.run(self.start(prompt.pixels.to(self.dtype)), needs)
        features, state = self.finish(hidden)
        signals = {need: self.rows(signal) for need, signal in read.items()}
        if "vision_features" in needs:
            signals["vision_features"] = features.float()
        if "text" in needs:
            signals["text"] = self.words(prompt.question)
        return Encoded(features, signals, state)

    @torch.inference_mode()
    def embed(self, ids: Tensor) -> Tensor:
        return self.model.get_input_embeddings()(ids)

    @torch.inference_mode()
    def clip(self, prompt: Prompt, encoded: Encoded) -> tuple[Tensor, Tensor, int]:
        companion = self.companion
        if companion is None:
            raise ValueError(self.missing("clip_patches"))
        patches = companion.map_images(prompt.images, prompt.segments)
        return patches, companion.text(prompt.question), companion.sign

    def missing(self, need: str) -> str | None:
        return why_missing(need, self.name, cls=self.tower.has_cls, clip=self.companion is not None)
