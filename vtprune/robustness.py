"""The same question about pictures damaged more and more: which of the two answers gives way first."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image

from vtprune.engine import Engine
from vtprune.images import open_image
from vtprune.perturb import SEVERITIES, perturb
from vtprune.request import Source
from vtprune.study import Evidence, kept_of
from vtprune.types import Budget, Done, Run

LARGEST = 2048
"""Longest side in pixels; larger pictures are scaled down before anything else, the clean ones too."""


@dataclass(frozen=True)
class Damaged:
    """One severity, 0 being the clean pictures.

    pictures: what was asked about. evidence: share of what decides the answer that was kept, None where that
    is unknown. full, pruned: whether this answer is still the one that the same side gave without damage.
    """

    severity: int
    pictures: tuple[Image.Image, ...]
    run: Run
    evidence: float | None
    full: bool
    pruned: bool


def robustness(
    engine: Engine,
    images: Sequence[Source],
    question: str,
    method: str = "atp",
    keep: float | int = 0.25,
    kind: str = "noise",
    max_new_tokens: int = 32,
    params: Mapping[str, Any] | None = None,
    *,
    severities: Sequence[int] = SEVERITIES,
    evidence: Evidence = (),
    seed: int = 0,
    stop: threading.Event | None = None,
) -> Iterator[Damaged]:
    """The clean pictures, then each severity of one kind of damage (see vtprune.perturb), in their order.

    Raises ValueError with one sentence for a request that cannot be served. After `stop` is set they end.
    """
    Budget(keep)
    for severity in severities:
        perturb(Image.new("RGB", (1, 1)), kind, severity)  # says what there is not, before anything is run
    clean = []
    for source in images:
        picture = open_image(source).copy()
        picture.thumbnail((LARGEST, LARGEST))
        clean.append(picture)
    stop = stop or threading.Event()

    def ask(pictures: Sequence[Image.Image]) -> Run | None:
        stream: Any = engine.stream(
            pictures, question, method, keep, max_new_tokens, params, seed=seed, repeats=0, stop=stop
        )
        with contextlib.closing(stream) as events:  # frees the model whatever happens
            return next((event.run for event in events if isinstance(event, Done)), None)

    def each() -> Iterator[Damaged]:
        first: Run | None = None
        for severity in (0, *severities):
            pictures = clean
            if severity:
                pictures = [perturb(p, kind, severity, seed + i) for i, p in enumerate(clean)]
            run = None if stop.is_set() else ask(pictures)
            if run is None:
                return
            first = first or run
            yield Damaged(
                severity,
                tuple(pictures),
                run,
                kept_of(run, evidence),
                run.full.answer == first.full.answer,
                run.answer == first.answer,
            )

    return each()


def holds(found: Sequence[Damaged], side: str) -> int:
    """The highest severity up to which a side ("full" or "pruned") always gives its clean answer."""
    last = 0
    for damaged in sorted(found, key=lambda damaged: damaged.severity):
        if not getattr(damaged, side):
            break
        last = damaged.severity
    return last
