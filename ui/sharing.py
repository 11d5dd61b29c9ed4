"""Taking something away: a link to what the page is set to, the map, the report, and the run itself."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Sequence
from typing import Any

import gradio as gr
from gradio import processing_utils
from gradio.utils import get_upload_folder

from ui import links, panels, screen, uploads
from ui.handlers import Handlers, Update
from ui.models import BY_HAND
from ui.screen import Record
from ui.web import QUIET, widget
from vtprune import export, methods
from vtprune.report import render_html

NOTHING = "There is no run to save yet: press Run first."
EMPTY: dict[str, Any] = {"file": None, "name": "", "said": ""}
LINKED = ("strip", "gallery", "question", "method", "keep", "options", "models")
"""The parts whose values make a link, in the order that vtprune.copyLink takes them."""


def place(part: dict[str, Any], record: Record | None) -> None:
    """The row of buttons under the map. part: the page's parts by name, which the new ones join."""
    with gr.Row(elem_classes="vt-share", elem_id="vt-share"):
        for name, label in (
            ("link", "Copy link"),
            ("png", "Save map, PNG"),
            ("html", "Save report, HTML"),
            ("json", "Save run, JSON"),
        ):
            part[name] = gr.Button(label, size="sm", min_width=90, elem_id=f"vt-{name}")
    part["saved"] = widget("saved", "vt-saved", EMPTY)
    part["record"] = gr.State(record)


def connect(handlers: Handlers, opened: Any, tabs: Sequence[str]) -> None:
    """What the buttons do, and what an address with a query opens. opened: the event of an opened page, after
    which the link has the last word. tabs: their names."""
    part = handlers.parts
    part["link"].click(
        None,
        [part[name] for name in LINKED],
        js="(...inputs) => vtprune.copyLink(...inputs)",
        **QUIET,
    )
    for name, save in (("png", png), ("html", report), ("json", run_json)):
        part[name].click(
            _saving(save),
            [part["record"], part["saved"]],
            part["saved"],
            concurrency_id="export",
            concurrency_limit=1,
            js="(record) => [record, vtprune.looking()]",
            **QUIET,
        )

    part["strip"].select(None, outputs=part["made"], js="() => ''", **QUIET)  # the link is left behind

    def restore(visitor: gr.Request) -> Update:
        """The page was opened with a query: set what it asks for."""
        link = links.read(dict(visitor.query_params), handlers.examples, tabs)
        return part.update(linked(handlers, link)) if link else gr.skip()

    opened.then(restore, outputs=part.all(), **QUIET)


# ---- files ----


def _saving(
    save: Callable[[Record, Any], tuple[bytes, str]],
) -> Callable[[Record | None, Any], dict[str, Any]]:
    """An event that offers a file; what goes wrong is one sentence."""

    def event(record: Record | None, looking: Any) -> dict[str, Any]:
        if record is None:
            return {**EMPTY, "said": NOTHING}
        try:
            data, name = save(record, looking if isinstance(looking, dict) else {})
        except ValueError as error:
            return {**EMPTY, "said": f"Not saved: {error}"}
        path = processing_utils.save_bytes_to_cache(data, name, get_upload_folder())
        return {"file": uploads.served(path), "name": name, "said": f"Saved {name}."}

    return event


def png(record: Record, looking: dict[str, Any]) -> tuple[bytes, str]:
    """The map as it is on the screen, in the pictures' own size. looking: {view, selection, first}."""
    view: Any = looking.get("view")
    if view not in export.VIEWS:
        view = "kept"
    stage = export.reached(record.run, _whole(looking.get("selection"), -1), _whole(looking.get("first"), 1))
    buffer = io.BytesIO()
    export.render_map(record.run, record.files, view, stage, record.evidence).save(buffer, "PNG")
    return buffer.getvalue(), f"{_name(record)}.png"


def report(record: Record, looking: dict[str, Any]) -> tuple[bytes, str]:
    """Everything in one file that needs nothing else."""
    return render_html(record.run, record.files, record.evidence).encode(), f"{_name(record)}.html"


def run_json(record: Record, looking: dict[str, Any]) -> tuple[bytes, str]:
    """The run, for `vtprune render` and `vtprune.Run.from_json`."""
    return record.run.to_json().encode(), f"{_name(record)}.json"


def _whole(value: Any, least: int) -> int | None:
    """A whole number that the browser sent, or None."""
    return max(least, value) if isinstance(value, int) and not isinstance(value, bool) else None


def _name(record: Record) -> str:
    """A name for a file: the first picture and the method."""
    stem = record.run.images[0].name.rsplit(".", 1)[0]
    plain = re.sub(r"[^A-Za-z0-9]+", "-", stem).strip("-")[:40]
    return f"{plain or 'picture'}-{record.run.method}"


# ---- links ----


def linked(handlers: Handlers, link: links.Link) -> dict[str, Any]:
    """The page as a link asks for it."""
    if link.own or not handlers.examples:
        values = handlers.blank()
    else:
        values = handlers.example(link.example or next(iter(handlers.examples)))
    before = _asked(values)
    if link.question is not None:
        values["question"] = link.question
    method = link.method or values["method"]
    if link.method or link.params:
        values |= {
            "method": method,
            "card": handlers.card(method),
            "options": screen.fields(method, {**_defaults(method, values), **link.params}),
        }
    files = [uploads.opened(path) for path in values["gallery"]]
    if link.percent is not None:
        values |= {"keep": link.percent, "budget": handlers.budget(files, link.percent)}
    words = "Opened from a link."
    if _asked(values) != before and files:
        values |= screen.of_pictures(files)
        words = "Opened from a link: press Run for its answers."
    if link.own:
        words = (
            "Opened from a link to somebody's own pictures, which are not part of it: add yours, press Run."
        )
    values["status"] = panels.status(words)
    if link.problems:
        told = "; ".join(link.problems)
        values["status"] = panels.status(
            f"Part of this link could not be used, and stays as it was: {told}.", error=True
        )
    if link.tab:
        values["tabs"] = gr.update(selected=link.tab)
    if method in BY_HAND:  # which the list does not offer
        values["method"] = gr.update(value=method, choices=handlers.models.choices(method))
    used = handlers.models
    if link.model and link.model != used.id:
        values["made"] = panels.made_with(link.model, used.name, used.fixed)
        if not used.fixed:
            values["model"] = link.model  # to be loaded by a press of a button, never by a link
    return values


def _asked(values: dict[str, Any]) -> list[Any]:
    return [values["question"], values["method"], screen.params(values["options"]), values["keep"]]


def _defaults(method: str, values: dict[str, Any]) -> dict[str, Any]:
    """The parameters that an example set, when a link asks for its method."""
    if values["method"] != method:
        return {}
    return {**methods.list_methods()[method].params, **screen.params(values["options"])}
