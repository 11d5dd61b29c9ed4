"""What is where on the page, and which event calls which handler."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gradio as gr

from ui import api, panels, sharing, tour
from ui.handlers import Handlers
from ui.models import Models, Picker
from ui.patchmap import patch_map
from ui.tabs import TABS, Tab
from ui.web import QUIET, SHARED, panel, widget
from vtprune import examples
from vtprune.engine import Engine
from vtprune.examples import Example

DAY = 24 * 60 * 60


def build(
    engine: Engine | Models, bundled: bool = True, recorded: Sequence[Example] | None = None
) -> gr.Blocks:
    """The page for an engine. bundled: whether its model is the one that knows drawn scenes only."""
    handlers = Handlers(engine, examples.load() if recorded is None else recorded, bundled)
    opening = handlers.opening()
    with gr.Blocks(
        title="vtprune", analytics_enabled=False, delete_cache=(60 * 60, DAY), fill_width=True
    ) as page:
        tabs = [tab(handlers) for tab in TABS]
        picker = Picker(handlers)
        _place(handlers, opening, picker, tabs)
        _connect(handlers, page)
        for tab in tabs:
            tab.connect()
        sharing.connect(handlers, picker.connect(page), ["run", *(tab.name for tab in TABS)])
    return page


def _place(handlers: Handlers, opening: dict, picker: Picker, tabs: Sequence[Tab]) -> None:
    part = handlers.parts.known
    part["header"] = panel(panels.header(handlers.models.name, handlers.models.device), "theme")
    widget("tour", "vt-guide", tour.value(handlers.examples), elem_id="vt-guide")
    picker.place()
    part["strip"] = widget("choices", "vt-choices", opening["strip"], elem_classes="vt-strip")
    part["shown"] = gr.State(opening["shown"])
    with gr.Row(elem_classes="vt-main"):
        with gr.Column(elem_classes="vt-card", elem_id="vt-ask"):
            panel("<h2>Ask</h2>")
            part["gallery"] = gr.Gallery(
                opening["gallery"],
                label="Pictures",
                type="filepath",
                interactive=True,
                columns=4,
                height=114,
                object_fit="contain",
                buttons=[],
                allow_preview=False,
                elem_id="vt-gallery",
            )
            part["refused"] = widget("guard", "vt-refused", opening["refused"])
            part["question"] = gr.Textbox(
                opening["question"], label="Question", lines=1, max_lines=4, max_length=2000
            )
            part["chips"] = widget("choices", "vt-choices", opening["chips"], elem_classes="vt-chips")
            part["method"] = gr.Dropdown(
                handlers.models.choices(),
                value=opening["method"],
                label="Pruning method",
                filterable=False,
                elem_id="vt-method",
            )
            part["card"] = panel(opening["card"])
            with gr.Accordion("Options", open=False):
                part["options"] = widget("options", "vt-options", opening["options"])
                part["longest"] = gr.Slider(4, 256, 32, step=4, label="Longest answer, in tokens")
            part["keep"] = gr.Slider(
                1, 100, opening["keep"], step=1, label="Keep, in percent", elem_id="vt-keep"
            )
            part["budget"] = widget("budget", "vt-budget", opening["budget"])
            with gr.Row():
                part["run"] = gr.Button(
                    "Run", variant="primary", scale=3, min_width=60, elem_id="vt-run", elem_classes="vt-once"
                )
                part["stop"] = gr.Button("Stop", interactive=False, scale=2, min_width=60, elem_id="vt-stop")
            part["status"] = panel(opening["status"])
        part["tabs"] = gr.Tabs(elem_id="vt-tabs", overflow_behavior="wrap", render=False)
        with gr.Column(elem_id="vt-results"), part["tabs"].render():
            with gr.Tab("Run", id="run", elem_id="vt-tab-run", render_children=True):
                _place_run(part, opening)
            for tab in tabs:
                with gr.Tab(tab.title, id=tab.name, elem_id=f"vt-tab-{tab.name}", render_children=True):
                    tab.place()


def _place_run(part: dict[str, Any], opening: dict) -> None:
    with gr.Row(elem_classes="vt-both"):
        with gr.Column(elem_classes="vt-card", elem_id="vt-see"):
            panel("<h2>What was kept</h2>")
            part["note"] = panel(opening["note"])
            part["look"] = panel(opening["look"])
            part["map"] = patch_map(opening["map"])
            sharing.place(part, opening["record"])
        with gr.Column(elem_classes="vt-card", elem_id="vt-read"):
            panel("<h2>Answers</h2>")
            part["answers"] = panel(opening["answers"])
            part["tokens"] = widget("tokens", "vt-tokens", opening["tokens"])
    with gr.Column(elem_classes="vt-card"):
        panel("<h2>Cost</h2>")
        with gr.Row(elem_classes="vt-costs"):
            part["chart"] = gr.Plot(opening["chart"], show_label=False, container=False)
            part["numbers"] = panel(opening["numbers"])


def _connect(handlers: Handlers, page: gr.Blocks) -> None:
    api.connect(handlers)  # first, for the page's own events would take its names
    part = handlers.parts
    everything = part.all()
    part["chips"].select(handlers.pick_question, outputs=part["question"], **QUIET)
    # not `input`: it comes twice for one choice, and the second answer would undo an option typed since
    part["method"].change(
        handlers.pick_method,
        [part["method"], part["options"]],
        [part["card"], part["options"]],
        **QUIET,
    )
    part["gallery"].upload(handlers.uploaded, part["gallery"], [part["gallery"], part["refused"]], **QUIET)
    part["gallery"].change(
        handlers.pictures,
        [part["gallery"], part["shown"], part["keep"]],
        [component for component in everything if component is not part["gallery"]],
        **SHARED,
    )
    part["keep"].change(
        None,
        [part["keep"], part["question"], part["method"], part["options"]],
        js="(...inputs) => vtprune.slide(...inputs)",
        **QUIET,
    )
    asked = [part[name] for name in ("gallery", "question", "method", "keep", "options", "longest")]
    running = gr.on(
        [part["run"].click, part["question"].submit],
        handlers.run,
        asked,
        everything,
        concurrency_id="model",
        concurrency_limit=1,
        trigger_mode="once",
        js="(...inputs) => (vtprune.started(), inputs)",
        **QUIET,
    )
    part["strip"].select(handlers.pick_example, outputs=everything, cancels=[running], **QUIET)
    part["stop"].click(handlers.halt, queue=False, js="() => vtprune.stopping()", **QUIET)
    page.unload(handlers.leave)
