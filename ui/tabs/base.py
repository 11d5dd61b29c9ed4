"""What every tab shares: the inputs beside it, a status line, Start and Stop, and the way back to Run."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import gradio as gr

from ui import panels, screen, uploads
from ui.handlers import Handlers, Parts, Update
from ui.uploads import Upload
from ui.web import QUIET, SHARED, panel
from vtprune.examples import Asked
from vtprune.types import ImageInfo

INPUTS = ("gallery", "question", "method", "keep", "options", "longest")
"""The shared inputs that a tab's work reads, in this order."""


@dataclass(frozen=True)
class Inputs:
    """The shared inputs, checked. params: the options that were set, by the method they belong to. asked: the
    question, where the right answer is known."""

    files: list[Upload]
    question: str
    method: str
    params: dict[str, dict[str, Any]]
    percent: float
    longest: int
    asked: Asked | None

    def options(self, chosen: Sequence[str]) -> dict[str, dict[str, Any]]:
        """The options that were set, of the methods that are chosen."""
        return {name: own for name, own in self.params.items() if name in chosen}

    @property
    def paths(self) -> list[str]:
        return [upload.path for upload in self.files]

    @property
    def pictures(self) -> list[dict[str, Any]]:
        """The pictures as the browser gets them."""
        return [upload.served for upload in self.files]

    @property
    def infos(self) -> list[ImageInfo]:
        return [upload.info for upload in self.files]

    @property
    def evidence(self) -> Sequence[Any]:
        return self.asked.evidence if self.asked else ()


Work = Callable[..., Iterator[dict[str, Any]]]
"""work(inputs, *values of own parts, stop) -> {part: value} after {part: value}, until the event is set."""


class Tab:
    """One tab. title: on its button; name: in its ids. A subclass places its parts into `self.parts` and
    connects their events."""

    title = name = ""
    starters: tuple[str, ...] = ("start",)
    """The buttons that begin work; they rest while it goes on."""

    def __init__(self, handlers: Handlers) -> None:
        self.handlers, self.parts = handlers, Parts()

    def place(self) -> None:
        """Put the components on the page."""
        raise NotImplementedError

    def connect(self) -> None:
        """Connect their events, when the whole page is there."""
        raise NotImplementedError

    # ---- parts that tabs have in common ----

    def methods(self, value: Sequence[str], label: str) -> gr.Dropdown:
        """The choice of several methods."""
        return gr.Dropdown(
            self.handlers.models.choices(),
            value=list(value),
            multiselect=True,
            label=label,
            elem_id=f"vt-{self.name}-methods",
            elem_classes="vt-several",
        )

    def buttons(self, start: str, hint: str) -> None:
        """Start and Stop, and the line that says how far it is."""
        with gr.Row(elem_classes="vt-go"):
            self.parts.known["start"] = gr.Button(
                start,
                variant="primary",
                scale=0,
                min_width=150,
                elem_id=f"vt-{self.name}-start",
                elem_classes="vt-once",
            )
            self.parts.known["stop"] = gr.Button(
                "Stop", interactive=False, scale=0, min_width=90, elem_id=f"vt-{self.name}-stop"
            )
            self.parts.known["status"] = panel(panels.status(hint), elem_id=f"vt-{self.name}-status")

    def starts(
        self,
        work: Work,
        more: Sequence[str],
        button: str = "start",
        sends: str = "inputs",
    ) -> None:
        """A button does a work, which gets the values of the own parts named in more; Stop ends it. sends:
        what the browser makes of the inputs."""
        shared = [self.handlers.parts[name] for name in INPUTS]

        def pressed(visitor: gr.Request, *values: Any) -> Iterator[Update]:
            yield from self.does(work, values, visitor)

        self.parts[button].click(
            pressed,
            [*shared, *(self.parts[name] for name in more)],
            self.parts.all(),
            concurrency_id="model",
            concurrency_limit=1,
            trigger_mode="once",
            js=f"(...inputs) => (vtprune.waiting('{self.name}'), {sends})",
            **QUIET,
        )
        if button != "start":
            return
        self.parts["stop"].click(self.handlers.halt, queue=False, **QUIET)
        if "methods" not in self.parts.known:
            return
        # another model may be unable to run other methods
        self.handlers.parts["header"].change(
            lambda: gr.update(choices=self.handlers.models.choices()), outputs=self.parts["methods"], **SHARED
        )

    def opens(self, part: str, values: Callable[..., Update], inputs: Sequence[str] = ()) -> Any:
        """A click inside a part shows a run in the Run tab; values(event, *inputs) fills the page."""
        return self.parts[part].select(
            values,
            [self.parts[name] for name in inputs],
            self.handlers.parts.all(),
            js="(...inputs) => (vtprune.tab('run'), inputs)",
            **QUIET,
        )

    # ---- work ----

    def inputs(
        self,
        gallery: Any,
        question: str,
        method: str,
        percent: float,
        options: list[dict[str, Any]],
        longest: float,
    ) -> Inputs:
        """The shared inputs; ValueError with a sentence about what is missing or cannot be used."""
        files, problems = uploads.check(uploads.paths(gallery), self.handlers.engine.backbone.max_images)
        if problems:
            raise ValueError(" ".join(problems))
        if not files:
            raise ValueError("there is no picture that can be used; add one first.")
        if percent is None:
            raise ValueError("the budget is empty: choose how many percent to keep.")
        question = (question or "").strip()
        return Inputs(
            files,
            question,
            method,
            {method: screen.params(options)},
            percent,
            round(longest or 0),
            self.handlers.asked(files, question),
        )

    def does(self, work: Work, values: Sequence[Any], visitor: gr.Request) -> Iterator[Update]:
        """The updates of a work. values: those of the shared inputs, then those of its own parts. Whatever
        goes wrong is one sentence, and what was shown until then stays."""
        yield self.parts.update(
            {
                **self._free(False),
                "status": panels.status("Starting …", busy=True),
            }
        )
        over: str | None = panels.status("Stopped.")  # unless it comes to its own end
        with self.handlers.stoppable(visitor) as stop:
            try:
                inputs = self.inputs(*values[: len(INPUTS)])
                for shown in work(inputs, *values[len(INPUTS) :], stop):
                    yield self.parts.update(shown)
                if not stop.is_set():
                    over = None
            except ValueError as error:
                over = panels.status(f"Not run: {error}", error=True)
            except Exception as error:
                traceback.print_exc()
                over = panels.failure(error)
        yield self.parts.update({**self._free(True), **({"status": over} if over else {})})

    def _free(self, free: bool) -> dict[str, Any]:
        """Whether work can be begun, or stopped."""
        begin = {name: gr.update(interactive=free) for name in self.starters}
        return {**begin, "stop": gr.update(interactive=not free)}


class Progress:
    """How far a work of `total` equal pieces is, in words."""

    def __init__(self, total: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.total, self.done, self.clock = total, 0, clock
        self.began = clock()

    def step(self, what: str) -> str:
        """One more is done: the status line, with the time left once it can be told."""
        self.done += 1
        left = (self.clock() - self.began) / self.done * (self.total - self.done)
        rest = f", about {duration(left)} left" if self.done > 1 and left >= 1 else ""
        words = f"{what}, {self.done} of {self.total}{rest} …"
        return panels.status(words, self.done / self.total, busy=True)


def duration(seconds: float) -> str:
    """A time that is still to come, roughly."""
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    return f"{round(seconds / 60)} min"
