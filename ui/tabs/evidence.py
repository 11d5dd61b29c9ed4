"""The second half of Paint: how much of what matters each method keeps, beside its answer."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from html import escape
from typing import Any

import gradio as gr

from ui import panels
from ui.handlers import Handlers, Update
from ui.tabs.base import Inputs, Progress, Tab
from ui.web import SHARED, panel
from vtprune import methods, study
from vtprune.study import Cell
from vtprune.types import Run

FIRST = ("atp", "resprune", "divprune", "fastervlm", "random", "uniform")
"""The methods that are listed unless others are chosen."""
HINT = "Draw a box around what matters: how much of it does each method keep, and what does it answer?"
SENDS = "vtprune.painted(inputs)"
"""The last input is what was painted; the browser puts it there."""

Values = dict[str, Any]


class Weighing(Tab):
    """Placed inside the Paint tab, whose `painted` part it reads with `read(inputs, value)`."""

    title, name = "Evidence", "evidence"

    def __init__(self, handlers: Handlers, read: Callable[[Inputs, Any], Values]) -> None:
        super().__init__(handlers)
        self.read = read

    def place(self) -> None:
        part = self.parts.known
        with gr.Column(elem_classes="vt-card"):
            panel("<h2>Evidence kept by each method</h2>")
            part["methods"] = self.methods(FIRST, f"Methods, up to {study.MOST}")
            self.buttons("Weigh them", HINT)
            part["table"] = panel("", elem_id="vt-weigh")

    def connect(self) -> None:
        self.starts(self.run, ["methods", "painted"], sends=SENDS)
        self.handlers.parts["shown"].change(
            self.clear, outputs=[self.parts["table"], self.parts["status"]], **SHARED
        )

    def clear(self) -> Update:
        """Other pictures are shown: what was found belongs to them no more."""
        return self.parts.update({"table": "", "status": panels.status(HINT)})

    def run(self, inputs: Inputs, chosen: list[str], painted: Any, stop: threading.Event) -> Iterator[Values]:
        """Start was pressed: a row after the other."""
        boxes = self.read(inputs, painted)["evidence"]
        if not boxes:
            raise ValueError("there is no evidence box: draw one around what matters, then press again.")
        found: list[Cell] = []
        cells = study.compare(
            self.handlers.engine,
            inputs.paths,
            inputs.question,
            chosen,
            inputs.percent / 100,
            inputs.longest,
            inputs.options(chosen),
            evidence=[(image, (x0, y0, x1, y1)) for image, x0, y0, x1, y1 in boxes],
            repeats=0,
            stop=stop,
        )
        progress = Progress(len(set(chosen)))
        for cell in cells:
            found.append(cell)
            yield {"table": table(found, inputs.percent), "status": progress.step("Weighing")}
        if not stop.is_set():
            yield {"status": panels.status(outcome(found))}


def kept_sentence(share: float) -> str:
    """A share of the evidence in words."""
    return f"{share:.0%} of the evidence box was kept."


def outcome(found: Sequence[Cell]) -> str:
    """The table in a sentence."""
    known = [cell for cell in found if cell.evidence is not None]
    if not known:
        return "Done: no share can be told of these methods."
    best = max(known, key=lambda cell: cell.evidence or 0.0)
    return f"Done: {_title(best)} keeps most of the evidence, {best.evidence:.0%}."


def table(found: Sequence[Cell], percent: float) -> str:
    """A row for each method: what it keeps of the evidence, and its answer beside that of all tokens."""
    run = next((cell.run for cell in found if cell.run), None)
    full = ""
    if run:
        words = escape(run.full.answer) or "(no words)"
        full = f'<tr><th scope="row">All tokens</th><td>{run.tokens}</td><td>100 %</td><td>{words}</td></tr>'
    rows = "".join(_row(cell) for cell in found)
    titles = (f"Keeping {percent:g} %", "Tokens", "Evidence kept", "Answer")
    head = "".join(f'<th scope="col">{title}</th>' for title in titles)
    body = f"<thead><tr>{head}</tr></thead><tbody>{full}{rows}</tbody>"
    return f'<div class="vt-weigh"><table>{body}</table></div>'


def _row(cell: Cell) -> str:
    head = f'<tr><th scope="row">{escape(_title(cell))}</th>'
    if cell.run is None:
        reason = escape(f"{cell.reason[0].upper()}{cell.reason[1:]}")
        return f'{head}<td colspan="3" class="vt-quiet">{reason}</td></tr>'
    share = "blended, so no share"
    if cell.evidence is not None:
        width = f"{100 * cell.evidence:.0f}%"
        share = f'{cell.evidence:.0%}<span class="vt-meter"><i style="width:{width}"></i></span>'
    tokens = f"{cell.run.pruned.cost.mean_tokens:.4g}"
    return f"{head}<td>{tokens}</td><td>{share}</td><td>{_answer(cell.run)}</td></tr>"


def _answer(run: Run) -> str:
    same = run.comparison.same
    agreement = f"{'✓' if same else '≠'} {run.comparison.summary}"
    return (
        f"{escape(run.answer) or '(no words)'}"
        f'<p class="vt-agreement is-{"same" if same else "different"}">{escape(agreement)}</p>'
    )


def _title(cell: Cell) -> str:
    return methods.list_methods()[cell.method].title
