"""Noun phrases and wording: what every question about a drawn scene is put together from."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from vtprune.scenes.world import Scene, Thing, plural

Box = tuple[float, float, float, float]
Subject = tuple[str | None, str | None, str | None]
"""A noun phrase as (kind, colour, size); None where it says nothing."""


@dataclass(frozen=True)
class Question:
    """evidence: (image index, box in fractions of the picture's side) of every object that decides the
    answer, empty when the answer is that there is none. subjects: the noun phrases the question speaks of."""

    type: str
    text: str
    answer: str
    evidence: tuple[tuple[int, Box], ...]
    subjects: tuple[Subject, ...] = ()


def matches(thing: Thing, subject: Subject) -> bool:
    kind, colour, size = subject
    return kind in (None, thing.kind) and colour in (None, thing.colour) and size in (None, thing.size)


def phrase(subject: Subject, many: bool = False) -> str:
    """(cat, red, None) -> "red cat"; without a kind: "red thing"."""
    kind, colour, size = subject
    noun = kind or "thing"
    return " ".join(word for word in (size, colour, plural(noun) if many else noun) if word)


def all_matching(scene: Scene, subject: Subject) -> list[Thing]:
    return [thing for thing in scene.things if matches(thing, subject)]


def boxes_of(things: Sequence[Thing], image: int = 0) -> tuple[tuple[int, Box], ...]:
    return tuple((image, thing.box) for thing in things)


def referable(scene: Scene, rng: random.Random, hide: str = "") -> tuple[Thing, Subject] | None:
    """A thing that a short phrase names uniquely, the phrase not saying what is asked (`hide`)."""
    things = list(scene.things)
    rng.shuffle(things)
    for thing in things:
        forms: list[Subject] = [(thing.kind, None, None)]
        if hide != "colour":
            forms.append((thing.kind, thing.colour, None))
        if hide != "size":
            forms.append((thing.kind, None, thing.size))
        for subject in forms:
            if len(all_matching(scene, subject)) == 1:
                return thing, subject
    return None


def say(rng: random.Random, templates: Sequence[str], **words: str) -> str:
    """One of the templates, filled in; sometimes without its question mark or its capital letter, and with
    either spelling of colour."""
    text = rng.choice(templates).format(**words)
    if rng.random() < 0.5:
        text = text.replace("colour", "color")
    if rng.random() < 0.15:
        text = text.rstrip("?.")
    if rng.random() < 0.12:
        text = text[0].lower() + text[1:]
    return text


def zone(x: float, y: float) -> str | None:
    """The third of the picture a point lies in, "center", "top left", …; None near a border of thirds."""
    if min(abs(v - line) for v in (x, y) for line in (1 / 3, 2 / 3)) < 0.025:
        return None
    row = ("top", "", "bottom")[int(y * 3)]
    column = ("left", "", "right")[int(x * 3)]
    return " ".join(word for word in (row, column) if word) or "center"


def middle(thing: Thing) -> tuple[float, float]:
    x0, y0, x1, y1 = thing.box
    return (x0 + x1) / 2, (y0 + y1) / 2


def same_answer(a: str, b: str) -> bool:
    """Exact match, but for case, a final full stop and the two spellings of colour."""

    def plain(text: str) -> str:
        return " ".join(text.lower().rstrip(". ").replace("colour", "color").split())

    return plain(a) == plain(b)
