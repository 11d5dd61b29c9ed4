"""Draws the scenes: 28 kinds of flat-vector objects in 10 colours, text signs, and soft backgrounds.

An object is a short list of polygons, strokes and text boxes in unit coordinates (x right, y down).  Keeping
points rather than pixels lets one drawing be scaled and rotated exactly and rasterised once at any size.
"""

from __future__ import annotations

import colorsys
from collections.abc import Callable, Sequence
from functools import cache, lru_cache
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
from PIL import Image, ImageDraw, ImageFont

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
# (typeface, outline weight, slant): the text styles of signs.
FONTS: tuple[tuple[str, float, float], ...] = (
    ("Aileron", 0.03, 0.0),
    ("DejaVuSerif-Bold.ttf", 0.0, 0.0),
    ("DejaVuSansMono-Bold.ttf", 0.0, 0.0),
    ("Aileron", 0.055, 0.22),
)
EDGE = 0.036  # outline width, in drawing units
SHARP = np.radians(15)  # corners that turn more than this get a round joint,
ROUND_ALL = 12  # and all do where the stroke has at least this many (supersampled) pixels


class Thing(Protocol):
    """What `compose` reads of an object; lengths are fractions of the picture's side."""

    @property
    def kind(self) -> str: ...
    @property
    def colour(self) -> str: ...
    @property
    def side(self) -> float: ...
    @property
    def cx(self) -> float: ...
    @property
    def cy(self) -> float: ...
    @property
    def angle(self) -> float: ...
    @property
    def text(self) -> str: ...
    @property
    def style(self) -> int: ...


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


def _circle(p: Pen) -> None:
    p.oval(0.5, 0.5, 0.48)
    p.shine(arc(0.5, 0.5, 0.35, 0.35, 190, 250))


def _square(p: Pen) -> None:
    p.box(0.02, 0.02, 0.98, 0.98, 0.05)
    p.shine([(0.16, 0.42), (0.16, 0.16), (0.42, 0.16)])


def _triangle(p: Pen) -> None:
    p.poly([(0.5, 0.06), (0.99, 0.92), (0.01, 0.92)])
    p.shine([(0.27, 0.66), (0.45, 0.34)])


def _star(p: Pen) -> None:
    spokes = np.tile((0.52, 0.225), 5)
    turn = np.radians(np.arange(10) * 36 - 90)
    p.poly(np.stack([0.5 + spokes * np.cos(turn), 0.53 + spokes * np.sin(turn)], axis=1))
    p.shine([(0.42, 0.44), (0.5, 0.24)])


def _heart(p: Pen) -> None:
    t = np.linspace(0, 2 * np.pi, 60, endpoint=False)
    y = 13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t)
    p.poly(np.stack([0.5 + 0.03 * 16 * np.sin(t) ** 3, 0.42 - 0.03 * y], axis=1))
    p.shine(arc(0.27, 0.3, 0.13, 0.13, 170, 260))


def _diamond(p: Pen) -> None:
    p.poly([(0.5, 0), (0.86, 0.5), (0.5, 1), (0.14, 0.5)])
    p.poly([(0.5, 0.06), (0.82, 0.5), (0.5, 0.94), (0.62, 0.5)], "shade", None)
    p.shine([(0.28, 0.48), (0.42, 0.27)])


def _cross(p: Pen) -> None:
    a, b = 0.33, 0.67
    p.poly(
        [(a, 0), (b, 0), (b, a), (1, a), (1, b), (b, b), (b, 1), (a, 1), (a, b), (0, b), (0, a), (a, a)],
    )
    p.shine([(0.45, 0.3), (0.45, 0.12)])


def _ring(p: Pen) -> None:
    p.oval(0.5, 0.5, 0.48)
    p.shine(arc(0.5, 0.5, 0.375, 0.375, 190, 260))
    p.oval(0.5, 0.5, 0.26, fill="clear")


def _moon(p: Pen) -> None:
    hollow = arc(0.74, 0.5, 0.374, 0.374, 280.6, 79.4)[1:-1]
    p.poly(np.concatenate([arc(0.5, 0.5, 0.48, 0.48, 50, 310), hollow]))
    for x, y, r in ((0.22, 0.42, 0.05), (0.3, 0.66, 0.065), (0.36, 0.22, 0.04)):
        p.oval(x, y, r, fill="shade", line=None)


def _arrow(p: Pen) -> None:
    p.poly([(0, 0.35), (0.5, 0.35), (0.5, 0.1), (1, 0.5), (0.5, 0.9), (0.5, 0.65), (0, 0.65)])
    p.shine([(0.1, 0.44), (0.46, 0.44)])


def _house(p: Pen) -> None:
    p.box(0.7, 0.1, 0.82, 0.4, fill="shade")
    p.box(0.13, 0.44, 0.87, 0.98)
    p.poly([(0.5, 0.02), (1, 0.48), (0, 0.48)], "shade")
    p.box(0.56, 0.62, 0.74, 0.98, fill="edge", line=None)
    p.box(0.25, 0.6, 0.46, 0.8, fill="light")
    p.stroke([(0.355, 0.6), (0.355, 0.8)], width=0.025)
    p.stroke([(0.25, 0.7), (0.46, 0.7)], width=0.025)


def _tree(p: Pen) -> None:
    p.box(0.43, 0.8, 0.57, 1, fill="edge", line=None)
    p.poly([(0.5, 0.36), (0.9, 0.85), (0.1, 0.85)])
    p.poly([(0.5, 0.16), (0.83, 0.6), (0.17, 0.6)])
    p.poly([(0.5, 0.0), (0.74, 0.35), (0.26, 0.35)])
    p.shine([(0.38, 0.27), (0.46, 0.15)])


def _car(p: Pen) -> None:
    p.poly([(0.18, 0.5), (0.31, 0.22), (0.66, 0.22), (0.83, 0.5)])
    p.poly([(0.27, 0.48), (0.35, 0.29), (0.46, 0.29), (0.46, 0.48)], "light", None)
    p.poly([(0.52, 0.48), (0.52, 0.29), (0.63, 0.29), (0.73, 0.48)], "light", None)
    p.box(0.0, 0.48, 1, 0.78, 0.1)
    p.oval(0.92, 0.58, 0.035, fill="light", line=None)
    p.shine([(0.12, 0.56), (0.4, 0.56)])
    for x in (0.25, 0.75):
        p.oval(x, 0.78, 0.125, fill="dark", line=None)
        p.oval(x, 0.78, 0.055, fill="post", line=None)


def _fish(p: Pen) -> None:
    p.poly([(0.72, 0.5), (1, 0.24), (0.92, 0.5), (1, 0.76)], "shade")
    p.poly([(0.3, 0.28), (0.48, 0.1), (0.62, 0.3)], "shade")
    body = [(0.0, 0.52), (0.16, 0.32), (0.4, 0.23), (0.64, 0.34)]
    body += [(0.8, 0.5), (0.64, 0.68), (0.4, 0.79), (0.16, 0.71)]
    p.poly(smooth(body))
    p.stroke(arc(0.22, 0.51, 0.12, 0.19, -55, 55))
    p.poly([(0.44, 0.55), (0.62, 0.5), (0.56, 0.66)], "shade", "edge", 0.025)
    p.eye(0.19, 0.44, 0.062)


def _boat(p: Pen) -> None:
    p.stroke([(0.48, 0.03), (0.48, 0.72)], "contrast", 0.045)
    p.poly([(0.53, 0.03), (0.96, 0.62), (0.53, 0.62)])
    p.poly([(0.43, 0.14), (0.43, 0.62), (0.1, 0.62)], "tint")
    p.poly([(0.0, 0.7), (1, 0.7), (0.82, 0.97), (0.18, 0.97)])
    p.stroke([(0.14, 0.79), (0.86, 0.79)], "light", 0.04)


def _cup(p: Pen) -> None:
    p.tube(arc(0.7, 0.52, 0.21, 0.18, -90, 90), 0.07)
    base = arc(0.6, 0.82, 0.1, 0.1, 0, 90), arc(0.2, 0.82, 0.1, 0.1, 90, 180)
    p.poly(np.concatenate([[(0.04, 0.16), (0.76, 0.16)], *base]))
    p.oval(0.4, 0.16, 0.36, 0.085, fill="shade")
    p.oval(0.4, 0.175, 0.28, 0.05, fill="dark", line=None)
    p.shine([(0.17, 0.36), (0.2, 0.72)])


def _key(p: Pen) -> None:
    teeth = [(1, 0.76), (0.88, 0.76), (0.88, 0.58), (0.8, 0.58), (0.8, 0.7), (0.68, 0.7), (0.68, 0.58)]
    p.poly([(0.4, 0.42), (1, 0.42), *teeth, (0.4, 0.58)])
    p.oval(0.25, 0.5, 0.25)
    p.shine(arc(0.25, 0.5, 0.17, 0.17, 190, 260))
    p.oval(0.22, 0.5, 0.09, fill="clear")


def _flower(p: Pen) -> None:
    p.stroke([(0.5, 0.5), (0.5, 0.98)], "edge", 0.06)
    p.poly(smooth([(0.51, 0.92), (0.62, 0.76), (0.82, 0.74), (0.72, 0.88)]), "shade")
    for turn in np.radians(np.arange(6) * 60 + 30):
        p.oval(0.5 + 0.205 * np.cos(turn), 0.36 + 0.205 * np.sin(turn), 0.15)
    p.oval(0.5, 0.36, 0.125, fill="light")


def _cat(p: Pen) -> None:
    for s in (-1, 1):
        p.poly([(0.5 + s * 0.42, 0.52), (0.5 + s * 0.4, 0.02), (0.5 + s * 0.08, 0.26)])
        p.poly([(0.5 + s * 0.34, 0.34), (0.5 + s * 0.34, 0.14), (0.5 + s * 0.2, 0.25)], "tint", None)
    p.oval(0.5, 0.56, 0.45, 0.38)
    for s in (-1, 1):
        p.eye(0.5 + s * 0.19, 0.5, 0.085)
        p.stroke(arc(0.5 + s * 0.065, 0.7, 0.065, 0.06, 0, 180), "contrast", 0.028)
        for rise in (-0.03, 0.05):
            p.stroke([(0.5 + s * 0.24, 0.68 + rise), (0.5 + s * 0.44, 0.66 + 2 * rise)], "contrast", 0.022)
    p.poly([(0.44, 0.62), (0.56, 0.62), (0.5, 0.69)], "contrast", None)


def _bird(p: Pen) -> None:
    for x in (0.46, 0.58):
        p.stroke([(x, 0.78), (x + 0.02, 0.95), (x + 0.1, 0.95)], "contrast", 0.035)
    p.poly([(0.84, 0.22), (1, 0.31), (0.84, 0.4)], "dark", None)
    p.poly([(0.3, 0.48), (0.0, 0.36), (0.06, 0.62), (0.3, 0.7)], "shade")
    front = [(0.7, 0.08), (0.85, 0.18), (0.87, 0.36), (0.84, 0.58), (0.7, 0.78), (0.48, 0.83)]
    p.poly(smooth([*front, (0.28, 0.74), (0.2, 0.55), (0.36, 0.45), (0.5, 0.35), (0.56, 0.16)]))
    p.poly(smooth([(0.28, 0.56), (0.46, 0.46), (0.64, 0.5), (0.6, 0.64), (0.42, 0.68)]), "shade")
    p.eye(0.73, 0.25, 0.06)


def _umbrella(p: Pen) -> None:
    hook = arc(0.42, 0.86, 0.08, 0.1, 0, 180)
    p.stroke(np.concatenate([[(0.5, 0.0), (0.5, 0.86)], hook]), "contrast", 0.05)
    scallops = [arc(x, 0.53, 0.12, 0.07, 0, -180) for x in (0.86, 0.62, 0.38, 0.14)]
    p.poly(np.concatenate([arc(0.5, 0.53, 0.48, 0.47, 180, 360), *scallops]))
    p.poly(np.concatenate([arc(0.5, 0.53, 0.24, 0.45, 270, 360), scallops[1]]), "shade", None)
    for rx in (-0.24, 0.24):
        p.stroke(arc(0.5, 0.53, rx, 0.45, 270, 360), width=0.028)
    p.stroke([(0.5, 0.08), (0.5, 0.46)], width=0.028)


def _balloon(p: Pen) -> None:
    y = np.linspace(0.76, 1, 14)
    p.stroke(np.stack([0.5 + 0.045 * np.sin((y - 0.76) * 26), y], axis=1), "contrast", 0.03)
    p.poly([(0.5, 0.68), (0.58, 0.78), (0.42, 0.78)], "shade")
    p.poly(
        smooth(
            [
                (0.5, 0.0),
                (0.76, 0.1),
                (0.86, 0.34),
                (0.72, 0.6),
                (0.5, 0.73),
                (0.28, 0.6),
                (0.14, 0.34),
                (0.24, 0.1),
            ]
        )
    )
    p.stroke(arc(0.48, 0.34, 0.22, 0.22, 185, 245), "tint", 0.06)


def _apple(p: Pen) -> None:
    p.poly(
        smooth(
            mirrored(
                [(0.5, 0.3), (0.68, 0.22), (0.88, 0.3), (0.95, 0.54), (0.85, 0.82), (0.67, 0.98), (0.5, 0.94)]
            )
        )
    )
    p.stroke([(0.5, 0.34), (0.51, 0.2), (0.47, 0.06)], "contrast", 0.055)
    p.poly(smooth([(0.53, 0.19), (0.62, 0.05), (0.84, 0.0), (0.75, 0.16)]), "shade")
    p.shine(arc(0.35, 0.54, 0.19, 0.2, 170, 245))


def _mushroom(p: Pen) -> None:
    foot = [(0.63, 0.76), (0.68, 0.94), (0.5, 0.98), (0.32, 0.94), (0.37, 0.76)]
    p.poly(smooth([(0.4, 0.5), (0.6, 0.5), *foot]), "light")
    p.poly(np.concatenate([arc(0.5, 0.54, 0.5, 0.52, 180, 360), arc(0.5, 0.54, 0.5, 0.09, 0, 180)[1:-1]]))
    for x, y, r in ((0.5, 0.22, 0.095), (0.22, 0.42, 0.075), (0.77, 0.4, 0.08)):
        p.oval(x, y, r, fill="light", line=None)


def _rocket(p: Pen) -> None:
    p.poly(smooth([(0.5, 0.74), (0.62, 0.82), (0.5, 1.0), (0.38, 0.82)]), "tint")
    for s in (-1, 1):
        fin = np.array([(0.17, 0.5), (0.36, 0.72), (0.36, 0.9), (0.12, 0.78)])
        p.poly(fin * (s, 1) + (0.5, 0), "shade")
    hull = [(0.58, 0.08), (0.66, 0.21), (0.705, 0.36), (0.71, 0.52), (0.68, 0.68), (0.63, 0.8)]
    p.poly(mirrored([(0.5, 0.0), *hull, (0.5, 0.8)]))
    p.oval(0.5, 0.36, 0.105, fill="light")
    p.stroke([(0.5, 0.6), (0.5, 0.74)], "edge", 0.05)


def _hat(p: Pen) -> None:
    p.oval(0.5, 0.8, 0.5, 0.12)
    p.poly([(0.2, 0.14), (0.8, 0.14), (0.74, 0.6), (0.74, 0.78), (0.5, 0.82), (0.26, 0.78), (0.26, 0.6)])
    p.poly([(0.262, 0.6), (0.738, 0.6), (0.738, 0.75), (0.5, 0.79), (0.262, 0.75)], "light", None)
    p.oval(0.5, 0.14, 0.3, 0.06, fill="shade")
    p.shine([(0.31, 0.29), (0.34, 0.5)])


def _butterfly(p: Pen) -> None:
    for s in (-1, 1):
        lower = np.array([(0.04, 0.52), (0.26, 0.54), (0.38, 0.7), (0.28, 0.92), (0.1, 0.8)])
        upper = np.array([(0.04, 0.5), (0.14, 0.24), (0.36, 0.06), (0.5, 0.18), (0.44, 0.44), (0.26, 0.56)])
        p.poly(smooth(lower * (s, 1) + (0.5, 0)), "shade")
        p.poly(smooth(upper * (s, 1) + (0.5, 0)))
        p.oval(0.5 + s * 0.33, 0.27, 0.075, fill="light", line=None)
        p.oval(0.5 + s * 0.23, 0.73, 0.05, fill="light", line=None)
        p.stroke([(0.5, 0.3), (0.5 + s * 0.06, 0.14), (0.5 + s * 0.13, 0.08)], "contrast", 0.025)
    p.oval(0.5, 0.52, 0.055, 0.27, fill="dark", line="contrast")


_DRAWN = (
    _circle,
    _square,
    _triangle,
    _star,
    _heart,
    _diamond,
    _cross,
    _ring,
    _moon,
    _arrow,
    _house,
    _tree,
    _car,
    _fish,
    _boat,
    _cup,
    _key,
    _flower,
    _cat,
    _bird,
    _umbrella,
    _balloon,
    _apple,
    _mushroom,
    _rocket,
    _hat,
    _butterfly,
)
KIND_PENS: dict[str, Callable[[Pen], None]] = {pen.__name__[1:]: pen for pen in _DRAWN}
KINDS: tuple[str, ...] = (*KIND_PENS, "sign")
# Odd styles of these look the other way.
FACING = frozenset(("arrow", "moon", "car", "fish", "boat", "cup", "key", "bird"))


def _sign(p: Pen, colour: str, text: str) -> None:
    """A board on a post; its width follows the number of letters so that they all stay large."""
    width = (0.8, 0.8, 1.0, 1.3, 1.6, 1.85)[min(len(text), 5)]
    p.box(width / 2 - 0.06, 0.6, width / 2 + 0.06, 0.92, fill="post", line="contrast")
    p.box(0, 0, width, 0.74, 0.07)
    luminance = np.dot(COLOURS[colour], (0.299, 0.587, 0.114))
    ink = (20, 20, 24) if luminance > 125 else (255, 255, 255)
    if text:
        p.write(text, 0.08, 0.09, width - 0.08, 0.65, ink)


class Drawing(NamedTuple):
    """The items with all their points in one array, so that one product turns them all."""

    items: list[Item]
    points: np.ndarray
    reach: np.ndarray  # half the stroke's width at each point
    cuts: list[int]  # where each item's points end

    def bounds(self, points: np.ndarray, scale: float) -> tuple[np.ndarray, np.ndarray]:
        return (points - self.reach * scale).min(axis=0), (points + self.reach * scale).max(axis=0)


@lru_cache(maxsize=4096)
def _drawing(kind: str, colour: str, text: str, style: int) -> Drawing:
    pen = Pen(colour)
    if kind == "sign":
        _sign(pen, colour, text)
    else:
        KIND_PENS[kind](pen)
    points = np.concatenate([item.points for item in pen.items])
    if kind in FACING and style:
        points = points * (-1, 1)
    counts = [len(item.points) for item in pen.items]
    reach = np.repeat([item.width / 2 for item in pen.items], counts)[:, None]
    return Drawing(pen.items, points, reach, np.cumsum(counts).tolist())


def fonts_dir() -> Path:
    """The bundled fonts: inside the installed package, else beside it in the repository."""
    package = Path(__file__).resolve().parents[1]
    inside = package / "assets" / "fonts"
    return inside if inside.is_dir() else package.parent / "assets" / "fonts"


@lru_cache(maxsize=512)
def _lettering(text: str, style: int) -> Image.Image:
    """A large tight mask of `text`, later squeezed into the sign's board."""
    face, weight, slant = FONTS[style]
    size = 120
    font = (
        ImageFont.load_default(size)
        if face == "Aileron"
        # Basic layout does not depend on whether the machine has Raqm.
        else ImageFont.truetype(fonts_dir() / face, size, layout_engine=ImageFont.Layout.BASIC)
    )
    stroke = round(weight * size)
    left, top, right, bottom = font.getbbox(text, stroke_width=stroke)
    lean = round(slant * (bottom - top))
    mask = Image.new("L", (int(right - left) + lean + 2, int(bottom - top) + 2))
    ImageDraw.Draw(mask).text((1 - left, 1 - top), text, fill=255, font=font, stroke_width=stroke)
    if lean:
        shear = (1, slant, -lean, 0, 1, 0)
        mask = mask.transform(mask.size, Image.Transform.AFFINE, shear, Image.Resampling.BICUBIC)
    return mask.crop(mask.getbbox())


def _draw_text(
    image: Image.Image, item: Item, at: np.ndarray, scale: float, angle: float, style: int
) -> None:
    room = (item.points[2] - item.points[0]) * scale
    mask = _lettering(item.text, style)
    fit = room / mask.size
    fit = np.minimum(fit, fit.min() * 1.3)  # letters stretch a little to fill the board, not out of shape
    size = np.maximum(1, (fit * mask.size).round()).astype(int)
    mask = mask.resize(tuple(size.tolist()), Image.Resampling.HAMMING)
    mask = mask.rotate(angle, Image.Resampling.BICUBIC, expand=True)
    corner = (at.mean(axis=0) - np.divide(mask.size, 2)).round().astype(int)
    assert item.fill is not None
    image.paste(item.fill, tuple(corner.tolist()), mask)


def _raster(
    kind: str, colour: str, side: int, angle: int, text: str, style: int
) -> tuple[Image.Image, np.ndarray]:
    """The sprite and where it is opaque."""
    drawing = _drawing(kind, colour, text, style)
    low, high = drawing.bounds(drawing.points, 1.0)
    over = 4 if side <= 160 else 3  # supersampling
    scale = side * over / float((high - low).max())
    c, s = np.cos(np.radians(angle)), np.sin(np.radians(angle))
    turn = np.array([(c, -s), (s, c)])  # anticlockwise on screen, as Image.rotate
    points = drawing.points @ (turn * scale)
    low, high = drawing.bounds(points, scale)
    size = np.maximum(1, np.ceil((high - low) / over - 0.05)).astype(int)
    points += (size * over - low - high) / 2 - 0.5
    image = Image.new("RGBA", tuple((size * over).tolist()))
    draw = ImageDraw.Draw(image)
    start = 0
    for item, end in zip(drawing.items, drawing.cuts, strict=True):
        at, start = points[start:end], end
        if item.text:
            _draw_text(image, item, at, scale, angle, style)
            continue
        flat = at.ravel().tolist()
        if item.fill:
            draw.polygon(flat, fill=item.fill)
        if item.line:
            width = max(1, round(item.width * scale))
            draw.line(flat, fill=item.line, width=width)
            # At a wide stroke even gentle bends leave visible notches between the segments.
            bends = at if width >= ROUND_ALL else at[item.joints]
            r = (width - 1) / 2
            for x, y in bends.tolist():
                draw.ellipse((x - r, y - r, x + r, y + r), fill=item.line)
    image = image.reduce(over)
    image = image.crop(image.getbbox())
    return image, np.asarray(image.getchannel("A")) >= 128


_small = lru_cache(maxsize=20000)(_raster)
_large = lru_cache(maxsize=96)(_raster)  # large sprites are rare, and thousands would fill the memory


def _cached(
    kind: str, colour: str, side: float, angle: float, text: str, style: int
) -> tuple[Image.Image, np.ndarray]:
    """`_raster` of the rounded request, with what does not matter to the kind left out of the key."""
    pixels = max(4, round(side))
    style %= len(FONTS) if kind == "sign" else 2 if kind in FACING else 1
    draw = _small if pixels <= 120 else _large
    return draw(kind, colour, pixels, 5 * round(angle / 5), text if kind == "sign" else "", style)


def sprite(
    kind: str, colour: str, side: int, angle: float = 0.0, text: str = "", style: int = 0
) -> Image.Image:
    """The drawing as a tight RGBA image (shared: do not modify); unrotated, its longer side is `side`."""
    return _cached(kind, colour, side, angle, text, style)[0]


@lru_cache(maxsize=20000)
def extent(kind: str, angle: float, text: str, style: int) -> tuple[float, float, float]:
    """Width and height of the rotated tight box as fractions of `side`, and the covered share of it."""
    mask = _cached(kind, "red", 100, angle, text, style)[1]
    return mask.shape[1] / 100, mask.shape[0] / 100, float(mask.mean())


def _tone(hue: float, saturation: float, value: float) -> np.ndarray:
    return np.array(colorsys.hsv_to_rgb(hue % 1, saturation, value), np.float32) * 255


class _Ground:
    """What a background painter needs: pixel-centre coordinates in fractions, a hue and soft masks."""

    def __init__(self, seed: int, size: int) -> None:
        self.size = size
        self.rng = np.random.default_rng(seed)
        self.hue = float(self.rng.random())
        line = (np.arange(size, dtype=np.float32) + 0.5) / size
        self.x, self.y = line[None, :], line[:, None]

    def base(self, shift: float = 0.0, value: float = 0.86, saturation: float = 0.2) -> np.ndarray:
        return _tone(self.hue + shift, saturation, value)

    def whole(self, values: np.ndarray) -> np.ndarray:
        """A row or column of values repeated over the whole picture."""
        return np.broadcast_to(values, (self.size, self.size))

    def edge(self, distance: np.ndarray) -> np.ndarray:
        """1 where `distance` (in fractions of the side) is positive, with a one-pixel soft edge."""
        return self.whole(np.clip(distance * self.size + 0.5, 0, 1))

    def noise(self, cells: int) -> np.ndarray:
        """Smooth noise in -1..1, drawn at a fixed low resolution so that it is the same at every size."""
        small = Image.fromarray(self.rng.uniform(-1, 1, (cells, cells)).astype(np.float32))
        return np.asarray(small.resize((self.size, self.size), Image.Resampling.BICUBIC))


def _blend(a: np.ndarray, b: np.ndarray, share: np.ndarray) -> np.ndarray:
    return a + (b - a) * share[..., None]


def _plain(g: _Ground) -> np.ndarray:
    return np.broadcast_to(g.base(), (g.size, g.size, 3))


def _gradient(g: _Ground) -> np.ndarray:
    turn = g.rng.uniform(0, np.pi)
    share = 0.5 + (g.x - 0.5) * np.cos(turn) * 0.7 + (g.y - 0.5) * np.sin(turn) * 0.7
    return _blend(g.base(value=0.92), g.base(0.12, 0.76, 0.28), share)


def _dots(g: _Ground) -> np.ndarray:
    step = 1 / g.rng.integers(7, 12)
    x, y = (g.x / step + 0.5 * (g.y // step % 2)) % 1 - 0.5, g.y / step % 1 - 0.5
    inside = g.edge((0.22 - np.hypot(x, y)) * step)
    return _blend(g.base(value=0.84), g.base(value=0.92, saturation=0.12), inside)


def _stripes(g: _Ground) -> np.ndarray:
    count, lean = g.rng.integers(5, 10), g.rng.uniform(-1, 1)
    wave = (g.x + lean * g.y) * count % 1
    return _blend(g.base(), g.base(value=0.91, saturation=0.13), g.edge((0.25 - np.abs(wave - 0.5)) / count))


def _checks(g: _Ground) -> np.ndarray:
    count = g.rng.integers(5, 10)
    bands = [g.edge((0.25 - np.abs(v * count % 1 - 0.5)) / count) for v in (g.x, g.y)]
    return _blend(g.base(value=0.9, saturation=0.13), g.base(value=0.83), (bands[0] + bands[1]) / 2)


def _noise(g: _Ground) -> np.ndarray:
    grain = g.noise(9) * 0.7 + g.noise(60) * 0.4
    return g.base(value=0.84) + 11 * grain[..., None]


def _meadow(g: _Ground) -> np.ndarray:
    hue = g.rng.uniform(0.5, 0.6)
    sky = _blend(_tone(hue, 0.24, 0.88), _tone(hue - 0.02, 0.08, 0.94), g.whole(np.minimum(g.y * 1.6, 1)))
    green, level = g.rng.uniform(0.22, 0.33), g.rng.uniform(0.5, 0.7)
    for rank in range(2):
        hill = level + 0.13 * rank + 0.04 * np.sin(g.x * g.rng.uniform(4, 8) + g.rng.uniform(0, 6))
        sky = _blend(sky, _tone(green, 0.3 + 0.06 * rank, 0.82 - 0.06 * rank), g.edge(g.y - hill))
    return sky


def _room(g: _Ground) -> np.ndarray:
    level = g.rng.uniform(0.6, 0.75)
    stripe = g.edge(0.03 - np.abs(g.x * 8 % 1 - 0.5) / 8)
    wall = _blend(g.base(), g.base(value=0.89, saturation=0.15), stripe)
    board = g.edge(0.006 - np.abs((g.y - level) * 7 % 1 - 0.5) / 7)
    floor = _blend(_tone(0.08, 0.28, 0.76), _tone(0.08, 0.32, 0.7), board)
    room = _blend(wall, floor, g.edge(g.y - level))
    return _blend(room, _tone(0.1, 0.05, 0.95), g.edge(0.012 - np.abs(g.y - level)))


def _beach(g: _Ground) -> np.ndarray:
    horizon, shore = g.rng.uniform(0.28, 0.4), g.rng.uniform(0.62, 0.75)
    sky, sand = _tone(0.55, 0.12, 0.93), _tone(0.115, 0.25, 0.9)
    sea = _tone(g.rng.uniform(0.48, 0.58), 0.34, 0.8)
    coast = shore + 0.02 * np.sin(g.x * 9 + g.rng.uniform(0, 6))
    beach = _blend(sky, sea, g.edge(g.y - horizon))
    ripple = np.sin(g.x * 40 + 3 * np.sin(g.y * 30)) * np.sin(g.y * 70)
    beach = beach + (7 * np.clip(ripple, 0, 1) * (g.y > horizon))[..., None]
    beach = _blend(beach, _tone(0.5, 0.06, 0.95), g.edge(g.y - coast + 0.02))
    return _blend(beach, sand, g.edge(g.y - coast))


def _night(g: _Ground) -> np.ndarray:
    tint = 0.6 + g.rng.uniform(-0.06, 0.12)
    sky = _blend(_tone(tint, 0.4, 0.42), _tone(tint + 0.06, 0.3, 0.58), g.whole(g.y))
    for x, y, r in g.rng.uniform((0.01, 0.01, 0.002), (0.99, 0.99, 0.005), (26, 3)):
        near = [slice(int((v - 0.01) * g.size), int((v + 0.01) * g.size) + 1) for v in (y, x)]
        away = np.hypot(g.x[:, near[1]] - x, g.y[near[0]] - y)
        glow = np.clip((r - away) * g.size + 0.5, 0, 1)
        sky[near[0], near[1]] = _blend(sky[near[0], near[1]], _tone(0.14, 0.1, 0.86), 0.7 * glow)
    return sky


_PAINTED = (_plain, _gradient, _dots, _stripes, _checks, _noise, _meadow, _room, _beach, _night)
BACKGROUND_PAINTERS: dict[str, Callable[[_Ground], np.ndarray]] = {p.__name__[1:]: p for p in _PAINTED}
BACKGROUNDS: tuple[str, ...] = tuple(BACKGROUND_PAINTERS)


@lru_cache(maxsize=512)
def _ground(name: str, seed: int, size: int) -> Image.Image:
    picture = BACKGROUND_PAINTERS[name](_Ground(seed, size))
    return Image.fromarray(np.clip(picture + 0.5, 0, 255).astype(np.uint8))


def background(name: str, seed: int, size: int) -> Image.Image:
    """A muted RGB backdrop; the same name and seed give the same picture at every size."""
    # Large pictures are for show and rare: caching them would only hold memory.
    return _ground(name, seed, size).copy() if size <= 256 else _ground.__wrapped__(name, seed, size)


def compose(things: Sequence[Thing], bg_name: str, bg_seed: int, size: int) -> tuple[Image.Image, np.ndarray]:
    """Paints `things` in order; also returns which thing is on top at each pixel (-1: background)."""
    picture = background(bg_name, bg_seed, size)
    ids = np.full((size, size), -1, np.int16)
    for index, t in enumerate(things):
        image, mask = _cached(t.kind, t.colour, t.side * size, t.angle, t.text, t.style)
        h, w = mask.shape
        x, y = round(t.cx * size - w / 2), round(t.cy * size - h / 2)
        picture.paste(image, (x, y), image)
        x0, y0 = max(x, 0), max(y, 0)
        region = ids[y0 : max(y + h, 0), x0 : max(x + w, 0)]
        region[mask[y0 - y :, x0 - x :][: region.shape[0], : region.shape[1]]] = index
    return picture, ids
