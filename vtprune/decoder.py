"""Prefill and greedy decode over a language model's layers, with room to drop tokens between two of them.

The layers are transformers' own, called one by one without a mask, so that attention takes the fast causal
path. What is ours is the cache, whose layers may differ in length, the moment before each layer in which a
caller may look at a few attention rows and hand back fewer tokens, and the one after it, to add to them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from vtprune.backbones.base import LanguageModel

BeforeLayer = Callable[[int, Tensor, "Look"], tuple[Tensor, Tensor] | None]
"""before_layer(k, hidden [n, D], look) -> None, or (hidden [m, D], positions [m] or [3, m]) to go on
with."""
AfterLayer = Callable[[Tensor], Tensor]
"""after_layer(hidden [n, D]) -> hidden [n, D], what the next layer gets."""


class LayerCache:
    """Keys and values of each layer, allocated once with room for the tokens to come.

    room: how many tokens may be decoded after the prefill. Layers may hold different numbers of tokens.
    """

    def __init__(self, layers: int, room: int) -> None:
        self._room = room
        self._keys: list[Tensor | None] = [None] * layers
        self._values: list[Tensor | None] = [None] * layers
        self.lengths = [0] * layers

    def update(self, key: Tensor, value: Tensor, layer: int, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """Append [1, G, n, h] to a layer, and return all that it holds; called by the attention modules."""
        begin = self.lengths[layer]
        end = self.lengths[layer] = begin + key.shape[2]
        keys, values = self._keys[layer], self._values[layer]
        if keys is None or values is None:
            shape = (*key.shape[:2], end + self._room, key.shape[3])
            keys = self._keys[layer] = key.new_empty(shape)
            values = self._values[layer] = value.new_empty(shape)
        keys[:, :, begin:end] = key
        values[:, :, begin:end] = value
        return keys[:, :, :end], values[:, :, :end]

    def get_seq_length(self, layer: int = 0) -> int:
        """Tokens that a layer holds; some attention modules ask."""
        return self.lengths[layer]

    def keys(self, layer: int) -> Tensor:
        """[1, G, n, h]: the keys of a layer, rotated."""
        keys = self._keys[layer]
        if keys is None:
            raise RuntimeError(f"layer {layer} has not run yet")
        return keys[:, :, : self.lengths[layer]]


@dataclass(frozen=True)
class _Input:
    """What went into a layer: hidden [1, n, D] and its rotation (cos, sin), each [1, n, h]."""

    hidden: Tensor
    rotation: tuple[Tensor, Tensor]


class Look:
    """What can be read at the input of layer k, computed when asked for; the price is |rows| times n, not n².

    offset: 0 for layer k itself, on its own input, or -1 for the layer before. Tensors are float32.
    """

    def __init__(
        self, llm: LanguageModel, cache: LayerCache, k: int, here: _Input, before: _Input | None
    ) -> None:
        self._llm, self._cache, self._k = llm, cache, k
        self._here, self._before = here, before

    def attention(self, rows: Tensor, offset: int = 0) -> Tensor:
        """[H, Q, n]: attention of rows [Q] int64 over all n tokens; each row sees those up to itself."""
        layer, seen = self._layer(offset)
        cos, sin = seen.rotation
        module = layer.self_attn
        query = _heads(module, "q", layer.input_layernorm(seen.hidden[:, rows]))
        query = self._llm.rotate(query, cos[:, rows], sin[:, rows])
        key = self._keys(offset).repeat_interleave(module.num_key_value_groups, dim=1)
        scores = query.float() @ key.float().transpose(-1, -2) * module.scaling
        columns = torch.arange(key.shape[2], device=key.device)
        return scores.masked_fill(columns > rows[:, None], float("-inf")).softmax(-1)[0]

    def keys(self, offset: int = 0) -> Tensor:
        """[n, G * h]: rotated keys of all tokens, the G key heads side by side."""
        return self._keys(offset)[0].transpose(0, 1).flatten(1).float()

    def _keys(self, offset: int) -> Tensor:
        layer, seen = self._layer(offset)
        if offset == -1:
            return self._cache.keys(self._k - 1).to(seen.hidden.device)  # that layer may be on another GPU
        key = _heads(layer.self_attn, "k", layer.input_layernorm(seen.hidden))
        return self._llm.rotate(key, *seen.rotation)

    def _layer(self, offset: int) -> tuple[Any, _Input]:
        if offset == 0:
            return self._llm.layers[self._k], self._here
        if offset == -1 and self._before is not None:
            return self._llm.layers[self._k - 1], self._before
        raise ValueError(f"layer {self._k} has no layer at offset {offset} to look at.")


def _heads(module: Any, name: str, x: Tensor) -> Tensor:
    """[1, n, D] -> [1, heads, n, h]: "q" or "k" of an attention module, before its rotation."""
    heads = getattr(module, f"{name}_proj")(x).unflatten(-1, (-1, module.head_dim))
    norm = getattr(module, f"{name}_norm", None)
    return (heads if norm is None else norm(heads)).transpose(1, 2)


class Decoding:
    """One answer in the making: the cache after a prefill, and the logits [V] float32 of the next token.

    lengths: tokens of the prompt in each layer. Steps are independent of any other Decoding.
    """

    def __init__(
        self, llm: LanguageModel, cache: LayerCache, next_positions: list[int], logits: Tensor
    ) -> None:
        self._llm, self._cache, self._next = llm, cache, next_positions
        self.logits = logits
        self.lengths = tuple(cache.lengths)

    @torch.inference_mode()
    def step(self, embedding: Tensor) -> Tensor:
        """Append one token, given as its input embedding [D]; returns the new logits [V] float32."""
        hidden = embedding[None, None]
        rotations: dict[int, tuple[Tensor, Tensor]] = {}
        for k, layer in enumerate(self._llm.layers):
            position = self._next[k]
            if position not in rotations:
                ids = torch.tensor([position], device=hidden.device)
                rotations[position] = self._llm.rotary(hidden, ids)
            hidden = layer(hidden, position_embeddings=rotations[position], past_key_values=self._cache)
        self._next = [position + 1 for position in self._next]
        self.logits = _logits(self._llm, hidden)
        return self.logits


@torch.inference_mode()
def prefill(
    llm: LanguageModel,
    embeds: Tensor,
    positions: Tensor,
    *,
    room: int,
    next_position: int | None = None,
    before_layer: BeforeLayer | None = None,
    after_layer: AfterLayer | None = None,
) -> Decoding:
    """Run a prompt through the layers once.

    embeds [n, D], positions [n] or [3, n] int64 (ascending, gaps allowed). room: tokens that will be decoded
    at most. next_position: position id of the first decoded token in every layer, or None to go on from the
    highest position that each layer saw. before_layer, after_layer: see BeforeLayer and AfterLayer; called
    before and after every layer.
    """
    hidden = embeds[None]
    cache = LayerCache(len(llm.layers), room)
    rotation = llm.rotary(hidden, positions)
    next_positions: list[int] = []
    before: _Input | None = None
    following = _following(next_position, positions)
    for k, layer in enumerate(llm.layers):
        if before_layer is not None:
            look = Look(llm, cache, k, _Input(hidden, rotation), before)
            change = before_layer(k, hidden[0], look)
            if change is not None:
                hidden, positions = change[0][None], change[1]
                rotation = llm.rotary(hidden, positions)
                following = _following(next_position, positions)
        before = _Input(hidden, rotation)
        next_positions.append(following)
        hidden = layer(hidden, position_embeddings=rotation, past_key_values=cache)
        if after_layer is not None:
            hidden = after_layer(hidden[0])[None]
    return Decoding(llm, cache, next_positions, _logits(llm, hidden[:, -1:]))


def _following(next_position: int | None, positions: Tensor) -> int:
    return int(positions.max()) + 1 if next_position is None else next_position


def _logits(llm: LanguageModel, hidden: Tensor) -> Tensor:
    return llm.head(llm.norm(hidden))[0, -1].float()
