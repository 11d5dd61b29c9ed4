"""Pictures of a run, drawn with Pillow: the same look as the map on the screen."""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Literal, get_args

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from vtprune.images import open_image
from vtprune.methods import list_methods
from vtprune.sheets import sheets
from vtprune.types import Run, Stage

View = Literal["kept", "scores", "order", "picture"]
VIEWS: tuple[View, ...] = get_args(View)

PALETTE = (
    "#440154", "#482475", "#414487", "#355f8d", "#2a788e", "#21918c",
    "#22a884", "#44bf70", "#7ad151", "#bddf26", "#fde725",
)  # fmt: skip
"""The viridis colour map, which colour-blind people can read too, at equal distances."""
LOOK = {"heat": 0.78, "dropped": 0.62, "merged": 0.3, "unseen": 0.8, "hatch": 0.3}
"""Opacity of the heat colours, of the veil over what is gone, and of the hatching; the browser's map takes
them from here too."""
VEIL = (22, 26, 36)

EVIDENCE = ("#11141c", "#ffd166")
"""The dashed frame around what decides the answer: the dark line and the dashes on it."""

PANEL = 460
MARGIN = 20
BAND = 512
"""Rows of a picture that are worked on at a time; floats of 40 megapixels at once would take gigabytes."""
LARGEST = 80_000_000
"""Pixels of a map of several pictures, beyond which all of them are made smaller."""


@dataclass(frozen=True)
class Patches:
    """The patches of one map after one stage. boxes [n, 4] in the upload's pixels. neighbours [n, 4]: the
    place of the patch above, right, below and left of each, or -1. kept, merged [n] bool; scores, ranks [n],
    NaN where there is none."""

    boxes: np.ndarray
    neighbours: np.ndarray
    kept: np.ndarray
    merged: np.ndarray
    scores: np.ndarray
    ranks: np.ndarray


def patches(run: Run, number: int, stage: Stage | None) -> Patches:
    """What `stage` did to the tokens of one map, by its number among `sheets(run.segments)`; without a stage
    everything is kept."""
    kept = np.ones(run.tokens, bool)
    merged = np.zeros(run.tokens, bool)
    scores, ranks = np.full(run.tokens, np.nan), np.full(run.tokens, np.nan)
    if stage is not None:
        kept[:] = False
        kept[stage.keep] = True
        merged = _blended(run, stage)
        scores[stage.scored] = stage.scores
        ranks[stage.order or []] = np.arange(len(stage.order or []))
    segments = sheets(run.segments)[number].segments
    rows = np.concatenate([np.arange(s.start, s.stop) for s in segments])
    around = []
    offset = 0
    for segment in segments:
        height, width = segment.grid
        place = np.full((height + 2, width + 2), -1)
        place[1:-1, 1:-1] = offset + np.arange(segment.length).reshape(height, width)
        sides = (place[:-2, 1:-1], place[1:-1, 2:], place[2:, 1:-1], place[1:-1, :-2])
        around.append(np.stack([part.ravel() for part in sides], axis=1))
        offset += segment.length
    boxes = np.concatenate([s.boxes.numpy() for s in segments])
    neighbours = np.concatenate(around)
    return Patches(boxes, neighbours, kept[rows], merged[rows], scores[rows], ranks[rows])


def _blended(run: Run, stage: Stage) -> np.ndarray:
    """[N] bool: the tokens that are gone after `stage`, but part of one that is kept. A token may have gone
    into one that a later selection took into another."""
    alive = np.zeros(run.tokens, bool)
    alive[stage.keep] = True
    before = list(takewhile(lambda one: one.name != stage.name, run.stages))
    for one in (stage, *reversed(before)):
        kept = set(one.keep)
        pairs = zip(one.merge_rows, one.merge_cols, strict=True)
        taken = [
            token
            for row, token in pairs
            if token not in kept and (row >= len(one.keep) or alive[one.keep[row]])
        ]
        alive[taken] = True
    alive[stage.keep] = False
    return alive


def reached(run: Run, selection: int | None = None, first: int | None = None) -> Stage | None:
    """The stage to draw. selection: its index, the last one by default, -1 before any. first: instead of what
    was kept, that many tokens from the beginning of its order, as the slider replays another budget."""
    selection = len(run.stages) - 1 if selection is None else selection
    if selection < 0:
        return None
    stage = run.stages[min(selection, len(run.stages) - 1)]
    if first is None or not stage.order:
        return stage
    kept = sorted(stage.order[:first])
    return dataclasses.replace(
        stage, keep=kept, after=len(kept), merge_rows=[], merge_cols=[], merge_weights=[]
    )


def draw_map(
    picture: Image.Image,
    shown: Patches,
    view: View = "kept",
    limits: tuple[float, float] | None = None,
    evidence: Sequence[Sequence[float]] = (),
) -> Image.Image:
    """The picture with what was kept and dropped, or with scores or order as a heat map, in its own size.

    limits: the values that get the first and the last colour; None takes those of this image. A view that the
    method does not give is drawn as "kept". evidence: boxes in shares of the sides, framed.
    """
    picture = picture.convert("RGB")
    if view == "picture":
        return _framed(picture.copy(), evidence)
    boxes = np.rint(shown.boxes).astype(int)
    heat = _heat(shown, view, limits)
    out = Image.new("RGB", picture.size)
    for top in range(0, picture.height, BAND):
        strip = picture.crop((0, top, picture.width, min(top + BAND, picture.height)))
        inside = boxes.copy()
        inside[:, 1::2] = (inside[:, 1::2] - top).clip(0, strip.height)
        hatches = _hatching(picture.size, top, strip.height)
        out.paste(_band(strip, shown, inside, heat, hatches), (0, top))
    real = (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])
    _outline(out, boxes, real, shown)
    return _framed(out, evidence)


def _heat(shown: Patches, view: View, limits: tuple[float, float] | None) -> np.ndarray | None:
    """[n] shares of the palette, NaN where there is none; None for a view without colours."""
    values = {"scores": shown.scores, "order": -shown.ranks}.get(view)
    if values is None or np.isnan(values).all():
        return None
    low, high = limits or (float(np.nanmin(values)), float(np.nanmax(values)))
    return (values - low) / (high - low) if high > low else np.where(np.isnan(values), np.nan, 0.5)


def _band(
    strip: Image.Image, shown: Patches, boxes: np.ndarray, heat: np.ndarray | None, hatches: np.ndarray
) -> Image.Image:
    """Some rows of the map. boxes: what of each patch lies in them."""
    real = (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])

    def area(which: np.ndarray) -> np.ndarray:
        mask = np.zeros(strip.size[::-1], bool)
        for x0, y0, x1, y1 in boxes[which & real]:
            mask[y0:y1, x0:x1] = True
        return mask

    original = np.asarray(strip, np.float32)
    grey = np.repeat(np.asarray(strip.convert("L"), np.float32)[..., None], 3, axis=2)

    def veiled(state: str) -> np.ndarray:
        return _mix(grey, np.array(VEIL, np.float32), LOOK[state])

    hatched = _mix(veiled("dropped"), 255.0, LOOK["hatch"] * hatches)
    out = veiled("unseen")
    if heat is not None:
        bare = area(np.isnan(heat))
        out[bare] = hatched[bare]
        for i in np.flatnonzero(real & ~np.isnan(heat)):
            x0, y0, x1, y1 = boxes[i]
            out[y0:y1, x0:x1] = _mix(grey[y0:y1, x0:x1], colour(heat[i]), LOOK["heat"])
    else:
        for mask, look in (
            (area(np.ones(len(boxes), bool)), hatched),
            (area(shown.merged), veiled("merged")),
            (area(shown.kept), original),
        ):
            out[mask] = look[mask]
    return Image.fromarray(out.round().clip(0, 255).astype(np.uint8))


def colour(share: float) -> np.ndarray:
    """[3] float32 RGB of a share in [0, 1] on the palette."""
    stops = np.array([[int(c[i : i + 2], 16) for i in (1, 3, 5)] for c in PALETTE], np.float32)
    place = min(max(share, 0.0), 1.0) * (len(stops) - 1)
    low = min(int(place), len(stops) - 2)
    return stops[low] + (stops[low + 1] - stops[low]) * (place - low)


def render_map(
    run: Run,
    images: Sequence[str | os.PathLike[str] | Image.Image],
    view: View = "kept",
    stage: Stage | None = None,
    evidence: Sequence[tuple[int, Sequence[float]]] = (),
) -> Image.Image:
    """The maps as the screen shows them side by side, each in its picture's own size.

    stage: see `reached`. evidence: (image, box in shares of its sides) of what decides the answer.
    """
    infos = [run.images[sheet.image] for sheet in sheets(run.segments)]
    sizes = [(info.width, info.height) for info in infos]
    gap = MARGIN if len(sizes) > 1 else 0
    area = (sum(width for width, _ in sizes) + gap * (len(sizes) - 1)) * max(height for _, height in sizes)
    drawn = maps(run, images, stage, (view,), evidence, factor=min(1.0, math.sqrt(LARGEST / area)))
    parts = [picture for _, _, picture in drawn]
    width = sum(part.width for part in parts) + gap * (len(parts) - 1)
    sheet = Image.new("RGB", (width, max(part.height for part in parts)), "white")
    x = 0
    for part in parts:
        sheet.paste(part, (x, 0))
        x += part.width + gap
    return sheet


def maps(
    run: Run,
    images: Sequence[str | os.PathLike[str] | Image.Image],
    stage: Stage | None,
    views: Sequence[View],
    evidence: Sequence[tuple[int, Sequence[float]]] = (),
    side: int | None = None,
    factor: float = 1.0,
) -> Iterator[tuple[int, View, Image.Image]]:
    """(number, view, map) of every sheet of every picture in those of the views that the stage gives. side:
    the longest that a picture may have, else it is made `factor` times as large. ValueError when these are
    not the run's."""
    pictures = _pictures(run, images)
    given = [view for view in views if view in ("kept", "picture") or _limits(stage, view)] or ["kept"]
    for number, sheet in enumerate(sheets(run.segments)):
        picture = pictures[sheet.image]
        smaller = factor if side is None else min(1.0, side / max(picture.size))
        small = _resized(picture, smaller)
        framed = [box for image, box in evidence if image == sheet.image]
        shown = _scaled(patches(run, number, stage), smaller)
        for view in given:
            yield number, view, draw_map(small, shown, view, _limits(stage, view), framed)


def _pictures(run: Run, images: Sequence[str | os.PathLike[str] | Image.Image]) -> list[Image.Image]:
    """The pictures, upright. Raises ValueError when they are not those of the run."""
    pictures = [open_image(source) for source in images]
    if [picture.size for picture in pictures] != [(info.width, info.height) for info in run.images]:
        raise ValueError("these are not the pictures of the run: their number or sizes differ.")
    return pictures


def _limits(stage: Stage | None, view: View) -> tuple[float, float] | None:
    """The values at the ends of the palette, the same for all pictures of a run."""
    if stage and view == "scores" and stage.scores:
        return min(stage.scores), max(stage.scores)
    if stage and view == "order" and stage.order:
        return 1.0 - len(stage.order), 0.0
    return None


def _resized(picture: Image.Image, factor: float) -> Image.Image:
    if factor == 1:
        return picture
    size = (max(1, round(picture.width * factor)), max(1, round(picture.height * factor)))
    return picture.resize(size, Image.Resampling.LANCZOS)


def _scaled(shown: Patches, factor: float) -> Patches:
    return dataclasses.replace(shown, boxes=shown.boxes * factor)


def render_png(run: Run, images: Sequence[str | os.PathLike[str] | Image.Image]) -> Image.Image:
    """One sheet for a run: each image with what was kept, its scores where there are some, both answers."""
    drawn = sheets(run.segments)
    pictures = [_pictures(run, images)[sheet.image] for sheet in drawn]
    stage = run.stages[-1] if run.stages else None
    limits = _limits(stage, "scores")
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
    for number, (picture, factor, height) in enumerate(zip(pictures, scale, heights, strict=True)):
        small = _resized(picture, factor)
        shown = _scaled(patches(run, number, stage), factor)
        title = drawn[number].title(run.images[drawn[number].image].name)
        captions = {
            "kept": f"{title}: {int(shown.kept.sum())} of {len(shown.kept)} patches kept",
            "scores": f"score: dark {limits[0]:.3g}, bright {limits[1]:.3g}" if limits else "",
        }
        for column, view in enumerate(views):
            x = MARGIN + column * (PANEL + MARGIN)
            sheet.paste(draw_map(small, shown, view, limits), (x, y))
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


def _hatching(size: tuple[int, int], top: int, rows: int) -> np.ndarray:
    """[rows, width, 1] float32: 1 on diagonal lines, else 0; for some rows of a picture of that size."""
    step = max(6, round(max(size) / 80))
    y, x = np.mgrid[top : top + rows, : size[0]]
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


def _framed(image: Image.Image, boxes: Sequence[Sequence[float]]) -> Image.Image:
    """Dashes on a dark line around each box, drawn into the image. boxes: in shares of its sides."""
    draw = ImageDraw.Draw(image)
    thick = 2 * max(1, round(image.width / 500))
    dark, light = EVIDENCE
    for box in boxes:
        x0, y0, x1, y1 = (round(share * side) for share, side in zip(box, image.size * 2, strict=True))
        for ends in ((x0, y0, x1, y0), (x1, y0, x1, y1), (x0, y1, x1, y1), (x0, y0, x0, y1)):
            draw.line(ends, dark, thick)
            for way in range(0, max(ends[2] - ends[0], ends[3] - ends[1]), 6 * thick):
                across = ends[2] > ends[0]
                start = (ends[0] + way * across, ends[1] + way * (not across))
                stop = (
                    min(start[0] + 3 * thick * across, ends[2]),
                    min(start[1] + 3 * thick * (not across), ends[3]),
                )
                draw.line((*start, *stop), light, thick)
    return image


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
