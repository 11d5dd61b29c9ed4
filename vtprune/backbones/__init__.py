"""Loading a model: by its config's model_type, one family a file."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch

from vtprune.assets import assets_dir
from vtprune.backbones.base import Backbone, Encoded, LanguageModel, LoadError, Prompt

__all__ = [
    "BUNDLED",
    "FAMILIES",
    "Backbone",
    "Encoded",
    "LanguageModel",
    "LoadError",
    "Prompt",
    "load_backbone",
]

FAMILIES = {"llava": "vtprune.backbones.llava:Llava"}
"""model_type of a config -> the class that serves it, imported only when it is asked for."""

BUNDLED = "the bundled model"
"""Its name in a Run and in sentences."""

_WAYS = "give the folder of a downloaded model, or nothing at all for the bundled one: vtprune.load()"


def load_backbone(
    name: str | Path | None = None,
    device: str = "auto",
    dtype: str | torch.dtype = "auto",
    revision: str | None = None,
    clip: str | Path | None = None,
) -> Backbone:
    """The model in a folder, of a hub id, or (None) the bundled one.

    device: "auto" is CUDA where there is some, else the CPU. dtype: "auto" is bfloat16 on CUDA, float32 on
    the CPU. clip: see vtprune.clip; None takes the model folder's own companion. Only safetensors are read
    and no code of the model's runs. Raises LoadError with one sentence.
    """
    from transformers import AutoConfig

    path, source = _locate(name)
    try:
        config = AutoConfig.from_pretrained(path, revision=revision, trust_remote_code=False)
    except Exception as error:  # the hub client raises many unrelated kinds
        raise LoadError(_why_no_config(source, path, error)) from error
    if config.model_type not in FAMILIES:
        known = ", ".join(sorted(FAMILIES))
        raise LoadError(
            f"{source} is a {config.model_type!r} model, which vtprune does not support "
            f"(it knows: {known}); {_WAYS}."
        )
    place = pick_device(device)
    kind = pick_dtype(dtype, place)
    module, cls = FAMILIES[config.model_type].split(":")
    family: Any = getattr(importlib.import_module(module), cls)
    try:
        with _quiet() if Path(path).is_dir() else nullcontext():
            return family(path, config, source, place, kind, revision, clip)
    except LoadError:
        raise
    except Exception as error:
        raise LoadError(f"{source} cannot be loaded ({_first_line(error)}); {_WAYS}.") from error


@contextmanager
def _quiet() -> Iterator[None]:
    """No progress bars of transformers, which make sense for downloads only."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def pick_device(device: str) -> torch.device:
    """ "auto" -> CUDA where there is some, else CPU. Raises LoadError for a device that is not there."""
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        place = torch.device(device)
        torch.empty(1, device=place)
    except (RuntimeError, AssertionError) as error:
        raise LoadError(f"there is no device {device!r} here; use 'auto' or 'cpu'.") from error
    return place


def pick_dtype(dtype: str | torch.dtype, device: torch.device) -> torch.dtype:
    """ "auto" -> bfloat16 on CUDA, float32 elsewhere. Raises LoadError for anything but a float type."""
    if dtype == "auto":
        return torch.bfloat16 if device.type == "cuda" else torch.float32
    names = {"bf16": "bfloat16", "fp16": "float16", "fp32": "float32"}
    kind = getattr(torch, names.get(dtype, dtype), None) if isinstance(dtype, str) else dtype
    if kind not in (torch.float32, torch.bfloat16, torch.float16):
        raise LoadError(f"dtype {dtype!r} is not one of auto, float32, bfloat16, float16.")
    return kind


def _locate(name: str | Path | None) -> tuple[str, str]:
    """(what transformers is given, what a person is told)."""
    if name is None:
        folder = assets_dir() / "model"
        if not (folder / "config.json").is_file():
            raise LoadError(
                "the bundled model is missing from this installation; install vtprune again, "
                "or give a hub id or a model folder."
            )
        return str(folder), BUNDLED
    folder = Path(name).expanduser()
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise LoadError(f"{name} is not a model folder, for it has no config.json; {_WAYS}.")
        if not any(folder.glob("*.safetensors")):
            raise LoadError(
                f"{name} has no weights in .safetensors files, the only kind that is read; {_WAYS}."
            )
        return str(folder), str(name)
    text = str(name)
    if folder.is_absolute() or text.startswith((".", "~")) or text.count("/") > 1:
        raise LoadError(f"there is no folder {name}; {_WAYS}.")
    return text, text


def _why_no_config(source: str, path: str, error: Exception) -> str:
    if Path(path).is_dir():
        return f"{source} is not a model that transformers can read ({_first_line(error)}); {_WAYS}."
    return f"{source} could not be fetched from the Hugging Face hub (no such model, or no network); {_WAYS}."


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
