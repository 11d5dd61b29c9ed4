"""Events: what a person did -> what the parts of the page show next."""

from __future__ import annotations

import contextlib
import threading
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import gradio as gr
from PIL import Image

from ui import panels, screen, uploads
from ui.models import Models
from ui.running import Request, follow
from ui.uploads import Upload
from vtprune import methods
from vtprune.engine import Engine
from vtprune.examples import Asked, Example

BUSY = {"run": gr.update(interactive=False), "stop": gr.update(interactive=True)}
IDLE = {"run": gr.update(interactive=True), "stop": gr.update(interactive=False)}

Update = dict[Any, Any]


@dataclass
class Parts:
    """The components that events read or write, by name."""

    known: dict[str, Any] = field(default_factory=dict)

    def __getitem__(self, name: str) -> Any:
        return self.known[name]

    def all(self) -> list[Any]:
        """Every component, as the outputs of an event."""
        return list(self.known.values())

    def update(self, values: dict[str, Any]) -> Update:
        """{name: value} as Gradio wants it."""
        return {self.known[name]: value for name, value in values.items()}


class Handlers:
    """The events of one page, for the model in use. What belongs to a visitor is kept by session."""

    def __init__(self, engine: Engine | Models, examples: Sequence[Example], bundled: bool) -> None:
        self.models = engine if isinstance(engine, Models) else Models(engine, bundled)
        self.examples = {example.name: example for example in examples}
        self.parts = Parts()
        self._running: dict[str, list[threading.Event]] = {}
        self._beside: dict[str, list[threading.Event]] = {}
        self._known = {
            (*(uploads.digest(path) for path in example.pictures), asked.text): asked
            for example in examples
            for asked in example.questions
        }
        self._ours = {uploads.digest(path) for example in examples for path in example.pictures}

    @property
    def engine(self) -> Engine:
        """The one in use; visitors may change it."""
        return self.models.engine

    # ---- choosing what to ask ----

    def opening(self) -> dict[str, Any]:
        """What the page shows when it opens: the first recorded example, or an invitation."""
        return self.example(next(iter(self.examples))) if self.examples else self.blank()

    def blank(self) -> dict[str, Any]:
        """The page without pictures."""
        first = "atp"
        return {
            **screen.of_pictures([]),
            "strip": screen.strip(list(self.examples.values())),
            "gallery": [],
            "refused": "",
            "shown": (),
            "question": "",
            "chips": screen.chips(screen.SUGGESTIONS),
            "method": first,
            "card": self.card(first),
            "options": screen.fields(first),
            "keep": 25,
            "budget": self.budget([], 25),
            "note": "",
            "status": panels.status("Add a picture, ask a question, press Run."),
        }

    def example(self, name: str) -> dict[str, Any]:
        """The page on one recorded example."""
        example = self.examples[name]
        values = screen.of_example(example)
        return {
            **values,
            "refused": "",
            "strip": screen.strip(list(self.examples.values()), name),
            "shown": tuple(uploads.digest(path) for path in example.pictures),
            "card": self.card(values["method"]),
            "budget": self.budget([uploads.opened(path) for path in values["gallery"]], values["keep"]),
        }

    def pick_example(self, event: gr.EventData, visitor: gr.Request) -> Update:
        """An example was clicked; a run that still goes on ends."""
        self.halt(visitor)
        return self.parts.update({**self.example(event.id), **IDLE})

    def pick_question(self, event: gr.EventData) -> str:
        """A suggested question was clicked."""
        return event.id

    def pick_method(self, name: str, options: list[dict[str, Any]]) -> Update:
        """The method changed: by hand, or with an example or a link, which bring its options along."""
        values: dict[str, Any] = {"card": self.card(name)}
        if any(field.get("method") != name for field in options) or not options:
            values["options"] = screen.fields(name)
        return self.parts.update(values)

    def _usable(self, gallery: Any) -> tuple[list[Upload], list[str]]:
        """The pictures that count, and what is wrong with others: a visitor's own take the place of an
        example's."""
        files, problems = uploads.check(uploads.paths(gallery), self.models.max_images)
        return self._own(files) or files, problems

    def _own(self, files: Sequence[Upload]) -> list[Upload]:
        return [upload for upload in files if upload.digest not in self._ours]

    def uploaded(self, gallery: Any) -> Update:
        """Files were added: leave those in the gallery that count, and name those that cannot be used."""
        files, problems = self._usable(gallery)
        return self.parts.update(
            {"gallery": [upload.path for upload in files], "refused": " ".join(problems)}
        )

    def pictures(self, gallery: Any, shown: tuple[str, ...], percent: float, visitor: gr.Request) -> Update:
        """The gallery changed: show what is in it. It never sets the gallery itself, which would call it
        again, and so on."""
        files, _ = self._usable(gallery)
        now = tuple(upload.digest for upload in files)
        values: dict[str, Any] = {}
        if now != shown:
            self.halt(visitor)
            values |= {
                **screen.of_pictures(files),
                "shown": now,
                "strip": screen.strip(list(self.examples.values())),
                "budget": self.budget(files, percent),
                "note": self.note(files),
                "status": panels.status("Ask a question and press Run." if files else "Add a picture."),
            }
            if self._own(files) or not files:
                values["chips"] = screen.chips(screen.SUGGESTIONS)
        return self.parts.update(values) if values else gr.skip()

    def note(self, files: Sequence[Upload]) -> str:
        """What to know about pictures of a visitor's own when the model knows drawn scenes only."""
        return panels.drawn_only() if self._own(files) and self.models.bundled else ""

    def card(self, name: str) -> str:
        """A method's description, and why this model cannot run it if so."""
        reason = self.models.reasons.get(name)
        return panels.method(methods.list_methods()[name], methods.card(name), reason)

    def budget(self, files: Sequence[Upload], percent: float) -> dict[str, Any]:
        """What the line under the slider is made of: how many visual tokens these pictures become."""
        total = None
        if files:
            blank = [Image.new("RGB", (upload.width, upload.height)) for upload in files]
            with contextlib.suppress(ValueError):  # the sentence comes when it is run
                total = len(self.engine.backbone.prepare(blank, "?").visual)
        return {"total": total, "images": len(files), "keep": percent}

    # ---- running ----

    def run(
        self,
        gallery: Any,
        question: str,
        method: str,
        percent: float,
        options: list[dict[str, Any]],
        longest: float,
        visitor: gr.Request,
    ) -> Iterator[Update]:
        """Answer; a generator of what to show next. Whatever goes wrong is one sentence."""
        stop = threading.Event()
        mine = self._running.setdefault(str(visitor.session_hash), [])
        mine.append(stop)
        try:
            news = self.models.told(method) if self.models.changes else {}
            yield self.parts.update({**news, **BUSY, "status": panels.status("Starting …", busy=True)})
            files, problems = uploads.check(uploads.paths(gallery), self.engine.backbone.max_images)
            if problems:
                left = [upload.path for upload in files]
                yield self.parts.update({"gallery": left, "refused": " ".join(problems)})
            if percent is None:
                raise ValueError("the budget is empty: choose how many percent to keep.")
            if not files:
                raise ValueError("there is no picture that can be used; add one first.")
            request = Request(
                files=files,
                question=(question or "").strip(),
                method=method,
                params=screen.params(options),
                keep=percent / 100,
                longest=round(longest or 0),
            )
            yield from self._answer(request, stop)
        except ValueError as error:
            yield self._over(panels.status(f"Not run: {error}", error=True))
        except Exception as error:
            traceback.print_exc()
            yield self._over(panels.failure(error))
        finally:
            stop.set()
            mine.remove(stop)

    def _answer(self, request: Request, stop: threading.Event) -> Iterator[Update]:
        events: Any = self.engine.stream(
            [upload.path for upload in request.files],
            request.question,
            request.method,
            request.keep,
            request.longest,
            request.params,
            stop=stop,
        )
        asked = self.asked(request.files, request.question)
        done = False
        with contextlib.closing(events):  # frees the model when the visitor is gone
            for values in follow(events, request, self.engine.backbone.eos, asked):
                done = values.pop("done", False)
                yield self.parts.update({**values, **(IDLE if done else {})})
        if not done:
            yield self._over(panels.status("Stopped."))

    def _over(self, status: str) -> Update:
        return self.parts.update({"status": status, **IDLE})

    def asked(self, files: Sequence[Upload], question: str) -> Asked | None:
        """What is known of a question about these pictures: the right answer, and what decides it."""
        return self._known.get((*(upload.digest for upload in files), question))

    @contextlib.contextmanager
    def stoppable(self, visitor: gr.Request) -> Iterator[threading.Event]:
        """Work beside the Run tab: the event is set when it has to end."""
        stop = threading.Event()
        mine = self._beside.setdefault(str(visitor.session_hash), [])
        mine.append(stop)
        try:
            yield stop
        finally:
            mine.remove(stop)

    def halt_run(self, visitor: gr.Request) -> None:
        """What runs in the Run tab ends, and says so itself."""
        for stop in list(self._running.get(str(visitor.session_hash), ())):
            stop.set()

    def halt(self, visitor: gr.Request) -> None:
        """Stop was pressed: whatever runs for a visitor ends, and says so itself."""
        self.halt_run(visitor)
        for stop in list(self._beside.get(str(visitor.session_hash), ())):
            stop.set()

    def leave(self, visitor: gr.Request) -> None:
        """The page was closed."""
        self.halt(visitor)
        self._running.pop(str(visitor.session_hash), None)
        self._beside.pop(str(visitor.session_hash), None)
