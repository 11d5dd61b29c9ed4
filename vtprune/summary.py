"""A run in numbers and words: what every front end says about its cost, said once."""

from __future__ import annotations

import inspect
from collections.abc import Sequence

from vtprune import cost
from vtprune.types import Run, Side, Spread

STAGES = ("encode", "select", "prefill", "decode")


def mean_tokens(side: Side) -> float:
    """Visual tokens that were left, on average over the layers of the language model."""
    return side.cost.mean_tokens


def first_token(side: Side) -> Spread:
    """Time to the first token: everything before it, the selection too."""
    return _sum([side.timings[stage] for stage in ("encode", "select", "prefill")])


def steps(run: Run) -> int:
    """Decoding steps that both sides are charged for: those of the longer answer."""
    return max(len(run.full.tokens), len(run.pruned.tokens), 2) - 1


def total(side: Side, count: int) -> Spread:
    """All stages of a side with `count` decoding steps; low and high add up those of the stages."""
    return _sum([times(side.timings[stage], count if stage == "decode" else 1) for stage in STAGES])


def times(spread: Spread, count: int) -> Spread:
    """The spread of doing it `count` times over."""
    return Spread(spread.median * count, spread.low * count, spread.high * count, spread.n)


def speed(full: Spread, pruned: Spread) -> str:
    """Faster or slower, and by how much; said to be about equal when the ranges overlap."""
    if full.low <= pruned.high and pruned.low <= full.high:
        return "about as fast"
    if pruned.median <= full.median:
        return f"{full.median / max(pruned.median, 1e-9):.2g}× faster"
    return f"{pruned.median / max(full.median, 1e-9):.2g}× slower"


def savings(run: Run) -> list[tuple[str, str]]:
    """What pruning saved, as (number, rest of the line); and that it saved no time, where it did not."""
    full, pruned = run.full, run.pruned
    lines = [
        (f"{ratio(run.tokens, mean_tokens(pruned))} fewer", "visual tokens in the language model"),
        (f"{ratio(full.cost.prefill_flops, pruned.cost.prefill_flops)} fewer", "prefill operations"),
    ]
    if full.timings and pruned.timings:
        a, b = first_token(full), first_token(pruned)
        lines.append((speed(a, b), "to the first token, encoding and selecting included"))
        choosing = pruned.timings["select"].median
        saved = full.timings["prefill"].median - pruned.timings["prefill"].median
        if choosing > max(saved, 0) and b.median > a.median:
            lines.append(
                (
                    "Choosing costs more than it saves here:",
                    f"{milliseconds(choosing)} ms against {milliseconds(max(saved, 0))} ms of prefill",
                )
            )
    return lines


def rows(run: Run) -> list[tuple[str, str, str, str]]:
    """The table of costs: (what, all tokens, pruned, change)."""
    full, pruned = run.full.cost, run.pruned.cost
    before, after = mean_tokens(run.full), mean_tokens(run.pruned)
    table = [
        ("Visual tokens (mean over layers)", f"{before:.4g}", f"{after:.4g}", less(before, after, "fewer")),
        (
            "Prefill operations (FLOPs)",
            si(full.prefill_flops, "FLOP"),
            si(pruned.prefill_flops, "FLOP"),
            less(full.prefill_flops, pruned.prefill_flops, "fewer"),
        ),
        (
            "Key/value cache",
            si(full.kv_bytes, "B"),
            si(pruned.kv_bytes, "B"),
            less(full.kv_bytes, pruned.kv_bytes),
        ),
    ]
    if full.peak_bytes and pruned.peak_bytes:
        change = less(full.peak_bytes, pruned.peak_bytes)
        memory = (si(full.peak_bytes, "B"), si(pruned.peak_bytes, "B"), change)
    elif on_gpu(run):
        memory = ("not measured", "not measured", "")
    else:
        memory = ("not measured on a CPU", "not measured on a CPU", "")
    table.append(("Peak memory, weights included", *memory))
    if run.full.timings and run.pruned.timings:
        for name, a, b in (
            ("Time to first token", first_token(run.full), first_token(run.pruned)),
            ("Time per further token", run.full.timings["decode"], run.pruned.timings["decode"]),
        ):
            table.append((name, spread(a), spread(b), speed(a, b)))
    return table


def measured(run: Run, recorded: bool = False) -> str:
    """With what, on what and how the numbers were made, as a sentence."""
    device = "a CUDA GPU" if on_gpu(run) else "a CPU" if run.device == "cpu" else run.device
    where = (
        f"{'Recorded' if recorded else 'Measured'} with {run.model} on {device} ({run.device}, {run.dtype})"
    )
    if run.full.timings and run.pruned.timings:
        count = steps(run)
        where += (
            f": medians of {first_token(run.full).n} runs after a warm-up, with fastest and slowest. "
            f"Both bars count {count} decoding step{'s' * (count > 1)}. "
            "“About as fast” means that the ranges overlap"
        )
    return f"{where}."


def on_gpu(run: Run) -> bool:
    """Whether a CUDA device made the run."""
    return run.device.startswith("cuda")


def formulas() -> str:
    """How operations and bytes are counted."""
    return "\n\n".join(inspect.getdoc(f) or "" for f in (cost.prefill_flops, cost.kv_bytes))


def ratio(full: float, pruned: float) -> str:
    """Full over pruned, such as "3.8×"."""
    value = full / max(pruned, 1e-9)
    return f"{value:.2g}×" if value < 10 else f"{value:.0f}×"


def less(full: float, pruned: float, word: str = "less") -> str:
    """The change from full to pruned in words."""
    if pruned == full:
        return "the same"
    return f"{ratio(full, pruned)} {word}" if pruned < full else f"{ratio(pruned, full)} more"


def si(value: float, unit: str) -> str:
    """Three digits with a prefix, such as "685 MFLOP"."""
    for factor, prefix in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= factor:
            return f"{value / factor:.3g} {prefix}{unit}"
    return f"{value:.3g} {unit}"


def spread(time: Spread) -> str:
    """A median with its range, such as "42 ms (40.6–44.5)"."""
    return f"{milliseconds(time.median)} ms ({milliseconds(time.low)}–{milliseconds(time.high)})"


def milliseconds(value: float) -> str:
    """Three digits, and no powers of ten."""
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def _sum(parts: Sequence[Spread]) -> Spread:
    return Spread(
        sum(p.median for p in parts), sum(p.low for p in parts), sum(p.high for p in parts), parts[0].n
    )
