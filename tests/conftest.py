"""A tiny random LLaVA in a folder, with a real tokenizer, processor and CLIP companion."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch
from PIL import Image

torch.set_num_threads(1)

TEMPLATE = (
    "{% for message in messages %}USER: {% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<image>\n{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %} ASSISTANT:{% endfor %}"
)
WORDS = "what is in the picture which colour has house left of a red fish how many birds are there"


def pytest_collection_modifyitems(items):
    """Quick tests first, then slow ones, then those that drive a browser; with -n these first, see below."""
    apart = "PYTEST_XDIST_WORKER" in os.environ
    items.sort(key=lambda item: (("browser" in item.keywords) != apart, "slow" in item.keywords))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """Among several workers one has the browser, the others take a file at a time."""
    from xdist.scheduler import LoadScopeScheduling

    class OneBrowser(LoadScopeScheduling):
        def _split_scope(self, nodeid):
            file = nodeid.split("::")[0]
            return "browser" if "/browser/" in file else file

    return OneBrowser(config, log)


def build_tokenizer():
    """Byte-level BPE that takes any text."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<pad>", "<s>", "</s>", "<image>"]
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=special, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    tokenizer.train_from_iterator([WORDS] * 4, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        additional_special_tokens=["<image>"],
    )


def build_model(
    folder: Path,
    *,
    seed: int = 0,
    image: int = 40,
    patch: int = 8,
    layers: int = 6,
    feature_layer: int | list[int] = -2,
    strategy: str = "default",
    size: dict | None = None,
    pad: bool = False,
    template: str | None = TEMPLATE,
    clip: str | None = None,
    mixing: float = 0.25,
    language: str = "llama",
    tower: str = "clip",
):
    """Save a random LLaVA to a folder and return it.

    clip: None, "same" tower or an "other" one. mixing: scale of what tower tokens tell each other.
    language: "llama", "mistral" or "qwen2". tower: "clip" or "siglip" (which has no CLS token).
    """
    from transformers import (
        CLIPImageProcessor,
        LlavaConfig,
        LlavaForConditionalGeneration,
        LlavaProcessor,
    )
    from transformers.models.llava.image_processing_llava import LlavaImageProcessor

    torch.manual_seed(seed)
    tokenizer = build_tokenizer()
    config = LlavaConfig(
        vision_config=vision_config(tower, image, patch),
        text_config=text_config(language, layers, len(tokenizer)),
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        vision_feature_layer=feature_layer,
        vision_feature_select_strategy=strategy,
    )
    model = LlavaForConditionalGeneration(config).eval()
    wake(model, mixing)
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    options = {"size": size or {"shortest_edge": image}, "crop_size": {"height": image, "width": image}}
    images = LlavaImageProcessor(do_pad=True, **options) if pad else CLIPImageProcessor(**options)
    processor = LlavaProcessor(
        image_processor=images,
        tokenizer=tokenizer,
        patch_size=patch,
        vision_feature_select_strategy=strategy,
        num_additional_image_tokens=1 if tower == "clip" else 0,
        chat_template=template,
    )
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    if clip:
        build_companion(folder / "clip", tokenizer, model.model.vision_tower if clip == "same" else None)
    return model


def vision_config(tower: str, image: int, patch: int):
    """Of a tiny "clip" or "siglip" tower."""
    import transformers as hf

    return {"clip": hf.CLIPVisionConfig, "siglip": hf.SiglipVisionConfig}[tower](
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=3,
        num_attention_heads=4,
        image_size=image,
        patch_size=patch,
    )


def text_config(language: str, layers: int, vocabulary: int, length: int = 512):
    """Of a tiny "llama", "mistral" or "qwen2". length: the longest sequence."""
    import transformers as hf

    return {"llama": hf.LlamaConfig, "mistral": hf.MistralConfig, "qwen2": hf.Qwen2Config}[language](
        vocab_size=vocabulary,
        hidden_size=48,
        intermediate_size=96,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=length,
        initializer_range=0.2,
    )


def wake(model, mixing: float) -> None:
    """Larger weights for a random LLaVA's tower and projector: the default scale leaves it almost blind, and
    every token would look the same. mixing: scale of what the tower's patches tell each other."""
    with torch.no_grad():
        for name, parameter in model.model.vision_tower.named_parameters():
            if parameter.dim() > 1:
                parameter.normal_(std=mixing if "out_proj" in name else 0.25)
        for parameter in model.model.multi_modal_projector.parameters():
            parameter.normal_(std=0.2)


def build_companion(folder: Path, tokenizer, tower=None) -> None:
    """Save a random open_clip model; with `tower` its vision tower is a copy of that one."""
    import open_clip
    from safetensors.torch import save_file

    config = {
        "embed_dim": 24,
        "quick_gelu": tower is not None,
        "vision_cfg": {
            "image_size": 40 if tower is not None else 32,
            "patch_size": 8,
            "width": 32,
            "head_width": 8,
            "layers": 3,
            "mlp_ratio": 2.0,
        },
        "text_cfg": {
            "context_length": 16,
            "vocab_size": len(tokenizer),
            "width": 32,
            "heads": 4,
            "layers": 2,
            "hf_tokenizer_name": "local",
        },
    }
    model = open_clip.CLIP(**{**config, "vision_cfg": config["vision_cfg"], "text_cfg": config["text_cfg"]})
    if tower is not None:
        copy_tower(model.visual, tower)
    folder.mkdir(parents=True)
    save_file(
        {k: v.contiguous() for k, v in model.state_dict().items()}, folder / "open_clip_model.safetensors"
    )
    data = {"model_cfg": config, "preprocess_cfg": {"mean": [0.5] * 3, "std": [0.5] * 3}}
    (folder / "open_clip_config.json").write_text(json.dumps(data))
    tokenizer.save_pretrained(folder)


@torch.no_grad()
def copy_tower(visual, tower) -> None:
    """Weights of a transformers CLIP vision model -> an open_clip one of the same shape."""

    def copy(a, b) -> None:
        a.weight.copy_(b.weight)
        a.bias.copy_(b.bias)

    visual.conv1.weight.copy_(tower.embeddings.patch_embedding.weight)
    visual.class_embedding.copy_(tower.embeddings.class_embedding)
    visual.positional_embedding.copy_(tower.embeddings.position_embedding.weight)
    copy(visual.ln_pre, tower.pre_layrnorm)
    copy(visual.ln_post, tower.post_layernorm)
    for theirs, ours in zip(visual.transformer.resblocks, tower.encoder.layers, strict=True):
        qkv = (ours.self_attn.q_proj, ours.self_attn.k_proj, ours.self_attn.v_proj)
        theirs.attn.in_proj_weight.copy_(torch.cat([p.weight for p in qkv]))
        theirs.attn.in_proj_bias.copy_(torch.cat([p.bias for p in qkv]))
        copy(theirs.attn.out_proj, ours.self_attn.out_proj)
        copy(theirs.ln_1, ours.layer_norm1)
        copy(theirs.ln_2, ours.layer_norm2)
        copy(theirs.mlp.c_fc, ours.mlp.fc1)
        copy(theirs.mlp.c_proj, ours.mlp.fc2)


def picture(seed: int, width: int = 60, height: int = 50) -> Image.Image:
    """Noise in blocks, so that patches differ."""
    generator = torch.Generator().manual_seed(seed)
    small = torch.randint(0, 256, (6, 7, 3), generator=generator, dtype=torch.uint8).numpy()
    return Image.fromarray(small).resize((width, height), Image.Resampling.NEAREST)


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("tiny") / "llava"
    build_model(folder, clip="same")
    return folder


@pytest.fixture(scope="session")
def engine(tiny_folder):
    import vtprune

    return vtprune.load(tiny_folder)


@pytest.fixture(scope="session")
def reference(tiny_folder):
    """The same model as transformers loads it."""
    from transformers import LlavaForConditionalGeneration

    return LlavaForConditionalGeneration.from_pretrained(tiny_folder, dtype=torch.float32).eval()
