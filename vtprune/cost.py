"""What a run costs: stage timers, floating-point operations, key/value cache, peak memory."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Sequence
from statistics import median
from typing import Any

import torch

from vtprune.types import Cost, Spread


class Timer:
    """One clock for one pass: at any moment exactly one stage runs, so the stages add up to the whole.

    `switch(stage)` ends the stage that runs and begins another; None stands for time that is nobody's (the
    reader of a stream thinking). On CUDA the marks are events on the device's current stream, read once at
    the end; elsewhere `time.perf_counter`.
    """

    def __init__(self, device: torch.device) -> None:
        self._device, self._cuda = device, device.type == "cuda"
        self._marks: list[tuple[str | None, Any]] = []

    def switch(self, stage: str | None) -> str | None:
        """Begin `stage`; returns the one that ran until now."""
        mark: Any
        if self._cuda:
            mark = torch.cuda.Event(enable_timing=True)
            mark.record(torch.cuda.current_stream(self._device))
        else:
            mark = time.perf_counter()
        before = self._marks[-1][0] if self._marks else None
        self._marks.append((stage, mark))
        return before

    def seconds(self) -> dict[str, float]:
        """Stage -> seconds so far, summed over all its turns. Waits for the device."""
        if self._cuda:
            torch.cuda.synchronize(self._device)
        total: dict[str, float] = defaultdict(float)
        for (stage, begin), (_, end) in zip(self._marks, self._marks[1:], strict=False):
            if stage is not None:
                total[stage] += begin.elapsed_time(end) / 1000 if self._cuda else end - begin
        return dict(total)


def reset_peak(device: torch.device) -> None:
    """Peak memory is counted from here; see `peak`."""
    if device.type == "cuda":
        for i in range(torch.cuda.device_count()):
            torch.cuda.reset_peak_memory_stats(i)


def peak(device: torch.device) -> int:
    """Most bytes that torch held since `reset_peak`: of all GPUs together, for a model may be spread over
    them; 0 where the device is none."""
    if device.type != "cuda":
        return 0
    return sum(torch.cuda.max_memory_allocated(i) for i in range(torch.cuda.device_count()))


def spread(seconds: Sequence[float]) -> Spread:
    """Median, minimum and maximum in milliseconds of at least one measurement in seconds."""
    values = [1000 * value for value in seconds]
    return Spread(median(values), min(values), max(values), len(values))


def prefill_flops(config: Any, tokens_per_layer: Sequence[int], crossed: int = 0) -> float:
    """Floating-point operations of the language model's prefill; a multiply-add counts as two.

    With n tokens in a layer, hidden size d, H query heads and G key/value heads of size h, and an MLP of
    width m:

        projections  2 n d (2 H h + 2 G h)      q and o have H h columns, k and v have G h
        attention    2 n² H h                   q kᵀ and its product with v, half of each by causality
        MLP          2 n · 3 d m                gate, up and down; OPT has no gate: 2 n · 2 d m

    Summed over the layers. With `crossed` image states of size v, every c-th layer (c is the config's
    cross_layer_interval) has a layer of cross-attention in front of it:

        projections  2 n d · 2 H h + 2 crossed v · 2 H h
        attention    4 n crossed H h
        MLP          2 n · 3 d m

    Left out: the language head (one row, the same for both sides), norms and rotary embeddings, the vision
    tower, and the projector or resampler.
    """
    hidden, heads = config.hidden_size, config.num_attention_heads
    groups = getattr(config, "num_key_value_heads", None) or heads
    size = getattr(config, "head_dim", None) or hidden // heads
    # OPT's name for the width, of an MLP of two matrices
    matrices, width = (2, config.ffn_dim) if hasattr(config, "ffn_dim") else (3, config.intermediate_size)
    total = 0
    for k, n in enumerate(tokens_per_layer):
        total += 2 * n * hidden * (2 * heads * size + 2 * groups * size)
        total += 2 * n * n * heads * size
        total += 2 * n * matrices * hidden * width
        if crossed and k % config.cross_layer_interval == 0:
            total += 4 * (n * hidden + crossed * config.vision_config.hidden_size) * heads * size
            total += 4 * n * crossed * heads * size + 2 * n * matrices * hidden * width
    return float(total)


def kv_bytes(config: Any, tokens_per_layer: Sequence[int], dtype: torch.dtype) -> int:
    """Bytes of keys and values after the prefill: 2 · G · h · bytes of the dtype, per token and layer."""
    groups = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return 2 * groups * size * dtype.itemsize * sum(tokens_per_layer)


def cost(
    config: Any,
    visual_per_layer: Sequence[int],
    text_tokens: int,
    dtype: torch.dtype,
    peak_bytes: int = 0,
    *,
    patches: int | None = None,
    crossed: int = 0,
) -> Cost:
    """The :class:`Cost` of one side.

    config: of the language model. visual_per_layer: visual tokens in each of its layers; text_tokens: the
    rest of the prompt, which is never pruned. peak_bytes: see `peak`; of a measured pass, weights included.
    patches: visual tokens left for a resampler or cross-attention, None where they are in the sequence;
    crossed: image states that cross-attention saw.
    """
    tokens = [n + text_tokens for n in visual_per_layer]
    return Cost(
        visual_tokens=visual_per_layer[0] if patches is None else patches,
        prompt_tokens=tokens[0],
        tokens_per_layer=[n + crossed for n in visual_per_layer],
        prefill_flops=prefill_flops(config, tokens, crossed),
        kv_bytes=kv_bytes(config, tokens, dtype),
        peak_bytes=peak_bytes,
        indirect=patches is not None,
    )
