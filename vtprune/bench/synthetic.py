"""Signals without a model: random, but with the statistics of a vision tower's.

What a selector costs may depend on them (how soon a picture is covered, how many tokens are alike), so noise
alone would not do: features share a common direction (mean cosine about 0.3), neighbours are alike, the
spectrum falls off, a few tokens are outliers of large norm, and attention sits on few tokens.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from vtprune.types import SIGNALS, Segment, Signals

Grid = tuple[int, int]

TILE = 24
"""Rows and columns of one tile of a large picture, as CLIP ViT-L/14 at 336 pixels has them."""
PATCH = 14.0
HEADS, QUERIES, WORDS = 32, 16, 6
FIELDS = ("features", *SIGNALS)
FACTORS = 64
"""Smooth maps that features are made of."""


def one_image(tokens: int) -> list[tuple[int, Grid]]:
    """(image, grid) of each segment of one picture: 24 x 24 tiles where they fit, else one grid as square as
    can be."""
    tiles, rest = divmod(tokens, TILE * TILE)
    if tiles > 1 and not rest:
        return [(0, (TILE, TILE))] * tiles
    rows = next(r for r in range(int(tokens**0.5), 0, -1) if tokens % r == 0)
    return [(0, (rows, tokens // rows))]


def signals(
    layout: Sequence[tuple[int, Grid]], dim: int, needs: Collection[str] = SIGNALS, seed: int = 0
) -> Signals:
    """Signals of pictures with these segments, on the CPU, float32.

    layout: (image, (rows, cols)) of each segment. dim: D of the features. needs: the optional fields to fill;
    each is the same whatever others are asked for.
    """
    segments, start = [], 0
    for number, (image, grid) in enumerate(layout):
        segments.append(_segment(image, start, grid, number))
        start += segments[-1].length

    def made(name: str) -> Tensor:
        generator = torch.Generator().manual_seed(100 * seed + FIELDS.index(name))
        if name.endswith("_attention"):
            return _attention(segments, (), generator)
        if name == "attention":
            return _attention(segments, (HEADS, QUERIES), generator)
        if name in ("text", "clip_text"):
            width = dim if name == "text" else 768
            words = torch.randn(WORDS, width, generator=generator)
            return functional.normalize(words, dim=1) if name == "clip_text" else words
        if name in ("query_states", "query_keys"):
            return torch.randn(QUERIES, dim, generator=generator)
        width = {"keys": 64, "clip_patches": 768, "vision_features": min(dim, 1024)}.get(name, dim)
        x = _features(segments, width, generator)
        return functional.normalize(x, dim=1) if name == "clip_patches" else x

    known: dict[str, Any] = {name: made(name) for name in ("features", *needs)}
    return Signals(segments=tuple(segments), seed=seed, **known)


def _segment(image: int, start: int, grid: Grid, number: int) -> Segment:
    """Segments of one picture stand side by side."""
    row, col = torch.meshgrid(torch.arange(grid[0]), torch.arange(grid[1]), indexing="ij")
    corner = PATCH * torch.stack([col + number * grid[1], row], -1).reshape(-1, 2).float()
    return Segment(image, start, len(corner), grid, torch.cat([corner, corner + PATCH], 1))


def _smooth(segments: Sequence[Segment], maps: int, generator: torch.Generator) -> Tensor:
    """[N, maps]: each a smooth picture of about unit variance over every segment."""
    parts = []
    for segment in segments:
        coarse = [max(2, side // 4) for side in segment.grid]
        noise = torch.randn(1, maps, *coarse, generator=generator)
        fine = functional.interpolate(noise, segment.grid, mode="bicubic", align_corners=True)
        parts.append(fine[0].flatten(1).T)
    return torch.cat(parts)


def _features(segments: Sequence[Segment], width: int, generator: torch.Generator) -> Tensor:
    strength = torch.arange(1, FACTORS + 1).rsqrt()
    mixing = strength[:, None] * torch.randn(FACTORS, width, generator=generator)
    x = _smooth(segments, FACTORS, generator) @ mixing
    x += 1.2 * torch.randn(1, width, generator=generator)  # what all tokens share
    x += torch.randn(x.shape, generator=generator)
    outliers = torch.rand(len(x), generator=generator) < 0.02
    return torch.where(outliers[:, None], 4 * x, x)


def _attention(segments: Sequence[Segment], rows: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """[*rows, N], each row summing to one."""
    smooth = _smooth(segments, 1, generator)[:, 0]
    return (1.5 * smooth + 1.5 * torch.randn(*rows, len(smooth), generator=generator)).softmax(-1)
