"""Compare: the same question and budget under several methods, side by side on linked maps."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import gradio as gr

from ui import panels, patchmap, screen
from ui.handlers import Update
from ui.tabs.base import Inputs, Progress, Tab
from ui.web import SHARED, panel, widget
from vtprune import export, methods, study
from vtprune.study import Cell
from vtprune.summary import first_token, milliseconds, speed
from vtprune.types import Run

FIRST = ("atp", "resprune", "divprune", "fastervlm", "random", "uniform")
"""The methods that are compared unless others are chosen."""
HINT = "The question and budget from Ask, under each of these methods."

Values = dict[str, Any]


class Compare(Tab):
    title, name = "Compare", "compare"

    def place(self) -> None:
        part = self.parts.known
        look = {"palette": list(export.PALETTE), "look": export.LOOK, "veil": list(export.VEIL)}
        with gr.Column(elem_classes="vt-card"):
            panel("<h2>Methods side by side</h2>")
            part["methods"] = self.methods(FIRST, f"Methods, up to {study.MOST}")
            self.buttons("Compare", HINT)
            part["grid"] = widget("comparison", "vt-comparison", EMPTY, elem_id="vt-comparison", **look)
            part["kept"] = gr.State(None)

    def connect(self) -> None:
        self.starts(self.run, ["methods"])
        self.opens("grid", self.open, ["kept"])
        self.handlers.parts["shown"].change(self.clear, outputs=self.parts.all(), **SHARED)

    def clear(self) -> Update:
        """Other pictures are shown: what was found belongs to them no more."""
        return self.parts.update({"grid": EMPTY, "kept": None, "status": panels.status(HINT)})

    def run(self, inputs: Inputs, chosen: list[str], stop: threading.Event) -> Iterator[Values]:
        """Start was pressed: a cell after the other."""
        found: list[Cell] = []
        cells = study.compare(
            self.handlers.engine,
            inputs.paths,
            inputs.question,
            chosen,
            inputs.percent / 100,
            inputs.longest,
            inputs.options(chosen),
            evidence=inputs.evidence,
            stop=stop,
        )
        progress = Progress(len(set(chosen)))
        for cell in cells:
            if stop.is_set():
                return
            found.append(cell)
            yield {
                "grid": value(inputs, found),
                "kept": {"inputs": inputs, "runs": {c.method: c.run for c in found if c.run}},
                "status": progress.step("Comparing"),
            }
        if not stop.is_set():
            yield {"status": panels.status(outcome(found))}

    def open(self, kept: Values | None, event: gr.EventData, visitor: gr.Request) -> Update:
        """A cell was clicked: its run, as it was made, fills the Run tab."""
        run = kept["runs"].get(event.method) if kept else None
        if not kept or not run:
            return gr.skip()
        self.handlers.halt_run(visitor)
        inputs = kept["inputs"]
        return self.handlers.parts.update(
            {
                **screen.of_run(run, inputs.files, inputs.asked),
                "question": run.question,
                "method": run.method,
                "card": self.handlers.card(run.method),
                "options": screen.fields(run.method, run.params),
                "keep": inputs.percent,
                "look": "",
                "status": panels.status("The run of the comparison. Change anything and press Run."),
            }
        )


def outcome(found: list[Cell]) -> str:
    """The comparison in a sentence."""
    runs = [cell.run for cell in found if cell.run]
    same = sum(run.comparison.same for run in runs)
    text = f"Done: {same} of {len(runs)} methods give the answer of all tokens"
    missing = len(found) - len(runs)
    return f"{text}; {missing} could not be run." if missing else f"{text}."


EMPTY: Values = {**patchmap.EMPTY, "question": "", "full": "", "first": None, "truth": "", "cells": []}


def value(inputs: Inputs, found: list[Cell]) -> Values:
    """What the component draws; the full side is that of the first run."""
    run = next((cell.run for cell in found if cell.run), None)
    segments = run.segments if run else ()
    return {
        **patchmap.value(inputs.pictures, inputs.infos, segments, evidence=inputs.evidence),
        "question": inputs.question,
        "percent": inputs.percent,
        "model": run.model if run else "",
        "full": run.full.answer if run else "",
        "first": f"{milliseconds(first_token(run.full).median)} ms" if run and run.full.timings else "",
        "truth": inputs.asked.answer if inputs.asked else "",
        "cells": [_cell(cell) for cell in found],
    }


def _cell(cell: Cell) -> Values:
    title = methods.list_methods()[cell.method].title
    if cell.run is None:
        reason = f"{cell.reason[0].upper()}{cell.reason[1:]}"
        return {"method": cell.method, "title": title, "reason": reason}
    run, stage = cell.run, cell.run.stages[-1:]
    agreement = run.comparison.summary
    blended = bool(stage and stage[0].merge_rows)
    return {
        "method": cell.method,
        "title": title,
        "keep": stage[0].keep if stage else list(range(run.tokens)),
        "blended": patchmap.absorbers(stage[0], run.tokens) if blended else None,
        "tokens": _tokens(run),
        "words": run.comparison.words_pruned,
        "same": run.comparison.same,
        "agreement": f"{agreement[0].upper()}{agreement[1:]}",
        "kl": study.furthest(run),
        "evidence": cell.evidence,
        **_times(run),
    }


def _tokens(run: Run) -> str:
    mean = "" if len(set(run.pruned.cost.tokens_per_layer)) == 1 else " a layer"
    return f"{run.pruned.cost.mean_tokens:.4g} of {run.tokens} tokens{mean}"


def _times(run: Run) -> Values:
    if not run.full.timings or not run.pruned.timings:
        return {"select": None, "first": None, "speed": ""}
    full, pruned = first_token(run.full), first_token(run.pruned)
    return {
        "select": f"{milliseconds(run.pruned.timings['select'].median)} ms",
        "first": pruned.median,
        "took": f"{milliseconds(pruned.median)} ms",
        "speed": speed(full, pruned),
    }
