"""Loading a model: by its config's model_type, one family a file."""

from __future__ import annotations

import importlib
import json
import textwrap
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from vtprune.assets import assets_dir
from vtprune.backbones import hub, weights
from vtprune.backbones.base import Backbone, Encoded, LanguageModel, LoadError, Prompt
from vtprune.backbones.hub import Tell
from vtprune.backbones.pretrained import Checkpoint

__all__ = [
    "BUNDLED",
    "FAMILIES",
    "Backbone",
    "Encoded",
    "Found",
    "LanguageModel",
    "LoadError",
    "Prompt",
    "build",
    "find",
    "load_backbone",
]

FAMILIES = {
    "llava": "vtprune.backbones.llava:Llava",
    "llava_next": "vtprune.backbones.llava_next:LlavaNext",
    "qwen2_5_vl": "vtprune.backbones.qwen2_5_vl:Qwen25VL",
    "qwen3_vl": "vtprune.backbones.qwen3_vl:Qwen3VL",
    "smolvlm": "vtprune.backbones.smolvlm:SmolVLM",
    "idefics3": "vtprune.backbones.smolvlm:Idefics3",
    "blip-2": "vtprune.backbones.blip2:Blip2",
    "idefics": "vtprune.backbones.idefics:Idefics",
}
"""model_type of a config -> the class that serves it, imported only when it is asked for."""

BUNDLED = "the bundled model"
"""Its name in a Run and in sentences."""

PICKLES = (".bin", ".pt", ".pth", ".ckpt")
"""Endings of weights that are never read."""

_WAYS = "give the folder of a downloaded model, or nothing at all for the bundled one: vtprune.load()"


@dataclass(frozen=True)
class Found:
    """A model that is on this machine and can be tried. name: what a person calls it."""

    folder: Path
    config: Any
    name: str


def find(
    name: str | Path | None = None,
    revision: str | None = None,
    tell: Tell | None = None,
    fits: Callable[[str, int], None] | None = None,
) -> Found:
    """The model in a folder, of a hub id (fetched first), or (None) the bundled one; no weights are read.

    tell: hears how far the fetching is. fits(name, number of parameters): raises LoadError where it would be
    in vain. Raises LoadError with one sentence.
    """
    folder, source = _local(name)
    if folder is None:
        folder = _fetched(source, revision, tell, fits)
    if not hub.weight_files(folder):
        raise LoadError(_why_no_weights(source, [path.name for path in folder.iterdir()]))
    return Found(folder, _config(folder, source), source)


def build(
    found: Found,
    device: str = "auto",
    dtype: str | torch.dtype = "auto",
    clip: str | Path | None = None,
    quantize: str | None = None,
) -> Backbone:
    """A found model with its weights; the arguments are those of vtprune.load. Raises LoadError."""
    from vtprune import calibration

    place = pick_device(device)
    kind = pick_dtype(dtype, place)
    module, cls = FAMILIES[found.config.model_type].split(":")
    family: Any = getattr(importlib.import_module(module), cls)
    try:
        how = weights.plan(found.name, found.folder, place, kind, quantize, device == "auto")
        with weights.placed(how), _quiet():
            checkpoint = Checkpoint(str(found.folder), found.config, found.name, place, kind, clip)
            backbone: Backbone = family(checkpoint)
        calibration.apply(found.folder, backbone)
        return backbone
    except LoadError:
        raise
    except Exception as error:
        raise LoadError(f"{found.name} cannot be loaded ({_first_line(error)}); {_WAYS}.") from error


def load_backbone(
    name: str | Path | None = None,
    device: str = "auto",
    dtype: str | torch.dtype = "auto",
    revision: str | None = None,
    clip: str | Path | None = None,
    quantize: str | None = None,
) -> Backbone:
    """A model, found and built; see vtprune.load. Raises LoadError with one sentence."""
    fits = fitting(device, dtype, quantize)
    return build(find(name, revision, fits=fits), device, dtype, clip, quantize)


def fitting(
    device: str = "auto", dtype: str | torch.dtype = "auto", quantize: str | None = None, spare: int = 0
) -> Callable[[str, int], None]:
    """The `fits` of `find` for these arguments, checked here. spare: bytes that will be free by then."""
    place = pick_device(device)
    kind = pick_dtype(dtype, place)
    if quantize is not None:
        weights.check_quantize(quantize, place)
    return lambda name, count: weights.fits(name, count, place, kind, quantize, device == "auto", spare)


@contextmanager
def _quiet() -> Iterator[None]:
    """No progress bars of transformers; fetching has its own."""
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


def _local(name: str | Path | None) -> tuple[Path | None, str]:
    """(the folder on this machine or None for a hub id, what a person is told)."""
    if name is None:
        folder = assets_dir() / "model"
        if not (folder / "config.json").is_file():
            raise LoadError(
                "the bundled model is missing from this installation; install vtprune again, "
                "or give a hub id or a model folder."
            )
        return folder, BUNDLED
    folder = Path(name).expanduser()
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise LoadError(f"{name} is not a model folder, for it has no config.json; {_WAYS}.")
        return folder, str(name)
    text = str(name)
    if folder.is_absolute() or text.startswith((".", "~")) or text.count("/") > 1:
        raise LoadError(f"there is no folder {name}; {_WAYS}.")
    return None, text


def _fetched(
    name: str, revision: str | None, tell: Tell | None, fits: Callable[[str, int], None] | None
) -> Path:
    """The folder of a hub id, from the cache when the hub does not answer."""
    try:
        remote = hub.ask(name, revision)
    except hub.Broken as error:
        folder = hub.cached(name, revision)
        if folder is None:
            raise LoadError(f"{error}; {_WAYS}.") from error
        return folder
    if "config.json" not in remote.sizes:
        raise LoadError(f"{name} is not a model for transformers, for it has no config.json; {_WAYS}.")
    try:
        folder = hub.fetch(remote, hub.texts(remote))
        _config(folder, name)  # before gigabytes are fetched in vain
        files = hub.weights(remote, folder)
        if not files:
            raise LoadError(_why_no_weights(name, list(remote.sizes)))
        if fits is not None and remote.parameters:
            fits(name, remote.parameters)
        return hub.fetch(remote, hub.texts(remote) + files, tell)
    except hub.Broken as error:
        raise LoadError(f"{error}; {_WAYS}.") from error


def _config(folder: Path, source: str) -> Any:
    """The config of a model of a known family. No code of the model's own runs, whatever it asks for."""
    from transformers import AutoConfig

    try:
        data = json.loads((folder / "config.json").read_text("utf-8"))
        kind = data["model_type"]
        if kind in FAMILIES:
            return AutoConfig.from_pretrained(folder, trust_remote_code=False)
    except Exception as error:  # transformers raises many unrelated kinds
        reason = "no model_type in its config" if isinstance(error, KeyError) else _first_line(error)
        raise LoadError(f"{source} is not a model that transformers can read ({reason}); {_WAYS}.") from error
    known = ", ".join(sorted(FAMILIES))
    own = " and comes with code of its own, which vtprune never runs" if "auto_map" in data else ""
    raise LoadError(
        f"{source} is a {kind!r} model, which vtprune does not support (it knows: {known}){own}; {_WAYS}."
    )


def _why_no_weights(source: str, names: Collection[str]) -> str:
    if hub.INDEX in names:
        return f"{source} lacks files that its {hub.INDEX} names; {_WAYS}."
    other = " (what it has can run code when it is read)" if any(n.endswith(PICKLES) for n in names) else ""
    return f"{source} has no weights in .safetensors files, the only kind that is read{other}; {_WAYS}."


def _first_line(error: Exception) -> str:
    """As much of it as fits into a sentence; transformers can tell all that it knows."""
    line = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
    return textwrap.shorten(line, 240, placeholder=" …")
