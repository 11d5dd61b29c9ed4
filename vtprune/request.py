"""What was asked for, checked before the model is touched."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral
from pathlib import Path
from typing import Any

from PIL import Image

from vtprune.backbones.base import Backbone
from vtprune.images import open_image
from vtprune.types import Budget, ImageInfo

Source = str | os.PathLike[str] | Image.Image
MAX_NEW_TOKENS = 1024


@dataclass(frozen=True)
class Request:
    """A request in which every value is in range. images: upright RGB."""

    images: list[Image.Image]
    infos: list[ImageInfo]
    question: str
    method: str
    params: dict[str, Any]
    keep: float | int
    max_new_tokens: int
    positions: str
    seed: int
    repeats: int

    def other(self, method: str, keep: float | int, params: Mapping[str, Any]) -> Request:
        """The same question for another method or budget. ValueError when `keep` is no budget."""
        Budget(keep)
        keep = int(keep) if isinstance(keep, Integral) else float(keep)
        return dataclasses.replace(self, method=method, keep=keep, params=dict(params))


def check(
    backbone: Backbone,
    images: Sequence[Source],
    question: str,
    *,
    method: str,
    params: Mapping[str, Any],
    keep: float | int,
    max_new_tokens: int,
    positions: str,
    seed: int,
    repeats: int,
) -> Request:
    """The request, its pictures opened. Raises ValueError with one sentence about what is out of range."""
    question = question.strip() if isinstance(question, str) else ""
    if not question:
        raise ValueError("the question is empty: ask something about the picture.")
    if not isinstance(images, Sequence) or isinstance(images, str) or not images:
        raise ValueError("no picture was given: images is a list of files or pictures.")
    if len(images) > backbone.max_images:
        raise ValueError(
            f"{len(images)} pictures are too many: {backbone.name} takes 1 to {backbone.max_images}."
        )
    _check_count("max_new_tokens", max_new_tokens, 1, MAX_NEW_TOKENS)
    _check_count("repeats", repeats, 0, 100)
    _check_count("seed", seed, 0, 2**63 - 1)
    if positions not in ("original", "renumber"):
        raise ValueError(f"positions={positions!r} is neither 'original' nor 'renumber'.")
    Budget(keep)
    pictures = [open_image(source) for source in images]
    infos = [
        ImageInfo(_name_of(source, i), picture.width, picture.height)
        for i, (source, picture) in enumerate(zip(images, pictures, strict=True))
    ]
    return Request(
        images=pictures,
        infos=infos,
        question=question,
        method=method,
        params=dict(params),
        keep=int(keep) if isinstance(keep, Integral) else float(keep),
        max_new_tokens=max_new_tokens,
        positions=positions,
        seed=seed,
        repeats=repeats,
    )


def check_context(backbone: Backbone, tokens: int, new_tokens: int) -> None:
    """Raises ValueError when a prompt and its answer are longer than the model's context.

    That is its positions, and no more than a sliding window, for the decoder runs without a mask.
    """
    names = ("max_position_embeddings", "sliding_window")
    limit = min((n for name in names if (n := getattr(backbone.llm.config, name, None))), default=None)
    if limit and tokens + new_tokens > limit:
        raise ValueError(
            f"{tokens} prompt tokens and {new_tokens} new ones do not fit into {backbone.name}'s context of "
            f"{limit}: take fewer pictures or a shorter question."
        )


def _check_count(name: str, value: object, low: int, high: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise ValueError(f"{name}={value!r} is not a whole number from {low} to {high}.")


def _name_of(source: Source, index: int) -> str:
    if isinstance(source, Image.Image):
        return f"image {index + 1}"
    return Path(source).name
