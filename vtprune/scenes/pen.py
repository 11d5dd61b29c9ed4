"""The pen that draws objects: polygons, strokes and text boxes in unit coordinates (x right, y down)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import NamedTuple

import numpy as np

Points = Sequence[tuple[float, float]] | np.ndarray
RGB = tuple[int, int, int]

COLOURS: dict[str, RGB] = {
    "red": (222, 46, 46),
    "orange": (248, 138, 28),
    "yellow": (250, 214, 52),
    "green": (56, 164, 76),
    "blue": (44, 104, 216),
    "purple": (132, 68, 190),
    "pink": (246, 134, 188),
    "brown": (134, 84, 46),
    "black": (40, 40, 44),
    "white": (245, 245, 245),
}
EDGE = 0.036  # outline width, in drawing units
SHARP = np.radians(15)  # corners that turn more than this get a round joint,
ROUND_ALL = 12  # and all do where the stroke has at least this many (supersampled) pixels


class Item(NamedTuple):
    """One filled and/or stroked path, or a text box (then `text` is set and `points` are its corners)."""

    points: np.ndarray
    fill: tuple[int, ...] | None
    line: tuple[int, ...] | None
    width: float
    joints: np.ndarray
    text: str = ""


def _mix(a: RGB, b: RGB, share: float) -> RGB:
    return tuple(round(x + (y - x) * share) for x, y in zip(a, b, strict=True))  # type: ignore[return-value]


@cache
def _palette(colour: str) -> dict[str, tuple[int, ...]]:
    """Paint roles: main, outline, shade, tint, light and dark details, contrast strokes, post, clear."""
    main = COLOURS[colour]
    roles: dict[str, tuple[int, ...]] = {
        "main": main,
        "edge": _mix(main, (0, 0, 0), 0.42),
        "shade": _mix(main, (0, 0, 0), 0.17),
        "tint": _mix(main, (255, 255, 255), 0.5),
        "light": (252, 252, 250),
        "dark": (46, 44, 52),
        "contrast": (62, 60, 70),
        "post": (128, 122, 120),
        "clear": (0, 0, 0, 0),
    }
    if colour == "black":  # darker details would vanish: they are lighter instead
        roles |= {"edge": (8, 8, 10), "shade": (66, 66, 72), "tint": (122, 122, 132), "dark": (14, 14, 16)}
        roles["contrast"] = (120, 120, 130)
    if colour == "yellow":  # plain darkening gives olive
        roles |= {"edge": (172, 116, 12), "shade": (232, 176, 28)}
    if colour == "white":
        roles |= {"edge": (112, 118, 130), "shade": (222, 226, 233), "tint": (226, 230, 236)}
        roles["light"] = (206, 212, 222)
    return roles


def arc(cx: float, cy: float, rx: float, ry: float, start: float, end: float) -> np.ndarray:
    """Points on an ellipse from `start` to `end` degrees (0 right, 90 down)."""
    t = np.radians(np.linspace(start, end, max(4, round(abs(end - start) / 4.5))))
    return np.stack([cx + rx * np.cos(t), cy + ry * np.sin(t)], axis=1)


def smooth(points: Points) -> np.ndarray:
    """A closed Catmull-Rom curve through `points`."""
    p1 = np.asarray(points, float)
    p0, p2, p3 = np.roll(p1, 1, 0), np.roll(p1, -1, 0), np.roll(p1, -2, 0)
    t = np.linspace(0, 1, 8, endpoint=False)[None, :, None]
    a, b, c, d = (p[:, None, :] for p in (p0, p1, p2, p3))
    curve = b + 0.5 * t * (c - a + t * (2 * a - 5 * b + 4 * c - d + t * (3 * (b - c) + d - a)))
    return curve.reshape(-1, 2)


def mirrored(points: Points) -> np.ndarray:
    """The left half that completes a right half running from top to bottom on the axis x = 0.5."""
    half = np.asarray(points, float)
    return np.concatenate([half, np.stack([1 - half[-2:0:-1, 0], half[-2:0:-1, 1]], axis=1)])


class Pen:
    """Collects the items of one drawing; paints are role names of the palette."""

    def __init__(self, colour: str) -> None:
        self.paint = _palette(colour)
        self.items: list[Item] = []

    def _add(
        self, points: np.ndarray, fill: str | None, line: str | None, width: float, closed: bool
    ) -> None:
        step = np.diff(points, axis=0, append=points[:1])
        heading = np.arctan2(step[:, 1], step[:, 0])
        turn = np.abs((heading - np.roll(heading, 1) + np.pi) % (2 * np.pi) - np.pi)
        if not closed:
            turn[[0, -1]] = np.pi  # round caps
        joints = np.flatnonzero(turn > SHARP)
        ring = np.concatenate([points, points[:1]]) if closed else points
        paint = self.paint
        ink = paint[line] if line else None
        self.items.append(Item(ring, paint[fill] if fill else None, ink, width if line else 0, joints))

    def poly(
        self, points: Points, fill: str = "main", line: str | None = "edge", width: float = EDGE
    ) -> None:
        self._add(np.asarray(points, float), fill, line, width, closed=True)

    def oval(
        self, cx: float, cy: float, rx: float, ry: float = 0, fill: str = "main", line: str | None = "edge"
    ) -> None:
        """An ellipse; a circle without `ry`."""
        self.poly(arc(cx, cy, rx, ry or rx, 0, 360)[:-1], fill, line)

    def box(
        self,
        x0: float,
        y0: float,
        x1: float,
        y1: float,
        r: float = 0,
        fill: str = "main",
        line: str | None = "edge",
    ) -> None:
        """A rectangle with corners of radius `r`."""
        corners = ((x1 - r, y1 - r, 0), (x0 + r, y1 - r, 90), (x0 + r, y0 + r, 180), (x1 - r, y0 + r, 270))
        if r:
            self.poly(np.concatenate([arc(x, y, r, r, a, a + 90) for x, y, a in corners]), fill, line)
        else:
            self.poly([(x, y) for x, y, _ in corners], fill, line)

    def stroke(self, points: Points, paint: str = "edge", width: float = EDGE) -> None:
        self._add(np.asarray(points, float), None, paint, width, closed=False)

    def tube(self, points: Points, width: float, paint: str = "main") -> None:
        self.stroke(points, "edge", width + 2 * EDGE)
        self.stroke(points, paint, width)

    def shine(self, points: Points) -> None:
        self.stroke(points, "tint", 0.045)

    def eye(self, x: float, y: float, r: float) -> None:
        for radius, paint in ((r, (252, 252, 250)), (r * 0.62, (30, 30, 36))):  # whatever the main colour is
            self.items.append(Item(arc(x, y, radius, radius, 0, 360), paint, None, 0, np.empty(0, int)))

    def write(self, text: str, x0: float, y0: float, x1: float, y1: float, ink: RGB) -> None:
        corners = np.array([(x0, y0), (x1, y0), (x1, y1), (x0, y1)])
        self.items.append(Item(corners, ink, None, 0, np.empty(0, int), text))
