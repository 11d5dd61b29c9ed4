"""How much memory a model needs, and how much there is: told before its weights are read."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Sequence
from math import prod
from pathlib import Path

import torch

from vtprune.backbones.base import LoadError

GIB = 2**30
MARGIN, ROOM = 0.1, GIB // 10
"""What a run needs beside the weights, a share of them and a fixed part: activations, caches, buffers."""

QUANTIZED = {"8bit": 1.0, "4bit": 0.5625}
"""Bytes of a quantised weight; at 4 bits with a float32 scale for every 64 of them."""

WHOLE_PARTS = (
    "vision",
    "visual",
    "projector",
    "projection",
    "connector",
    "qformer",
    "perceiver",
    "resampler",
)
"""Parts that quantisation leaves alone, by words in their names: what selectors read stays as it is."""


def shapes(files: Sequence[Path]) -> dict[str, tuple[int, ...]]:
    """Tensor -> shape, from the headers of safetensors files alone. ValueError on a broken file."""
    found: dict[str, tuple[int, ...]] = {}
    for file in files:
        with file.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            if not 2 <= length < file.stat().st_size:
                raise ValueError(f"{file.name} is not a whole safetensors file")
            header = json.loads(stream.read(length))
        header.pop("__metadata__", None)
        found |= {name: tuple(entry["shape"]) for name, entry in header.items()}
    return found


def weigh(tensors: dict[str, tuple[int, ...]], dtype: torch.dtype, quantize: str | None = None) -> int:
    """Bytes of these weights in `dtype`, the language model's matrices quantised if so asked."""
    small = QUANTIZED[quantize] if quantize else dtype.itemsize
    return round(
        sum(
            prod(shape) * (small if _shrinks(name, shape) else dtype.itemsize)
            for name, shape in tensors.items()
        )
    )


def _shrinks(name: str, shape: tuple[int, ...]) -> bool:
    return len(shape) == 2 and not any(word in name for word in (*WHOLE_PARTS, "embed", "lm_head"))


def needed(weights: int) -> int:
    """Bytes that a model with so many bytes of weights runs in."""
    return round(weights * (1 + MARGIN)) + ROOM


def free(device: torch.device) -> int | None:
    """Bytes that are free on a device, or None where that cannot be told."""
    if device.type == "cuda":
        ours = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + ours
    return _ram() if device.type == "cpu" else None


def _ram() -> int | None:
    """Free RAM: what the system has left, or a container's limit if that is less."""
    found = []
    with contextlib.suppress(OSError):
        lines = Path("/proc/meminfo").read_text().splitlines()
        found += [1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")]
    group = Path("/sys/fs/cgroup")
    for limit, used in (
        ("memory.max", "memory.current"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"),
    ):
        with contextlib.suppress(OSError, ValueError):  # the limit may be the word "max"
            most = int((group / limit).read_text())
            cache = _inactive((group / limit).with_name("memory.stat"))
            found.append(max(0, most - int((group / used).read_text()) + cache))
    if not found:
        with contextlib.suppress(ValueError, OSError, AttributeError):  # macOS tells how much is built in
            found.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    return min(found, default=None)


def _inactive(stat: Path) -> int:
    """Bytes of files that a container keeps in memory only while nobody needs the place."""
    with contextlib.suppress(OSError):
        lines = (line.split() for line in stat.read_text().splitlines())
        return sum(int(value) for name, value in lines if name in ("inactive_file", "total_inactive_file"))
    return 0


def check(name: str, weights: int, dtype: torch.dtype, device: torch.device, hint: str = "") -> None:
    """Raises LoadError with one sentence when a model does not fit on a device."""
    there, need = free(device), needed(weights)
    if there is None or need <= there:
        return
    raise LoadError(
        f"{name} needs about {gib(need)} of memory in {str(dtype).removeprefix('torch.')} but {device} has "
        f"{gib(there)} free; {hint or 'choose a smaller model (see `vtprune models`)'}."
    )


def gib(size: float) -> str:
    """Bytes in words."""
    return f"{size / GIB:.1f} GiB" if size >= 0.95 * GIB else f"{size / GIB:.2f} GiB"
