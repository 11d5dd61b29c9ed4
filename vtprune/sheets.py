"""Which visual tokens of an image can be drawn on one picture.

Some families cut an image twice: into an overview of all of it, and into tiles of its detail. Those tokens
lie over one another, so a map of both would show neither.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from vtprune.types import Segment

Frame = tuple[float, float, float, float]
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
    frames = {segment.start: _frame(segment) for segment in segments}
    for image in dict.fromkeys(segment.image for segment in segments):
        piles: list[list[Segment]] = []
        for segment in segments:
            if segment.image == image:
                own = frames[segment.start]
                room = (pile for pile in piles if not any(_over(own, frames[one.start]) for one in pile))
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


def _over(a: Frame, b: Frame) -> bool:
    wide, high = (max(0.0, min(a[i + 2], b[i + 2]) - max(a[i], b[i])) for i in (0, 1))
    smaller = min((frame[2] - frame[0]) * (frame[3] - frame[1]) for frame in (a, b))
    return wide * high > TOUCHING * smaller


def _frame(segment: Segment) -> Frame:
    """What a segment covers of the upload; nothing when all of it is padding."""
    boxes = segment.boxes.double()
    real = boxes[(boxes[:, 2:] > boxes[:, :2]).all(1)]
    if not len(real):
        return 0.0, 0.0, 0.0, 0.0
    left, top = real[:, :2].amin(0).tolist()
    right, bottom = real[:, 2:].amax(0).tolist()
    return left, top, right, bottom
