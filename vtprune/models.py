"""Models that are known to be worth trying: what `vtprune models` and the app's picker show."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from math import prod
from typing import Any

from vtprune.assets import assets_dir
from vtprune.backbones import BUNDLED, FAMILIES
from vtprune.backbones.hub import weight_files
from vtprune.backbones.memory import gib, needed, shapes

KIND_WORDS = {
    "vision": ("encoder", "methods on the encoder's output"),
    "projected": ("projected", "methods on projected tokens"),
    "llm": ("inside", "methods inside the language model"),
    "cls": ("CLS", "methods that read CLS attention"),
}
"""Kind of method (see vtprune.backbones.base.KINDS) -> its head in the table, and what it is called."""
HEAD = (
    *("model", "family", "parameters", "tokens an image", "memory in bf16", "licence"),
    *(short for short, _ in KIND_WORDS.values()),
)
FOOT = (
    f"The last {len(KIND_WORDS)} columns: {', '.join(words for _, words in KIND_WORDS.values())}. "
    "Methods that compare patches with the question also need a CLIP companion; the bundled model has one, "
    "for others name one (--clip). Parameters of models that are not bundled were counted from their "
    "configs; tokens and licences are a guide: the model's own page decides."
)


@dataclass(frozen=True)
class Known:
    """A model's facts. id: None for the bundled one. kind: model_type of its config. parameters: how many,
    0 where the files here tell it. tokens: visual tokens of an image. licence: of the weights, by their card.
    """

    id: str | None
    kind: str
    parameters: int
    tokens: str
    licence: str
    note: str = ""

    @property
    def name(self) -> str:
        """What a person calls it."""
        return self.id or BUNDLED

    @property
    def kinds(self) -> tuple[str, ...]:
        """Kinds of methods that its family runs."""
        module, cls = FAMILIES[self.kind].split(":")
        family: Any = getattr(importlib.import_module(module), cls)
        return family.kinds

    @property
    def memory(self) -> int:
        """Bytes that it runs in with bfloat16 weights, about."""
        return needed(2 * self.size)

    @property
    def size(self) -> int:
        """The number of parameters."""
        return self.parameters or _bundled()

    def row(self) -> tuple[str, ...]:
        """Its cells of the table, under HEAD."""
        return (
            self.name,
            self.kind,
            count(self.size),
            self.tokens,
            gib(self.memory),
            self.licence,
            *("yes" if kind in self.kinds else "no" for kind in KIND_WORDS),
        )


MODELS = (
    Known(None, "llava", 0, "256", "Apache-2.0", "Comes with vtprune; knows drawn scenes only."),
    Known(
        "HuggingFaceTB/SmolVLM-256M-Instruct",
        "idefics3",
        256_484_928,
        "64 a tile, up to 17 tiles",
        "Apache-2.0",
        "The smallest for photographs; a CPU will do.",
    ),
    Known(
        "HuggingFaceTB/SmolVLM-500M-Instruct",
        "idefics3",
        507_482_304,
        "64 a tile, up to 17 tiles",
        "Apache-2.0",
    ),
    Known(
        "HuggingFaceTB/SmolVLM-Instruct", "idefics3", 2_246_272_880, "81 a tile, up to 17 tiles", "Apache-2.0"
    ),
    Known(
        "HuggingFaceTB/SmolVLM2-2.2B-Instruct",
        "smolvlm",
        2_246_784_880,
        "81 a tile, up to 17 tiles",
        "Apache-2.0",
    ),
    Known(
        "llava-hf/llava-1.5-7b-hf",
        "llava",
        7_063_427_072,
        "576",
        "Llama 2",
        "What most papers on token pruning report.",
    ),
    Known("llava-hf/llava-1.5-13b-hf", "llava", 13_351_494_656, "576", "Llama 2"),
    Known("llava-hf/llava-v1.6-vicuna-7b-hf", "llava_next", 7_063_431_168, "up to 2880", "Llama 2"),
    Known("llava-hf/llava-v1.6-vicuna-13b-hf", "llava_next", 13_351_499_776, "up to 2880", "Llama 2"),
    Known("llava-hf/llava-v1.6-mistral-7b-hf", "llava_next", 7_566_747_648, "up to 2880", "Apache-2.0"),
    Known(
        "Qwen/Qwen2.5-VL-3B-Instruct",
        "qwen2_5_vl",
        3_754_622_976,
        "one for 28 x 28 pixels",
        "Qwen Research (not commercial)",
    ),
    Known("Qwen/Qwen2.5-VL-7B-Instruct", "qwen2_5_vl", 8_292_166_656, "one for 28 x 28 pixels", "Apache-2.0"),
    Known("Qwen/Qwen3-VL-2B-Instruct", "qwen3_vl", 2_127_532_032, "one for 32 x 32 pixels", "Apache-2.0"),
    Known("Qwen/Qwen3-VL-4B-Instruct", "qwen3_vl", 4_437_815_808, "one for 32 x 32 pixels", "Apache-2.0"),
    Known("Qwen/Qwen3-VL-8B-Instruct", "qwen3_vl", 8_767_123_696, "one for 32 x 32 pixels", "Apache-2.0"),
    Known(
        "Salesforce/blip2-opt-2.7b",
        "blip-2",
        3_744_761_856,
        "256, of which a Q-Former makes 32",
        "MIT",
        "One image a question; its language model always sees 32 tokens.",
    ),
    Known(
        "HuggingFaceM4/idefics-9b-instruct",
        "idefics",
        8_929_687_824,
        "256, of which a resampler makes 64",
        "Llama 1 (not commercial)",
        "Its language model looks at images through cross-attention.",
    ),
)
"""The bundled model, then by family; facts from the models' cards and configs."""


def known(name: str) -> Known:
    """The facts of a model. ValueError names the ids that are known."""
    found = {model.name: model for model in MODELS} | {"bundled": MODELS[0]}
    if name in found:
        return found[name]
    ids = ", ".join(model.id or "bundled" for model in MODELS)
    raise ValueError(
        f"{name!r} is not in the table, though it may load if its family is known; in the table are {ids}."
    )


def table(models: Sequence[Known] = MODELS) -> str:
    """Every model in a line."""
    rows = [HEAD, *(model.row() for model in models)]
    widths = [max(len(row[i]) for row in rows) for i in range(len(HEAD))]
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)
    return "\n".join([*(line.rstrip() for line in lines), "", FOOT])


def page(name: str) -> str:
    """Everything about one model, and how to start with it."""
    model = known(name)
    heads = [*HEAD[: -len(KIND_WORDS)], *(words for _, words in KIND_WORDS.values())]
    rows = [*zip(heads, model.row(), strict=True)][1:]
    width = max(len(label) for label, _ in rows)
    lines = [model.name, *(f"  {label:<{width}}  {value}" for label, value in rows)]
    lines += [f"  {model.note}"] * bool(model.note)
    return "\n".join([*lines, f"  vtprune app{f' --model {model.id}' if model.id else ''}"])


@cache
def _bundled() -> int:
    """Parameters of the bundled model, from its files' headers; 0 where it is missing."""
    with suppress(OSError, ValueError):
        return sum(map(prod, shapes(weight_files(assets_dir() / "model")).values()))
    return 0


def count(parameters: int) -> str:
    """A number of parameters in words."""
    return f"{parameters / 1e9:.1f} B" if parameters >= 1e9 else f"{parameters / 1e6:.0f} M"
