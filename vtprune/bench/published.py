"""Models of published sizes without their weights: what to build them from, whole or shrunk to rehearse."""

from __future__ import annotations

import copy
import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from vtprune.assets import assets_dir
from vtprune.backbones import FAMILIES, weights
from vtprune.backbones.pretrained import Checkpoint, Pretrained

Config = dict[str, Any]


@dataclass(frozen=True)
class Published:
    """A model whose size is taken. id: on the hub, as in vtprune.models. config: of its config.json, all that
    decides how large its tensors are and what it makes of a picture."""

    id: str
    config: Config


def _llama(hidden: int, width: int, layers: int, heads: int, **more: Any) -> Config:
    """A language model of the Llama kind; width: of its MLP."""
    sizes = {"hidden_size": hidden, "intermediate_size": width}
    heads_of = {"num_attention_heads": heads, "num_key_value_heads": heads}
    common = {
        "model_type": "llama",
        "vocab_size": 32064,
        "max_position_embeddings": 4096,
        "rms_norm_eps": 1e-5,
    }
    return {**common, **sizes, "num_hidden_layers": layers, **heads_of, **more}


_CLIP_L = {
    "model_type": "clip_vision_model",
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "image_size": 336,
    "patch_size": 14,
    "projection_dim": 768,
}
_TAPPED = {"vision_feature_layer": -2, "vision_feature_select_strategy": "default"}
_PINPOINTS = [[336, 672], [672, 336], [672, 672], [1008, 336], [336, 1008]]
_VICUNA_7B, _VICUNA_13B = _llama(4096, 11008, 32, 32), _llama(5120, 13824, 40, 40)
_MISTRAL_7B = _llama(
    *(4096, 14336, 32, 32),
    model_type="mistral",
    num_key_value_heads=8,
    max_position_embeddings=32768,
    sliding_window=None,
    rope_parameters={"rope_type": "default", "rope_theta": 1e6},
)


def _llava(text: Config) -> Config:
    return {"model_type": "llava", "vision_config": _CLIP_L, "text_config": text, **_TAPPED}


def _next(text: Config) -> Config:
    return {**_llava(text), "model_type": "llava_next", "image_grid_pinpoints": _PINPOINTS}


def _qwen(
    hidden: int, width: int, layers: int, heads: int, groups: int, vocabulary: int, tied: bool
) -> Config:
    vision = {
        "depth": 32,
        "hidden_size": 1280,
        "intermediate_size": 3420,
        "num_heads": 16,
        "patch_size": 14,
        "spatial_merge_size": 2,
        "temporal_patch_size": 2,
        "window_size": 112,
        "fullatt_block_indexes": [7, 15, 23, 31],
        "out_hidden_size": hidden,
    }
    text = _llama(
        *(hidden, width, layers, heads),
        model_type="qwen2_5_vl_text",
        num_key_value_heads=groups,
        vocab_size=vocabulary,
        max_position_embeddings=128000,
        rms_norm_eps=1e-6,
        tie_word_embeddings=tied,
        rope_parameters={"rope_type": "default", "rope_theta": 1e6, "mrope_section": [16, 24, 24]},
    )
    own = {"vision_config": vision, "text_config": text, "tie_word_embeddings": tied}
    return {"model_type": "qwen2_5_vl", **own}


_TOWER_L = {
    "depth": 24,
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "deepstack_visual_indexes": [5, 11, 17],
}
_TOWER_SO = {
    "depth": 27,
    "hidden_size": 1152,
    "intermediate_size": 4304,
    "deepstack_visual_indexes": [8, 16, 24],
}
"""Vision towers of Qwen3-VL."""


def _qwen3(hidden: int, width: int, layers: int, heads: int, tower: Config, tied: bool) -> Config:
    vision = {
        **tower,
        "num_heads": 16,
        "patch_size": 16,
        "spatial_merge_size": 2,
        "temporal_patch_size": 2,
        "num_position_embeddings": 2304,
        "out_hidden_size": hidden,
    }
    rope = {"rope_type": "default", "rope_theta": 5e6, "mrope_section": [24, 20, 20]}
    text = _llama(
        *(hidden, width, layers, heads),
        model_type="qwen3_vl_text",
        num_key_value_heads=8,
        head_dim=128,
        vocab_size=151936,
        max_position_embeddings=262144,
        rms_norm_eps=1e-6,
        tie_word_embeddings=tied,
        rope_parameters={**rope, "mrope_interleaved": True},
    )
    own = {"vision_config": vision, "text_config": text, "tie_word_embeddings": tied}
    return {"model_type": "qwen3_vl", **own}


SHAPES = {
    "llava-1.5-7b": Published("llava-hf/llava-1.5-7b-hf", _llava(_VICUNA_7B)),
    "llava-1.5-13b": Published("llava-hf/llava-1.5-13b-hf", _llava(_VICUNA_13B)),
    "llava-next-7b": Published("llava-hf/llava-v1.6-vicuna-7b-hf", _next(_VICUNA_7B)),
    "llava-next-13b": Published("llava-hf/llava-v1.6-vicuna-13b-hf", _next(_VICUNA_13B)),
    "llava-next-mistral-7b": Published("llava-hf/llava-v1.6-mistral-7b-hf", _next(_MISTRAL_7B)),
    "qwen2.5-vl-3b": Published(
        "Qwen/Qwen2.5-VL-3B-Instruct", _qwen(2048, 11008, 36, 16, 2, 151936, tied=True)
    ),
    "qwen2.5-vl-7b": Published(
        "Qwen/Qwen2.5-VL-7B-Instruct", _qwen(3584, 18944, 28, 28, 4, 152064, tied=False)
    ),
    "qwen3-vl-2b": Published("Qwen/Qwen3-VL-2B-Instruct", _qwen3(2048, 6144, 28, 16, _TOWER_L, tied=True)),
    "qwen3-vl-4b": Published("Qwen/Qwen3-VL-4B-Instruct", _qwen3(2560, 9728, 36, 32, _TOWER_L, tied=True)),
    "qwen3-vl-8b": Published("Qwen/Qwen3-VL-8B-Instruct", _qwen3(4096, 12288, 36, 32, _TOWER_SO, tied=False)),
}
DEFAULT = ("llava-1.5-7b", "llava-next-7b", "qwen2.5-vl-7b")
SIDE = 1008
"""Pixels of the square picture: 576 visual tokens for LLaVA-1.5, 2880 for LLaVA-NeXT, 1296 for Qwen2.5-VL,
1024 for Qwen3-VL."""

_TINY_TEXT = {
    "vocab_size": 768,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "initializer_range": 0.2,  # the usual 0.02 leaves a model so narrow almost blind
}
_TINY_LLAVA = {
    "vision_config": {
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "image_size": 84,
    },
    "text_config": _TINY_TEXT,
}
_TINY_QWEN_VISION = {
    "depth": 4,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_heads": 4,
    "out_hidden_size": 64,
    "initializer_range": 0.2,
}
_TINY_QWEN_TEXT = {
    **_TINY_TEXT,
    "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [2, 3, 3]},
    "bos_token_id": None,  # the published ones are beyond this vocabulary
    "eos_token_id": None,
}
TINY: Mapping[str, Config] = {
    "llava": _TINY_LLAVA,
    "llava_next": {**_TINY_LLAVA, "image_grid_pinpoints": [[a // 4, b // 4] for a, b in _PINPOINTS]},
    "qwen2_5_vl": {
        "vision_config": {**_TINY_QWEN_VISION, "fullatt_block_indexes": [1, 3]},
        "text_config": _TINY_QWEN_TEXT,
    },
    "qwen3_vl": {
        "vision_config": {**_TINY_QWEN_VISION, "deepstack_visual_indexes": [0, 1, 2]},
        "text_config": {**_TINY_QWEN_TEXT, "head_dim": 16},
    },
}
"""model_type -> what a rehearsal changes in a published config; its picture is a quarter as wide."""

_ASKED = "{{ messages[0]['content'][-1]['text'] }}"
_VICUNA = f"USER: <image>\n{_ASKED} ASSISTANT:"
_CHATML = (
    f"<|im_start|>user\n<|vision_start|><|image_pad|><|vision_end|>{_ASKED}<|im_end|>\n"
    "<|im_start|>assistant\n"
)
"""Chat templates of one picture and one question, as the families have them."""
_MARKS = ("im_start", "im_end", "vision_start", "vision_end", "image_pad", "video_pad")
_QWEN = {
    "qwen2_5_vl": ("Qwen2_5_VLProcessor", (3136, 12845056)),
    "qwen3_vl": ("Qwen3VLProcessor", (65536, 16777216)),
}
"""model_type -> the processor, and how many pixels it makes of a picture at least and at most."""


def config_of(name: str, tiny: bool = False) -> Any:
    """transformers' config of a shape. ValueError on an unknown name."""
    from transformers import AutoConfig

    if name not in SHAPES:
        raise ValueError(f"there is no shape {name!r}: take {', '.join(SHAPES)}.")
    config = SHAPES[name].config
    return AutoConfig.for_model(**(merged(config, TINY[config["model_type"]]) if tiny else config))


def merged(config: Mapping[str, Any], changes: Mapping[str, Any]) -> Config:
    """The config with what is in `changes` in its place, dictionaries within it likewise."""
    inner = {k: merged(config[k], v) for k, v in changes.items() if isinstance(config.get(k), dict)}
    return {**config, **changes, **inner}


def parameters(config: Any) -> int:
    """How many a model of this config has; none of them is made."""
    import transformers

    with torch.device("meta"):
        model = getattr(transformers, _family(config).architecture)._from_config(copy.deepcopy(config))
    return sum(weight.numel() for weight in model.parameters())


def build(
    name: str, config: Any, device: torch.device, dtype: torch.dtype, folder: Path, seed: int = 0
) -> Pretrained:
    """The shape as a backbone, its weights drawn at random on the device.

    folder: empty; gets all files of a model but the weights. The tokenizer is the bundled model's with the
    family's special tokens: the rest of the published vocabulary has no text.
    """
    processor = _processor(config)
    config.save_pretrained(folder)
    processor.save_pretrained(folder)
    with weights.placed(weights.Placing(seed=seed)):
        return _family(config)(Checkpoint(str(folder), config, name, device, dtype))


def _family(config: Any) -> Any:
    module, cls = FAMILIES[config.model_type].split(":")
    return getattr(importlib.import_module(module), cls)


def _processor(config: Any) -> Any:
    """Of the family, for this config, which learns the numbers of its special tokens."""
    import transformers as hf

    tokenizer = hf.AutoTokenizer.from_pretrained(assets_dir() / "model")
    if config.model_type in _QWEN:
        marks = [f"<|{mark}|>" for mark in _MARKS]
        tokenizer.add_tokens(marks, special_tokens=True)
        for mark in _MARKS[2:]:
            name = mark.replace("_pad", "")
            setattr(config, f"{name}_token_id", tokenizer.convert_tokens_to_ids(f"<|{mark}|>"))
        vision = config.vision_config
        kind, (shortest, longest) = _QWEN[config.model_type]
        options = {
            "size": {"shortest_edge": shortest, "longest_edge": longest},
            "patch_size": vision.patch_size,
            "merge_size": vision.spatial_merge_size,
            "temporal_patch_size": vision.temporal_patch_size,
        }
        return getattr(hf, kind)(
            image_processor=hf.Qwen2VLImageProcessor(**options),
            tokenizer=tokenizer,
            video_processor=hf.Qwen2VLVideoProcessor(**options),
            chat_template=_family(config).system + _CHATML,
        )
    config.image_token_id = tokenizer.convert_tokens_to_ids("<image>")
    side = config.vision_config.image_size
    options = {"size": {"shortest_edge": side}, "crop_size": {"height": side, "width": side}}
    more = {
        "tokenizer": tokenizer,
        "patch_size": config.vision_config.patch_size,
        "vision_feature_select_strategy": config.vision_feature_select_strategy,
        "num_additional_image_tokens": 1,  # the tower's CLS token
        "chat_template": _VICUNA,
    }
    if config.model_type == "llava":
        return hf.LlavaProcessor(image_processor=hf.CLIPImageProcessor(**options), **more)
    images = hf.LlavaNextImageProcessor(image_grid_pinpoints=config.image_grid_pinpoints, **options)
    return hf.LlavaNextProcessor(image_processor=images, **more)
