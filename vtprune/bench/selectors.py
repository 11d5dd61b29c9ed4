"""What choosing costs: time and memory of every method's selection, on signals that need no model."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from vtprune import methods
from vtprune.bench import synthetic
from vtprune.bench.measure import Work, machine_line, markdown, peak_bytes, ratio, seconds, spread_of
from vtprune.bench.references import pairs
from vtprune.budgets import EnergyBudget
from vtprune.cost import spread
from vtprune.methods.base import find
from vtprune.types import SIGNALS, Budget, Shape, Signals, Spread, Step

PARTS = ("methods", "kernels", "budget", "images")
"""Every method; the greedy kernels beside their references; E-AdaPrune's budget; many pictures at once."""
REFERENCE_LIMIT = 40_000
"""The references, loops over N x K, run up to this product: 576 x 64, but not more."""
REFERENCE_ROUNDS = 3
LAYERS = 32
"""Of the language model that plans are made for."""


@dataclass(frozen=True)
class Grid:
    """What to measure: every combination.

    sizes N, dims D, keeps K (fractions or counts), dtypes of the input, devices; names: of methods, empty for
    all; parts: see PARTS; images: pictures of 576 tokens in the part of that name; repeats: after a warm-up.
    """

    sizes: Sequence[int] = (576, 2880)
    dims: Sequence[int] = (1024, 4096)
    keeps: Sequence[float | int] = (64, 0.22)
    dtypes: Sequence[str] = ("float32", "bfloat16")
    devices: Sequence[str] = ("cpu",)
    names: Sequence[str] = ()
    parts: Sequence[str] = PARTS
    images: int = 50
    repeats: int = 7
    seed: int = 0

    def __post_init__(self) -> None:
        for part in self.parts:
            if part not in PARTS:
                raise ValueError(f"there is no part {part!r}: take {', '.join(PARTS)}.")
        for name in self.names:
            find(name)
        for dtype in self.dtypes:
            if not isinstance(getattr(torch, dtype, None), torch.dtype):
                raise ValueError(f"{dtype!r} is not a dtype such as float32 or bfloat16.")
        for device in self.devices:
            if torch.device(device).type == "cuda" and not torch.cuda.is_available():
                raise ValueError(f"there is no {device} here: no CUDA GPU was found.")
        if self.repeats < 1:
            raise ValueError(f"repeats={self.repeats} must be at least 1.")


@dataclass(frozen=True)
class Row:
    """One measurement. part, name: what. peak: bytes beyond the input, see `peak_bytes`.

    Kernels beside a reference: its time, how many times as long it takes, round by round, and the share of
    picks that both have. note: why there is no measurement, or what to compare it with.
    """

    part: str
    name: str
    device: str
    n: int
    d: int
    k: int
    dtype: str = "float32"
    time: Spread | None = None
    peak: int = 0
    reference: Spread | None = None
    ratio: Spread | None = None
    same: float | None = None
    note: str = ""


def default_devices() -> list[str]:
    """The CPU and, where there is one, the GPU."""
    return ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]


def bench_selectors(grid: Grid) -> Iterator[Row]:
    """Measures one combination after another. What fails is a row with a note, not the end of the others."""
    measure: dict[str, Callable[[Grid, torch.device, int], Iterable[Row]]] = {
        "methods": _methods,
        "kernels": _kernels,
        "budget": _budget,
        "images": _images,
    }
    for part in grid.parts:
        for device in grid.devices:
            for dim in grid.dims:
                yield from measure[part](grid, torch.device(device), dim)


def first_step(name: str, k: int, tokens: int, images: int = 1) -> tuple[Step, int | None]:
    """A method's first selection, the one that sees all tokens, and the count to ask it for."""
    method, shape = methods.make(name), Shape(tokens, images, LAYERS)
    # inside the LLM a small mean over the layers may be out of reach; one selection never is
    in_llm = method.facts["acts_at"] == "llm"
    step = method.plan(Budget(1.0) if in_llm else Budget(k), shape)[0]
    return step, None if step.keep is None else k


def _methods(grid: Grid, device: torch.device, dim: int) -> Iterator[Row]:
    for n in grid.sizes:
        everything = synthetic.signals(synthetic.one_image(n), dim, seed=grid.seed)
        for dtype in grid.dtypes:
            given = _convert(everything, device, dtype)
            for keep in grid.keeps:
                k = Budget(keep).count(n)
                for name in grid.names or methods.list_methods():
                    row = Row("methods", name, str(device), n, dim, k, dtype)
                    yield _selection(row, given, grid.repeats)


def _images(grid: Grid, device: torch.device, dim: int) -> Iterator[Row]:
    name, side = "trimtokenator_lc", synthetic.TILE
    layout = [(image, (side, side)) for image in range(grid.images)]
    needs = methods.make(name).needs
    everything = synthetic.signals(layout, dim, needs, seed=grid.seed)
    n = everything.count
    for dtype in grid.dtypes:
        given = _convert(everything, device, dtype)
        for keep in grid.keeps:
            k = Budget(keep).count(n, grid.images)
            note = f"{grid.images} images; an N x N matrix would hold {4 * n * n / 1e6:,.0f} MB"
            row = Row("images", name, str(device), n, dim, k, dtype, note=note)
            yield _selection(row, given, grid.repeats)


def _selection(row: Row, given: Signals, repeats: int) -> Row:
    """The row with the figures of one method's selection; it is given the signals it needs and no others."""
    try:
        step, count = first_step(row.name, row.k, row.n, len(given.images))
    except ValueError as error:
        return dataclasses.replace(row, note=str(error))
    others: dict[str, Any] = dict.fromkeys(set(SIGNALS) - set(step.needs))
    own = dataclasses.replace(given, **others)
    return _measured(row, partial(step.select, own, count), given.features.device, repeats)


def _budget(grid: Grid, device: torch.device, dim: int) -> Iterator[Row]:
    for n in grid.sizes:
        x = synthetic.signals(synthetic.one_image(n), dim, (), seed=grid.seed).features.to(device)
        for keep in grid.keeps:
            k = Budget(keep).count(n)
            # the exact spectrum of a large matrix takes seconds, and "auto" never asks for it
            for spectrum in ("exact", "randomized") if min(n, dim) <= 1024 else ("randomized",):
                policy = EnergyBudget(spectrum=spectrum)  # type: ignore[arg-type]
                row = Row("budget", f"energy budget, {spectrum}", str(device), n, dim, k)
                yield _measured(row, partial(_count, policy, x, k), device, grid.repeats)


def _count(policy: EnergyBudget, x: torch.Tensor, k: int) -> int:
    """All that E-AdaPrune does to decide on a number of tokens."""
    least, most = policy.limits(k, len(x))
    return policy.count(policy.curve(x, most), least, most)


def _kernels(grid: Grid, device: torch.device, dim: int) -> Iterator[Row]:
    for n in grid.sizes:
        given = synthetic.signals(synthetic.one_image(n), dim, ("cls_attention",), seed=grid.seed)
        given = _convert(given, device, "float32")
        for keep in grid.keeps:
            k = Budget(keep).count(n)
            if n * k > REFERENCE_LIMIT:
                continue
            for name, pair in pairs(given, k).items():
                row = Row("kernels", name, str(device), n, dim, k)
                row = _measured(row, pair.kernel, device, grid.repeats)
                yield row if row.time is None else _beside(row, pair.kernel, pair.reference, device)


@torch.inference_mode()
def _beside(
    row: Row, kernel: Callable[[], torch.Tensor], reference: Callable[[], list[int]], device: torch.device
) -> Row:
    """The row with the reference's figures, the two sides taking turns."""
    same = len(set(kernel().tolist()) & set(reference())) / row.k
    ours, theirs = [], []
    for _ in range(REFERENCE_ROUNDS):
        ours.append(seconds(kernel, device))
        theirs.append(seconds(reference, device))
    return dataclasses.replace(row, reference=spread(theirs), ratio=ratio(theirs, ours), same=same)


@torch.inference_mode()
def _measured(row: Row, work: Work, device: torch.device, repeats: int) -> Row:
    try:
        work()  # warm up
        peak = peak_bytes(work, device)
        return dataclasses.replace(row, time=spread_of(work, device, repeats), peak=peak)
    except (ValueError, RuntimeError) as error:
        return dataclasses.replace(row, note=f"{row.name}: {error}".splitlines()[0])


def _convert(given: Signals, device: torch.device, dtype: str) -> Signals:
    fields = {field: getattr(given, field) for field in ("features", *SIGNALS)}
    kind = getattr(torch, dtype)
    moved = {field: x.to(device, kind) for field, x in fields.items() if x is not None}
    return dataclasses.replace(given, **moved)


def report(machine: dict[str, Any], rows: Sequence[Row]) -> str:
    """Markdown: a table for each part, device and dtype."""
    parts = [machine_line(machine), "", "Median milliseconds (lowest to highest), peak extra megabytes."]
    for key in dict.fromkeys((row.part, row.device, row.dtype) for row in rows):
        mine = [row for row in rows if (row.part, row.device, row.dtype) == key]
        heading = f"### {key[0]}, {key[1]}, {key[2]}"
        parts += ["", heading, "", _beside_table(mine) if key[0] == "kernels" else _table(mine)]
        notes = {row.note: None for row in mine if row.note}
        if notes:
            parts += ["", *(f"- {note}" for note in notes)]
    return "\n".join(parts)


def _table(rows: Sequence[Row]) -> str:
    """A row a name, a column an input."""
    inputs = list(dict.fromkeys((row.n, row.d, row.k) for row in rows))
    cells = {(row.name, row.n, row.d, row.k): f"{_ms(row.time)}, {_mb(row)}" for row in rows}
    header = ["", *(f"{n}×{d}, K = {k}" for n, d, k in inputs)]
    names = dict.fromkeys(row.name for row in rows)
    return markdown(header, [[name, *(cells.get((name, *at), "–") for at in inputs)] for name in names])


def _beside_table(rows: Sequence[Row]) -> str:
    header = ["kernel", "N×D", "K", "vtprune", "loop", "loop / vtprune", "same picks", "peak"]
    body = []
    for row in rows:
        same = "–" if row.same is None else f"{row.same:.0%}"
        times = "–" if row.ratio is None else f"{row.ratio.median:.1f}×"
        cells = [_ms(row.time), _ms(row.reference), times, same, _mb(row)]
        body.append([row.name, f"{row.n}×{row.d}", str(row.k), *cells])
    return markdown(header, body)


def line(row: Row) -> str:
    """One row for a log."""
    where = f"{row.device} {row.dtype} {row.n}x{row.d} K={row.k}"
    times = f" ({row.ratio.median:.1f} times faster than a loop)" if row.ratio else ""
    return f"{row.name}, {where}: {_ms(row.time)} ms, {_mb(row)}{times}" + f" {row.note}" * (not row.time)


def _ms(value: Spread | None) -> str:
    if value is None:
        return "–"
    low, median, high = (f"{x:.3g}" if x < 100 else f"{x:.0f}" for x in (value.low, value.median, value.high))
    return f"{median} ({low}–{high})"


def _mb(row: Row) -> str:
    return (
        "–"
        if row.time is None
        else f"{row.peak / 1e6:.3g} MB"
        if row.peak < 1e8
        else f"{row.peak / 1e6:.0f} MB"
    )
