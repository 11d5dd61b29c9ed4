"""Loading, prompts and signals of the LLaVA adapter, against transformers' own outputs."""

from __future__ import annotations

import json
import shutil
from types import SimpleNamespace

import pytest
import torch
from conftest import build_model, picture
from torch import nn

import vtprune
from vtprune.backbones import pick_device, pick_dtype


@pytest.fixture(scope="module")
def eager(tiny_folder):
    from transformers import LlavaForConditionalGeneration

    return LlavaForConditionalGeneration.from_pretrained(tiny_folder, attn_implementation="eager").eval()


@pytest.fixture(scope="module")
def prompt(engine):
    return engine.backbone.prepare([picture(1), picture(2, 80, 50)], "Which colour has the fish?")


@pytest.fixture(scope="module")
def tower(eager, prompt):
    with torch.inference_mode():
        return eager.model.vision_tower(prompt.pixels, output_hidden_states=True, output_attentions=True)


@pytest.mark.parametrize("images", [1, 3])
def test_prompt_equals_the_processors(engine, images):
    backbone = engine.backbone
    pictures = [picture(i) for i in range(images)]
    prompt = backbone.prepare(pictures, "Which colour has the fish?")
    content = [*({"type": "image"} for _ in pictures), {"type": "text", "text": prompt.question}]
    text = backbone.processor.apply_chat_template(
        [{"role": "user", "content": content}], add_generation_prompt=True, tokenize=False
    )
    expected = backbone.processor(images=pictures, text=text, return_tensors="pt")
    assert torch.equal(prompt.ids, expected["input_ids"][0])
    assert torch.equal(prompt.pixels, expected["pixel_values"])
    assert engine.tokens(pictures) == 25 * images == len(prompt.visual)
    assert backbone.tokenizer.decode(prompt.ids[prompt.instruction]).strip() == prompt.question
    assert [s.start for s in prompt.segments] == [25 * i for i in range(images)]
    assert prompt.last_places.tolist() == [int(prompt.visual[25 * i + 24]) for i in range(images)]
    assert sorted([*prompt.text.tolist(), *prompt.visual.tolist()]) == list(range(len(prompt.ids)))


@pytest.mark.parametrize("question", ["USER", "ASSISTANT", ":", "A"])
def test_prompt_without_a_chat_template(tmp_path, question):
    """The question is found where it was put, even when the template has the same words."""
    build_model(tmp_path, template=None)
    backbone = vtprune.load(tmp_path).backbone
    prompt = backbone.prepare([picture(1)], question)
    text = backbone.tokenizer.decode(prompt.ids).replace("<image>", "")
    assert text == f"USER: \n{question} ASSISTANT:"
    assert question in backbone.tokenizer.decode(prompt.ids[prompt.instruction])
    assert prompt.visual.max() < prompt.instruction.min()
    after = backbone.tokenizer(" ASSISTANT:", add_special_tokens=False)["input_ids"]
    assert prompt.instruction.max() == len(prompt.ids) - len(after) - 1


def test_question_must_not_hold_the_image_mark(engine):
    with pytest.raises(ValueError, match="<image>"):
        engine.backbone.prepare([picture(1)], "what is <image>?")


def test_features_equal_the_models_own(engine, eager, prompt):
    features = engine.backbone.project(engine.backbone.encode(prompt).features)
    with torch.inference_mode():
        expected = torch.cat(list(eager.get_image_features(prompt.pixels).pooler_output))
    assert torch.allclose(features, expected, atol=1e-5)


def test_only_the_signals_asked_for_are_made(engine, prompt):
    assert engine.backbone.encode(prompt).signals == {}
    assert set(engine.backbone.encode(prompt, ("keys", "text")).signals) == {"keys", "text"}


@pytest.mark.parametrize(
    ("need", "layer"),
    [("cls_attention", 2), ("shallow_attention", 1), ("received_attention", 2), ("middle_attention", 1)],
)
def test_attention_signals_equal_eager_attention(engine, tower, prompt, need, layer):
    signal = engine.backbone.encode(prompt, (need,)).signals[need]
    attention = tower.attentions[layer].mean(1)
    if need in ("cls_attention", "shallow_attention"):
        expected = attention[:, 0, 1:]
    else:
        expected = attention[:, 1:, 1:].mean(1)
    assert torch.allclose(signal, expected.flatten(), atol=1e-6)


def test_keys_headless_attention_and_vision_features(engine, eager, tower, prompt):
    encoded = engine.backbone.encode(prompt, ("keys", "headless_attention", "vision_features"))
    block = eager.model.vision_tower.encoder.layers[2]
    with torch.inference_mode():
        normed = block.layer_norm1(tower.hidden_states[2])
        keys, query = block.self_attn.k_proj(normed), block.self_attn.q_proj(normed[:, 0])
    heads = keys[:, 1:].unflatten(-1, (4, 8)).mean(2).flatten(0, 1)
    assert torch.allclose(encoded.signals["keys"], heads, atol=1e-5)
    row = torch.einsum("bd,bpd->bp", query, keys).div(32**0.5).softmax(-1)[:, 1:].flatten()
    assert torch.allclose(encoded.signals["headless_attention"], row, atol=1e-6)
    assert torch.allclose(
        encoded.signals["vision_features"], tower.hidden_states[-2][:, 1:].flatten(0, 1), atol=1e-5
    )


class OneHot(nn.Module):
    """A key projection that answers to one place only."""

    def __init__(self, place: int) -> None:
        super().__init__()
        self.place = place

    def forward(self, x):
        keys = torch.zeros_like(x)
        keys[:, self.place] = 100.0
        return keys


@pytest.mark.parametrize("patch", [0, 7, 24])
def test_one_hot_cls_attention_keeps_that_patch(tmp_path, patch, monkeypatch):
    build_model(tmp_path)
    engine = vtprune.load(tmp_path)
    attention = engine.backbone.model.model.vision_tower.encoder.layers[-1].self_attn
    with torch.no_grad():
        attention.q_proj.weight.zero_()
        attention.q_proj.bias.fill_(1.0)
    monkeypatch.setitem(attention._modules, "k_proj", OneHot(patch + 1))  # CLS is at place 0
    run = engine.run([picture(1)], "what?", method="fastervlm", keep=1, max_new_tokens=1, repeats=0)
    assert run.stages[0].keep == [patch]
    assert run.stages[0].scores[run.stages[0].scored.index(patch)] == pytest.approx(1.0)


@pytest.mark.parametrize("options", [{"feature_layer": [-2, 1]}, {"feature_layer": -1}, {"strategy": "full"}])
def test_other_feature_layers_and_strategies(tmp_path, options):
    from transformers import LlavaForConditionalGeneration

    build_model(tmp_path, **options)
    engine = vtprune.load(tmp_path)
    model = LlavaForConditionalGeneration.from_pretrained(tmp_path).eval()
    prompt = engine.backbone.prepare([picture(1)], "what?")
    with torch.inference_mode():
        expected = torch.cat(list(model.get_image_features(prompt.pixels).pooler_output))
    features = engine.backbone.project(engine.backbone.encode(prompt, ("cls_attention",)).features)
    assert torch.allclose(features, expected, atol=1e-5)
    run = engine.run([picture(1)], "what?", method="fastervlm", keep=5, max_new_tokens=2, repeats=0)
    assert run.pruned.cost.visual_tokens == 5 and run.tokens == len(features)
    assert (prompt.segments[0].boxes[:, 2:] > prompt.segments[0].boxes[:, :2]).all()


def test_words_leaves_out_stop_words(engine):
    backbone = engine.backbone

    def tokens(text):
        return backbone.embed(torch.tensor(backbone.tokenizer(text, add_special_tokens=False)["input_ids"]))

    assert torch.equal(backbone.words("What is the house?"), tokens(" house"))
    assert backbone.words("What is it?").shape == (0, 48)


def test_missing_signals_are_named(tmp_path):
    build_model(tmp_path)
    engine = vtprune.load(tmp_path)
    assert "CLIP" in engine.supports("atp") and engine.supports("fastervlm") is None
    with pytest.raises(ValueError, match="CLIP companion"):
        engine.run([picture(1)], "what?", method="atp")


@pytest.fixture
def broken(tmp_path):
    def make(**config):
        (tmp_path / "config.json").write_text(json.dumps(config))
        (tmp_path / "model.safetensors").write_bytes(b"")
        return tmp_path

    return make


def test_load_errors_are_one_sentence(tmp_path, tiny_folder, broken, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)  # fail now, not after its retries
    cases = {
        "config.json": tmp_path,
        "no folder": tmp_path / "nothing" / "here",
        "hub": "someone/nothing-of-that-name",
    }
    for word, name in cases.items():
        with pytest.raises(vtprune.LoadError, match=word) as caught:
            vtprune.load(name)
        assert "vtprune.load()" in str(caught.value) and "\n" not in str(caught.value)
    with pytest.raises(vtprune.LoadError, match="'bert' model"):
        vtprune.load(broken(model_type="bert"))
    with pytest.raises(vtprune.LoadError, match="cannot be loaded"):
        vtprune.load(broken(model_type="llava"))
    with pytest.raises(vtprune.LoadError, match="no device"):
        vtprune.load(tiny_folder, device="cuda:77")
    with pytest.raises(vtprune.LoadError, match="dtype"):
        vtprune.load(tiny_folder, dtype="int8")
    pickled = tmp_path / "pickled"
    shutil.copytree(tiny_folder, pickled)
    (pickled / "model.safetensors").rename(pickled / "pytorch_model.bin")
    with pytest.raises(vtprune.LoadError, match="safetensors"):
        vtprune.load(pickled)


def test_bundled_model_missing(tmp_path, monkeypatch):
    monkeypatch.setattr("vtprune.backbones.assets_dir", lambda: tmp_path)
    with pytest.raises(vtprune.LoadError, match="bundled model is missing"):
        vtprune.load()


def test_auto_device_and_dtype(monkeypatch):
    assert pick_device("cpu").type == "cpu"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert pick_device("auto").type == "cpu"
    assert pick_dtype("auto", torch.device("cpu")) == torch.float32
    assert pick_dtype("auto", torch.device("cuda")) == torch.bfloat16
    assert pick_dtype("bf16", torch.device("cpu")) == pick_dtype(torch.bfloat16, torch.device("cpu"))


def test_eos_of_every_kind(engine, monkeypatch):
    backbone = engine.backbone
    for value, expected in ((7, {7}), ([7, 8], {7, 8}), (None, {backbone.tokenizer.eos_token_id})):
        monkeypatch.setattr(backbone.model, "generation_config", SimpleNamespace(eos_token_id=value))
        assert backbone.eos == expected


def test_half_precision_selects_on_float32_signals(tiny_folder):
    engine = vtprune.load(tiny_folder, dtype="bfloat16")
    run = engine.run([picture(1)], "what?", method="fastervlm", keep=0.2, max_new_tokens=4, repeats=0)
    assert run.dtype == "bfloat16" and len(run.stages[0].keep) == 5
    encoded = engine.backbone.encode(
        engine.backbone.prepare([picture(1)], "what?"), ("cls_attention", "keys")
    )
    assert encoded.features.dtype == torch.bfloat16
    assert all(signal.dtype == torch.float32 for signal in encoded.signals.values())
