"""Tiny random Qwen2.5-VL and Qwen3-VL models in folders, with their processors."""

from __future__ import annotations

import torch
from backbone_checks import Rig, silence
from conftest import build_companion, build_tokenizer, picture

import vtprune

FAMILIES = {"qwen2_5_vl": "Qwen2_5_VL", "qwen3_vl": "Qwen3VL"}
PATCH, UNIT = 4, 8  # a token shows 8 x 8 pixels
MARKS = ["<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"]
TURNS = (
    "<|im_start|>{{ message['role'] }}\n{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% else %}{{ part['text'] }}{% endif %}{% endfor %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
TEMPLATES = {
    "qwen2_5_vl": "{% for message in messages %}{% if loop.first %}<|im_start|>system\n"
    "You are a helpful assistant.<|im_end|>\n{% endif %}" + TURNS,
    "qwen3_vl": "{% for message in messages %}" + TURNS,
}
VISION = {
    "qwen2_5_vl": {"depth": 4, "window_size": 2 * UNIT, "fullatt_block_indexes": [1, 3]},
    "qwen3_vl": {"depth": 5, "num_position_embeddings": 36, "deepstack_visual_indexes": [0, 2, 3]},
}
TEXT = {
    "qwen2_5_vl": {
        "rope_parameters": {"rope_type": "default", "mrope_section": [2, 2, 2], "rope_theta": 10000.0}
    },
    "qwen3_vl": {
        "head_dim": 16,
        "rope_parameters": {"rope_type": "default", "mrope_section": [4, 2, 2], "rope_theta": 10000.0},
    },
}
SHAPES = {"square": (40, 40), "wide": (160, 20), "tall": (18, 144), "odd": (61, 47), "large": (401, 399)}
MANY = ("wide", "square", "tall")


def pictures(*shapes):
    return [picture(i, *SHAPES[shape]) for i, shape in enumerate(shapes)]


def build_qwen(folder, family="qwen2_5_vl", *, mixing=0.25, template=True, clip=False):
    """Save a random model to a folder and return it, with its processor. mixing: scale of what the tower's
    patches tell each other."""
    import transformers as hf

    torch.manual_seed(0)
    tokenizer = build_tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": ["<image>", *MARKS]})
    number = tokenizer.convert_tokens_to_ids
    vision = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_heads": 4,
        "patch_size": PATCH,
        "spatial_merge_size": 2,
        "out_hidden_size": 48,
        **VISION[family],
    }
    text = {
        "vocab_size": len(tokenizer),
        "hidden_size": 48,
        "intermediate_size": 96,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 2048,
        "initializer_range": 0.2,
        "eos_token_id": number("<|im_end|>"),
        **TEXT[family],
    }
    name = FAMILIES[family]
    config = getattr(hf, f"{name}Config")(
        vision_config=vision,
        text_config=text,
        image_token_id=number("<|image_pad|>"),
        video_token_id=number("<|video_pad|>"),
        vision_start_token_id=number("<|vision_start|>"),
        vision_end_token_id=number("<|vision_end|>"),
    )
    model = getattr(hf, f"{name}ForConditionalGeneration")(config).eval()
    with torch.no_grad():
        for part, parameter in model.model.visual.named_parameters():
            if parameter.dim() > 1:
                parameter.normal_(std=mixing if "attn.proj" in part else 0.25)
        for part, parameter in model.model.language_model.named_parameters():
            if "q_norm" in part or "k_norm" in part:
                parameter.normal_(mean=1.0, std=0.3)
    silence(model, *(number(mark) for mark in MARKS))
    model.generation_config.eos_token_id = number("<|im_end|>")
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    limits = {"shortest_edge": 4 * UNIT**2, "longest_edge": 40 * UNIT**2}
    options = {"size": limits, "patch_size": PATCH, "merge_size": 2, "temporal_patch_size": 2}
    processor = getattr(hf, f"{name}Processor")(
        image_processor=hf.Qwen2VLImageProcessor(**options),
        tokenizer=tokenizer,
        video_processor=hf.Qwen2VLVideoProcessor(**options),
        chat_template=TEMPLATES[family] if template else None,
    )
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    if clip:
        build_companion(folder / "clip", build_tokenizer())
    return model, processor


def rig_of(folder, family="qwen2_5_vl", **options) -> Rig:
    model, processor = build_qwen(folder, family, **options)
    model.set_attn_implementation("sdpa")

    def inputs(images, question):
        content = [*({"type": "image"} for _ in images), {"type": "text", "text": question}]
        text = processor.apply_chat_template(
            [{"role": "user", "content": content}], add_generation_prompt=True, tokenize=False
        )
        return dict(processor(images=list(images), text=[text], return_tensors="pt"))

    return Rig(vtprune.load(folder), model, inputs)
