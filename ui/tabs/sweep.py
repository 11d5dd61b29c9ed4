"""Sweep: what several methods keep and answer at many budgets, and where the answer changes."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any

import gradio as gr

from ui import panels, screen
from ui.handlers import Update
from ui.tabs.base import Inputs, Progress, Tab
from ui.web import QUIET, SHARED, panel, widget
from vtprune import methods, study
from vtprune.study import Point

FIRST = ("atp", "divprune", "fastervlm", "random")
"""The methods that are swept unless others are chosen."""
LOW, HIGH, COUNT = 2, 100, 12
PAUSE = 0.25
"""Seconds between two updates of the chart."""
HINT = "The question from Ask at every budget of this range, for each of these methods."

Values = dict[str, Any]


class Sweep(Tab):
    title, name = "Sweep", "sweep"

    def place(self) -> None:
        part = self.parts.known
        with gr.Column(elem_classes="vt-card"):
            panel("<h2>From few tokens to all</h2>")
            part["methods"] = self.methods(FIRST, f"Methods, up to {study.MOST}")
            with gr.Row(elem_classes="vt-range"):
                part["low"] = gr.Number(LOW, label="From, percent", minimum=1, maximum=100, precision=0)
                part["high"] = gr.Number(HIGH, label="To, percent", minimum=1, maximum=100, precision=0)
                part["count"] = gr.Number(COUNT, label="Budgets", minimum=2, maximum=50, precision=0)
            self.buttons("Sweep", HINT)
            part["chart"] = widget("sweep", "vt-sweep", EMPTY, elem_id="vt-sweep")
            part["asked"] = gr.State(None)

    def connect(self) -> None:
        self.starts(self.run, ["methods", "low", "high", "count"])
        # the run itself is the Run button's
        self.opens("chart", self.open, ["asked"]).then(None, js="() => vtprune.press('vt-run')", **QUIET)
        self.handlers.parts["shown"].change(self.clear, outputs=self.parts.all(), **SHARED)

    def clear(self) -> Update:
        """Other pictures are shown: what was found belongs to them no more."""
        return self.parts.update({"chart": EMPTY, "asked": None, "status": panels.status(HINT)})

    def run(
        self,
        inputs: Inputs,
        chosen: list[str],
        low: float | None,
        high: float | None,
        count: float | None,
        stop: threading.Event,
    ) -> Iterator[Values]:
        """Start was pressed: a point after the other."""
        if low is None or high is None or count is None:
            raise ValueError("the range is not complete: it goes from a percentage to another in steps.")
        budgets = study.spread(low / 100, high / 100, round(count))
        found: list[Point] = []
        engine = self.handlers.engine
        points = study.sweep(
            engine,
            inputs.paths,
            inputs.question,
            chosen,
            budgets,
            inputs.longest,
            inputs.options(chosen),
            evidence=inputs.evidence,
            stop=stop,
        )
        progress, shown = Progress(len(set(chosen)) * len(budgets)), 0.0
        for point in points:
            found.append(point)
            line = progress.step("Sweeping")
            if time.monotonic() - shown >= PAUSE and not stop.is_set():
                shown = time.monotonic()
                chart = value(inputs, found, budgets, engine.name, ended=False)
                yield {"chart": chart, "asked": inputs, "status": line}
        if found:
            chart = value(inputs, found, budgets, engine.name, ended=not stop.is_set())
            yield {"chart": chart, "asked": inputs}
        if not stop.is_set():
            yield {"status": panels.status(outcome(found))}

    def open(self, inputs: Inputs | None, event: gr.EventData, visitor: gr.Request) -> Update:
        """A point was clicked: its method and budget are set, and then Run is pressed."""
        if not inputs:
            return gr.skip()
        self.handlers.halt_run(visitor)
        return self.handlers.parts.update(
            {
                "question": inputs.question,
                "method": event.method,
                "card": self.handlers.card(event.method),
                "options": screen.fields(event.method, inputs.params.get(event.method)),
                "keep": round(100 * event.keep),
            }
        )


EMPTY: Values = {"question": "", "full": "", "truth": "", "total": 0, "range": [0.02, 1], "series": []}


def value(
    inputs: Inputs, found: Sequence[Point], budgets: Sequence[float], model: str, ended: bool = True
) -> Values:
    """What the component draws: a line for each method, and the sentences below. ended: whether all points
    are there."""
    first = next((point for point in found if not point.reason), None)
    names = list(dict.fromkeys(point.method for point in found))
    return {
        "question": inputs.question,
        "model": model,
        "full": first.full if first else "",
        "truth": inputs.asked.answer if inputs.asked else "",
        "total": first.total if first else 0,
        "range": [budgets[0], budgets[-1]],
        "series": [_series(name, [p for p in found if p.method == name], ended) for name in names],
    }


def _series(name: str, own: Sequence[Point], ended: bool) -> Values:
    flips = study.flips(own, ended)
    return {
        "method": name,
        "title": methods.list_methods()[name].title,
        "points": [_point(point) for point in own if not point.reason],
        "flips": [{"tokens": round(flip.tokens, 1), "words": _sentence(flip.words)} for flip in flips],
        "words": words(own),
    }


def _point(point: Point) -> Values:
    return {
        "keep": point.keep,
        "tokens": round(point.tokens, 1),
        "share": point.share,
        "answer": point.answer,
        "same": point.same,
        "evidence": point.evidence,
        "kl": point.kl,
    }


def words(own: Sequence[Point]) -> list[str]:
    """What else one method's points say: that the answer never changes, and what was not run."""
    run = [point for point in own if not point.reason]
    refused = [point for point in own if point.reason]
    said = []
    if run and all(point.same for point in run):
        least = min(run, key=lambda point: point.tokens)
        said.append(f"The answer stays “{least.answer}” down to {least.tokens:.4g} tokens.")
    if refused:
        which = ", ".join(f"{point.keep:.0%}" for point in refused)
        said.append(f"Not run at {which}: {refused[-1].reason}")
    return said


def _sentence(words: str) -> str:
    return f"{words[0].upper()}{words[1:]}."


def outcome(found: Sequence[Point]) -> str:
    """The sweep in a sentence."""
    run = [point for point in found if not point.reason]
    same = sum(point.same for point in run)
    text = f"Done: {same} of {len(run)} points give the answer of all tokens"
    return f"{text}; {len(found) - len(run)} could not be run." if len(run) < len(found) else f"{text}."
