"""Weights in 8 and 4 bits, with bitsandbytes itself on the CPU, where vtprune does not offer it."""

from __future__ import annotations

import pytest
import torch
from conftest import picture

import vtprune
from vtprune.backbones import find, hub, memory, weights

QUESTION = "What colour is the fish?"


@pytest.fixture(scope="module")
def whole():
    return vtprune.load(device="cpu")


@pytest.fixture(scope="module", params=memory.QUANTIZED)
def kind(request):
    return request.param


@pytest.fixture(scope="module")
def engine(kind):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(weights, "check_quantize", lambda *_: None)
        return vtprune.load(device="cpu", dtype="bfloat16", quantize=kind)


def test_the_matrices_of_the_language_model_shrink_and_nothing_else(engine, whole, kind):
    small = {"8bit": "Linear8bitLt", "4bit": "Linear4bit"}[kind]
    modules = dict(engine.backbone.model.named_modules())
    shrunk = {name for name, module in modules.items() if type(module).__name__ == small}
    linear = [name for name, part in whole.backbone.model.named_modules() if type(part) is torch.nn.Linear]
    assert shrunk == {name for name in linear if "language_model.layers" in name} and shrunk
    plain = {type(modules[name]) for name in linear if name not in shrunk}
    assert plain == {torch.nn.Linear}


def test_what_was_weighed_before_loading_is_true(engine, kind):
    tensors = memory.shapes(hub.weight_files(find().folder))
    weighed = memory.weigh(tensors, torch.bfloat16, kind)
    real = sum(weight.nbytes for weight in engine.backbone.model.parameters())
    assert real <= weighed <= 1.05 * real


def test_what_selectors_read_of_the_tower_is_as_it_was(engine, kind):
    exact = vtprune.load(device="cpu", dtype="bfloat16").backbone
    prompt, needs = exact.prepare([picture(1)], QUESTION), ("cls_attention", "keys")
    mine, theirs = engine.backbone.encode(prompt, needs), exact.encode(prompt, needs)
    assert torch.equal(mine.features, theirs.features)
    assert all(torch.equal(mine.signals[need], theirs.signals[need]) for need in needs)


def test_everything_kept_is_the_quantised_model_itself(engine):
    backbone, images = engine.backbone, [picture(1)]
    run = engine.run(images, QUESTION, "random", keep=1.0, max_new_tokens=4, repeats=0)
    prompt = backbone.prepare(images, QUESTION)
    inputs = {"input_ids": prompt.ids[None], "pixel_values": prompt.pixels.to(backbone.dtype)}
    with torch.inference_mode():
        logits = backbone.model(**inputs).logits[0, -1].float()
    assert int(logits.argmax()) == run.full.tokens[0].id
    assert run.full.tokens[0].prob == pytest.approx(float(logits.softmax(-1).max()), abs=0.01)


@pytest.mark.parametrize("method", ["atp", "fastv", "dart", "sparsevlm", "pyramiddrop"])
def test_methods_of_every_place_run(engine, method):
    run = engine.run([picture(1)], QUESTION, method, keep=0.5, max_new_tokens=4, repeats=1)
    assert run.pruned.cost.tokens_per_layer[-1] < run.full.cost.tokens_per_layer[-1]
    assert run.full.answer and run.pruned.answer
