"""Robustness: the same question, method and budget on pictures that are damaged more and more."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Iterator, Sequence
from typing import Any

import gradio as gr
from gradio import processing_utils
from gradio.utils import get_upload_folder
from PIL import Image

from ui import panels, patchmap, uploads
from ui.handlers import Update
from ui.tabs.base import Inputs, Progress, Tab
from ui.web import SHARED, panel, widget
from vtprune import export, methods
from vtprune.compare import diff_words
from vtprune.perturb import SEVERITIES
from vtprune.robustness import Damaged, holds, robustness
from vtprune.sheets import sheets

KINDS = {"noise": "noise", "blur": "blur", "jpeg": "JPEG", "occlusion": "covered squares"}
HINT = "The question, method and budget of the left side, on pictures that are damaged more and more."
SMALL = 480
"""Longest side in pixels of the damaged pictures that the browser is sent."""

Values = dict[str, Any]


class Robustness(Tab):
    title, name = "Robustness", "robustness"

    def place(self) -> None:
        part = self.parts.known
        look = {"palette": list(export.PALETTE), "look": export.LOOK, "veil": list(export.VEIL)}
        with gr.Column(elem_classes="vt-card"):
            panel("<h2>When the pictures get worse</h2>")
            part["kind"] = gr.Radio(
                [(_sentence(title), name) for name, title in KINDS.items()],
                value="noise",
                label="Damage",
                elem_id="vt-robustness-kind",
            )
            self.buttons("Damage and ask", HINT)
            part["grid"] = widget("robustness", "vt-robustness", EMPTY, elem_id="vt-robustness", **look)

    def connect(self) -> None:
        self.starts(self.run, ["kind"])
        self.handlers.parts["shown"].change(self.clear, outputs=self.parts.all(), **SHARED)

    def clear(self) -> Update:
        """Other pictures are shown: what was found belongs to them no more."""
        return self.parts.update({"grid": EMPTY, "status": panels.status(HINT)})

    def run(self, inputs: Inputs, kind: str, stop: threading.Event) -> Iterator[Values]:
        """Start was pressed: the clean pictures, then a severity after the other."""
        found: list[Damaged] = []
        rows: list[Values] = []
        each = robustness(
            self.handlers.engine,
            inputs.paths,
            inputs.question,
            inputs.method,
            inputs.percent / 100,
            kind,
            inputs.longest,
            inputs.params[inputs.method],
            evidence=inputs.evidence,
            stop=stop,
        )
        progress = Progress(1 + len(SEVERITIES))
        for damaged in each:
            found.append(damaged)
            rows.append(row(damaged, found[0]))
            line = progress.step("Asking")
            yield {"grid": value(inputs, kind, found, rows), "status": line}
        if not stop.is_set():
            yield {"status": panels.status(f"Done: {outcome(found)}")}


EMPTY: Values = {**patchmap.EMPTY, "question": "", "truth": "", "about": "", "outcome": "", "rows": []}


def value(inputs: Inputs, kind: str, found: Sequence[Damaged], rows: Sequence[Values]) -> Values:
    """What the component draws. images: the clean pictures; rows: clean first, each with its own."""
    run = found[0].run
    infos = [
        dataclasses.replace(info, name=mine.name) for info, mine in zip(run.images, inputs.infos, strict=True)
    ]
    over = len(found) == 1 + len(SEVERITIES)
    return {
        **patchmap.value(inputs.pictures, infos, run.segments, evidence=inputs.evidence),
        "question": inputs.question,
        "truth": inputs.asked.answer if inputs.asked else "",
        "about": f"{methods.list_methods()[inputs.method].title} keeping {inputs.percent:g} %, {KINDS[kind]}",
        "outcome": _sentence(outcome(found)) if over else "",
        "rows": list(rows),
    }


def row(damaged: Damaged, clean: Damaged) -> Values:
    """One severity. words: of each answer, with those marked that differ from the clean one."""
    run, stage = damaged.run, damaged.run.stages[-1:]
    served = [_served(picture) for picture in damaged.pictures]
    blended = bool(stage and stage[0].merge_rows)
    return {
        "severity": damaged.severity,
        "files": [served[sheet.image] for sheet in sheets(run.segments)],
        "keep": stage[0].keep if stage else list(range(run.tokens)),
        "blended": patchmap.absorbers(stage[0], run.tokens) if blended else None,
        "tokens": f"{run.pruned.cost.mean_tokens:.4g} of {run.tokens}",
        "evidence": damaged.evidence,
        "full": {"words": _words(clean.run.full.answer, run.full.answer), "holds": damaged.full},
        "pruned": {"words": _words(clean.run.answer, run.answer), "holds": damaged.pruned},
    }


def _words(before: str, now: str) -> list[tuple[str, bool]]:
    return diff_words(before, now)[1]


def _served(picture: Image.Image) -> Values:
    small = picture.copy()
    small.thumbnail((SMALL, SMALL))
    return uploads.served(
        processing_utils.save_pil_to_cache(small, cache_dir=get_upload_folder(), format="webp")
    )


def outcome(found: Sequence[Damaged]) -> str:
    """How far the two answers hold, as a sentence."""
    pruned, full = holds(found, "pruned"), holds(found, "full")
    at_once = f"at severity {SEVERITIES[0]} already"
    if pruned == full:
        return f"both answers {f'hold up to severity {full}' if full else f'change {at_once}'}."
    if not full:
        return f"the full answer changes {at_once}, the pruned one holds up to severity {pruned}."
    if not pruned:
        return f"the pruned answer changes {at_once}, the full one holds up to severity {full}."
    return f"the pruned answer holds up to severity {pruned}, the full one up to {full}."


def _sentence(words: str) -> str:
    return f"{words[0].upper()}{words[1:]}"
