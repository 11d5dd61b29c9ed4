"""Opening uploads: everything is checked on the header before a pixel is decoded."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

MAX_BYTES = 20 * 1024 * 1024
MAX_PIXELS = 40_000_000
FORMATS = ("PNG", "JPEG", "WEBP")
ALLOWED = "PNG, JPEG or WebP, up to 20 MB and 40 megapixels"


def open_image(source: str | os.PathLike[str] | Image.Image) -> Image.Image:
    """An upload as an upright RGB picture.

    EXIF rotation is applied, of an animation the first frame is taken, transparency is put on white.
    The kind of file is told by its content, not its name. Raises ValueError, naming the file and what is
    allowed, for anything too large, of another kind, or damaged.
    """
    if isinstance(source, Image.Image):
        _check_size(source, "the picture")
        return _upright_rgb(source)
    path = Path(source)
    name = path.name
    try:
        size = path.stat().st_size
    except OSError as error:
        raise ValueError(f"{name} cannot be read: give a file with a picture ({ALLOWED}).") from error
    if not path.is_file():
        raise ValueError(f"{name} is not a file: give a picture ({ALLOWED}).")
    if size > MAX_BYTES:
        raise ValueError(f"{name} has {size / 2**20:.1f} MB: pictures may be {ALLOWED}.")
    try:
        image = Image.open(path, formats=FORMATS)
    except Image.DecompressionBombError as error:
        raise ValueError(f"{name} has too many pixels: pictures may be {ALLOWED}.") from error
    except Exception as error:
        raise ValueError(f"{name} is not a picture that can be opened: allowed are {ALLOWED}.") from error
    with image:
        _check_size(image, name)
        try:
            return _upright_rgb(image)
        except Exception as error:  # decoders raise a dozen kinds of error on damaged data
            raise ValueError(f"{name} is damaged and cannot be decoded: allowed are {ALLOWED}.") from error


def _check_size(image: Image.Image, name: str) -> None:
    if image.width * image.height > MAX_PIXELS:
        raise ValueError(f"{name} has {image.width} x {image.height} pixels: pictures may be {ALLOWED}.")


def _upright_rgb(image: Image.Image) -> Image.Image:
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I"):
        # Pillow clips 16-bit grey to 255 when it converts; scale it instead
        grey = np.asarray(image, dtype=np.float32) / 257.0
        image = Image.fromarray(grey.clip(0, 255).astype(np.uint8))
    if "transparency" in image.info or image.mode in ("RGBA", "LA", "PA", "La", "RGBa"):
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image).convert("RGB")
    return image.convert("RGB")
