"""The soft backgrounds behind the objects; the same picture at any size."""

from __future__ import annotations

import colorsys
from collections.abc import Callable
from functools import lru_cache

import numpy as np
from PIL import Image


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
