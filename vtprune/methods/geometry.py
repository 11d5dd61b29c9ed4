"""Where tokens lie: grid cells and positions, from the boxes that segments carry."""

from __future__ import annotations

import torch
from torch import Tensor

from vtprune.types import Segment, Signals


def cells(segment: Segment) -> Tensor:
    """[length, 2] int64: row and column of every token among those that are there.

    They come from the boxes, because a segment that lost its padding no longer fills its grid.
    """
    boxes = (segment.boxes * 64).round()  # neighbours share an edge up to rounding
    if bool((boxes[:, 2:] > boxes[:, :2]).all()):
        top = torch.unique(boxes[:, 1], return_inverse=True)[1]
        left = torch.unique(boxes[:, 0], return_inverse=True)[1]
        return torch.stack([top, left], 1)
    index = torch.arange(segment.length)
    return torch.stack([index // segment.grid[1], index % segment.grid[1]], 1)


def positions(signals: Signals) -> Tensor:
    """[N, 2] float32: centres of the tokens, x and y in [0, 1] of their own image."""
    boxes = torch.cat([segment.boxes for segment in signals.segments]).to(signals.features)
    ids = signals.image_ids()
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2
    for image in signals.images:
        inside = ids == image
        size = boxes[inside, 2:].amax(0).clamp(min=1e-6)
        centres[inside] = centres[inside] / size
    return centres


def partition(segment: Segment, k: int) -> tuple[Tensor, Tensor]:
    """Splits a segment into exactly k compact cells of almost equal size.

    The grid is cut into raster bands, and each band into cells; the number of bands makes cells about
    square, and bands differ by at most one cell. -> cell of every token [length], and the token nearest to
    the centre of each cell [k] (ties: the lower index).
    """
    place = cells(segment)
    rows, cols = (place.amax(0) + 1).tolist()
    if rows * cols != segment.length:  # not a full rectangle: one band in raster order
        raster = torch.argsort(place[:, 0] * cols + place[:, 1], stable=True)
        cell = torch.empty_like(raster)
        cell[raster] = torch.arange(segment.length) * k // segment.length
    else:
        bands = max(round((k * rows / cols) ** 0.5), -(-k // cols), 1)
        bands = min(bands, rows, k)
        band = place[:, 0] * bands // rows
        before = band * k // bands
        cell = before + place[:, 1] * ((band + 1) * k // bands - before) // cols
    size = torch.bincount(cell, minlength=k)[:, None]
    centre = torch.zeros(k, 2).index_add_(0, cell, place.float()) / size
    distance = (place - centre[cell]).square().sum(1)
    nearest = torch.argsort(distance, stable=True)
    nearest = nearest[torch.argsort(cell[nearest], stable=True)]
    first = size.squeeze(1).cumsum(0) - size.squeeze(1)
    return cell, nearest[first]


def neighbours(signals: Signals) -> Tensor:
    """[N, 4] int64: the tokens above, below, left and right in the same segment; -1 where there is none."""
    found = []
    for segment in signals.segments:
        row, col = (cells(segment) + 1).unbind(1)
        table = torch.full((int(row.max()) + 2, int(col.max()) + 2), -1)
        table[row, col] = segment.start + torch.arange(segment.length)
        around = [table[row - 1, col], table[row + 1, col], table[row, col - 1], table[row, col + 1]]
        found.append(torch.stack(around, 1))
    return torch.cat(found).to(signals.features.device)


def windows(signals: Signals, size: int) -> Tensor:
    """[N] int64: which size x size window of its segment a token lies in, numbered through all segments."""
    found, made = [], 0
    for segment in signals.segments:
        row, col = (cells(segment) // size).unbind(1)
        window = row * (int(col.max()) + 1) + col
        found.append(made + window)
        made += int(window.max()) + 1
    return torch.cat(found).to(signals.features.device)
