"""A vision transformer run block by block, and the adapters whose signals all come from one."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from vtprune.backbones.base import Encoded, Prompt
from vtprune.backbones.pretrained import Pretrained


@dataclass(frozen=True)
class Passed:
    """How far patches went through a tower, and what was seen of them on the way.

    taps: [B, n, D] each, what features are made of. signals: by name, [B, P] or [B, P, h] float32, P = n
    unless the first place is dropped. hidden [B, n, D]: what would go into block `depth`.
    """

    taps: list[Tensor]
    signals: dict[str, Tensor]
    hidden: Tensor
    depth: int


@dataclass(frozen=True)
class Tower:
    """A vision transformer of which a layer is read only for a signal that was asked for.

    blocks: each with a `layer_norm1` and a `self_attn` holding num_heads and scale. has_cls: whether place 0
    is a CLS token. drops_first: whether place 0, whatever it is, is no visual token and no row of any signal.
    taps: what features are made of, as transformers numbers its hidden states: i is the input of block i, -1
    the output of the last. step(block, hidden) -> hidden. query, key: (self_attn, x
    [B, n, D]) -> [B, n, D], its projections.
    """

    blocks: Sequence[Any]
    has_cls: bool
    drops_first: bool
    taps: tuple[int, ...] = (-1,)
    step: Callable[[Any, Tensor], Tensor] = lambda block, hidden: block(hidden, None)
    query: Callable[[Any, Tensor], Tensor] = lambda attention, x: attention.q_proj(x)
    key: Callable[[Any, Tensor], Tensor] = lambda attention, x: attention.k_proj(x)

    def run(self, hidden: Tensor, needs: Collection[str]) -> Passed:
        """Embedded patches [B, n, D] -> what features are made of, and those of `needs` that come from q and
        k of a layer. Blocks that nobody asks for are not run."""
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
        wanted = {need: makers[need] for need in needs if need in makers}
        taps = [tap % (depth + 1) for tap in self.taps]
        end = max([*taps, *(layer for layer, _ in wanted.values())])
        signals: dict[str, Tensor] = {}
        seen = {0: hidden}
        for i, block in enumerate(self.blocks[: end + 1]):
            for need, (layer, make) in wanted.items():
                if layer == i:
                    signals[need] = make(block.self_attn, block.layer_norm1(hidden))
            if i < end:
                hidden = self.step(block, hidden)
                if i + 1 in taps:
                    seen[i + 1] = hidden
        return Passed([seen[tap] for tap in taps], signals, hidden, end)

    def rest(self, passed: Passed) -> Tensor:
        """[B, n, D]: the output of the last block."""
        hidden = passed.hidden
        for block in self.blocks[passed.depth :]:
            hidden = self.step(block, hidden)
        return hidden

    def patches(self, rows: Tensor) -> Tensor:
        """[B, n, ...] -> [B, P, ...]: without the first place, if it is dropped."""
        return rows[:, 1:] if self.drops_first else rows

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


class TowerBackbone(Pretrained):
    """A family whose signals are read from a Tower."""

    tower: Tower

    @property
    def has_cls(self) -> bool:
        return self.tower.has_cls

    @abstractmethod
    def start(self, pixels: Tensor) -> Tensor:
        """What the vision tower takes -> the input [B, n, Dv] of its first block."""

    @abstractmethod
    def finish(self, passed: Passed, prompt: Prompt) -> tuple[Tensor, Any]:
        """What came through the tower -> features [N, D], and the state of `Encoded`."""

    def rows(self, patches: Tensor, prompt: Prompt) -> Tensor:
        """[B, P, ...] -> [N, ...]: what is known of the tower's patches as of the visual tokens."""
        return patches.flatten(0, 1)

    @torch.inference_mode()
    def encode(self, prompt: Prompt, needs: Collection[str] = ()) -> Encoded:
        needs = frozenset(needs)
        passed = self.tower.run(self.start(prompt.pixels.to(self.dtype)), needs)
        features, state = self.finish(passed, prompt)
        signals = {need: self.rows(signal, prompt) for need, signal in passed.signals.items()}
        if "vision_features" in needs:
            signals["vision_features"] = features.float()
        if "text" in needs:
            signals["text"] = self.words(prompt.question)
        return Encoded(features, signals, state)
