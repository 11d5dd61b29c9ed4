"""What every method shares: the registry, and each guard written once.

A method is one file with one frozen dataclass of its parameters. It says what it `needs` and defines the
simplest of `score`, `order`, `select` or `plan` that can express it; everything a method may rely on and
everything its caller may rely on is secured in :func:`guarded`.
"""

from __future__ import annotations

import dataclasses
import difflib
import inspect
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from numbers import Integral, Real
from typing import Any, Literal, TypeVar, cast

import torch
from torch import Tensor

from vtprune.kernels import rank
from vtprune.methods.multi import combine, interleave, lead_each_image, real_tokens
from vtprune.types import SIGNALS, At, Budget, Selection, Shape, Signals, Step

NOT_PER_TOKEN = ("clip_text", "text", "query_states", "query_keys")
"""The fields of Signals that have no row for every visual token."""

Choose = Callable[[Signals, Any], Selection]


@dataclass(frozen=True)
class MethodInfo:
    """What a method says about itself.

    acts_at: "vision", "projected", "llm" or several joined by "+". adaptive: decides itself how many tokens
    stay. multi_image: looks at all images together (others select inside each image). merges: dropped tokens
    live on inside kept ones. reconstruction: which parts are ours because no formula is public. nested: the
    selection for k is a prefix of the selection order. needs: the optional Signals it reads by default.
    """

    title: str
    paper: str
    year: int
    acts_at: str
    adaptive: bool
    multi_image: bool
    merges: bool
    reconstruction: str
    summary: str
    needs: tuple[str, ...]
    params: dict[str, Any]
    nested: bool


class Method:
    """Base of every method; subclasses are frozen dataclasses of their parameters."""

    name: str = ""
    facts: dict[str, Any] = {}  # noqa: RUF012  set once by register

    @property
    def needs(self) -> tuple[str, ...]:
        """The optional fields of Signals that it reads."""
        return ()

    def without(self, need: str) -> dict[str, Any]:
        """Options with which it does without a signal that a model cannot give; empty when it cannot."""
        return {}

    def score(self, signals: Signals) -> Tensor:
        """[N], higher is kept first."""
        raise NotImplementedError

    def order(self, signals: Signals, k: int) -> Tensor:
        """[k] indices in the sequence in which tokens are picked."""
        raise NotImplementedError

    def select(self, signals: Signals, k: int) -> Selection:
        """The unguarded selection of k of the given tokens."""
        if type(self).order is not Method.order:
            return by_order(self.order(signals, k), k)
        return by_score(signals, self.score(signals), k)

    def plan(self, budget: Budget, shape: Shape) -> list[Step]:
        """The selections to make, in order. The default is one step where the method acts."""
        return [self.step(self.facts["acts_at"], budget.count(shape.tokens, shape.images))]

    def step(
        self,
        at: At,
        keep: int | None,
        choose: Choose | None = None,
        needs: tuple[str, ...] | None = None,
        queries: Literal["last", "instruction"] = "last",
        layer_offset: Literal[0, -1] = 0,
    ) -> Step:
        """A step whose `select` carries every guard. Steps inside the LLM look at all images together."""
        needs = self.needs if needs is None else needs
        together = self.facts["multi_image"] or isinstance(at, tuple)
        select = partial(guarded, choose or self.select, name=self.name, needs=needs, together=together)
        return Step(at, keep, select, needs, queries, layer_offset)


M = TypeVar("M", bound=type[Method])
_registry: dict[str, type[Method]] = {}


def register(
    name: str,
    *,
    title: str = "",
    paper: str = "",
    year: int = 0,
    acts_at: str = "projected",
    adaptive: bool = False,
    multi_image: bool = False,
    merges: bool = False,
    nested: bool = False,
    reconstruction: str = "",
) -> Callable[[M], M]:
    """Class decorator: makes a Method known under `name`. The arguments are the fields of MethodInfo."""
    facts = {
        "title": title or name,
        "paper": paper,
        "year": year,
        "acts_at": acts_at,
        "adaptive": adaptive,
        "multi_image": multi_image,
        "merges": merges,
        "nested": nested,
        "reconstruction": reconstruction,
    }

    def decorate(cls: M) -> M:
        if name in _registry and _registry[name].__qualname__ != cls.__qualname__:
            raise ValueError(f"there already is a method called {name!r}.")
        cls.name, cls.facts = name, facts
        _registry[name] = cls
        return cls

    return decorate


def list_methods() -> dict[str, MethodInfo]:
    """Every registered method by name, in alphabetical order."""
    infos = {}
    for name in sorted(_registry):
        cls = _registry[name]
        summary = " ".join(card(name).split("\n\n")[0].split())
        infos[name] = MethodInfo(summary=summary, needs=cls().needs, params=defaults(cls), **cls.facts)
    return infos


def card(name: str) -> str:
    """The method's full description, as its docstring has it."""
    return inspect.cleandoc(find(name).__doc__ or "")


def page(name: str) -> str:
    """Everything a method says about itself, for a terminal: its heading, its card, and its facts."""
    described = card(name)  # first, since it tells of an unknown name
    info = list_methods()[name]
    heading = f"{info.title} ({info.year})" if info.year else info.title
    facts = [
        ("paper", info.paper),
        ("acts at", info.acts_at),
        ("needs", ", ".join(info.needs)),
        ("options", ", ".join(f"{key}={value!r}" for key, value in info.params.items())),
        ("ours", info.reconstruction),
    ]
    lines = [f"{label + ':':<9} {value}" for label, value in facts if value]
    return "\n".join([heading, "=" * len(heading), "", described, "", *lines])


def find(name: str) -> type[Method]:
    """The class registered under `name`; ValueError names the closest match and all known ones."""
    if name not in _registry:
        close = difflib.get_close_matches(str(name), _registry, n=1)
        hint = f" Did you mean {close[0]!r}?" if close else ""
        raise ValueError(f"unknown method {name!r}.{hint} Known methods: {', '.join(sorted(_registry))}.")
    return _registry[name]


def defaults(cls: type[Method]) -> dict[str, Any]:
    """Parameter name -> default value."""
    return {f.name: f.default for f in dataclasses.fields(cast(Any, cls))}


def make(name: str, **params: Any) -> Method:
    """A method with the given parameters; ValueError on an unknown method, parameter or a bad value."""
    cls = find(name)
    known = defaults(cls)
    for key, value in params.items():
        if key not in known:
            allowed = f"it has {', '.join(known)}" if known else "it has none"
            raise ValueError(f"{name} has no parameter {key!r}: {allowed}.")
        default = known[key]
        if isinstance(default, bool):
            good, kind = isinstance(value, bool), "true or false"
        elif isinstance(default, Integral):
            good, kind = isinstance(value, Integral) and not isinstance(value, bool), "a whole number"
        elif isinstance(default, Real):
            good = isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)
            kind = "a finite number"
        elif isinstance(default, str):
            good, kind = isinstance(value, str), "a text"
        else:
            continue
        if not good:
            raise ValueError(f"{name}: {key}={value!r} must be {kind}, such as {default!r}.")
    try:
        return cls(**params)
    except TypeError as error:
        raise ValueError(f"{name}: bad parameter value ({error}).") from error


def require(condition: bool, message: str) -> None:
    """ValueError(message) unless condition; for the parameter checks in __post_init__."""
    if not condition:
        raise ValueError(message)


def select(name: str, signals: Signals, keep: float | int, **params: Any) -> Selection:
    """One selection on given signals.

    A method of several steps makes its first one. A nested method returns the order of all N tokens.
    """
    method = make(name, **params)
    budget, shape = Budget(keep), Shape(signals.count, len(signals.images), layers=32)
    count = budget.count(shape.tokens, shape.images)
    # inside the LLM a small mean over the layers may be out of reach; one selection never is
    in_llm = method.facts["acts_at"] == "llm"
    step = method.plan(Budget(1.0) if in_llm else budget, shape)[0]
    adaptive = step.keep is None
    return step.select(signals, None if adaptive else count, full=method.facts["nested"] and not adaptive)


def by_order(order: Tensor, k: int, scores: Tensor | None = None) -> Selection:
    """The selection of the first k of an order."""
    return Selection(keep=order[:k].sort().values, order=order, scores=scores)


def by_score(signals: Signals, scores: Tensor, k: int) -> Selection:
    """The selection of the k highest scores; with several images the best token of each comes first."""
    return by_order(lead_each_image(rank(scores), signals), k, scores)


def merged(keep: Tensor, rows: Tensor, cols: Tensor, weights: Tensor, n: int, **rest: Any) -> Selection:
    """A selection whose new token r stands at keep[r] and is the sum of weights * features[cols] over rows
    == r.

    keep: [K] distinct representatives, in any order. rows, cols: [M] int64. weights: [M]. n: number of
    tokens.
    """
    keep, by_position = keep.sort()
    place = torch.empty_like(by_position)
    place[by_position] = torch.arange(len(keep), device=keep.device)
    indices = torch.stack([place[rows], cols])
    matrix = torch.sparse_coo_tensor(indices, weights.float(), (len(keep), n), check_invariants=False)
    return Selection(keep=keep, merge=matrix.coalesce(), **rest)


def guarded(
    choose: Choose,
    signals: Signals,
    k: int | None,
    *,
    name: str,
    needs: Sequence[str] = (),
    together: bool = False,
    full: bool = False,
) -> Selection:
    """Runs an unguarded selection and secures its promise.

    Missing signals and broken numbers are one clear ValueError; maths is float32; padding tokens come last;
    exactly k tokens come back (k = None: the method decides), sorted and unique, at least one of each image;
    k = N is the identity. A method that is not native to several images selects inside each.
    full: also ask a nested method for the order of all N tokens (extra work, so not inside a timing).
    """
    signals = checked(signals, name, needs)
    n, images = signals.count, signals.images
    if k is not None:
        require(
            len(images) <= k <= n,
            f"{name}: cannot keep {k} of {n} visual tokens from {len(images)} image(s).",
        )
    groups = [torch.arange(n, device=signals.features.device)]
    if not together and len(images) > 1:
        ids = signals.image_ids()
        groups = [(ids == image).nonzero().squeeze(1) for image in images]
    real = real_tokens(signals)
    inside = [rows[real[rows]] for rows in groups]
    turns = interleave([len(rows) for rows in inside])
    if k is None:
        quota: list[int | None] = [None] * len(groups)
    elif together:
        quota = [min(k, len(inside[0]))]
    else:
        quota = [*torch.bincount(turns[:k], minlength=len(groups)).tolist()]
    parts = []
    for rows, count in zip(inside, quota, strict=True):
        own = signals if len(rows) == n else signals.take(rows)
        parts.append(one_group(choose, own, count, full))
    selection = combine(parts, inside, turns, n, k, padding=(~real).nonzero().squeeze(1))
    promise(selection, signals, k, name)
    return selection


def one_group(choose: Choose, signals: Signals, k: int | None, full: bool) -> Selection:
    """The selection inside one group of tokens, k = N being the identity."""
    n = signals.count
    everything = torch.arange(n, device=signals.features.device)
    selection = Selection(keep=everything) if k == n else choose(signals, k)
    if full and (selection.order is None or len(selection.order) < n):
        whole = choose(signals, n)
        selection = dataclasses.replace(selection, order=whole.order, scores=whole.scores)
    return selection


def checked(signals: Signals, name: str, needs: Sequence[str]) -> Signals:
    """The same signals in float32; ValueError when one is missing, broken or has the wrong length."""
    missing = [need for need in needs if getattr(signals, need) is None]
    if missing:
        raise ValueError(f"{name} needs {' and '.join(missing)}, which this model or call does not provide.")
    require(signals.count >= 1, f"{name}: there is no visual token to select from.")
    covered = sum(segment.length for segment in signals.segments)
    require(covered == signals.count, f"{name}: segments cover {covered} of {signals.count} visual tokens.")
    values: dict[str, Any] = {}
    for field in ("features", *SIGNALS):
        value = getattr(signals, field)
        if value is None:
            continue
        if value.is_floating_point() and value.dtype != torch.float32:
            value = value.float()
        if field in ("features", *needs) and not bool(torch.isfinite(value).all()):
            raise ValueError(f"{name}: {field} contain NaN or infinite numbers, so no token can be ranked.")
        length = value.shape[-1] if field == "attention" else value.shape[0]
        if field not in NOT_PER_TOKEN and length != signals.count:
            raise ValueError(f"{name}: {field} cover {length} of {signals.count} visual tokens.")
        values[field] = value
    return dataclasses.replace(signals, **values)


def promise(selection: Selection, signals: Signals, k: int | None, name: str) -> None:
    """RuntimeError when a method broke the contract: that is a bug in the method, not in its input."""
    keep, n = selection.keep, signals.count
    kept = len(keep) + selection.extra
    problems = []
    if k is not None and kept != k:
        problems.append(f"returned {kept} tokens instead of {k}")
    if not len(keep) or keep[0] < 0 or keep[-1] >= n or not bool((keep[1:] > keep[:-1]).all()):
        problems.append("returned indices that are not sorted, unique and in range")
    elif len(signals.images) > 1:
        left = set(signals.image_ids()[keep].tolist())
        problems += [f"kept no token of image {image}" for image in signals.images if image not in left]
    if selection.merge is not None and selection.merge.shape != (kept, n):
        problems.append(f"returned a merge matrix of shape {tuple(selection.merge.shape)}")
    if problems:
        raise RuntimeError(f"{name} {' and '.join(problems)}.")
