"""The fewest visual tokens that still give the answer of all of them: a search in so many tries at most."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vtprune.engine import Engine
from vtprune.record import Shared
from vtprune.request import Source
from vtprune.types import Done, Run

LIMIT = 80
"""Sets of tokens that are tried at most."""


@dataclass(frozen=True)
class Found:
    """How far the search is.

    tokens: the smallest set so far that gives the answer of all tokens. run: the one with exactly these, by
    the method `picked`. done, limit: tries that were made, of at most so many. over: the search has ended.
    alone: no single token can be left out as well, for then the answer changes or a picture is empty; each
    was tried.
    """

    tokens: tuple[int, ...]
    run: Run
    done: int
    limit: int
    over: bool = False
    alone: bool = False


def smallest(
    engine: Engine,
    images: Sequence[Source],
    question: str,
    method: str = "atp",
    max_new_tokens: int = 32,
    params: Mapping[str, Any] | None = None,
    *,
    among: Sequence[int] | None = None,
    limit: int = LIMIT,
    seed: int = 0,
    stop: threading.Event | None = None,
) -> Iterator[Found]:
    """Search for a small set of tokens that gives the answer of all of them; the smallest so far is yielded
    after every try, and at last with over=True. It is the smallest that was found; a smaller one may exist.

    First bisection on how many tokens of an order are needed, then chunks of what is left are taken out,
    smaller and smaller ones, as long as the answer stays. method: its order is followed, so it has to be
    nested. among: search among these tokens only; then a method without an order follows theirs. Raises
    ValueError with one sentence for what cannot be searched. After `stop` is set the sets end.
    """
    made = engine.method(method, **(params or {}))
    if among is None and not made.facts["nested"]:
        raise ValueError(f"{method} has no order of choice to follow: take a method that has one.")
    if among is not None and not among:
        raise ValueError("there is no token to search among.")
    if limit < 1:
        raise ValueError(f"limit={limit} is not a whole number from 1 up.")
    shared = engine.share(images, question, max_new_tokens, later=[made], seed=seed, repeats=0)
    search = _Search(engine, shared, limit, stop or threading.Event())
    return search.run(method, dict(params or {}), made.facts["nested"], among)


class _Stop(Exception):
    """The search was stopped, or has no try left."""


class _Search:
    """One search. best: the smallest set so far that gives the answer. owners: image of each token."""

    def __init__(self, engine: Engine, shared: Shared, limit: int, stop: threading.Event) -> None:
        self.engine, self.shared, self.limit, self.stop = engine, shared, limit, stop
        self.done, self.alone = 0, False
        self.best: list[int] = []
        self.owners: list[int] = []
        self.last: Run | None = None
        self.failed: set[frozenset[int]] = set()

    def run(
        self, method: str, params: Mapping[str, Any], nested: bool, among: Sequence[int] | None
    ) -> Iterator[Found]:
        with contextlib.suppress(_Stop):
            order = self._order(method, params) if nested else list(among or ())
            if among is not None:
                chosen = set(among)
                outside = [token for token in among if token not in set(order)]
                order = [
                    token for token in order if token in chosen
                ] + outside  # the latter are refused below
            if not self._gives(order):
                raise ValueError("these tokens alone do not keep the answer of all of them: start from more.")
            yield self._found()
            yield from self._bisect()
            yield from self._thin_out()
        if self.last and not self.stop.is_set():
            yield self._found(over=True)

    def _order(self, method: str, params: Mapping[str, Any]) -> list[int]:
        """All tokens in a nested method's order; the budget it is asked with stands for nothing."""
        run = self._ask(method, 0.5, params)
        order = run.stages[0].order if run.stages else None
        if order is None or len(order) != run.tokens:
            raise ValueError(f"{method} gives no order of all tokens here: take another method.")
        return order

    def _ask(self, method: str, keep: float | int, params: Mapping[str, Any]) -> Run:
        stream: Any = self.engine.again(self.shared, method, keep, params, stop=self.stop)
        with contextlib.closing(stream) as events:  # frees the model whatever happens
            run = next((event.run for event in events if isinstance(event, Done)), None)
        if run is None:
            raise _Stop
        return run

    def _gives(self, tokens: list[int]) -> bool:
        """Whether these tokens give the answer of all of them; then they are the best."""
        if frozenset(tokens) in self.failed:
            return False
        if self.done == self.limit:
            raise _Stop
        self.done += 1
        run = self._ask("picked", len(tokens), {"tokens": tuple(tokens)})
        if not run.comparison.same:
            self.failed.add(frozenset(tokens))
            return False
        self.owners = self.owners or [s.image for s in run.segments for _ in range(s.length)]
        self.best, self.last = tokens, run
        return True

    def _bisect(self) -> Iterator[Found]:
        """The shortest beginning of the order that a bisection comes to."""
        order = self._leading(self.best)
        low, high = len(set(self.owners)), len(order)
        while low < high:
            middle = (low + high) // 2
            if self._gives(order[:middle]):
                high = middle
            else:
                low = middle + 1
            yield self._found()

    def _leading(self, order: list[int]) -> list[int]:
        """The same order with the first token of each image in front, so that no beginning misses one."""
        firsts = list({self.owners[token]: token for token in reversed(order)}.values())
        return [token for token in order if token in firsts] + [t for t in order if t not in firsts]

    def _thin_out(self) -> Iterator[Found]:
        """Take out chunks from the end of the order on, and halve them; in the end tokens one by one."""
        size = max(1, len(self.best) // 4)
        while not self.alone:
            before, end = len(self.best), len(self.best)
            while end > 0:
                start = max(0, end - size)
                rest = self._without(self.best[start:end])
                if len(rest) < len(self.best):
                    self._gives(rest)
                    yield self._found()
                end = start
            self.alone = size == 1 and len(self.best) == before
            size = max(1, size // 2)

    def _without(self, cut: Sequence[int]) -> list[int]:
        """The best set without a part of it, but for the first token of an image that would be empty."""
        left = {self.owners[token] for token in self.best if token not in cut}
        rest = []
        for token in self.best:
            if token not in cut or self.owners[token] not in left:
                left.add(self.owners[token])
                rest.append(token)
        return rest

    def _found(self, over: bool = False) -> Found:
        assert self.last is not None
        return Found(tuple(self.best), self.last, self.done, self.limit, over, over and self.alone)
