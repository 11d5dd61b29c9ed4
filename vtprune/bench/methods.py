"""What choosing is worth: every method on the same held-out questions, at the same budgets, in one run."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from math import isnan, sqrt
from statistics import fmean, stdev
from typing import Any

from PIL import Image

from vtprune import methods
from vtprune.bench.measure import machine_line, markdown
from vtprune.budgets import DEFAULT_TAU, calibrate
from vtprune.cost import Timer
from vtprune.engine import Engine
from vtprune.evaluate import PICTURE_SIDE, Asked, Report, covered, evidence_boxes, heldout
from vtprune.pipeline import Pass, tower_needs
from vtprune.scenes.phrases import Question
from vtprune.scenes.world import render, sample, split_seed
from vtprune.types import Budget, Shape

COUNT = 208
"""Questions: sixteen of each type."""
CALIBRATION = 64
"""Pictures that E-AdaPrune's threshold is found on."""
NEW_TOKENS = 32
BASELINE = "random"
EARLY = 2
"""The LLM layer at which FastV and DART drop: random is drawn there, too."""


@dataclass
class Entry:
    """One method at one budget. asked: by the question's number. shares: visual tokens that a layer of the
    language model sees on average, as a share of all, for each of them. reason: why some were not asked."""

    method: str
    keep: float | int
    params: dict[str, Any] = field(default_factory=dict)
    asked: dict[int, Asked] = field(default_factory=dict)
    shares: list[float] = field(default_factory=list)
    reason: str = ""

    @property
    def baseline(self) -> bool:
        return self.method == BASELINE and not self.params

    @property
    def label(self) -> str:
        return " ".join([self.method, *(f"{name}={value:.4g}" for name, value in self.params.items())])

    @property
    def report(self) -> Report:
        return Report(self.method, self.keep, list(self.asked.values()))

    def versus(self, other: Entry) -> tuple[float, float] | None:
        """Mean difference in accuracy on the questions that both were asked, and its standard error."""
        both = self.asked.keys() & other.asked.keys()
        differences = [float(self.asked[i].pruned_right) - other.asked[i].pruned_right for i in both]
        if len(both) < 2:
            return None
        return fmean(differences), stdev(differences) / sqrt(len(both))


def bench_methods(
    engine: Engine,
    keeps: Sequence[float | int] = (0.25, 0.1),
    names: Sequence[str] = (),
    count: int = COUNT,
    split: str = "heldout",
) -> Iterator[list[Entry]]:
    """Asks `count` held-out questions (captions left out) with all tokens, and with those that each method
    keeps; yields all entries, which go on growing, after every question.

    names: of methods, empty for all; random is always among them. Some come twice: random also inside the
    LLM, ATP with either sign of the CLIP cosine, PruMerge and PruMerge+ also without merging, E-AdaPrune with
    its raw threshold and with one that meets the budget on average over validation pictures. The answers are
    those of `Engine.run`, but a question is encoded and answered in full only once. Selections are seeded by
    the number of the question.
    """
    for keep in keeps:
        Budget(keep)  # says what is wrong with it
    if count < 1:
        raise ValueError(f"count={count} must be at least 1.")
    every = [name for name in methods.list_methods() if name != "picked"]  # by hand is by lot here
    chosen = sorted({*names, BASELINE}) if names else every
    entries = [Entry(name, keep) for keep in keeps for name in chosen]
    entries = [variant for entry in entries for variant in _variants(engine, entry)]
    for entry in entries:
        entry.reason = engine.supports(entry.method, **entry.params) or ""
    able = [entry for entry in entries if not entry.reason]
    for number, (pictures, question) in enumerate(short_questions(count, split)):
        ask(engine, pictures, question, number, able)
        yield entries


def _variants(engine: Engine, entry: Entry) -> list[Entry]:
    """The entry, or what stands for it in the table."""
    if entry.method == "atp":
        return [Entry("atp", entry.keep, {"clip_sign": sign}) for sign in (1, -1)]
    if entry.method == BASELINE:
        return [entry, Entry(BASELINE, entry.keep, {"layer": EARLY})]
    if entry.method in ("prumerge", "prumerge_plus"):
        return [entry, Entry(entry.method, entry.keep, {"neighbours": 0})]
    if entry.method == "e_adaprune":
        taus = (DEFAULT_TAU, matched_tau(engine, entry.keep))
        return [Entry("e_adaprune", entry.keep, {"tau": tau}) for tau in taus]
    return [entry]


def matched_tau(engine: Engine, keep: float | int) -> float:
    """The threshold with which E-AdaPrune keeps `keep` of the tokens on average over validation pictures."""
    pictures = (render(sample(split_seed("validation", i)), PICTURE_SIDE)[0] for i in range(CALIBRATION))
    prompts = (engine.backbone.prepare([picture], "?") for picture in pictures)
    return calibrate((engine.backbone.encode(prompt).features for prompt in prompts), keep)


def short_questions(count: int, split: str) -> Iterator[tuple[list[Image.Image], Question]]:
    """Held-out questions without captions, whose exact match is another matter than that of a word."""
    return islice((asked for asked in heldout(2 * count, split) if asked[1].type != "caption"), count)


def ask(
    engine: Engine, pictures: list[Image.Image], question: Question, number: int, entries: Sequence[Entry]
) -> None:
    """Puts one question to every entry; one whose budget cannot be reached gets a reason instead."""
    backbone = engine.backbone
    prompt = backbone.prepare(pictures, question.text)
    tokens = len(prompt.visual)
    shape, plans = Shape(tokens, len(pictures), backbone.layers), []
    for entry in entries:
        method = engine.method(entry.method, **entry.params)
        try:
            plans.append((entry, method.plan(Budget(entry.keep), shape)))
        except ValueError as error:
            entry.reason = entry.reason or str(error)
    encoded = backbone.encode(prompt, tower_needs(step for _, steps in plans for step in steps))

    def answer(side: Pass) -> str:
        decoding, ids = side.prefill(NEW_TOKENS, encoded), []
        while True:
            token = decoding.logits.argmax(keepdim=True)
            ids.append(int(token))
            if ids[-1] in backbone.eos or len(ids) == NEW_TOKENS:
                return backbone.decode(ids).strip()
            decoding.step(backbone.embed(token)[0])

    full = answer(Pass(backbone, prompt, [], Timer(backbone.device)))
    boxes = evidence_boxes(question)
    for entry, steps in plans:
        side = Pass(backbone, prompt, steps, Timer(backbone.device), seed=number)
        pruned = answer(side)
        kept = covered(prompt.segments, side.stages[-1].keep if side.stages else None, boxes)
        entry.asked[number] = Asked(question.type, question.text, question.answer, full, pruned, kept)
        entry.shares.append(fmean(side.visual_per_layer) / tokens)


def summary(entries: Sequence[Entry]) -> list[dict[str, Any]]:
    """A plain dict for each entry: best accuracy first within a budget, last those that were not asked."""
    rows = []
    for entry in entries:
        report = entry.report
        chance = next((e for e in entries if e.baseline and e.keep == entry.keep), None)
        versus = entry.versus(chance) if chance else None
        rows.append(
            {
                "method": entry.method,
                "params": entry.params,
                "label": entry.label,
                "baseline": entry.baseline,
                "keep": entry.keep,
                "asked": len(entry.asked),
                "full_accuracy": _number(report.full_accuracy),
                "accuracy": _number(report.accuracy),
                "agreement": _number(report.agreement),
                "evidence": _number(report.evidence),
                "tokens": fmean(entry.shares) if entry.shares else None,
                "versus_random": None if versus is None else {"mean": versus[0], "error": versus[1]},
                "types": {
                    kind: report.of(kind).accuracy for kind in dict.fromkeys(a.type for a in report.asked)
                },
                "reason": entry.reason,
            }
        )
    return sorted(rows, key=lambda row: -1.0 if row["accuracy"] is None else row["accuracy"], reverse=True)


def _number(value: float) -> float | None:
    return None if isnan(value) else value


def table(machine: dict[str, Any], model: str, rows: Sequence[dict[str, Any]]) -> str:
    """Markdown: a table for each budget, and under it who is below random."""
    most = max(rows, key=lambda row: row["asked"])
    parts = [f"{model} on {machine_line(machine)}"]
    if most["asked"]:
        right = f"with all tokens {most['full_accuracy']:.1%} right"
        parts += ["", f"{most['asked']} held-out questions without captions; {right}."]
    for keep in dict.fromkeys(sorted((row["keep"] for row in rows), reverse=True)):
        mine = [row for row in rows if row["keep"] == keep]
        header = ["method", "accuracy", "same as full", "evidence kept", "tokens a layer", "beside random"]
        parts += ["", f"### keep = {keep:g}", "", markdown(header, [_cells(row) for row in mine])]
        below = [row for row in mine if row["versus_random"] and row["versus_random"]["mean"] < 0]
        names = "; ".join(f"{row['label']} ({_points(row)})" for row in below)
        parts += ["", f"Below random: {names}." if below else "No method is below random."]
        part = [row for row in mine if row["reason"] and row["asked"]]
        parts += [f"Only {row['asked']} asked of {row['label']}: {row['reason']}" for row in part]
    return "\n".join(parts)


def _cells(row: dict[str, Any]) -> list[str]:
    name = f"**{row['label']}**" if row["baseline"] else row["label"]
    shares = [row[key] for key in ("accuracy", "agreement", "evidence", "tokens")]
    cells = ["–" if share is None else f"{share:.1%}" for share in shares]
    if not row["asked"]:
        return [name, *cells, row["reason"]]
    return [name, *cells, "" if row["baseline"] else _points(row)]


def _points(row: dict[str, Any]) -> str:
    """Percentage points over random and their standard error."""
    found = row["versus_random"]
    return f"{100 * found['mean']:+.1f} ± {100 * found['error']:.1f}" if found else "–"
