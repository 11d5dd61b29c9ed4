"""Signals for the tests of methods: random, but of the right shape and kind."""

import dataclasses

import torch
import torch.nn.functional as F

from vtprune.types import SIGNALS, Segment, Signals


def grid_segment(image: int, start: int, rows: int, cols: int, size: float = 14.0, x0=0.0, y0=0.0) -> Segment:
    r, c = torch.meshgrid(torch.arange(rows), torch.arange(cols), indexing="ij")
    corner = torch.stack([x0 + c * size, y0 + r * size], -1).reshape(-1, 2).float()
    return Segment(image, start, rows * cols, (rows, cols), torch.cat([corner, corner + size], 1))


def make_signals(*grids: tuple[int, int], seed: int = 0, dim: int = 24, features=None) -> Signals:
    """Every signal there is, random but plausible, for one image per grid."""
    generator = torch.Generator().manual_seed(seed)

    def noise(*shape):
        return torch.randn(*shape, generator=generator)

    segments, start = [], 0
    for image, (rows, cols) in enumerate(grids):
        segments.append(grid_segment(image, start, rows, cols))
        start += rows * cols
    n, queries = start, 5
    return Signals(
        features=noise(n, dim) + 0.3 if features is None else features,
        segments=tuple(segments),
        cls_attention=noise(n).softmax(0),
        received_attention=noise(n).softmax(0),
        shallow_attention=noise(n).softmax(0),
        middle_attention=noise(n).softmax(0),
        headless_attention=(3 * noise(n)).softmax(0),
        keys=noise(n, 16),
        clip_patches=F.normalize(noise(n, 12), dim=1),
        clip_text=F.normalize(noise(2, 12), dim=1),
        text=noise(3, dim),
        attention=noise(4, queries, n).softmax(-1),
        vision_features=noise(n, 20) + 0.3,
        query_states=noise(queries, dim),
        query_keys=noise(queries, 16),
        llm_keys=noise(n, 16),
        seed=seed,
    )


def change(signals: Signals, convert) -> Signals:
    """Signals with `convert` applied to every tensor."""
    fields = {f: getattr(signals, f) for f in ("features", *SIGNALS)}
    changed = {f: convert(value) for f, value in fields.items() if value is not None}
    return dataclasses.replace(signals, **changed)


def cosines(x: torch.Tensor, y: torch.Tensor | None = None) -> torch.Tensor:
    x, y = x.double(), (x if y is None else y).double()
    return torch.stack([F.cosine_similarity(a[None], y, dim=1) for a in x])


def top(scores: torch.Tensor, k: int) -> list[int]:
    return sorted(range(len(scores)), key=lambda i: (-float(scores[i]), i))[:k]
