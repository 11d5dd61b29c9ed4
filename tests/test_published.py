"""Folders in the form in which models are published: weights under their old names in several files, and
config files that transformers has not saved for years."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
from backbone_checks import FAST, QUESTION, Rig, check_geometry, check_the_full_side, full_logits
from conftest import picture
from PIL import Image
from published_configs import CONFIGS
from published_folders import build, store, tensors_of, write
from transformers.quantizers.quantizers_utils import should_convert_module

import vtprune
from vtprune import models
from vtprune.backbones import hub, memory, weights

NAMES = {
    "llava-hf/llava-1.5-7b-hf": (
        "language_model.model.layers.0.self_attn.q_proj.weight",
        "language_model.lm_head.weight",
        "vision_tower.vision_model.encoder.layers.0.mlp.fc1.weight",
        "vision_tower.vision_model.pre_layrnorm.weight",
        "multi_modal_projector.linear_1.bias",
    ),
    "llava-hf/llava-v1.6-vicuna-7b-hf": (
        "image_newline",
        "language_model.model.embed_tokens.weight",
        "vision_tower.vision_model.embeddings.class_embedding",
    ),
    "llava-hf/llava-v1.6-mistral-7b-hf": ("language_model.model.norm.weight",),
    "Qwen/Qwen2.5-VL-3B-Instruct": (
        "visual.blocks.0.attn.qkv.bias",
        "visual.merger.mlp.2.weight",
        "model.layers.0.self_attn.k_proj.bias",
        "model.embed_tokens.weight",
    ),
    "Salesforce/blip2-opt-2.7b": (
        "query_tokens",
        "vision_model.encoder.layers.0.self_attn.qkv.bias",
        "qformer.encoder.layer.0.crossattention.attention.key.weight",
        "language_projection.weight",
        "language_model.model.decoder.embed_tokens.weight",
    ),
    "HuggingFaceM4/idefics-9b-instruct": (
        "model.embed_tokens.additional_embedding.weight",
        "model.gated_cross_attn_layers.0.alpha_cross_attn",
        "model.gated_cross_attn_layers.0.cross_attn.q_layer_norm.weight",
        "model.vision_model.encoder.layers.0.self_attn.q_proj.weight",
        "model.perceiver_resampler.blocks.0.1.c_proj.weight",
        "lm_head.additional_fc.weight",
    ),
    "HuggingFaceTB/SmolVLM-256M-Instruct": ("model.vision_model.post_layernorm.weight",),
    "HuggingFaceTB/SmolVLM-Instruct": (
        "model.text_model.layers.0.mlp.up_proj.weight",
        "model.vision_model.embeddings.patch_embedding.bias",
        "model.connector.modality_projection.proj.weight",
        "lm_head.weight",
    ),
    "HuggingFaceTB/SmolVLM2-2.2B-Instruct": ("model.text_model.embed_tokens.weight",),
}
"""Hub id -> some of the names in its safetensors files."""
LLAVA, QWEN, BLIP2, IDEFICS, SMOL = (
    next(name for name in NAMES if word in name) for word in ("1.5-7b", "Qwen", "blip2", "idefics", "M-Inst")
)
MISTRAL, SHAPED = "llava-hf/llava-v1.6-mistral-7b-hf", "HuggingFaceTB/SmolVLM-Instruct"
IMAGES = [picture(1, 60, 50), picture(2, 31, 77)]


def prompt_of(name: str, processor, images) -> dict:
    """Inputs of transformers' forward, as the model's card asks a question."""
    if "blip2" in name:
        return processor(images=images, text=f"Question: {QUESTION} Answer:", return_tensors="pt")
    if "idefics" in name:
        text = ["User:", *images, QUESTION, "\nAssistant:"]
        return processor(text=text, add_end_of_utterance_token=True, return_tensors="pt")
    content = [*({"type": "image"} for _ in images), {"type": "text", "text": QUESTION}]
    text = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
    nested = [list(images)] if "Smol" in name else list(images)
    return processor(images=nested, text=[text], add_special_tokens="Smol" not in name, return_tensors="pt")


def rig_of(folder: Path, name: str, monkeypatch) -> Rig:
    """vtprune's engine, and model and processor as transformers loads them from the same folder."""
    import transformers
    from transformers.models.smolvlm import processing_smolvlm

    monkeypatch.setattr(processing_smolvlm, "num2words", str)  # of a package that no picture needs
    cls = getattr(transformers, CONFIGS[name]["architectures"][0])
    model = cls.from_pretrained(folder, dtype=torch.float32).eval()
    processor = transformers.AutoProcessor.from_pretrained(folder)
    return Rig(vtprune.load(folder), model, lambda images, _: dict(prompt_of(name, processor, list(images))))


def same(folder: Path, made) -> bool:
    """Whether the folder loads as a model with exactly these weights."""
    found, expected = vtprune.load(folder).backbone.model.state_dict(), made.state_dict()
    return set(found) == set(expected) and all(torch.equal(found[key], expected[key]) for key in expected)


def answer_of(engine, images) -> list[int]:
    method = "fastervlm" if engine.backbone.family in ("blip-2", "idefics") else "random"
    return [token.id for token in engine.run(images, QUESTION, method, keep=0.5, **FAST).pruned.tokens]


# ---- the whole folder ----


@pytest.mark.parametrize("name", NAMES)
def test_a_published_folder_is_the_model_itself(tmp_path, monkeypatch, name):
    made = build(tmp_path, name)
    rig = rig_of(tmp_path, name, monkeypatch)
    assert same(tmp_path, made)
    images = IMAGES[: rig.backbone.max_images]
    with torch.inference_mode():
        logits = rig.model(**rig.inputs(images, QUESTION)).logits[0, -1]
    method = "fastervlm" if name in (BLIP2, IDEFICS) else "random"
    prompt = check_the_full_side(rig, images, logits, 32, method)
    assert rig.backbone.tokenizer.decode(prompt.ids[prompt.instruction]).strip() == QUESTION
    run = rig.engine.run(images, QUESTION, method, keep=0.3, **FAST)
    assert run.pruned.cost.visual_tokens == round(0.3 * run.tokens)


@pytest.mark.parametrize("name", CONFIGS)
def test_the_table_counts_what_published_configs_make(name):
    import transformers

    config = transformers.AutoConfig.for_model(**CONFIGS[name])
    with torch.device("meta"):
        model = getattr(transformers, config.architectures[0])._from_config(config)
    assert sum(weight.numel() for weight in model.parameters()) == models.known(name).parameters


# ---- weights ----


@pytest.mark.parametrize("name", NAMES)
def test_what_headers_tell_is_true_under_old_names(tmp_path, name):
    build(tmp_path, name)
    tensors = memory.shapes(hub.weight_files(tmp_path))
    assert len(hub.weight_files(tmp_path)) == 2 and set(NAMES[name]) <= set(tensors)
    model = vtprune.load(tmp_path).backbone.model
    assert memory.weigh(tensors, torch.float32) == sum(weight.nbytes for weight in model.parameters())
    shrunk = [
        part.weight.numel()
        for path, part in model.named_modules()
        if isinstance(part, torch.nn.Linear) and should_convert_module(path, weights.WHOLE)
    ]
    saved = memory.weigh(tensors, torch.bfloat16) - memory.weigh(tensors, torch.bfloat16, "8bit")
    assert saved == sum(shrunk) > 0


@pytest.mark.parametrize("name", NAMES)
def test_lacking_weights_are_refused(tmp_path, name):
    """Whether they are not there or have an odd name; transformers would draw them at random."""
    build(tmp_path, name)
    whole = tensors_of(tmp_path)
    for i, lost in enumerate(NAMES[name]):
        odd = {f"{lost}.old": whole[lost]} if i % 2 else {}
        store(tmp_path, {**{key: weight for key, weight in whole.items() if key != lost}, **odd})
        with pytest.raises(vtprune.LoadError, match=r"\(its files lack [^;\n]+\); give [^\n]+$") as caught:
            vtprune.load(tmp_path)
        assert lost.rpartition(".")[2] in str(caught.value)


def test_how_many_weights_are_lacking_is_told(tmp_path):
    build(tmp_path, LLAVA)
    whole = tensors_of(tmp_path)
    store(tmp_path, {key: weight for key, weight in whole.items() if "projector" not in key})
    with pytest.raises(
        vtprune.LoadError, match=r"lack model\.multi\S+linear_1\.bias and 3 more of its weights\)"
    ):
        vtprune.load(tmp_path)
    store(tmp_path, {key.replace("language_model", "llm"): weight for key, weight in whole.items()})
    with pytest.raises(vtprune.LoadError, match=r"lack lm_head\.weight and \d+ more"):
        vtprune.load(tmp_path)


def test_weights_of_another_shape_are_refused(tmp_path):
    build(tmp_path, QWEN)
    whole = tensors_of(tmp_path)
    store(tmp_path, {**whole, "model.norm.weight": torch.ones(3)})
    sentence = (
        r"\(its files hold model\.language_model\.norm\.weight in another shape than its config asks for\)"
    )
    with pytest.raises(vtprune.LoadError, match=sentence):
        vtprune.load(tmp_path)


def test_tied_weights_are_not_lacking(tmp_path):
    made, embed, head = build(tmp_path, BLIP2), "model.decoder.embed_tokens.weight", "lm_head.weight"
    whole = tensors_of(tmp_path)
    weight = whole.pop(f"language_model.{embed}")
    for names in ((embed,), (head,), (embed, head)):
        store(tmp_path, {**whole, **{f"language_model.{name}": weight.clone() for name in names}})
        assert same(tmp_path, made)
    store(tmp_path, whole)
    with pytest.raises(vtprune.LoadError, match=r"lack language_model\.\S+\.embed_tokens\.weight"):
        vtprune.load(tmp_path)


@pytest.mark.parametrize("name", [LLAVA, IDEFICS])
def test_weights_that_nobody_asks_for_do_no_harm(tmp_path, name):
    """Tables of numbers that transformers saved once."""
    made = build(tmp_path, name)
    llm, tower = ("language_model.model", "vision_tower.vision_model") if name == LLAVA else ("model",) * 2
    extra = {f"{llm}.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(6)}
    extra |= {f"{tower}.embeddings.position_ids": torch.arange(26)[None], "other.weight": torch.ones(2, 2)}
    store(tmp_path, {**tensors_of(tmp_path), **extra})
    assert same(tmp_path, made)


@pytest.mark.parametrize("name", [LLAVA, QWEN])
def test_names_between_the_old_and_todays(tmp_path, name):
    """As releases of transformers from 4.52 on saved them."""
    made = build(tmp_path, name)
    tensors = {key: weight.clone() for key, weight in made.state_dict().items()}
    if name == QWEN:
        del tensors["lm_head.weight"]  # is tied
    store(tmp_path, tensors)
    assert same(tmp_path, made)
    tower = "model.vision_tower."
    store(tmp_path, {key.replace(tower, f"{tower}vision_model."): weight for key, weight in tensors.items()})
    assert same(tmp_path, made)


# ---- other files ----


@pytest.mark.parametrize(
    ("name", "text"),
    [
        (LLAVA, f"USER: <image>\n<image>\n{QUESTION} ASSISTANT:"),
        (MISTRAL, f"[INST] <image>\n<image>\n{QUESTION} [/INST]"),
    ],
)
def test_a_folder_of_before_there_was_a_processor_config(tmp_path, name, text):
    """It has no chat template, and transformers' own processor cannot know how large a patch is."""
    build(tmp_path, name)
    engine = vtprune.load(tmp_path)
    prompt, answer = engine.backbone.prepare(IMAGES, QUESTION), answer_of(engine, IMAGES)
    patches = len(prompt.visual)
    for lacking in (["num_additional_image_tokens"], ["patch_size", "vision_feature_select_strategy"]):
        content = json.loads((tmp_path / "processor_config.json").read_text())
        write(tmp_path, processor_config={key: content[key] for key in content if key not in lacking})
        assert torch.equal(vtprune.load(tmp_path).backbone.prepare(IMAGES, QUESTION).ids, prompt.ids)
    for file in ("processor_config", "chat_template"):
        (tmp_path / f"{file}.json").unlink()
    engine = vtprune.load(tmp_path)
    prompt = engine.backbone.prepare(IMAGES, QUESTION)
    assert engine.backbone.processor.chat_template is None and len(prompt.visual) == patches
    said = re.sub(r"(<image>)+", "<image>", engine.backbone.tokenizer.decode(prompt.ids))
    assert re.sub(r"\s+", " ", said) == f"<s> {text}".replace("\n", " ")
    if name == MISTRAL:  # the template of LLaVA-1.5 has a space before the answer
        assert answer_of(engine, IMAGES) == answer


@pytest.mark.parametrize(
    "changes",
    [
        {"image_processor_type": "Qwen2VLImageProcessorFast"},
        {"size": {"shortest_edge": 256, "longest_edge": 2560}},
        {"size": {"shortest_edge": 256, "longest_edge": 2560}, "min_pixels": None, "max_pixels": None},
    ],
)
def test_limits_of_pixels_in_their_forms(tmp_path, changes):
    build(tmp_path, QWEN)
    expected = vtprune.load(tmp_path).backbone.prepare(IMAGES, QUESTION)
    assert {segment.grid for segment in expected.segments} == {(5, 6), (10, 4)}
    content = json.loads((tmp_path / "preprocessor_config.json").read_text()) | changes
    write(tmp_path, preprocessor_config={key: value for key, value in content.items() if value is not None})
    prompt = vtprune.load(tmp_path).backbone.prepare(IMAGES, QUESTION)
    assert torch.equal(prompt.ids, expected.ids) and torch.equal(prompt.pixels, expected.pixels)


def test_rotation_on_three_axes_in_its_forms(tmp_path, monkeypatch):
    build(tmp_path, QWEN)
    config = json.loads((tmp_path / "config.json").read_text())
    logits = []
    for sections in ([2, 2, 2], [4, 1, 1]):
        later = {"mrope_section": sections, "rope_type": "default", "type": "default"}
        for scaling in ({"mrope_section": sections, "type": "mrope"}, later):
            write(tmp_path, config={**config, "rope_scaling": scaling})
            rig = rig_of(tmp_path, QWEN, monkeypatch)
            logits.append(full_logits(rig, rig.backbone.prepare(IMAGES, QUESTION)))
    assert torch.allclose(logits[0], logits[1], atol=1e-5) and torch.allclose(logits[2], logits[3], atol=1e-5)
    assert (logits[0] - logits[2]).abs().max() > 1e-3


def test_blip2_of_before_its_tokens_for_images(tmp_path):
    """Nothing but the text config names the end of an answer, which is the end of a line."""
    build(tmp_path, BLIP2)
    engine = vtprune.load(tmp_path)
    prompt, answer = engine.backbone.prepare(IMAGES[:1], QUESTION), answer_of(engine, IMAGES[:1])
    newline = engine.backbone.tokenizer.convert_tokens_to_ids("Ċ")
    assert engine.backbone.eos == {newline} and prompt.ids[prompt.text[0]] == 2  # </s> begins
    config = json.loads((tmp_path / "config.json").read_text())
    del config["image_token_index"]
    write(tmp_path, config=config)
    for file in ("processor_config", "generation_config"):
        (tmp_path / f"{file}.json").unlink()
    engine = vtprune.load(tmp_path)
    assert torch.equal(engine.backbone.prepare(IMAGES[:1], QUESTION).ids, prompt.ids)
    assert answer_of(engine, IMAGES[:1]) == answer and engine.backbone.eos == {newline}


def test_ends_of_an_answer(tmp_path):
    ends = {IDEFICS: ["</s>", "<end_of_utterance>"], SMOL: ["<end_of_utterance>", "<pad>"]}
    ends[QWEN] = ["<|endoftext|>", "<|im_end|>"]
    for i, (name, marks) in enumerate(ends.items()):
        (tmp_path / str(i)).mkdir()
        build(tmp_path / str(i), name)
        backbone = vtprune.load(tmp_path / str(i)).backbone
        assert sorted(backbone.tokenizer.convert_ids_to_tokens(list(backbone.eos))) == marks


def test_the_chat_template_of_smolvlm_lies_in_a_file_of_its_own(tmp_path):
    build(tmp_path, SMOL)
    template = json.loads((tmp_path / "chat_template.json").read_text())["chat_template"]
    assert vtprune.load(tmp_path).backbone.processor.chat_template == template
    write(tmp_path, chat_template={"chat_template": template.replace("Assistant:", "She said:")})
    backbone = vtprune.load(tmp_path).backbone
    assert backbone.tokenizer.decode(backbone.prepare(IMAGES, QUESTION).ids).endswith("\nShe said:")


def test_pixels_that_no_patch_shows(tmp_path, monkeypatch):
    """Tiles of 39 pixels and patches of 4: three on the right and below are left over."""
    build(tmp_path, SHAPED)
    rig = rig_of(tmp_path, SHAPED, monkeypatch)
    size = 156, 38  # four tiles, the picture made a pixel higher
    segments = rig.backbone.segments([Image.new("RGB", size)])
    assert [segment.grid for segment in segments] == [(3, 3)] * 5
    for segment, (left, right) in (
        (segments[0], (24, 36)),
        (segments[1], (63, 75)),
        (segments[4], (96, 144)),
    ):
        expected = left, 24 * 38 / 39, right, 36 * 38 / 39
        assert segment.boxes[-1].tolist() == pytest.approx(expected, abs=1e-4)
    assert check_geometry(rig, size) == 15
