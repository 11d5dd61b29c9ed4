"""The patch map: one component that draws pictures with what was kept of them.

Its value is plain data, made here; assets/web/patchmap.js draws it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gradio as gr

from ui.web import widget
from vtprune import export
from vtprune.sheets import Sheet, sheets
from vtprune.types import ImageInfo, Segment, Stage

PLACES = {"vision": "after the vision encoder", "projected": "after the projector"}


def patch_map(value: dict[str, Any], name: str = "main", **more: Any) -> gr.HTML:
    """The component. name: how other scripts of the page reach it (`vtprune.maps[name]`)."""
    look = {"palette": list(export.PALETTE), "look": export.LOOK, "veil": list(export.VEIL)}
    return widget("patchmap", "vt-map", value, name=name, **look, **more)


def value(
    files: Sequence[dict[str, Any]],
    infos: Sequence[ImageInfo],
    segments: Sequence[Segment] = (),
    stages: Sequence[Stage] = (),
    *,
    nested: bool = False,
    request: Sequence[Any] = (),
    percent: float | None = None,
    evidence: Sequence[tuple[int, Sequence[float]]] = (),
    layers: Sequence[int] = (),
) -> dict[str, Any]:
    """What the component draws: a map of every picture, or two where its tokens lie over one another (see
    vtprune.sheets), each named after the picture it is `of`.

    files: the pictures as Gradio serves them. infos: name and size of the uploads. nested: a prefix of the
    order is the selection for its length, so the browser may replay other budgets. request: [question,
    method, parameters] and percent: the inputs that the stages belong to. evidence: (image, box in shares).
    layers: visual tokens alive in each layer of the language model, for the scrubber; none, no scrubber.
    """
    total = sum(segment.length for segment in segments)
    drawn = sheets(segments) or [Sheet(image, ()) for image in range(len(infos))]
    return {
        "images": [_image(sheet, files[sheet.image], infos[sheet.image]) for sheet in drawn],
        "pictures": len(infos),
        "segments": [
            _segment(segment, place, infos[segment.image])
            for place, sheet in enumerate(drawn)
            for segment in sheet.segments
        ],
        "stages": [_stage(stage, total) for stage in stages],
        "total": total,
        "nested": nested,
        "request": list(request),
        "percent": percent,
        "evidence": framed(drawn, evidence),
        "layers": list(layers),
    }


def framed(drawn: Sequence[Sheet], evidence: Sequence[tuple[int, Sequence[float]]]) -> list[list[float]]:
    """[place of the map, x0, y0, x1, y1] of every box, on all maps of its picture."""
    places = list(enumerate(drawn))
    return [[place, *box] for image, box in evidence for place, sheet in places if sheet.image == image]


EMPTY = value((), ())


def _image(sheet: Sheet, file: dict[str, Any], info: ImageInfo) -> dict[str, Any]:
    name = sheet.title(info.name)
    return {"file": file, "name": name, "of": sheet.image, "width": info.width, "height": info.height}


def _segment(segment: Segment, place: int, info: ImageInfo) -> dict[str, Any]:
    sides = segment.boxes.new_tensor([info.width, info.height] * 2)
    boxes = (segment.boxes.double() / sides).flatten().tolist()
    return {
        "image": place,
        "start": segment.start,
        "rows": segment.grid[0],
        "cols": segment.grid[1],
        "boxes": [round(edge, 5) for edge in boxes],
    }


def _stage(stage: Stage, total: int) -> dict[str, Any]:
    scores: list[float | None] | None = None
    if stage.scored:
        scores = [None] * total
        for token, score in zip(stage.scored, stage.scores, strict=True):
            scores[token] = score
    return {
        "name": stage.name,
        "label": PLACES.get(stage.name, f"before LLM layer {stage.layer}"),
        "layer": stage.layer,
        "after": stage.after,
        "keep": stage.keep,
        "order": stage.order,
        "scores": scores,
        "merges": merges(stage),
    }


def merges(stage: Stage) -> list[int]:
    """Who went into whom as target, source, target, source, …, the heaviest first. target -1: a new token."""
    parts = sorted(
        zip(stage.merge_weights, stage.merge_rows, stage.merge_cols, strict=True), key=lambda part: -part[0]
    )
    found: list[int] = []
    for _, row, source in parts:
        target = stage.keep[row] if row < len(stage.keep) else -1
        found += [target, source] if target != source else []
    return found


def absorbers(stage: Stage, total: int) -> list[int]:
    """For each token the kept one that took most of it, or -1."""
    into, most = [-1] * total, [0.0] * total
    for row, token, weight in zip(stage.merge_rows, stage.merge_cols, stage.merge_weights, strict=True):
        if row < len(stage.keep) and weight > most[token]:
            into[token], most[token] = stage.keep[row], weight
    return into
