"""Draws the scenes: 28 kinds of flat-vector objects in 10 colours, text signs, and soft backgrounds.

An object is a short list of polygons, strokes and text boxes in unit coordinates (x right, y down).  Keeping
points rather than pixels lets one drawing be scaled and rotated exactly and rasterised once at any size.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from vtprune.scenes.backgrounds import BACKGROUNDS, background
from vtprune.scenes.kinds import FACING, KIND_PENS, KINDS, draw_sign
from vtprune.scenes.pen import COLOURS, ROUND_ALL, Item, Pen

__all__ = ["BACKGROUNDS", "COLOURS", "FONTS", "KINDS", "background", "compose", "extent", "sprite"]

# (typeface, outline weight, slant): the text styles of signs.
FONTS: tuple[tuple[str, float, float], ...] = (
    ("Aileron", 0.03, 0.0),
    ("DejaVuSerif-Bold.ttf", 0.0, 0.0),
    ("DejaVuSansMono-Bold.ttf", 0.0, 0.0),
    ("Aileron", 0.055, 0.22),
)


class Thing(Protocol):
    """What `compose` reads of an object; lengths are fractions of the picture's side."""

    @property
    def kind(self) -> str: ...
    @property
    def colour(self) -> str: ...
    @property
    def side(self) -> float: ...
    @property
    def cx(self) -> float: ...
    @property
    def cy(self) -> float: ...
    @property
    def angle(self) -> float: ...
    @property
    def text(self) -> str: ...
    @property
    def style(self) -> int: ...


class Drawing(NamedTuple):
    """The items with all their points in one array, so that one product turns them all."""

    items: list[Item]
    points: np.ndarray
    reach: np.ndarray  # half the stroke's width at each point
    cuts: list[int]  # where each item's points end

    def bounds(self, points: np.ndarray, scale: float) -> tuple[np.ndarray, np.ndarray]:
        return (points - self.reach * scale).min(axis=0), (points + self.reach * scale).max(axis=0)


@lru_cache(maxsize=4096)
def _drawing(kind: str, colour: str, text: str, style: int) -> Drawing:
    pen = Pen(colour)
    if kind == "sign":
        draw_sign(pen, colour, text)
    else:
        KIND_PENS[kind](pen)
    points = np.concatenate([item.points for item in pen.items])
    if kind in FACING and style:
        points = points * (-1, 1)
    counts = [len(item.points) for item in pen.items]
    reach = np.repeat([item.width / 2 for item in pen.items], counts)[:, None]
    return Drawing(pen.items, points, reach, np.cumsum(counts).tolist())


def fonts_dir() -> Path:
    """The bundled fonts: inside the installed package, else beside it in the repository."""
    package = Path(__file__).resolve().parents[1]
    inside = package / "assets" / "fonts"
    return inside if inside.is_dir() else package.parent / "assets" / "fonts"


@lru_cache(maxsize=512)
def _lettering(text: str, style: int) -> Image.Image:
    """A large tight mask of `text`, later squeezed into the sign's board."""
    face, weight, slant = FONTS[style]
    size = 120
    font = (
        ImageFont.load_default(size)
        if face == "Aileron"
        # Basic layout does not depend on whether the machine has Raqm.
        else ImageFont.truetype(fonts_dir() / face, size, layout_engine=ImageFont.Layout.BASIC)
    )
    stroke = round(weight * size)
    left, top, right, bottom = font.getbbox(text, stroke_width=stroke)
    lean = round(slant * (bottom - top))
    mask = Image.new("L", (int(right - left) + lean + 2, int(bottom - top) + 2))
    ImageDraw.Draw(mask).text((1 - left, 1 - top), text, fill=255, font=font, stroke_width=stroke)
    if lean:
        shear = (1, slant, -lean, 0, 1, 0)
        mask = mask.transform(mask.size, Image.Transform.AFFINE, shear, Image.Resampling.BICUBIC)
    return mask.crop(mask.getbbox())


def _draw_text(
    image: Image.Image, item: Item, at: np.ndarray, scale: float, angle: float, style: int
) -> None:
    room = (item.points[2] - item.points[0]) * scale
    mask = _lettering(item.text, style)
    fit = room / mask.size
    fit = np.minimum(fit, fit.min() * 1.3)  # letters stretch a little to fill the board, not out of shape
    size = np.maximum(1, (fit * mask.size).round()).astype(int)
    mask = mask.resize(tuple(size.tolist()), Image.Resampling.HAMMING)
    mask = mask.rotate(angle, Image.Resampling.BICUBIC, expand=True)
    corner = (at.mean(axis=0) - np.divide(mask.size, 2)).round().astype(int)
    assert item.fill is not None
    image.paste(item.fill, tuple(corner.tolist()), mask)


def _raster(
    kind: str, colour: str, side: int, angle: int, text: str, style: int
) -> tuple[Image.Image, np.ndarray]:
    """The sprite and where it is opaque."""
    drawing = _drawing(kind, colour, text, style)
    low, high = drawing.bounds(drawing.points, 1.0)
    over = 4 if side <= 160 else 3  # supersampling
    scale = side * over / float((high - low).max())
    c, s = np.cos(np.radians(angle)), np.sin(np.radians(angle))
    turn = np.array([(c, -s), (s, c)])  # anticlockwise on screen, as Image.rotate
    points = drawing.points @ (turn * scale)
    low, high = drawing.bounds(points, scale)
    size = np.maximum(1, np.ceil((high - low) / over - 0.05)).astype(int)
    points += (size * over - low - high) / 2 - 0.5
    image = Image.new("RGBA", tuple((size * over).tolist()))
    draw = ImageDraw.Draw(image)
    start = 0
    for item, end in zip(drawing.items, drawing.cuts, strict=True):
        at, start = points[start:end], end
        if item.text:
            _draw_text(image, item, at, scale, angle, style)
            continue
        flat = at.ravel().tolist()
        if item.fill:
            draw.polygon(flat, fill=item.fill)
        if item.line:
            width = max(1, round(item.width * scale))
            draw.line(flat, fill=item.line, width=width)
            # At a wide stroke even gentle bends leave visible notches between the segments.
            bends = at if width >= ROUND_ALL else at[item.joints]
            r = (width - 1) / 2
            for x, y in bends.tolist():
                draw.ellipse((x - r, y - r, x + r, y + r), fill=item.line)
    image = image.reduce(over)
    image = image.crop(image.getbbox())
    return image, np.asarray(image.getchannel("A")) >= 128


_small = lru_cache(maxsize=20000)(_raster)
_large = lru_cache(maxsize=96)(_raster)  # large sprites are rare, and thousands would fill the memory


def _cached(
    kind: str, colour: str, side: float, angle: float, text: str, style: int
) -> tuple[Image.Image, np.ndarray]:
    """`_raster` of the rounded request, with what does not matter to the kind left out of the key."""
    pixels = max(4, round(side))
    style %= len(FONTS) if kind == "sign" else 2 if kind in FACING else 1
    draw = _small if pixels <= 120 else _large
    return draw(kind, colour, pixels, 5 * round(angle / 5), text if kind == "sign" else "", style)


def sprite(
    kind: str, colour: str, side: int, angle: float = 0.0, text: str = "", style: int = 0
) -> Image.Image:
    """The drawing as a tight RGBA image (shared: do not modify); unrotated, its longer side is `side`."""
    return _cached(kind, colour, side, angle, text, style)[0]


@lru_cache(maxsize=20000)
def extent(kind: str, angle: float, text: str, style: int) -> tuple[float, float, float]:
    """Width and height of the rotated tight box as fractions of `side`, and the covered share of it."""
    mask = _cached(kind, "red", 100, angle, text, style)[1]
    return mask.shape[1] / 100, mask.shape[0] / 100, float(mask.mean())


def compose(things: Sequence[Thing], bg_name: str, bg_seed: int, size: int) -> tuple[Image.Image, np.ndarray]:
    """Paints `things` in order; also returns which thing is on top at each pixel (-1: background)."""
    picture = background(bg_name, bg_seed, size)
    ids = np.full((size, size), -1, np.int16)
    for index, t in enumerate(things):
        image, mask = _cached(t.kind, t.colour, t.side * size, t.angle, t.text, t.style)
        h, w = mask.shape
        x, y = round(t.cx * size - w / 2), round(t.cy * size - h / 2)
        picture.paste(image, (x, y), image)
        x0, y0 = max(x, 0), max(y, 0)
        region = ids[y0 : max(y + h, 0), x0 : max(x + w, 0)]
        region[mask[y0 - y :, x0 - x :][: region.shape[0], : region.shape[1]]] = index
    return picture, ids
