"""What every method keeps of one and the same recorded example: the pictures on the methods' cards.

Made with the examples, by ``vtprune examples --rebuild``; with ``--methods`` these alone.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from vtprune.assets import assets_dir
from vtprune.types import Run

if TYPE_CHECKING:
    from vtprune.engine import Engine
    from vtprune.examples import Example

EXAMPLE = "count"
"""The example that all methods are shown on."""
KEEP = 0.25
FILE = "methods.json"
BY_HAND = "picked"
"""Chooses nothing itself, so there is nothing to show of it."""
STEPS = tuple(percent / 100 for percent in range(30, 101, 5))
"""Budgets to try, the smallest first, with a method that cannot be run at KEEP."""


@dataclass(frozen=True)
class Shown:
    """What one method kept.

    budget: that it was asked for; KEEP, or the nearest in STEPS. tokens: of the unpruned prompt. mean:
    visual tokens a layer of the language model saw on average. left: tokens after each of its selections.
    keep: those that are left at last. merged: dropped ones that live on inside a kept one. right: whether
    the answer is. evidence: share of what decides it, None where tokens were blended. reason: why there is
    nothing to show.
    """

    method: str
    budget: float = KEEP
    tokens: int = 0
    mean: float = 0.0
    left: list[int] = field(default_factory=list)
    keep: list[int] = field(default_factory=list)
    merged: list[int] = field(default_factory=list)
    answer: str = ""
    right: bool = False
    evidence: float | None = None
    reason: str = ""


def load(folder: Path | None = None) -> dict[str, Shown]:
    """What was recorded, by method; nothing where nothing was."""
    file = (folder or assets_dir() / "examples") / FILE
    if not file.is_file():
        return {}
    return {entry["method"]: Shown(**entry) for entry in json.loads(file.read_text("utf-8"))}


def rebuild(engine: Engine, examples: Sequence[Example], folder: Path | None = None) -> list[Shown]:
    """Ask every method about the example and write down what it kept. Without that example there is none."""
    from vtprune.methods import list_methods

    example = next((example for example in examples if example.name == EXAMPLE), None)
    if example is None:
        return []
    shown = [show(engine, example, name) for name in list_methods() if name != BY_HAND]
    lines = ",\n".join(
        json.dumps(dataclasses.asdict(one), ensure_ascii=False, separators=(",", ":")) for one in shown
    )
    ((folder or assets_dir() / "examples") / FILE).write_text(f"[\n{lines}\n]\n", "utf-8")
    return shown


def show(engine: Engine, example: Example, method: str) -> Shown:
    """One method on the example, at KEEP or the nearest larger budget that it can be run at."""
    asked, reason = example.questions[0], engine.supports(method) or ""
    if reason:
        return Shown(method, reason=reason)
    for budget in (KEEP, *STEPS):
        try:
            run = engine.run(example.pictures, asked.text, method, budget, repeats=0)
        except ValueError as error:
            reason = reason or str(error)
        else:
            return _shown(run, budget, example)
    return Shown(method, reason=reason)


def _shown(run: Run, budget: float, example: Example) -> Shown:
    from vtprune.scenes.phrases import same_answer
    from vtprune.study import kept_of

    asked, last = example.questions[0], run.stages[-1]
    kept = set(last.keep)
    inside = {
        token
        for row, token in zip(last.merge_rows, last.merge_cols, strict=True)
        if row < len(last.keep) and token not in kept
    }
    share = kept_of(run, asked.evidence)
    return Shown(
        run.method,
        budget,
        run.tokens,
        round(run.pruned.cost.mean_tokens, 1),
        [stage.after for stage in run.stages],
        last.keep,
        sorted(inside),
        run.answer,
        same_answer(run.answer, asked.answer),
        None if share is None else round(share, 3),
    )
