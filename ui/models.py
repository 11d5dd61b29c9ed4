"""The model in use, which all visitors share, and the part of the page where another one is chosen."""

from __future__ import annotations

import gc
import threading
import traceback
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import gradio as gr
import torch

from ui import links, panels, uploads
from ui.web import QUIET, panel, widget
from vtprune import LoadError, methods, models
from vtprune.backbones import BUNDLED, Found, build, find, fitting
from vtprune.engine import Engine

if TYPE_CHECKING:
    from ui.handlers import Handlers

Update = dict[Any, Any]

Tell = Callable[[str, Callable[[], float] | None], None]

BY_HAND = ("picked",)
"""Methods that are told which tokens to keep, which only Paint does; without that they draw by lot."""


class Models:
    """Holds one model at a time. options: device, dtype and quantize, for those that are loaded later; clip:
    the companion of the first one. fixed: nobody may switch, for the page is open to strangers,
    who must not fill this machine's disk and memory, nor learn which folders it has."""

    def __init__(
        self, engine: Engine, bundled: bool, clip: str | None = None, fixed: bool = False, **options: Any
    ) -> None:
        self._options, self._busy, self._fixed = options, threading.Lock(), fixed
        self.changes = 0
        self._take(engine, None if bundled else engine.name, clip)

    def _take(self, engine: Engine, id: str | None, clip: str | None) -> None:
        self.engine, self.id, self._clip, self.empty = engine, id, clip, False
        self.public = links.public(id)
        self._bytes = sum(weight.nbytes for weight in engine.backbone.model.parameters())
        self.max_images = engine.backbone.max_images  # known while the next one is being loaded, too
        self.reasons = {name: engine.supports(name) for name in methods.list_methods()}
        place = f"{engine.backbone.device} · {str(engine.backbone.dtype).removeprefix('torch.')}"
        self.device = f"{place} · {self._options['quantize']}" if self._options.get("quantize") else place

    @property
    def name(self) -> str:
        return self.engine.name

    @property
    def bundled(self) -> bool:
        """Whether it is the model that knows drawn scenes only."""
        return self.id is None

    @property
    def fixed(self) -> bool:
        """Whether nobody may switch."""
        return self._fixed

    def told(self, method: str) -> dict[str, Any]:
        """The least a page has to know of a model that someone else may have chosen. method: the page's."""
        return {
            "header": panels.header(self.name, self.device),
            "method": gr.update(choices=self.choices(method)),
        }

    def choices(self, chosen: str = "") -> list[tuple[str, str]]:
        """The methods to offer, those marked that this model cannot run. chosen: listed in any case."""
        reasons = self.reasons
        return [
            (f"{info.title} (not with this model)" if reasons.get(name) else info.title, name)
            for name, info in methods.list_methods().items()
            if name not in BY_HAND or name == chosen
        ]

    def uses(self, id: str | None, clip: str | None) -> bool:
        """Whether this is the model in use, with this companion (None: whichever it has)."""
        return id == self.id and clip in (None, self._clip) and not self.empty

    def switch(self, id: str | None, tell: Tell, clip: str | None = None) -> None:
        """Take another model (None: the bundled one) instead; the old one goes before the new one comes.

        clip: its CLIP companion, as in vtprune.load. tell: hears what is being done. Raises LoadError with
        one sentence, and then the old one is in use.
        """
        if self._fixed:
            raise LoadError(
                "this page is open to other machines, so its model stays the one that it was started with: "
                "python app.py --model …"
            )
        if not self._busy.acquire(blocking=False):
            raise LoadError("another model is being loaded just now; wait until it is there.")
        try:
            self._switch(id, tell, clip)
        finally:
            self._busy.release()

    def _switch(self, id: str | None, tell: Tell, clip: str | None) -> None:
        tell(f"Looking for {id or BUNDLED}", None)
        found = find(id, tell=tell, fits=fitting(**self._options, spare=self._bytes))
        tell(f"Waiting for {self.name} to finish", None)
        self.engine.close()
        self.empty, self._bytes = True, 0
        try:
            tell(f"Loading {found.name}", None)
            self._load(found, id, clip)
            self.changes += 1
            return
        except LoadError as error:
            problem = str(error)
        # out of the except clause, so that nothing of the failed model is held by its traceback
        try:
            tell(f"Loading {self.name} again", None)
            self._load(find(self.id), self.id, self._clip)
        except LoadError as error:
            raise LoadError(f"{problem} Nor does {self.name} load again: choose another one.") from error
        raise LoadError(f"{problem} {self.name} is in use as before.")

    def _load(self, found: Found, id: str | None, clip: str | None) -> None:
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        self._take(Engine(build(found, clip=clip, **self._options)), id, clip)


class Picker:
    """The table of models and a field for any other, above the tabs."""

    def __init__(self, handlers: Handlers) -> None:
        self.handlers, self.models = handlers, handlers.models

    def place(self) -> None:
        """Creates the parts."""
        part = self.handlers.parts.known
        with gr.Accordion("Choose another model", open=False, elem_id="vt-models"):
            part["models"] = widget("models", "vt-models", self._table())
            with gr.Row(elem_classes="vt-other"):
                part["model"] = gr.Textbox(
                    label="Another model: its folder on the server, or its id on the Hugging Face hub",
                    max_length=500,
                    scale=4,
                    min_width=280,
                    elem_id="vt-model",
                )
                part["clip"] = gr.Textbox(
                    label="A CLIP companion for the next model: a folder, or such as ViT-L-14-336:openai",
                    max_length=500,
                    scale=4,
                    min_width=280,
                    elem_id="vt-clip",
                )
                part["load"] = gr.Button(
                    "Load", scale=1, min_width=60, elem_id="vt-load", elem_classes="vt-once"
                )
            part["loading"] = panel("")
            part["refusals"] = panel(self._refusals())
        part["made"] = panel("", "madeWith", elem_id="vt-made")

    def connect(self, page: gr.Blocks) -> Any:
        """Connects the events; loading waits its turn among the runs. -> The event of an opened page."""
        part = self.handlers.parts
        model = {"concurrency_id": "model", "concurrency_limit": 1, "trigger_mode": "once"}
        seen = [part["method"], part["gallery"], part["keep"]]
        other = [part["model"], part["clip"], *seen]
        everything = part.all()
        for trigger in (part["models"].select, part["load"].click, part["model"].submit, part["clip"].submit):
            trigger(self.handlers.halt, queue=False, **QUIET)  # whoever switches does not wait for own runs
        part["models"].select(self.pick, [part["clip"], *seen], everything, **model, **QUIET)
        gr.on(
            [part["load"].click, part["model"].submit, part["clip"].submit],
            self.type,
            other,
            everything,
            **model,
            **QUIET,
        )
        return page.load(self.arrive, seen, everything, **QUIET)

    def pick(
        self, clip: str, method: str, gallery: Any, percent: float, event: gr.EventData
    ) -> Iterator[Update]:
        """A model of the table was chosen; the bundled one has its own companion."""
        yield from self.load(event.id or None, _name(clip) if event.id else None, method, gallery, percent)

    def type(self, name: str, clip: str, method: str, gallery: Any, percent: float) -> Iterator[Update]:
        """A folder or an id was typed."""
        model = _name(name)
        if model:
            yield from self.load(model, _name(clip), method, gallery, percent)
        else:
            yield self._said(panels.status("Type a folder or an id first.", error=True))

    def load(
        self, id: str | None, clip: str | None, method: str, gallery: Any, percent: float
    ) -> Iterator[Update]:
        """Switch, and say how it goes; a generator of what to show next."""
        if self.models.uses(id, clip):
            yield self._said(panels.status(f"{self.models.name} is in use already."))
            return
        latest: list[Any] = [f"Looking for {id or BUNDLED}", None]
        problems: list[str] = []

        def tell(text: str, share: Callable[[], float] | None) -> None:
            latest[:] = text, share

        def work() -> None:
            try:
                self.models.switch(id, tell, clip)
            except LoadError as error:
                problems.append(str(error))
            except Exception as error:
                traceback.print_exc()
                problems.append(f"Something went wrong while loading it ({type(error).__name__}: {error}).")

        worker = threading.Thread(target=work, daemon=True)  # goes on to its end, should the visitor leave
        worker.start()
        while worker.is_alive():
            text, share = latest
            yield self._said(panels.status(f"{text} …", share() if share else None, busy=True))
            worker.join(0.3)
        text = f"Not loaded: {problems[0]}" if problems else f"{self.models.name} is in use."
        said = panels.status(text, error=bool(problems))
        news = {**self.shown(method, gallery, percent), "loading": said}
        if not problems:
            news["made"] = ""  # whoever loads a model knows which one answers
        yield self.handlers.parts.update(news)

    def arrive(self, method: str, gallery: Any, percent: float) -> Any:
        """A page was opened: it may have been made before the model was changed."""
        if not self.models.changes:
            return gr.skip()
        return self.handlers.parts.update(self.shown(method, gallery, percent))

    def shown(self, method: str, gallery: Any, percent: float) -> dict[str, Any]:
        """All that depends on the model in use."""
        files, _ = uploads.check(uploads.paths(gallery), self.models.max_images)
        return {
            **self.models.told(method),
            "models": self._table(),
            "refusals": self._refusals(),
            "card": self.handlers.card(method),
            "note": self.handlers.note(files),
            "budget": self.handlers.budget(files, percent),
        }

    def _table(self) -> dict[str, Any]:
        rows = [{"id": model.id or "", "cells": model.row(), "note": model.note} for model in models.MODELS]
        return {
            "head": models.HEAD,
            "rows": rows,
            "used": None if self.models.empty else self.models.id or "",
            "public": self.models.public or "",
            "foot": models.FOOT,
        }

    def _refusals(self) -> str:
        grouped: dict[str, list[str]] = {}
        for name, reason in self.models.reasons.items():
            if reason:
                grouped.setdefault(reason, []).append(methods.list_methods()[name].title)
        return panels.refusals(grouped)

    def _said(self, status: str) -> Update:
        return self.handlers.parts.update({"loading": status})


def _name(typed: str | None) -> str | None:
    """What a person typed, or None for nothing."""
    return (typed or "").strip() or None
