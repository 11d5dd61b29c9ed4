"""Uploads on their way into a request and onto the screen."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gradio as gr
from gradio import processing_utils
from gradio.utils import get_upload_folder
from PIL import Image

from vtprune.images import FORMATS, open_image

PREVIEW = 1200
"""Longest side in pixels of the picture that the browser is sent."""


def paths(gallery: Sequence[tuple[str, str | None]] | None) -> list[str]:
    """The files in a gallery."""
    return [path for path, _ in gallery or []]


def check(files: Sequence[str], most: int) -> tuple[list[str], list[str]]:
    """(the files that can be used, a sentence about each that cannot)."""
    good, problems = [], []
    for path in files:
        try:
            open_image(path)
        except ValueError as error:
            problems.append(str(error))
        else:
            good.append(path)
    if len(good) > most:
        left = ", ".join(Path(path).name for path in good[most:])
        problems.append(f"This model takes 1 to {most} pictures, so these were left out: {left}.")
    return good[:most], problems


def digest(path: str | Path) -> str:
    """A name for a file's content."""
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def cached(path: str | Path) -> str:
    """A copy of one of our own files where Gradio serves files from."""
    return processing_utils.save_file_to_cache(path, cache_dir=get_upload_folder())


def preview(path: str) -> tuple[dict[str, Any], int, int]:
    """(the upright picture for the browser, the upload's width and height)."""
    with Image.open(path, formats=FORMATS) as header:
        plain = header.format == "PNG" and header.mode == "RGB" and not header.getexif()
        width, height = header.size
    if plain and max(width, height) <= PREVIEW:
        return served(path), width, height  # the browser shows it as it is
    picture = open_image(path)
    width, height = picture.size
    picture.thumbnail((PREVIEW, PREVIEW))
    saved = processing_utils.save_pil_to_cache(picture, cache_dir=get_upload_folder(), format="webp")
    return served(saved), width, height


def served(path: str) -> dict[str, Any]:
    """A file of Gradio's cache inside a component's value; Gradio adds its address."""
    return gr.FileData(path=path).model_dump()
