"""The page's own style and script, served from this machine."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import gradio as gr

from vtprune.assets import assets_dir

QUIET: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
SHARED: dict[str, Any] = {**QUIET, "trigger_mode": "multiple"}
"""For a change that several listeners wait for. Gradio's own choice for changes, "always_last", answers one
that comes too early by calling all its listeners again, so that two of them would set each other off for
ever."""

STYLES = (
    "inputs.css",
    "patchmap.css",
    "results.css",
    "answers.css",
    "models.css",
    "tabs.css",
    "painting.css",
    "robustness.css",
    "learn.css",
    "tour.css",
    "page.css",
)
SCRIPTS = (
    "tools.js",
    "paint.js",
    "pointing.js",
    "scrubber.js",
    "blending.js",
    "patchmap.js",
    "tabs.js",
    "comparison.js",
    "robustness.js",
    "patchset.js",
    "painting.js",
    "sweep.js",
    "answers.js",
    "share.js",
    "models.js",
    "learn.js",
    "touring.js",
    "tour.js",
    "app.js",
)


@cache
def style() -> str:
    """The text of the style sheets."""
    return _joined(STYLES)


@cache
def script() -> str:
    """A script element with everything the components call, for the head of the page."""
    return f"<script>{_joined(SCRIPTS)}</script>"


def _joined(names: Sequence[str]) -> str:
    return "\n".join((assets_dir() / "web" / name).read_text("utf-8") for name in names)


def widget(function: str, host: str, value: Any, **more: Any) -> gr.HTML:
    """A component that is drawn in the browser by `vtprune.<function>` into an element of class `host`.

    The template never contains the value: Gradio runs templates as code, and values come from uploads.
    """
    return gr.HTML(
        value,
        html_template=f'<div class="{host}"></div>',
        js_on_load=f"vtprune.{function}(element, props, watch, trigger)",
        apply_default_css=False,
        **more,
    )


def panel(value: str, function: str = "", **more: Any) -> gr.HTML:
    """A component that shows HTML made on the server, and calls `vtprune.<function>` on it once."""
    call = (
        {"js_on_load": f"vtprune.{function}(element)", "head": script()} if function else {"js_on_load": None}
    )
    return gr.HTML(value, apply_default_css=False, **call, **more)
