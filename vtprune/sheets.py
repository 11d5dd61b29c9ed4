"""Which visual tokens of an image can be drawn on one picture.

Some families cut an image twice: into an overview of all of it, and into tiles of its detail. Those tokens
lie over one another, so a map of both would show neither.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from vtprune.types import Segment

TOUCHING = 0.25
"""Segments lie over one another when they share more than this part of the smaller one; tiles may overlap by
the rounding of their edges."""


@dataclass(frozen=True)
class Sheet:
    """Segments of one image that lie side by side. name: "overview" (the one with the fewest tokens) or
    "detail" where an image has several sheets, else empty."""

    image: int
    segments: tuple[Segment, ...]
    name: str = ""

    def title(self, image: str) -> str:
        """The name of its map. image: the name of the image."""
        return f"{image}, {self.name}" if self.name else image


def sheets(segments: Sequence[Segment]) -> list[Sheet]:
    """The segments, each on the first sheet of its image where it has room; an image has one or several."""
    found = []
    for image in dict.fromkeys(segment.image for segment in segments):
        piles: list[list[Segment]] = []
        for segment in segments:
            if segment.image == image:
                room = (pile for pile in piles if not any(_over(segment, other) for other in pile))
                pile = next(room, None)
                if pile is None:
                    piles.append([segment])
                else:
                    pile.append(segment)
        overview = min(piles, key=lambda pile: sum(segment.length for segment in pile))
        for pile in piles:
            name = "" if len(piles) == 1 else "overview" if pile is overview else "detail"
            found.append(Sheet(image, tuple(pile), name))
    return found


def _over(one: Segment, other: Segment) -> bool:
    a, b = _frame(one), _frame(other)
    sides = (torch.minimum(a[2:], b[2:]) - torch.maximum(a[:2], b[:2])).clamp(min=0)
    smaller = min(float((frame[2:] - frame[:2]).prod()) for frame in (a, b))
    return float(sides.prod()) > TOUCHING * smaller


def _frame(segment: Segment) -> Tensor:
    """[4]: what a segment covers of the upload; nothing when all of it is padding."""
    boxes = segment.boxes.double()
    real = boxes[(boxes[:, 2:] > boxes[:, :2]).all(1)]
    return torch.cat([real[:, :2].amin(0), real[:, 2:].amax(0)]) if len(real) else boxes.new_zeros(4)
