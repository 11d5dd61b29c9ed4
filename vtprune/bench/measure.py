"""Wall-clock time and peak memory of a piece of work, and the machine they were measured on."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.autograd.profiler import profile

from vtprune.cost import spread
from vtprune.types import Spread

Work = Callable[[], Any]


def seconds(work: Work, device: torch.device) -> float:
    """Wall-clock seconds of one call, until the device is done."""

    def now() -> float:
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter()

    start = now()
    work()
    return now() - start


def spread_of(work: Work, device: torch.device, repeats: int) -> Spread:
    """Milliseconds of `repeats` calls; what came before is the warm-up."""
    return spread([seconds(work, device) for _ in range(repeats)])


def ratio(over: list[float], under: list[float]) -> Spread:
    """over / under, round by round."""
    return spread([a / b / 1000 for a, b in zip(over, under, strict=True)])  # spread() is in thousandths


def peak_bytes(work: Work, device: torch.device) -> int:
    """Most memory that one call holds at any moment beyond what was there before, its result included.

    Of torch's own allocator on that device, temporaries inside operators included; not what a library such as
    MKL takes for itself. Warm up first, for the first call may allocate workspaces that stay.
    """
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        work()
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device) - before
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # else the profiler chats on stderr, line after line
    with profile(profile_memory=True) as record:
        work()
    assert record.kineto_results is not None
    held = most = 0
    for event in sorted(record.kineto_results.events(), key=lambda event: event.start_ns()):
        if event.name() == "[memory]" and event.device_type() == torch.autograd.DeviceType.CPU:
            held += event.nbytes()  # negative when memory is given back
            most = max(most, held)
    return most


def machine() -> dict[str, Any]:
    """Where this runs, for the head of a table."""
    return {
        "cpu": _cpu(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }


def machine_line(found: dict[str, Any]) -> str:
    """The same as one line."""
    gpu = f"{found['gpu']}; " if found["gpu"] else ""
    return f"{gpu}{found['cpu']}, {found['cores']} cores, {found['threads']} threads; torch {found['torch']}"


def _cpu() -> str:
    info = Path("/proc/cpuinfo")
    for line in info.read_text(encoding="utf-8").splitlines() if info.exists() else []:
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def markdown(header: list[str], rows: list[list[str]]) -> str:
    """A table whose first column is text and whose others are numbers."""
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
