"""Tiny models in folders of the form in which their families are published."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import torch
from published_configs import CONFIGS, Config
from published_forms import FORMS
from safetensors.torch import load_file, save_file

from vtprune.backbones import hub
from vtprune.bench.published import merged

_LLAVA: dict[str, str] = {
    r"^model\.vision_tower\.|^vision_tower\.(?!vision_model)": "vision_tower.vision_model.",
    r"^model\.(multi_modal_projector|image_newline)": r"\1",
    r"^model\.language_model\.": "language_model.model.",
    r"^lm_head": "language_model.lm_head",
}
OLD: dict[str, dict[str, str]] = {
    "llava": _LLAVA,
    "llava_next": _LLAVA,
    "qwen2_5_vl": {r"^model\.visual\.": "visual.", r"^model\.language_model\.": "model."},
}
"""model_type -> beginnings of today's names and what they were, where that differs."""


def tensors_of(folder: Path) -> dict[str, torch.Tensor]:
    return {name: weight for file in hub.weight_files(folder) for name, weight in load_file(file).items()}


def store(folder: Path, tensors: dict[str, torch.Tensor], files: int = 2) -> None:
    """Writes weights in several files with an index, in place of what is there."""
    for file in hub.weight_files(folder):
        file.unlink()
    index, names = {}, sorted(tensors)
    for i in range(files):
        part = f"model-{i + 1:05}-of-{files:05}.safetensors"
        save_file({name: tensors[name].contiguous() for name in names[i::files]}, folder / part)
        index |= dict.fromkeys(names[i::files], part)
    total = sum(weight.nbytes for weight in tensors.values())
    (folder / hub.INDEX).write_text(json.dumps({"metadata": {"total_size": total}, "weight_map": index}))


def old(kind: str, name: str) -> str:
    """The published name of a weight that has another one today, or the same."""
    for new, published in OLD.get(kind, {}).items():
        name = re.sub(new, published, name)
    return name


def write(folder: Path, **files: Config) -> None:
    for name, content in files.items():
        (folder / f"{name}.json").write_text(json.dumps(content))


def build(folder: Path, name: str) -> Any:
    """A tiny model of a published one in a folder of its form; the model."""
    import transformers as hf

    config = CONFIGS[name]
    form = FORMS[config["model_type"]](config)
    config = merged(config, form.changes)
    write(folder, config=config, **form.files)
    form.tokenizer.save(str(folder / "tokenizer.json"))
    torch.manual_seed(0)
    model = getattr(hf, config["architectures"][0])(hf.AutoConfig.from_pretrained(folder)).eval()
    with torch.no_grad():
        form.waken(model)
        model.get_output_embeddings().weight[list(form.silent)] = 0
    kept = {n: w for n, w in model.state_dict().items() if n not in model.all_tied_weights_keys}
    store(folder, {old(config["model_type"], n): w.clone() for n, w in kept.items()})
    return model
