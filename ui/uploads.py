"""Uploads on their way into a request and onto the screen."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import gradio as gr
from gradio import processing_utils
from gradio.utils import get_upload_folder
from PIL import Image

from vtprune.images import FORMATS, open_image
from vtprune.types import ImageInfo

PREVIEW = 1200
"""Longest side in pixels of the picture that the browser is sent."""


@dataclass(frozen=True)
class Upload:
    """A file that can be used. digest: names its content. shown: the upright picture that the browser gets.
    width, height: of the upload, upright."""

    path: str
    digest: str
    shown: str
    width: int
    height: int

    @property
    def served(self) -> dict[str, Any]:
        """The picture inside a component's value."""
        return served(self.shown)

    @property
    def info(self) -> ImageInfo:
        """Its name and size."""
        return ImageInfo(Path(self.path).name, self.width, self.height)


def paths(gallery: Sequence[tuple[str, str | None]] | None) -> list[str]:
    """The files in a gallery."""
    return [path for path, _ in gallery or []]


def check(files: Sequence[str], most: int) -> tuple[list[Upload], list[str]]:
    """(the files that can be used, a sentence about each that cannot)."""
    good, problems = [], []
    for path in files:
        try:
            good.append(opened(path))
        except ValueError as error:
            problems.append(str(error))
    if len(good) > most:
        left = ", ".join(Path(upload.path).name for upload in good[most:])
        problems.append(f"This model takes 1 to {most} pictures, so these were left out: {left}.")
    return good[:most], problems


def opened(path: str) -> Upload:
    """The upload in a file; decoded once. Raises ValueError with a sentence about a file that is no good."""
    stamp = os.stat(path).st_mtime_ns if os.path.isfile(path) else 0
    upload = _opened(path, stamp)
    if not os.path.isfile(upload.shown):  # Gradio removes what is old
        _opened.cache_clear()
        upload = _opened(path, stamp)
    return upload


@lru_cache(maxsize=256)
def _opened(path: str, stamp: int) -> Upload:
    picture = open_image(path)
    width, height = picture.size
    with Image.open(path, formats=FORMATS) as header:
        plain = header.format == "PNG" and header.mode == "RGB" and not header.getexif()
        plain = plain and "transparency" not in header.info
    shown = path  # a plain small picture is sent as it is
    if not plain or max(width, height) > PREVIEW:
        picture.thumbnail((PREVIEW, PREVIEW))
        shown = processing_utils.save_pil_to_cache(picture, cache_dir=get_upload_folder(), format="webp")
    return Upload(path, digest(path), shown, width, height)


def digest(path: str | Path) -> str:
    """A name for a file's content."""
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def cached(path: str | Path) -> str:
    """A copy of one of our own files where Gradio serves files from."""
    return processing_utils.save_file_to_cache(path, cache_dir=get_upload_folder())


def served(path: str) -> dict[str, Any]:
    """A file of Gradio's cache inside a component's value; Gradio adds its address."""
    return gr.FileData(path=path).model_dump()
