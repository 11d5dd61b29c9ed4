"""One question under many methods, or many budgets: the vision tower and the full answer run once for all."""

from __future__ import annotations

import contextlib
import dataclasses
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from numbers import Real
from typing import Any

from vtprune import examples, methods
from vtprune.engine import Engine
from vtprune.examples import Box
from vtprune.record import Shared
from vtprune.request import Source
from vtprune.types import Budget, Done, Run

MOST = 12
"""Methods that can be looked at side by side."""
Evidence = Sequence[tuple[int, Box]]
"""What decides the answer, as (image, box in shares of its sides)."""
Params = Mapping[str, Mapping[str, Any]]
"""Options of some of the methods, by the method's name."""


@dataclass(frozen=True)
class Cell:
    """One method in a comparison.

    run: everything that happened, or None, and then reason says why the method was not run, as a sentence.
    evidence: share (0 to 1) of what decides the answer that was kept; None where that is unknown.
    """

    method: str
    run: Run | None = None
    reason: str = ""
    evidence: float | None = None


@dataclass(frozen=True)
class Point:
    """One method at one budget.

    keep: the share that was asked for. tokens: visual tokens a layer of the language model saw on average.
    total: of the unpruned prompt. full: the answer with all of them. kl: see `furthest`. reason: why this
    budget was not run, as a sentence; then only method, keep and reason mean something.
    """

    method: str
    keep: float
    tokens: float = 0.0
    total: int = 0
    answer: str = ""
    full: str = ""
    evidence: float | None = None
    kl: float = 0.0
    reason: str = ""

    @property
    def share(self) -> float:
        """Of all visual tokens, those that were kept."""
        return self.tokens / self.total if self.total else 0.0

    @property
    def same(self) -> bool:
        """Whether it answers as all tokens do."""
        return not self.reason and self.answer == self.full


@dataclass(frozen=True)
class Flip:
    """The answer of a method changes between two neighbouring budgets: with `tokens` it is no longer that
    of `above` tokens. before, after: the answers on the way down."""

    method: str
    tokens: float
    above: float
    before: str
    after: str

    @property
    def words(self) -> str:
        """The flip as a sentence without its end."""
        return f"the answer changes at {self.tokens:.4g} tokens: “{self.before}” becomes “{self.after}”"


def compare(
    engine: Engine,
    images: Sequence[Source],
    question: str,
    methods: Sequence[str],
    keep: float | int = 0.25,
    max_new_tokens: int = 32,
    params: Params | None = None,
    *,
    evidence: Evidence = (),
    seed: int = 0,
    repeats: int = 3,
    stop: threading.Event | None = None,
) -> Iterator[Cell]:
    """The same question and budget under 1 to 12 methods, a cell each, in their order.

    A method that the model or the budget cannot serve gives its reason, and the others go on. repeats:
    measuring passes of each, after the one that answers. Raises ValueError, before the first cell, for a
    request that no method could serve. After `stop` is set the cells end.
    """
    asked = _checked(methods, params)
    Budget(keep)
    shared = _share(engine, images, question, asked, max_new_tokens, seed, repeats)
    return _cells(engine, shared, asked, keep, evidence, stop or threading.Event())


def _cells(
    engine: Engine,
    shared: Shared,
    asked: Params,
    keep: float | int,
    evidence: Evidence,
    stop: threading.Event,
) -> Iterator[Cell]:
    for method, options in asked.items():
        run = _again(engine, shared, method, keep, options, stop)
        if isinstance(run, str):
            yield Cell(method, reason=run)
        elif run:
            yield Cell(method, run, evidence=kept_of(run, evidence))
        else:
            return


def sweep(
    engine: Engine,
    images: Sequence[Source],
    question: str,
    methods: Sequence[str],
    budgets: Sequence[float],
    max_new_tokens: int = 32,
    params: Params | None = None,
    *,
    evidence: Evidence = (),
    seed: int = 0,
    stop: threading.Event | None = None,
) -> Iterator[Point]:
    """Every method at every budget, as they come: the smallest budget of each method first, then the next.

    budgets: shares in (0, 1], see `spread`. A nested method chooses once, and its order serves all budgets.
    Raises ValueError, before the first point, for a request that no method could serve. After `stop` is set
    the points end.
    """
    asked = _checked(methods, params)
    if not budgets:
        raise ValueError("no budget was given: budgets is a list of shares, such as [0.1, 0.25, 0.5].")
    for keep in budgets:
        Budget(keep)
        if not 0 < keep <= 1:
            raise ValueError(f"keep={keep} is not a share: a sweep takes budgets in (0, 1].")
    shared = _share(engine, images, question, asked, max_new_tokens, seed, 0)
    shares = sorted({float(keep) for keep in budgets})
    return _points(engine, shared, asked, shares, evidence, stop or threading.Event())


def _points(
    engine: Engine,
    shared: Shared,
    asked: Params,
    budgets: Sequence[float],
    evidence: Evidence,
    stop: threading.Event,
) -> Iterator[Point]:
    for keep in budgets:
        for method, options in asked.items():
            run = _again(engine, shared, method, keep, options, stop)
            if isinstance(run, str):
                yield Point(method, keep, reason=run)
            elif run:
                yield _point(run, keep, evidence)
            else:
                return


def _point(run: Run, keep: float, evidence: Evidence) -> Point:
    return Point(
        run.method,
        keep,
        run.pruned.cost.mean_tokens,
        run.tokens,
        run.answer,
        run.full.answer,
        kept_of(run, evidence),
        furthest(run),
    )


def spread(low: float, high: float, count: int) -> list[float]:
    """About `count` shares from low to high, both in (0, 1], each the same factor above the last; whole
    percents, so that there are fewer where they would be closer than that. ValueError on a bad range."""
    for name, value in (("from", low), ("to", high)):
        if not isinstance(value, Real) or not 0.01 <= value <= 1:
            raise ValueError(f"the range goes {name} {value:.4g}, but budgets lie between 0.01 and 1.")
    if low > high:
        raise ValueError(f"the range goes from {low:.4g} down to {high:.4g}: give the smaller budget first.")
    if not isinstance(count, int) or not 2 <= count <= 50:
        raise ValueError(f"{count!r} budgets are not a whole number from 2 to 50.")
    steps = [low * (high / low) ** (i / (count - 1)) for i in range(count)]
    return sorted({round(100 * step) / 100 for step in steps})


def flips(points: Sequence[Point], ended: bool = True) -> list[Flip]:
    """Where the answers change along the budget, method by method, from the largest budget down. ended:
    whether the largest one is there; then it is also compared with all tokens, should it be less."""
    found = []
    for method in dict.fromkeys(point.method for point in points):
        own = [point for point in points if point.method == method and not point.reason]
        own.sort(key=lambda point: -point.tokens)
        if ended and own and own[0].tokens < own[0].total:
            own.insert(0, dataclasses.replace(own[0], tokens=own[0].total, answer=own[0].full))
        for above, below in pairwise(own):
            if above.answer != below.answer:
                found.append(Flip(method, below.tokens, above.tokens, above.answer, below.answer))
    return found


def furthest(run: Run) -> float:
    """The largest KL(full ‖ pruned) of a next-token distribution in nats, up to where the answers part."""
    return max(run.comparison.kl)


def kept_of(run: Run, evidence: Evidence) -> float | None:
    """Share of the evidence that was kept; None without any, and where tokens were blended, not dropped."""
    if not evidence or run.blended:
        return None
    return examples.evidence_kept(run, evidence)


def _checked(names: Sequence[str], params: Params | None) -> dict[str, Mapping[str, Any]]:
    """Method -> its options. ValueError for anything that is wrong whatever the picture."""
    asked = {name: (params or {}).get(name, {}) for name in names}
    if not 1 <= len(asked) <= MOST:
        raise ValueError(f"{len(asked)} methods were chosen: take 1 to {MOST}.")
    for name, options in asked.items():
        methods.make(name, **options)
    return asked


def _share(
    engine: Engine,
    images: Sequence[Source],
    question: str,
    asked: Params,
    max_new_tokens: int,
    seed: int,
    repeats: int,
) -> Shared:
    servable = [name for name in asked if engine.supports(name, **asked[name]) is None]
    later = [engine.method(name, **asked[name]) for name in servable]
    return engine.share(images, question, max_new_tokens, later=later, seed=seed, repeats=repeats)


def _again(
    engine: Engine,
    shared: Shared,
    method: str,
    keep: float | int,
    options: Mapping[str, Any],
    stop: threading.Event,
) -> Run | str | None:
    """The run; or why there is none, as a sentence; or None when it was stopped."""
    try:
        stream: Any = engine.again(shared, method, keep, options, stop=stop)
        with contextlib.closing(stream) as events:  # frees the model whatever happens
            return next((event.run for event in events if isinstance(event, Done)), None)
    except ValueError as error:
        if shared.prompt is None:  # not the method's fault: no other one would get further
            raise
        return str(error)
