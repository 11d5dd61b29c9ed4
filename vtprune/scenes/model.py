"""The bundled model's architecture and its files: a small LLaVA, and the open_clip companion that shares its
vision tower."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer
from tokenizers.processors import TemplateProcessing
from torch import Tensor
from transformers import (
    CLIPImageProcessor,
    CLIPTextConfig,
    CLIPTextModelWithProjection,
    CLIPVisionConfig,
    GenerationConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)

from vtprune.scenes.dataset import CLIP_CONTEXT, PATCH, PICTURE
from vtprune.scenes.world import WORLD_VERSION


@dataclass(frozen=True)
class Size:
    """Layers, widths and heads of the three parts."""

    vision_layers: int = 6
    vision_width: int = 192
    vision_heads: int = 4
    decoder_layers: int = 10
    decoder_width: int = 192
    decoder_heads: int = 4
    text_layers: int = 2
    text_width: int = 128
    text_heads: int = 4
    joint_width: int = 128


SIZES = {"small": Size(), "large": Size(8, 256, 4, 12, 320, 5, 3, 192, 4, 192)}


def build_llava(size: Size, tokenizer: PreTrainedTokenizerFast) -> LlavaForConditionalGeneration:
    """An untrained model, float32."""
    vision = CLIPVisionConfig(
        hidden_size=size.vision_width,
        intermediate_size=4 * size.vision_width,
        num_hidden_layers=size.vision_layers,
        num_attention_heads=size.vision_heads,
        image_size=PICTURE,
        patch_size=PATCH,
        hidden_act="gelu",
        projection_dim=size.joint_width,
    )
    text = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=size.decoder_width,
        intermediate_size=-(-size.decoder_width * 8 // 3 // 64) * 64,
        num_hidden_layers=size.decoder_layers,
        num_attention_heads=size.decoder_heads,
        num_key_value_heads=size.decoder_heads,
        max_position_embeddings=2048,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        tie_word_embeddings=True,
    )
    config = LlavaConfig(
        vision_config=vision,
        text_config=text,
        image_token_index=tokenizer.encode("<image>", add_special_tokens=False)[0],
        vision_feature_layer=-2,
        vision_feature_select_strategy="default",
        image_seq_length=(PICTURE // PATCH) ** 2,
        tie_word_embeddings=True,
    )
    return LlavaForConditionalGeneration(config)


def build_text_tower(size: Size, tokenizer: PreTrainedTokenizerFast) -> CLIPTextModelWithProjection:
    """The companion's untrained text tower, float32."""
    return CLIPTextModelWithProjection(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=size.text_width,
            intermediate_size=4 * size.text_width,
            num_hidden_layers=size.text_layers,
            num_attention_heads=size.text_heads,
            max_position_embeddings=CLIP_CONTEXT,
            hidden_act="gelu",
            projection_dim=size.joint_width,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def tower_of(model: LlavaForConditionalGeneration) -> Any:
    """The vision transformer (embeddings, pre_layrnorm, encoder, post_layernorm), whatever wraps it in the
    installed version of transformers."""
    tower = model.model.vision_tower
    return tower.vision_model if hasattr(tower, "vision_model") else tower


def tower_layers(tower: Any, hidden: Tensor) -> list[Tensor]:
    """Every layer's output for embedded tokens [B, 1 + N, D]; the first entry is the input."""
    states = [hidden]
    for layer in tower.encoder.layers:
        out = layer(states[-1], attention_mask=None)
        states.append(out[0] if isinstance(out, tuple) else out)
    return states


def export(
    folder: Path,
    model: LlavaForConditionalGeneration,
    tokenizer: PreTrainedTokenizerFast,
    text_tower: CLIPTextModelWithProjection,
    visual_projection: Tensor,
    logit_scale: float,
    logit_bias: float,
) -> None:
    """Writes `folder` as from_pretrained reads it (bf16), and `folder/clip` as open_clip reads it."""
    folder.mkdir(parents=True, exist_ok=True)
    half: Any = LlavaForConditionalGeneration(model.config)
    half.load_state_dict(model.state_dict())
    half.to(torch.bfloat16)
    half.generation_config = GenerationConfig(
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        do_sample=False,
    )
    half.config.world_version = WORLD_VERSION
    half.save_pretrained(folder)
    processor = LlavaProcessor(
        image_processor=CLIPImageProcessor(
            size={"shortest_edge": PICTURE}, crop_size={"height": PICTURE, "width": PICTURE}
        ),
        tokenizer=tokenizer,
        patch_size=PATCH,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=tokenizer.chat_template,
    )
    processor.save_pretrained(folder)
    export_clip(folder / "clip", half, tokenizer, text_tower, visual_projection, logit_scale, logit_bias)


def export_clip(
    folder: Path,
    model: LlavaForConditionalGeneration,
    tokenizer: PreTrainedTokenizerFast,
    text_tower: CLIPTextModelWithProjection,
    visual_projection: Tensor,
    logit_scale: float,
    logit_bias: float,
) -> None:
    """The companion: the model's own tower and the text tower under open_clip's names."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    vision: Any = model.config.vision_config
    text = text_tower.config
    tower = dict(tower_of(model).state_dict())
    words = {name.removeprefix("text_model."): value for name, value in text_tower.state_dict().items()}
    state = {
        "visual.class_embedding": tower["embeddings.class_embedding"],
        "visual.positional_embedding": tower["embeddings.position_embedding.weight"],
        "visual.conv1.weight": tower["embeddings.patch_embedding.weight"],
        "visual.proj": visual_projection.T,
        "positional_embedding": words["embeddings.position_embedding.weight"],
        "token_embedding.weight": words["embeddings.token_embedding.weight"],
        "text_projection": words["text_projection.weight"].T,
        "logit_scale": torch.tensor(logit_scale).log(),
        "logit_bias": torch.tensor(logit_bias),
    }
    for theirs, ours in (("visual.ln_pre", "pre_layrnorm"), ("visual.ln_post", "post_layernorm")):
        state |= {f"{theirs}.{part}": tower[f"{ours}.{part}"] for part in ("weight", "bias")}
    state |= {f"ln_final.{part}": words[f"final_layer_norm.{part}"] for part in ("weight", "bias")}
    for prefix, source, layers in (
        ("visual.transformer", tower, vision.num_hidden_layers),
        ("transformer", words, text.num_hidden_layers),
    ):
        for index in range(layers):
            state |= _block(f"{prefix}.resblocks.{index}", source, f"encoder.layers.{index}")
    save_file(
        {k: v.to(torch.bfloat16).contiguous().clone() for k, v in state.items()},
        folder / "open_clip_model.safetensors",
    )
    settings = {
        "embed_dim": text.projection_dim,
        "init_logit_bias": logit_bias,
        "vision_cfg": {
            "image_size": vision.image_size,
            "layers": vision.num_hidden_layers,
            "width": vision.hidden_size,
            "head_width": vision.hidden_size // vision.num_attention_heads,
            "patch_size": vision.patch_size,
        },
        "text_cfg": {
            "context_length": text.max_position_embeddings,
            "vocab_size": text.vocab_size,
            "width": text.hidden_size,
            "heads": text.num_attention_heads,
            "layers": text.num_hidden_layers,
            "hf_tokenizer_name": "tokenizer",
            "tokenizer_kwargs": {"clean": "whitespace"},
            "pool_type": "eos",
            "eos_id": tokenizer.eos_token_id,
            "pad_id": tokenizer.pad_token_id,
        },
    }
    image = CLIPImageProcessor()
    preprocess = {"mean": list(image.image_mean), "std": list(image.image_std), "interpolation": "bicubic"}
    (folder / "open_clip_config.json").write_text(
        json.dumps({"model_cfg": settings, "preprocess_cfg": preprocess}, indent=2) + "\n"
    )
    own = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    own.post_processor = TemplateProcessing(
        single="<s> $A </s>",
        special_tokens=[("<s>", tokenizer.bos_token_id), ("</s>", tokenizer.eos_token_id)],
    )
    clip_tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=own,
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        model_max_length=CLIP_CONTEXT,
        clean_up_tokenization_spaces=False,
    )
    clip_tokenizer.save_pretrained(folder)


def _block(theirs: str, source: dict[str, Tensor], ours: str) -> dict[str, Tensor]:
    """One transformer block under open_clip's names: its q, k and v are one matrix."""
    block = {}
    for part in ("weight", "bias"):
        heads = [source[f"{ours}.self_attn.{p}_proj.{part}"] for p in "qkv"]
        block[f"{theirs}.attn.in_proj_{part}"] = torch.cat(heads)
        for name, own in (
            ("attn.out_proj", "self_attn.out_proj"),
            ("ln_1", "layer_norm1"),
            ("ln_2", "layer_norm2"),
            ("mlp.c_fc", "mlp.fc1"),
            ("mlp.c_proj", "mlp.fc2"),
        ):
            block[f"{theirs}.{name}.{part}"] = source[f"{ours}.{own}.{part}"]
    return block
