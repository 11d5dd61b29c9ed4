"""vtprune: see what visual token pruning keeps, what it saves, and when it breaks the answer.

import vtprune
engine = vtprune.load()
run = engine.run(images=["a.png"], question="What is to the left of the house?", method="atp", keep=0.25)
print(run.answer, "|", run.full.answer)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vtprune.types import (
    Budget,
    Comparison,
    Cost,
    Done,
    Encoded,
    Event,
    ImageInfo,
    Run,
    Segment,
    Selected,
    Selection,
    Side,
    Signals,
    Spread,
    Stage,
    Timing,
    Token,
    TokenOut,
)

if TYPE_CHECKING:
    from pathlib import Path

    import torch

    from vtprune.engine import Engine

__version__ = "0.1.0"

__all__ = [
    "Budget",
    "Comparison",
    "Cost",
    "Done",
    "Encoded",
    "Event",
    "ImageInfo",
    "LoadError",
    "Run",
    "Segment",
    "Selected",
    "Selection",
    "Side",
    "Signals",
    "Spread",
    "Stage",
    "Stopped",
    "Timing",
    "Token",
    "TokenOut",
    "list_methods",
    "load",
    "select",
]

_LAZY = {"LoadError": "vtprune.backbones.base", "Stopped": "vtprune.engine", "Engine": "vtprune.engine"}


def load(
    name_or_path: str | Path | None = None,
    device: str = "auto",
    dtype: str | torch.dtype = "auto",
    revision: str | None = None,
    clip: str | Path | None = None,
    quantize: str | None = None,
) -> Engine:
    """An engine for the model in a folder, of a hub id, or (None) the bundled one.

    device: "auto" is CUDA where there is some, else the CPU. dtype: "auto" is bfloat16 on CUDA, float32 on
    the CPU. clip: a CLIP companion for methods that compare patches with the question: a folder for
    open_clip, or "ViT-L-14-336:openai"; None takes the folder clip/ inside the model's. quantize: "8bit" or
    "4bit" for the language model's weights, with bitsandbytes on a CUDA GPU. A model too large for one GPU is
    spread over all of them unless the device is named. Only safetensors are read and no code of the model's
    is run. Raises LoadError (a ValueError) with one sentence, for want of memory before any weight is read.
    """
    from vtprune.backbones import load_backbone
    from vtprune.engine import Engine

    return Engine(load_backbone(name_or_path, device, dtype, revision, clip, quantize))


def list_methods() -> dict[str, Any]:
    """Name -> MethodInfo of every registered method."""
    from vtprune import methods

    return methods.list_methods()


def select(method: str, signals: Signals, keep: float | int, **params: Any) -> Selection:
    """One selection on signals of your own; of a method with several steps, its first.

    A nested method returns the order of all N tokens. Raises ValueError on an unknown method or parameter, a
    budget that cannot be met, or a signal that is missing.
    """
    from vtprune import methods

    return methods.select(method, signals, keep, **params)


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        import importlib

        return getattr(importlib.import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'vtprune' has no attribute {name!r}")
