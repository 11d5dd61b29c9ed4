"""The drawn world: what can be in a picture, where, and how a second picture may differ from it.

A :class:`Scene` is plain data; drawing it is :func:`render`. Everything is a function of the seed, so that a
scene can be named by one number. Lengths are fractions of the picture's side.
"""

from __future__ import annotations

import dataclasses
import random
from dataclasses import dataclass

import numpy as np
from PIL import Image

from vtprune.scenes import draw

WORLD_VERSION = 1
"""Written into every file that is made from this world; raised whenever a seed would draw another picture."""

SPLITS = {
    "train": range(0, 10**9),
    "validation": range(10**9, 10**9 + 10**6),
    "heldout": range(2 * 10**9, 2 * 10**9 + 10**6),
}
"""Seed ranges; they never overlap."""

SIZES = {"small": 0.14, "medium": 0.22, "large": 0.34}
WORDS = (
    "STOP", "EXIT", "OPEN", "SALE", "TAXI", "CAFE", "BANK", "ZOO", "BUS", "HOTEL", "PARK", "SLOW", "FREE",
    "MENU", "NORTH", "SOUTH", "EAST", "WEST", "LEFT", "RIGHT", "HOME", "SHOP", "PUSH", "PULL", "HELP", "INFO",
    "TRAIN", "BEACH", "PIZZA", "MUSIC",
)  # fmt: skip
MAX_THINGS = 12
MAX_OCCLUSION = 0.2
MARGIN = 0.01
PLURALS = {
    "fish": "fish", "cross": "crosses", "butterfly": "butterflies",
}  # fmt: skip


def plural(kind: str) -> str:
    return PLURALS.get(kind, kind + "s")


def article(noun: str) -> str:
    return ("an " if noun[0] in "aeiou" else "a ") + noun


@dataclass(frozen=True)
class Thing:
    """One object. side: its longer dimension before rotation. box: x0, y0, x1, y1 of the whole (unoccluded)
    object. text: what a sign says, else ""."""

    kind: str
    colour: str
    size: str
    side: float
    cx: float
    cy: float
    angle: float
    text: str
    style: int
    box: tuple[float, float, float, float]

    @property
    def is_number(self) -> bool:
        return self.text.isdigit()

    def describe(self, colour: bool = True, size: bool = False) -> str:
        """Noun phrase without an article, e.g. "small red cat"."""
        return " ".join([self.size] * size + [self.colour] * colour + [self.kind])


@dataclass(frozen=True)
class Scene:
    """A picture's content. things are in painting order: a later one may hide part of an earlier one."""

    seed: int
    background: str
    background_seed: int
    things: tuple[Thing, ...]
    version: int = WORLD_VERSION


def split_seed(split: str, index: int) -> int:
    """The seed of the index-th scene of a split. Raises ValueError outside it."""
    if split not in SPLITS or not 0 <= index < len(SPLITS[split]):
        raise ValueError(f"no scene {index} in split {split!r}: splits are {', '.join(SPLITS)}.")
    return SPLITS[split][index]


def render(scene: Scene, size: int = 448) -> tuple[Image.Image, np.ndarray]:
    """Draws the scene. Returns the RGB picture and an id map [size, size] int16: index into
    `scene.things` of what is visible there, -1 for background."""
    return draw.compose(scene.things, scene.background, scene.background_seed, size)


def sample(seed: int) -> Scene:
    """The scene of a seed. Some repeat a few kinds or colours (so that counting means something), some hold
    signs, and the rest mix everything."""
    rng = random.Random(f"scene-{WORLD_VERSION}-{seed}")
    theme = rng.choices(["mixed", "repeats", "signs", "few"], [34, 28, 28, 10])[0]
    count = {
        "mixed": rng.randint(2, 9),
        "repeats": rng.randint(3, MAX_THINGS),
        "signs": rng.randint(1, 5),
        "few": rng.randint(1, 3),
    }[theme]
    colours, kinds = list(draw.COLOURS), [kind for kind in draw.KINDS if kind != "sign"]
    if theme == "repeats":
        kinds = rng.sample(kinds, rng.randint(1, 3))
        colours = rng.sample(colours, rng.randint(1, 4))
    things: list[Thing] = []
    for index in range(count):
        sign = index == 0 if theme != "signs" else index < 1 + (count > 2)
        is_sign = sign and (theme == "signs" or (theme == "mixed" and rng.random() < 0.15))
        _place(rng, things, "sign" if is_sign else rng.choice(kinds), rng.choice(colours), count)
    rng.shuffle(things)
    return Scene(seed, rng.choice(draw.BACKGROUNDS), rng.randrange(100), tuple(things))


def sample_signs(seed: int) -> Scene:
    """A scene crowded with signs, for practice in reading: ordinary scenes hold one or two."""
    rng = random.Random(f"signs-{WORLD_VERSION}-{seed}")
    things: list[Thing] = []
    for _ in range(rng.randint(4, 9)):
        _place(rng, things, "sign", rng.choice(list(draw.COLOURS)), MAX_THINGS)
    return Scene(seed, rng.choice(draw.BACKGROUNDS), rng.randrange(100), tuple(things))


def _place(rng: random.Random, things: list[Thing], kind: str, colour: str, count: int) -> bool:
    """Adds a thing where it hides, or is hidden, no more than allowed; gives up after some tries."""
    weights = [5, 3, 1] if count > 6 else [2, 4, 3]
    if kind == "sign":
        weights = [0, 1, 2]
    text = ""
    if kind == "sign":
        text = str(rng.randint(0, 99)) if rng.random() < 0.6 else rng.choice(WORDS)
    for attempt in range(40):
        size = rng.choices(list(SIZES), weights)[0] if attempt < 25 or kind == "sign" else "small"
        thing = _thing(rng, kind, colour, size, text)
        if all(_clear(thing, other) for other in things):
            things.append(thing)
            return True
    return False


def _thing(
    rng: random.Random, kind: str, colour: str, size: str, text: str, style: int | None = None
) -> Thing:
    side = SIZES[size] * rng.choice((0.94, 1.0, 1.06))  # few values, so that drawn sprites are used again
    angle = float(rng.choice((-10, -5, 0, 0, 5, 10)))
    if style is None:
        style = rng.randrange(4) if kind == "sign" else 0
    width, height, _ = draw.extent(kind, angle, text, style)
    half_w, half_h = width * side / 2, height * side / 2
    cx = rng.uniform(half_w + MARGIN, 1 - half_w - MARGIN)
    cy = rng.uniform(half_h + MARGIN, 1 - half_h - MARGIN)
    box = (cx - half_w, cy - half_h, cx + half_w, cy + half_h)
    return Thing(kind, colour, size, side, cx, cy, angle, text, style, box)


def _clear(a: Thing, b: Thing) -> bool:
    """True if the two boxes overlap so little that neither can hide more than MAX_OCCLUSION / 2 of the other
    (two neighbours may hide parts of a third)."""
    width = min(a.box[2], b.box[2]) - max(a.box[0], b.box[0])
    height = min(a.box[3], b.box[3]) - max(a.box[1], b.box[1])
    if width <= 0 or height <= 0:
        return True
    if a.kind == "sign" or b.kind == "sign":
        return False  # a hidden letter would change the word
    return width * height <= MAX_OCCLUSION / 2 * min(_area(a), _area(b))


def _area(thing: Thing) -> float:
    x0, y0, x1, y1 = thing.box
    return (x1 - x0) * (y1 - y0) * draw.extent(thing.kind, thing.angle, thing.text, thing.style)[2]


CHANGES = ("color", "size", "moved", "added", "removed")


def change(scene: Scene, rng: random.Random) -> tuple[Scene, str, Thing, Thing] | None:
    """A copy of the scene in which one thing changed: (second scene, one of CHANGES, the thing before, the
    thing after). For "added" and "removed" both are the thing in question. None if it found no way."""
    what = rng.choice(CHANGES)
    things = list(scene.things)
    if what == "added":
        count = len(things)
        if count >= MAX_THINGS or not _place(
            rng, things, rng.choice(draw.KINDS[:-1]), rng.choice(list(draw.COLOURS)), count
        ):
            return None
        return dataclasses.replace(scene, things=tuple(things)), what, things[-1], things[-1]
    if not things:
        return None
    index = rng.randrange(len(things))
    old = things.pop(index)
    if what == "removed":
        return dataclasses.replace(scene, things=tuple(things)), what, old, old
    new = _changed(rng, old, what, things)
    if new is None:
        return None
    things.insert(index, new)
    return dataclasses.replace(scene, things=tuple(things)), what, old, new


def _changed(rng: random.Random, old: Thing, what: str, others: list[Thing]) -> Thing | None:
    if what == "color":
        return dataclasses.replace(old, colour=rng.choice([c for c in draw.COLOURS if c != old.colour]))
    for _ in range(40):
        size = old.size
        if what == "size":
            size = rng.choice([s for s in SIZES if s != old.size and (old.kind != "sign" or s != "small")])
        new = _thing(rng, old.kind, old.colour, size, old.text, old.style)
        if what == "size":
            width, height, _ = draw.extent(old.kind, new.angle, old.text, old.style)
            half_w, half_h = width * new.side / 2, height * new.side / 2
            moved = _moved_to(new, old.cx, old.cy, half_w, half_h)
            if moved is None:
                continue
            new = moved
        elif abs(new.cx - old.cx) + abs(new.cy - old.cy) < 0.25:
            continue
        if all(_clear(new, other) for other in others):
            return new
    return None


def _moved_to(thing: Thing, cx: float, cy: float, half_w: float, half_h: float) -> Thing | None:
    box = (cx - half_w, cy - half_h, cx + half_w, cy + half_h)
    if min(box) < 0 or max(box) > 1:
        return None
    return dataclasses.replace(thing, cx=cx, cy=cy, box=box)
