"""Learn: the way into the guided tour, and a card for every method."""

from __future__ import annotations

import gradio as gr

from ui import cards, panels, screen
from ui.handlers import Update
from ui.tabs.base import Tab
from ui.web import QUIET, panel, widget
from vtprune import export, methods


class Learn(Tab):
    title, name = "Learn", "learn"

    def place(self) -> None:
        part = self.parts.known
        look = {"palette": list(export.PALETTE), "look": export.LOOK, "veil": list(export.VEIL)}
        known = self.handlers.examples
        with gr.Column(elem_classes="vt-card"):
            panel("<h2>A guided tour</h2>")
            widget("tourSteps", "vt-tour", None, elem_id="vt-tour")
        with gr.Column(elem_classes="vt-card"):
            panel("<h2>The methods</h2>")
            part["cards"] = widget("cards", "vt-cards", cards.value(known), elem_id="vt-cards", **look)

    def connect(self) -> None:
        page = self.handlers.parts
        self.parts["cards"].select(
            self.take,
            outputs=[page[name] for name in ("method", "card", "options", "status")],
            js="(...inputs) => (vtprune.taken(), inputs)",
            **QUIET,
        )

    def take(self, event: gr.EventData) -> Update:
        """A method's “Try it” was pressed: Ask gets it, and nothing is run yet."""
        name = str(event.method)
        if name not in methods.list_methods():  # not from one of our buttons
            return gr.skip()
        words = f"{methods.list_methods()[name].title} is set: press Run to see what it keeps."
        return self.handlers.parts.update(
            {
                "method": name,
                "card": self.handlers.card(name),
                "options": screen.fields(name),
                "status": panels.status(words),
            }
        )
