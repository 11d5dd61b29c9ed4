"""Paint: a person picks the patches that are kept, asks again, and looks for the fewest that are needed."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any

import gradio as gr
from PIL import Image

from ui import panels, patchmap, uploads
from ui.handlers import Handlers, Update
from ui.tabs.base import Inputs, Tab
from ui.tabs.evidence import SENDS, Weighing, kept_sentence
from ui.uploads import Upload
from ui.web import QUIET, SHARED, panel, widget
from vtprune import examples, export, methods
from vtprune.sheets import sheets
from vtprune.smallest import LIMIT, Found, smallest
from vtprune.types import Done, Encoded, Run, Segment, Selected, Token

HINT = "The question of the left side, with the painted patches only."
AMONG = {"all": "all patches", "painted": "painted patches"}
PAUSE = 0.25
"""Seconds between two pictures of the search."""
_turns = itertools.count()
NOTHING: dict[str, Any] = {"keep": [], "evidence": [], "total": 0}

Values = dict[str, Any]


class Paint(Tab):
    title, name = "Paint", "paint"
    starters = ("start", "take", "find")

    def __init__(self, handlers: Handlers) -> None:
        super().__init__(handlers)
        self.weighing = Weighing(handlers, self.painted)

    def place(self) -> None:
        part = self.parts.known
        look = {"palette": list(export.PALETTE), "look": export.LOOK, "veil": list(export.VEIL)}
        with gr.Row(elem_classes="vt-both"):
            with gr.Column(elem_classes="vt-card"):
                panel("<h2>Paint what is kept</h2>")
                with gr.Row(elem_classes="vt-base"):
                    part["base"] = gr.Dropdown(
                        self.handlers.models.choices(),
                        value="atp",
                        label="Start from what a method keeps at the budget of the left side",
                        filterable=False,
                        elem_id="vt-paint-base",
                    )
                    part["take"] = gr.Button("Take its set", elem_id="vt-paint-take", elem_classes="vt-once")
                part["board"] = widget(
                    "painting", "vt-painting", self._opening(), elem_id="vt-painting", **look
                )
                part["painted"] = widget("given", "vt-given", None)
            with gr.Column(elem_classes="vt-card"):
                panel("<h2>What they answer</h2>")
                self.buttons("Ask again", HINT)
                part["answers"] = panel("", elem_id="vt-paint-answers")
                with gr.Column(elem_classes="vt-seek"):
                    part["among"] = gr.Dropdown(
                        [(words, name) for name, words in AMONG.items()],
                        value="all",
                        label="Smallest set that keeps the answer, out of",
                        filterable=False,
                        elem_id="vt-paint-among",
                    )
                    part["find"] = gr.Button(
                        "Find the smallest set", elem_id="vt-paint-find", elem_classes="vt-once"
                    )
                    panel(
                        '<p class="vt-quiet">It follows the order of the method to start from. What is found '
                        f"gives the answer of all patches; it is the smallest of up to {LIMIT} sets that are "
                        "tried, not a proven minimum.</p>"
                    )
        self.weighing.parts.known["painted"] = part["painted"]
        self.weighing.place()

    def connect(self) -> None:
        page = self.handlers.parts
        self.starts(self.ask, ["painted"], sends=SENDS)
        self.starts(self.take, ["base"], "take")
        self.starts(self.find, ["base", "among", "painted"], "find", SENDS)
        self.weighing.connect()
        gr.on(
            [page["gallery"].change, page["header"].change],  # other pictures, or another model
            self.fresh,
            [page["gallery"], page["question"]],
            self.parts.all(),
            **SHARED,
        )
        page["question"].change(None, page["question"], js="(text) => vtprune.asked(text)", **QUIET)

    # ---- the board ----

    def fresh(self, gallery: Any, question: str) -> Update:
        """What was painted and answered belongs to other patches."""
        files, _ = uploads.check(uploads.paths(gallery), self.handlers.models.max_images)
        return self.parts.update(
            {
                "board": self.board(files, question),
                "base": gr.update(choices=self.handlers.models.choices()),
                "answers": "",
                "status": panels.status(HINT),
            }
        )

    def board(self, files: Sequence[Upload], question: str) -> Values:
        """What the component draws. known: the evidence of those questions where it is known."""
        infos = [upload.info for upload in files]
        segments: tuple[Segment, ...] = ()
        blank = [Image.new("RGB", (info.width, info.height)) for info in infos]
        with contextlib.suppress(ValueError):  # the sentence comes when it is asked
            segments = self.handlers.engine.backbone.segments(blank) if blank else ()
        shown = [upload.digest for upload in files]
        known = {
            asked.text: patchmap.framed(sheets(segments), asked.evidence)
            for example in self.handlers.examples.values()
            if [uploads.digest(path) for path in example.pictures] == shown
            for asked in example.questions
        }
        value = patchmap.value([upload.served for upload in files], infos, segments)
        return {**value, "known": known, "question": (question or "").strip()}

    def _opening(self) -> Values:
        """The board of the page as it opens."""
        opening = self.handlers.opening()
        return self.board([uploads.opened(path) for path in opening["gallery"]], opening["question"])

    def painted(self, inputs: Inputs, painted: Any) -> Values:
        """What was painted, as the browser sent it. ValueError with a sentence when it cannot be used."""
        painted = {**NOTHING, **(painted if isinstance(painted, dict) else {})}
        if painted["total"] != self.handlers.engine.tokens(inputs.paths):
            raise ValueError("these pictures were not painted on yet; open the Paint tab and paint.")
        sizes = len(inputs.files)
        for box in painted["evidence"]:
            numbers = isinstance(box, list) and len(box) == 5
            if not numbers or box[0] not in range(sizes) or not all(0 <= side <= 1 for side in box[1:]):
                raise ValueError("the evidence box is not inside a picture; draw it again.")
        return painted

    # ---- work ----

    def ask(self, inputs: Inputs, painted: Any, stop: threading.Event) -> Iterator[Values]:
        """Ask again was pressed: both answers, the pruned one from the painted patches."""
        mine = self.painted(inputs, painted)
        if not mine["keep"]:
            raise ValueError("nothing is kept: paint at least one patch, then ask again.")
        yield {"status": panels.status("Answering …", busy=True)}
        for event in self._events(
            stop, inputs, "picked", len(mine["keep"]), inputs.longest, {"tokens": tuple(mine["keep"])}
        ):
            if isinstance(event, Done):
                yield {
                    "answers": answered(event.run, inputs, mine["evidence"]),
                    "status": panels.status(f"Done: {event.run.comparison.summary}."),
                }

    def take(self, inputs: Inputs, base: str, stop: threading.Event) -> Iterator[Values]:
        """The set of a method is to be painted; its answer is not waited for."""
        params = inputs.params.get(base, {})
        total, keep, blended = 0, [], False
        yield {"status": panels.status("Choosing …", busy=True)}
        for event in self._events(stop, inputs, base, inputs.percent / 100, 4, params):
            if isinstance(event, Encoded):
                total = sum(segment.length for segment in event.segments)
                keep = list(range(total))
            elif isinstance(event, Selected):
                keep, blended = event.stage.keep, blended or bool(event.stage.merge_rows)
            elif isinstance(event, Token):
                break
        title = methods.list_methods()[base].title
        words = f"Painted what {title} keeps: {len(keep)} of {total} tokens."
        if blended:
            words += " It blends the others into these, which painting does not."
        if not stop.is_set():
            yield {"painted": given(keep, next(_turns)), "status": panels.status(words)}

    def find(
        self, inputs: Inputs, base: str, among: str, painted: Any, stop: threading.Event
    ) -> Iterator[Values]:
        """The smallest set is to be found; each that is smaller than the last is painted."""
        mine = self.painted(inputs, painted)
        yield {"status": panels.status("Looking for the smallest set …", busy=True)}
        search: Any = smallest(
            self.handlers.engine,
            inputs.paths,
            inputs.question,
            base,
            inputs.longest,
            inputs.params.get(base),
            among=mine["keep"] if among == "painted" else None,
            stop=stop,
        )
        shown, turn = 0.0, next(_turns)
        with contextlib.closing(search):
            for found in search:
                if not found.over and time.monotonic() - shown < PAUSE:
                    continue
                shown = time.monotonic()
                yield {"painted": given(found.tokens, turn), "status": searched(found)}
                if found.over:
                    yield {"answers": answered(found.run, inputs, mine["evidence"])}

    def _events(
        self,
        stop: threading.Event,
        inputs: Inputs,
        method: str,
        keep: float | int,
        longest: int,
        params: dict[str, Any],
    ) -> Iterator[Any]:
        """A run without measuring passes."""
        events: Any = self.handlers.engine.stream(
            inputs.paths, inputs.question, method, keep, longest, params, repeats=0, stop=stop
        )
        with contextlib.closing(events):  # frees the model whatever happens
            yield from events


def given(keep: Sequence[int], work: int) -> Values:
    """A set for the browser to paint. work: those of one work are undone together. turn: so that no two of
    them are equal, and each is painted."""
    return {"keep": sorted(keep), "work": work, "turn": next(_turns)}


def searched(found: Found) -> str:
    """How far the search is, or what it came to."""
    count, total = len(found.tokens), found.run.tokens
    if not found.over:
        words = f"Smallest so far: {count} of {total} tokens, {found.done} of at most {found.limit} tries …"
        return panels.status(words, found.done / found.limit, busy=True)
    words = f"Smallest found: {count} of {total} tokens give the same answer, after {found.done} tries."
    if count == len(found.run.images):
        words += " No set is smaller: each picture needs a token."
    elif found.alone:
        words += (
            " None of them can be left out alone; another set may still be smaller, as not all were tried."
        )
    else:
        words += " It is not proven to be the smallest: the search ended with its last try."
    return panels.status(words)


def answered(run: Run, inputs: Inputs, boxes: Sequence[Sequence[Any]]) -> str:
    """Both answers, how they relate, and what share of the evidence was kept."""
    evidence = [(image, (x0, y0, x1, y1)) for image, x0, y0, x1, y1 in boxes]
    if inputs.asked:
        finding = examples.finding(run, dataclasses.replace(inputs.asked, evidence=tuple(evidence)))
    else:
        finding = kept_sentence(examples.evidence_kept(run, evidence)) if evidence else ""
    return panels.answers(run, finding, inputs.asked.answer if inputs.asked else "")
