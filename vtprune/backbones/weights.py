"""Weights of a model: how they are read, quantised and placed. Every family reads them through `weights`."""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vtprune.backbones import hub, memory
from vtprune.backbones.base import LoadError

LARGE = "pip install 'vtprune[large]'"
WHOLE = [f".*{word}.*" for word in memory.WHOLE_PARTS] + ["lm_head"]
"""Modules that are never quantised, so that what selectors read stays as it is."""


@dataclass(frozen=True)
class Placing:
    """quantize: None, "8bit" or "4bit". spread: over all GPUs, as one of them is too small. seed: None, or of
    weights that are drawn at random, of a folder that has a config but no weights."""

    quantize: str | None = None
    spread: bool = False
    seed: int | None = None


_placing: ContextVar[Placing | None] = ContextVar("placing", default=None)


@contextmanager
def placed(how: Placing) -> Iterator[None]:
    """Meanwhile `weights` places models in this way; adapters need not know."""
    token = _placing.set(how)
    try:
        yield
    finally:
        _placing.reset(token)


def plan(
    name: str, folder: Path, device: torch.device, dtype: torch.dtype, quantize: str | None, free_choice: bool
) -> Placing:
    """How a model's weights will be placed; nothing is read but the files' headers.

    free_choice: the device was not named, so several GPUs may be used. Raises LoadError with one sentence
    when the model does not fit, or something that is needed is not installed.
    """
    if quantize is not None:
        check_quantize(quantize, device)
    tensors = memory.shapes(hub.weight_files(folder))
    size = memory.weigh(tensors, dtype, quantize)
    there = memory.free(device)
    if there is not None and there < memory.needed(size) <= _everywhere(device, free_choice):
        if not _installed("accelerate"):
            raise LoadError(
                f"{name} needs {memory.gib(memory.needed(size))}, which no GPU here has but all together do; "
                f"to spread it over them, accelerate has to be installed: {LARGE}."
            )
        return Placing(quantize, spread=True)
    memory.check(name, size, dtype, device, _hint(tensors, device, dtype, quantize))
    if device.type == "cuda" and not _installed("accelerate"):
        ram = memory.free(torch.device("cpu"))
        if ram is not None and size > ram:
            raise LoadError(
                f"{name} passes through RAM on its way to the GPU, which takes {memory.gib(size)} where "
                f"{memory.gib(ram)} are free; with accelerate it does not: {LARGE}."
            )
    return Placing(quantize)


def fits(
    name: str,
    parameters: int,
    device: torch.device,
    dtype: torch.dtype,
    quantize: str | None,
    free_choice: bool,
    spare: int = 0,
) -> None:
    """Raises LoadError when so many parameters are too much for all the memory there is and `spare` more."""
    size = round(parameters * (memory.QUANTIZED[quantize] if quantize else dtype.itemsize))
    if memory.needed(size) > _everywhere(device, free_choice) + spare:
        memory.check(name, size, dtype, device)


def _everywhere(device: torch.device, free_choice: bool) -> int:
    """Bytes that are free on a device, or on all GPUs when the choice is ours."""
    if device.type == "cuda" and free_choice:
        return sum(memory.free(torch.device("cuda", i)) or 0 for i in range(torch.cuda.device_count()))
    return memory.free(device) or 0


def check_quantize(quantize: str, device: torch.device) -> None:
    """Raises LoadError with one sentence when weights cannot be quantised so on a device."""
    if quantize not in memory.QUANTIZED:
        raise LoadError(f"quantize={quantize!r} is not one of {', '.join(memory.QUANTIZED)}.")
    if device.type != "cuda":
        raise LoadError(
            f"quantize={quantize!r} needs a CUDA GPU, and {device} is none; "
            "leave it out, or choose dtype='bfloat16' to need half of float32's memory."
        )
    absent = [package for package in ("bitsandbytes", "accelerate") if not _installed(package)]
    if absent:
        raise LoadError(f"quantize={quantize!r} needs {' and '.join(absent)}, not installed here: {LARGE}.")


def weights(
    cls: Any,
    path: str,
    device: torch.device,
    dtype: torch.dtype,
    **more: Any,
) -> Any:
    """A model of transformers' class `cls` with its weights, in evaluation mode and frozen, on its device(s).

    Safetensors only, no code of the model's own. more: goes to from_pretrained. ValueError when the files do
    not hold all of it.
    """
    how = _placing.get() or Placing()
    if how.seed is not None:
        return drawn(cls, path, device, dtype, how.seed)
    options: dict[str, Any] = {
        "dtype": dtype,
        "attn_implementation": "sdpa",
        "use_safetensors": True,
        "trust_remote_code": False,
        **more,
    }
    if how.quantize:
        options["quantization_config"] = _quantization(how.quantize, dtype)
    if how.spread:
        options["device_map"] = "auto"
    elif how.quantize or (device.type == "cuda" and _installed("accelerate")):
        options["device_map"] = {"": device}  # straight to the GPU; without accelerate through RAM
    # what does not fit is told by `_complete`, with its name
    model, report = cls.from_pretrained(
        path, output_loading_info=True, ignore_mismatched_sizes=True, **options
    )
    _complete(model, report)
    if how.spread:
        from accelerate.hooks import remove_hook_from_module

        remove_hook_from_module(model, recurse=True)
        bridge(model, torch.device("cuda", device.index or 0))
    elif "device_map" not in options:
        model = model.to(device)
    return model.eval().requires_grad_(False)


def _complete(model: Any, report: Mapping[str, Any]) -> None:
    """Raises ValueError when weights are not in the files, or not in their shape: transformers draws such
    ones at random. report: transformers' own; a weight that is tied to one in the files is not missing."""
    bent = {key if isinstance(key, str) else key[0] for key in report["mismatched_keys"]}
    if bent:
        raise ValueError(f"its files hold {_some(bent)} in another shape than its config asks for")
    lost = {name for name, _ in model.named_parameters()}.intersection(report["missing_keys"])
    if lost:
        raise ValueError(f"its files lack {_some(lost)}")


def _some(names: Collection[str]) -> str:
    more = len(names) - 1
    return min(names) + (f" and {more} more of its weights" if more else "")


def drawn(cls: Any, path: str, device: torch.device, dtype: torch.dtype, seed: int) -> Any:
    """A model of a folder's config with random weights, as it would be before training; for measuring time.

    They are made on the device in their dtype, so nothing else holds them. The caller's random state stays.
    """
    config = cls.config_class.from_pretrained(path)
    with torch.random.fork_rng([device] if device.type == "cuda" else []), device:
        torch.manual_seed(seed)
        model = cls._from_config(config, dtype=dtype, attn_implementation="sdpa")
    return model.eval().requires_grad_(False)


def bridge(model: Any, home: torch.device) -> None:
    """Makes every part that lies on another device than `home` take its input from, and give its output to,
    the device that it is called from; so the parts can be called one by one, as vtprune does."""
    for module in model.modules():
        places = {tensor.device for tensor in (*module.parameters(), *module.buffers())}
        if len(places) == 1 and places != {home}:
            module.forward = _bridged(module.forward, places.pop())


def _bridged(forward: Callable[..., Any], place: torch.device) -> Callable[..., Any]:
    @functools.wraps(forward)
    def call(*args: Any, **kwargs: Any) -> Any:
        origin = next(_tensors((args, kwargs))).device
        return _moved(forward(*_moved(args, place), **_moved(kwargs, place)), origin)

    return call


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, tuple | list):
        for part in value:
            yield from _tensors(part)
    elif isinstance(value, dict):
        yield from _tensors(tuple(value.values()))


def _moved(value: Any, place: torch.device) -> Any:
    """The same with its tensors on a device; what is no tuple, list or dictionary, as transformers' outputs
    are, is not looked into."""
    if isinstance(value, Tensor):
        return value.to(place)
    if type(value) in (tuple, list):
        return type(value)(_moved(part, place) for part in value)
    if isinstance(value, dict):
        return type(value)(**{key: _moved(part, place) for key, part in value.items()})
    return value


def _quantization(quantize: str, dtype: torch.dtype) -> Any:
    from transformers import BitsAndBytesConfig

    if quantize == "8bit":
        return BitsAndBytesConfig(load_in_8bit=True, llm_int8_skip_modules=WHOLE)
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_compute_dtype=dtype,
        llm_int8_skip_modules=WHOLE,
    )


def _hint(tensors: Any, device: torch.device, dtype: torch.dtype, quantize: str | None) -> str:
    """What would help, as the end of a sentence: half the precision, quantisation, or a smaller model."""
    there = memory.free(device)
    if there is None:
        return ""
    if dtype.itemsize > 2 and memory.needed(memory.weigh(tensors, torch.bfloat16)) <= there:
        return "with dtype='bfloat16' it fits"
    if device.type == "cuda" and quantize is None:
        for kind in memory.QUANTIZED:
            if memory.needed(memory.weigh(tensors, torch.bfloat16, kind)) <= there:
                return f"with quantize={kind!r} it fits"
    return ""


def _installed(package: str) -> bool:
    return importlib.util.find_spec(package) is not None
