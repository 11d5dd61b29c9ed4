"""Where the files that come with vtprune are: inside the package in a wheel, beside it in a checkout."""

from __future__ import annotations

from pathlib import Path


def assets_dir() -> Path:
    """The folder with model/, examples/ and web/. Nothing is promised about what is in it."""
    package = Path(__file__).resolve().parent
    inside = package / "assets"
    return inside if inside.is_dir() else package.parent / "assets"
