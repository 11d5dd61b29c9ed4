"""What exists only while training: what a patch is asked, and where the tower's attention starts."""

from __future__ import annotations

import itertools
import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast

from vtprune.scenes import draw
from vtprune.scenes.dataset import FIELDS, GRID, POSITIONS
from vtprune.scenes.world import SIZES, WORDS


class DenseHeads(nn.Module):
    """Reads a projected patch: similarity to the token embeddings of the words that name what it shows.

    Kind, colour, size, word, column and row are read as they are; the two digits each through a learned map,
    since both are the same ten tokens. `none` stands for background and for "no tens digit". The measures are
    read along unit directions of the normalised token, as the decoder will see it: read without that, they
    are learned at an amplitude that its normalisation buries.
    """

    def __init__(self, width: int, tokenizer: PreTrainedTokenizerFast) -> None:
        super().__init__()
        self.digit = nn.ModuleList(nn.Linear(width, width, bias=False) for _ in range(2))
        for digit in self.digit:
            nn.init.eye_(digit.get_parameter("weight"))
        self.none = nn.Parameter(torch.zeros(2, width))
        nn.init.normal_(self.none, std=0.02)
        self.scale = nn.Parameter(torch.full((len(FIELDS),), 3.0))
        self.place = nn.Linear(width, len(POSITIONS))
        names = (draw.KINDS, draw.COLOURS, SIZES, WORDS)
        self.tokens = [single_tokens(tokenizer, [f" {name}" for name in group]) for group in names]
        digits = single_tokens(tokenizer, [str(digit) for digit in range(10)])
        self.tokens += [digits, digits]
        columns, rows = (" left", " center", " right"), (" top", " center", " bottom")
        self.tokens += [single_tokens(tokenizer, list(names)) for names in (columns, rows)]

    def forward(self, projected: Tensor, embedding: Tensor) -> tuple[list[Tensor], Tensor]:
        """projected: [M, D]. Returns the class logits of each field [M, classes] and the places [M, 5]."""
        logits = []
        for field, ids in enumerate(self.tokens):
            known = embedding[ids]
            if field in (0, 4):
                known = torch.cat([known, self.none[field // 4].unsqueeze(0)])
            view = self.digit[field - 4](projected) if field in (4, 5) else projected
            known = F.normalize(known.float(), dim=-1)
            logits.append(self.scale[field].exp() * F.normalize(view.float(), dim=-1) @ known.T)
        seen = F.rms_norm(projected.float(), projected.shape[-1:])
        return logits, 0.25 * seen @ F.normalize(self.place.weight, dim=1).T + self.place.bias


def single_tokens(tokenizer: PreTrainedTokenizerFast, words: list[str]) -> list[int]:
    encoded = [tokenizer.encode(word, add_special_tokens=False) for word in words]
    assert all(len(ids) == 1 for ids in encoded), "every word of the world has a token of its own"
    return [ids[0] for ids in encoded]


def start_local(tower: Any, strength: float = 3.0) -> None:
    """Starts the tower where it would take long to get by itself: position embeddings [1 + 256, D] as
    two-dimensional sines, and the attention of the first layers on fixed neighbours, like a convolution's
    kernel (a head's queries are its keys turned by one offset, in the subspace of the lower frequencies)."""
    weight = tower.embeddings.position_embedding.weight
    width = weight.shape[1]
    quarter = width // 4
    rates = 1.0 / (20.0 ** (torch.arange(quarter) / quarter))
    ys, xs = torch.meshgrid(torch.arange(GRID), torch.arange(GRID), indexing="ij")
    waves = [fn(axis.flatten().unsqueeze(1) * rates) for axis in (xs, ys) for fn in (torch.sin, torch.cos)]
    with torch.no_grad():
        weight[0].zero_()
        weight[1:, : 4 * quarter] = 0.5 * torch.cat(waves, 1)
        for layer, offsets in zip(tower.encoder.layers, NEIGHBOURS, strict=False):
            attention = layer.self_attn
            size = width // attention.num_heads
            used = torch.arange(0, quarter, max(1, 4 * quarter // size))[: size // 4]
            for head, offset in enumerate(itertools.islice(itertools.cycle(offsets), attention.num_heads)):
                query, key = torch.zeros(size, width), torch.zeros(size, width)
                for row, (axis, rate) in enumerate(itertools.product((0, 1), used.tolist())):
                    sine, cosine = 2 * axis * quarter + rate, (2 * axis + 1) * quarter + rate
                    turn = offset[axis] * float(rates[rate])
                    key[2 * row, sine] = key[2 * row + 1, cosine] = 1.0
                    query[2 * row, sine], query[2 * row, cosine] = math.cos(turn), math.sin(turn)
                    query[2 * row + 1, sine], query[2 * row + 1, cosine] = -math.sin(turn), math.cos(turn)
                rows = slice(head * size, (head + 1) * size)
                attention.q_proj.weight[rows] = 0.3 * attention.q_proj.weight[rows] + strength * query
                attention.k_proj.weight[rows] = 0.3 * attention.k_proj.weight[rows] + key


NEIGHBOURS = (
    ((1, 0), (-1, 0), (0, 1), (0, -1)),
    ((1, 1), (-1, 1), (1, -1), (-1, -1)),
    ((2, 0), (-2, 0), (0, 2), (0, -2)),
)
"""(columns, rows) from a patch to the one that each head of the first three layers looks at."""


def start_matching(decoder: Any, layers: tuple[int, ...] = (0, 1, 2), heads: int = 2) -> None:
    """Starts some of the decoder's heads on tokens of like content, so that the word "cat" looks at patches
    that point at the word "cat"; finding that out by chance takes long. Queries and keys share one random
    projection in the slowest rotary pairs, which distance hardly turns; values are copied through."""
    with torch.no_grad():
        for attention in (decoder.layers[index].self_attn for index in layers):
            width, size = attention.q_proj.in_features, attention.head_dim
            slow = torch.arange(size // 3, size // 2)
            slow = torch.cat([slow, slow + size // 2])
            for head in range(heads):
                shared = torch.randn(len(slow), width) * (0.15 / len(slow)) ** 0.5
                attention.q_proj.weight[head * size + slow] += shared
                attention.k_proj.weight[head * size + slow] += shared
                copied = 0.3 * torch.linalg.qr(torch.randn(width, size)).Q
                part = slice(head * size, (head + 1) * size)
                attention.v_proj.weight[part] = 0.5 * attention.v_proj.weight[part] + copied.T
                attention.o_proj.weight[:, part] = 0.5 * attention.o_proj.weight[:, part] + copied
