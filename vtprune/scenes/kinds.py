"""The 28 kinds of objects, each a few strokes of the pen."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from vtprune.scenes.pen import COLOURS, Pen, arc, mirrored, smooth


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


def draw_sign(p: Pen, colour: str, text: str) -> None:
    """A board on a post; its width follows the number of letters so that they all stay large."""
    width = (0.8, 0.8, 1.0, 1.3, 1.6, 1.85)[min(len(text), 5)]
    p.box(width / 2 - 0.06, 0.6, width / 2 + 0.06, 0.92, fill="post", line="contrast")
    p.box(0, 0, width, 0.74, 0.07)
    luminance = np.dot(COLOURS[colour], (0.299, 0.587, 0.114))
    ink = (20, 20, 24) if luminance > 125 else (255, 255, 255)
    if text:
        p.write(text, 0.08, 0.09, width - 0.08, 0.65, ink)
