"""The app: one page where pruning can be seen."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gradio as gr
from fastapi.routing import APIRoute

from ui import api
from ui.layout import build
from ui.models import Models
from ui.web import script, style
from vtprune import __version__, load
from vtprune.images import MAX_BYTES

__all__ = ["build", "launch", "serve"]

LOCAL = ("127.0.0.1", "localhost", "::1")
"""Hosts that only this machine reaches."""
FONT = ["system-ui", "-apple-system", "Segoe UI", "Roboto", "sans-serif"]
MONO = ["ui-monospace", "Menlo", "Consolas", "monospace"]


def launch(
    model: str | None = None,
    device: str = "auto",
    host: str = "127.0.0.1",
    port: int = 7860,
    share: bool = False,
    dtype: str = "auto",
    clip: str | None = None,
    quantize: str | None = None,
    mcp: bool = False,
) -> None:
    """Load a model (None: the bundled one) and serve the page until interrupted.

    Raises vtprune.LoadError with one sentence when the model cannot be had, OSError when the port is taken.
    """
    if mcp:
        api.require_mcp()
    print(f"Loading {model or 'the bundled model'} …", flush=True)
    options: dict[str, Any] = {"device": device, "dtype": dtype, "quantize": quantize}
    engine = load(model, clip=clip, **options)
    fixed = share or host not in LOCAL
    models = Models(engine, bundled=model is None, clip=clip, fixed=fixed, **options)
    serve(build(models), lambda: models.name, host=host, port=port, share=share, mcp_server=mcp)


def serve(page: gr.Blocks, model: str | Callable[[], str], **options: Any) -> Any:
    """Serve a page with our settings; Gradio's defaults are open where these are not.

    model: what /health says of it. options: host, port, share, and anything else that `Blocks.launch` takes.
    """

    def health() -> dict[str, Any]:
        return {"ok": True, "model": model if isinstance(model, str) else model(), "version": __version__}

    page.queue(max_size=32, default_concurrency_limit=4)
    return page.launch(
        server_name=options.pop("host", "127.0.0.1"),
        server_port=options.pop("port", 7860),
        share=options.pop("share", False),
        max_file_size=MAX_BYTES,
        state_session_capacity=200,
        run_history=False,
        enable_monitoring=False,
        ssr_mode=False,
        pwa=False,
        footer_links=[],
        app_kwargs={"routes": [APIRoute("/health", health)]},
        theme=theme(),
        css=style(),
        head=script(),
        **options,
    )


def theme() -> gr.themes.Base:
    """Calm colours, system fonts: nothing is fetched from elsewhere."""
    return gr.themes.Base(
        primary_hue="teal", neutral_hue="slate", font=FONT, font_mono=MONO, radius_size="md"
    ).set(
        body_background_fill="#f3f5f8",
        body_background_fill_dark="#0e121a",
        button_primary_background_fill="#0f766e",
        button_primary_background_fill_dark="#0f766e",
        button_primary_background_fill_hover="#115e59",
        button_primary_background_fill_hover_dark="#115e59",
        input_border_width="1px",
        **{
            f"block_{name}{theme}": value
            for theme in ("", "_dark")
            for name, value in (
                ("border_width", "0px"),
                ("background_fill", "transparent"),
                ("label_background_fill", "transparent"),
                ("label_text_color", "*body_text_color"),
                ("title_text_color", "*body_text_color"),
            )
        },
    )
