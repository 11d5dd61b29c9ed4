"""Pictures of a run, drawn with Pillow: the same look as the map on the screen."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from vtprune.images import open_image
from vtprune.methods import list_methods
from vtprune.types import Run, Stage

View = Literal["kept", "scores"]

PALETTE = (
    "#440154", "#482475", "#414487", "#355f8d", "#2a788e", "#21918c",
    "#22a884", "#44bf70", "#7ad151", "#bddf26", "#fde725",
)  # fmt: skip
"""The viridis colour map, which colour-blind people can read too, at equal distances."""
LOOK = {"heat": 0.78, "dropped": 0.62, "merged": 0.3, "unseen": 0.8, "hatch": 0.3}
"""Opacity of the heat colours, of the veil over what is gone, and of the hatching; the browser's map takes
them from here too."""
VEIL = (22, 26, 36)

PANEL = 460
MARGIN = 20


@dataclass(frozen=True)
class Patches:
    """The patches of one image after one stage. boxes [n, 4] in the upload's pixels. neighbours [n, 4]: the
    place of the patch above, right, below and left of each, or -1. kept, merged [n] bool; scores [n], NaN
    where there is none."""

    boxes: np.ndarray
    neighbours: np.ndarray
    kept: np.ndarray
    merged: np.ndarray
    scores: np.ndarray


def patches(run: Run, image: int, stage: Stage | None) -> Patches:
    """What `stage` did to one image; without a stage everything is kept."""
    kept = np.ones(run.tokens, bool)
    merged = np.zeros(run.tokens, bool)
    scores = np.full(run.tokens, np.nan)
    if stage is not None:
        kept[:] = False
        kept[stage.keep] = True
        merged[stage.merge_cols] = True
        merged &= ~kept
        scores[stage.scored] = stage.scores
    segments = [segment for segment in run.segments if segment.image == image]
    rows = np.concatenate([np.arange(s.start, s.stop) for s in segments])
    neighbours = []
    offset = 0
    for segment in segments:
        height, width = segment.grid
        place = np.full((height + 2, width + 2), -1)
        place[1:-1, 1:-1] = offset + np.arange(segment.length).reshape(height, width)
        around = (place[:-2, 1:-1], place[1:-1, 2:], place[2:, 1:-1], place[1:-1, :-2])
        neighbours.append(np.stack([part.ravel() for part in around], axis=1))
        offset += segment.length
    boxes = np.concatenate([s.boxes.numpy() for s in segments])
    return Patches(boxes, np.concatenate(neighbours), kept[rows], merged[rows], scores[rows])


def draw_map(
    picture: Image.Image, shown: Patches, view: View = "kept", limits: tuple[float, float] | None = None
) -> Image.Image:
    """The picture with what was kept and dropped, or with the scores as a heat map, in its own size.

    limits: the scores that get the first and the last colour; None takes those of this image.
    """
    width, height = picture.size
    boxes = np.rint(shown.boxes).astype(int)
    real = (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])

    def area(which: np.ndarray) -> np.ndarray:
        mask = np.zeros((height, width), bool)
        for x0, y0, x1, y1 in boxes[which & real]:
            mask[y0:y1, x0:x1] = True
        return mask

    original = np.asarray(picture.convert("RGB"), np.float32)
    grey = np.repeat(np.asarray(picture.convert("L"), np.float32)[..., None], 3, axis=2)

    def veiled(state: str) -> np.ndarray:
        return _mix(grey, np.array(VEIL, np.float32), LOOK[state])

    hatched = _mix(veiled("dropped"), 255.0, LOOK["hatch"] * _hatching(width, height))
    out = veiled("unseen")
    if view == "scores" and not np.isnan(shown.scores).all():
        low, high = limits or (float(np.nanmin(shown.scores)), float(np.nanmax(shown.scores)))
        bare = np.isnan(shown.scores)
        out[area(bare)] = hatched[area(bare)]
        for i in np.flatnonzero(real & ~bare):
            x0, y0, x1, y1 = boxes[i]
            share = (shown.scores[i] - low) / (high - low) if high > low else 0.5
            out[y0:y1, x0:x1] = _mix(grey[y0:y1, x0:x1], colour(share), LOOK["heat"])
    else:
        for mask, look in (
            (area(np.ones(len(boxes), bool)), hatched),
            (area(shown.merged), veiled("merged")),
            (area(shown.kept), original),
        ):
            out[mask] = look[mask]
    image = Image.fromarray(out.round().clip(0, 255).astype(np.uint8))
    _outline(image, boxes, real, shown)
    return image


def colour(share: float) -> np.ndarray:
    """[3] float32 RGB of a share in [0, 1] on the palette."""
    stops = np.array([[int(c[i : i + 2], 16) for i in (1, 3, 5)] for c in PALETTE], np.float32)
    place = min(max(share, 0.0), 1.0) * (len(stops) - 1)
    low = min(int(place), len(stops) - 2)
    return stops[low] + (stops[low + 1] - stops[low]) * (place - low)


def render_png(run: Run, images: Sequence[str | os.PathLike[str] | Image.Image]) -> Image.Image:
    """One sheet for a run: each image with what was kept, its scores where there are some, both answers."""
    pictures = [open_image(source) for source in images]
    if [picture.size for picture in pictures] != [(info.width, info.height) for info in run.images]:
        raise ValueError("these are not the pictures of the run: their number or sizes differ.")
    stage = run.stages[-1] if run.stages else None
    limits = (min(stage.scores), max(stage.scores)) if stage and stage.scores else None
    views: list[View] = ["kept", "scores"] if limits else ["kept"]
    scale = [min(1.0, PANEL / max(picture.size)) for picture in pictures]
    heights = [max(1, round(p.height * s)) for p, s in zip(pictures, scale, strict=True)]
    width = MARGIN + len(views) * (PANEL + MARGIN)
    head = _wrapped(f"{run.question}", 22, width - 2 * MARGIN)
    below = [
        f"all {run.tokens} tokens:  {run.full.answer or '(nothing)'}",
        f"{list_methods()[run.method].title}, {_budget(run)}:  {run.pruned.answer or '(nothing)'}",
        f"{run.comparison.summary}",
    ]
    foot = "\n".join(_wrapped(line, 18, width - 2 * MARGIN) for line in below)
    top, bottom = _text_height(head, 22) + 2 * MARGIN, _text_height(foot, 18) + 2 * MARGIN
    sheet = Image.new("RGB", (width, top + sum(h + 44 for h in heights) + bottom), "white")
    draw = ImageDraw.Draw(sheet)
    draw.multiline_text((MARGIN, MARGIN), head, "#111827", font=_font(22), spacing=6)
    y = top
    for index, (picture, factor, height) in enumerate(zip(pictures, scale, heights, strict=True)):
        small = picture.resize((max(1, round(picture.width * factor)), height), Image.Resampling.LANCZOS)
        shown = patches(run, index, stage)
        scaled = Patches(shown.boxes * factor, shown.neighbours, shown.kept, shown.merged, shown.scores)
        captions = {
            "kept": f"{run.images[index].name}: {int(shown.kept.sum())} of {len(shown.kept)} patches kept",
            "scores": f"score: dark {limits[0]:.3g}, bright {limits[1]:.3g}" if limits else "",
        }
        for column, view in enumerate(views):
            x = MARGIN + column * (PANEL + MARGIN)
            sheet.paste(draw_map(small, scaled, view, limits), (x, y))
            draw.text((x, y + height + 6), captions[view], "#374151", font=_font(15))
        y += height + 44
    draw.multiline_text((MARGIN, y + MARGIN), foot, "#111827", font=_font(18), spacing=6)
    return sheet


def _budget(run: Run) -> str:
    if not run.stages:
        return f"all {run.tokens} tokens kept"
    return f"{run.stages[-1].after} of {run.tokens} tokens kept"


def _mix(base: np.ndarray, over: np.ndarray | float, strength: np.ndarray | float) -> np.ndarray:
    return base * (1 - strength) + over * strength


def _hatching(width: int, height: int) -> np.ndarray:
    """[height, width, 1] float32: 1 on diagonal lines, else 0."""
    step = max(6, round(max(width, height) / 80))
    y, x = np.mgrid[:height, :width]
    return ((x + y) % step < max(1, step // 5)).astype(np.float32)[..., None]


def _outline(image: Image.Image, boxes: np.ndarray, real: np.ndarray, shown: Patches) -> None:
    """A white line on a dark one around every group of kept patches."""
    draw = ImageDraw.Draw(image)
    thin = max(2, round(max(image.size) / 350))
    lines = []
    for i in np.flatnonzero(shown.kept & real):
        x0, y0, x1, y1 = (int(value) for value in boxes[i])
        sides = ((x0, y0, x1, y0), (x1, y0, x1, y1), (x0, y1, x1, y1), (x0, y0, x0, y1))
        for neighbour, side in zip(shown.neighbours[i], sides, strict=True):
            if neighbour < 0 or not shown.kept[neighbour]:
                lines.append(side)
    for fill, thickness in (("#11141c", thin + 2 * math.ceil(thin / 2)), ("#ffffff", thin)):
        for line in lines:
            draw.line(line, fill, thickness)


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)


def _wrapped(text: str, size: int, width: int) -> str:
    """The text with line breaks so that no line is wider than `width` pixels."""
    lines, font = [""], _font(size)
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if lines[-1] and font.getlength(longer) > width:
            lines.append(word)
        else:
            lines[-1] = longer
    return "\n".join(lines)


def _text_height(text: str, size: int) -> int:
    return round((text.count("\n") + 1) * (size * 1.2 + 6))
