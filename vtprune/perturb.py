"""What goes wrong with pictures, at five severities: noise, blur, JPEG and occlusion.

The kinds and their order follow the common-corruptions benchmark (Hendrycks and Dietterich, 2019,
https://arxiv.org/abs/1903.12261); the values of each severity are our own and scale with the picture, so
that a thumbnail and a photograph suffer alike.
"""

from __future__ import annotations

import io
from collections.abc import Callable

import numpy as np
from PIL import Image, ImageFilter

SEVERITIES = (1, 2, 3, 4, 5)

NOISE = (0.04, 0.08, 0.13, 0.20, 0.30)
"""Standard deviation of the noise, white being 1."""
BLUR = (0.003, 0.006, 0.010, 0.016, 0.025)
"""Radius of the blur, as a share of the shorter side."""
JPEG = (40, 25, 15, 9, 4)
"""Quality of the compression, 100 being the best."""
OCCLUSION = (0.05, 0.10, 0.20, 0.30, 0.45)
"""Share of the picture that is covered."""
COVER = (127, 127, 127)


def noise(picture: Image.Image, severity: int, seed: int = 0) -> Image.Image:
    """Gaussian noise on every pixel and channel."""
    values = np.asarray(picture, dtype=np.float32) / 255
    values = values + np.random.default_rng(seed).normal(0, NOISE[severity - 1], values.shape)
    return Image.fromarray((values.clip(0, 1) * 255).round().astype(np.uint8))


def blur(picture: Image.Image, severity: int, seed: int = 0) -> Image.Image:
    """A Gaussian blur."""
    return picture.filter(ImageFilter.GaussianBlur(BLUR[severity - 1] * min(picture.size)))


def jpeg(picture: Image.Image, severity: int, seed: int = 0) -> Image.Image:
    """Compressed and opened again."""
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=JPEG[severity - 1])
    with Image.open(file) as again:
        return again.convert("RGB")


def occlusion(picture: Image.Image, severity: int, seed: int = 0) -> Image.Image:
    """Grey squares, a tenth of the shorter side wide, until the share is covered; a higher severity covers
    the squares of a lower one and more."""
    side = max(1, round(min(picture.size) / 10))
    rows, columns = -(-picture.height // side), -(-picture.width // side)
    places = np.random.default_rng(seed).permutation(rows * columns)
    covered = picture.copy()
    for place in places[: max(1, round(OCCLUSION[severity - 1] * len(places)))].tolist():
        left, top = place % columns * side, place // columns * side
        covered.paste(COVER, (left, top, left + side, top + side))
    return covered


KINDS: dict[str, Callable[[Image.Image, int, int], Image.Image]] = {
    "noise": noise,
    "blur": blur,
    "jpeg": jpeg,
    "occlusion": occlusion,
}


def perturb(picture: Image.Image, kind: str, severity: int, seed: int = 0) -> Image.Image:
    """An RGB picture of the same size with one kind of damage; the same seed gives the same picture.

    Raises ValueError for an unknown kind or severity.
    """
    if kind not in KINDS:
        raise ValueError(f"there is no damage called {kind!r}: take {', '.join(KINDS)}.")
    if severity not in SEVERITIES:
        raise ValueError(f"severity={severity!r} is not a whole number from 1 to 5.")
    return KINDS[kind](picture.convert("RGB"), severity, seed)
