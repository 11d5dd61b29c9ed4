"""Qwen3-VL's deepstack against transformers: what is to be added to the visual tokens shares their fate.

What it has in common with Qwen2.5-VL is in test_backbones_qwen.py.
"""

from __future__ import annotations

import dataclasses
import json
import shutil

import backbone_checks as checks
import pytest
import torch
from backbone_checks import FAST, QUESTION, language_of
from qwen_rigs import MANY, pictures, rig_of

import vtprune
from vtprune.cost import Timer
from vtprune.methods import base
from vtprune.pipeline import Pass
from vtprune.types import Selection, Step


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("qwen3")


@pytest.fixture(scope="module")
def rig(folder):
    return rig_of(folder, "qwen3_vl")


class ByHand:
    """The sequence of a prompt and an answer to it, as transformers makes it.

    tokens: (place, number) of each, the number -1 for text. hidden [n, D]; deep [layers, n, D].
    """

    def __init__(self, rig, images, answer):
        self.model, self.language = rig.model, language_of(rig.model)
        prompt = rig.backbone.prepare(images, QUESTION)
        _, embeds, where, deep = rig.whole(images)
        said = rig.model.get_input_embeddings()(torch.tensor(answer, dtype=torch.int64))
        after = int(where.max()) + 1 + torch.arange(len(said))
        self.where = torch.cat([where, after.expand(3, -1)], 1)
        self.hidden = torch.cat([embeds, said])
        self.deep = torch.cat([deep, torch.zeros(len(deep), *said.shape)], 1)
        numbers = [-1] * len(self.hidden)
        self.image = {
            n: segment.image for segment in prompt.segments for n in range(segment.start, segment.stop)
        }
        for number, place in enumerate(prompt.visual.tolist()):
            numbers[place] = number
        self.tokens = list(enumerate(numbers))
        self.last = {self.image[number]: place for place, number in self.tokens if number >= 0}

    def apply(self, stage):
        """The same weights for the hidden states and all that is to be added to them."""
        rows = {number: (row, place) for row, (place, number) in enumerate(self.tokens) if number >= 0}
        first = max(self.image) + 1
        made = [*stage.keep, *range(first, first + stage.extra)]
        cells = list(zip(stage.merge_rows, stage.merge_cols, stage.merge_weights, strict=True))
        cells = cells or [(row, number, 1.0) for row, number in enumerate(made)]
        weights = torch.zeros(len(made), len(self.hidden))
        for row, number, weight in cells:
            weights[row, rows[number][0]] = weight
            self.image.setdefault(made[row], self.image[number])
        text = [row for row, (_, number) in enumerate(self.tokens) if number < 0]
        weights = torch.cat([torch.eye(len(self.hidden))[text], weights])
        tokens = [self.tokens[row] for row in text]
        tokens += [(rows[n][1] if n in rows else self.last[self.image[n]], n) for n in made]
        order = sorted(range(len(tokens)), key=tokens.__getitem__)
        self.tokens, weights = [tokens[i] for i in order], weights[order]
        self.hidden, self.deep = weights @ self.hidden, weights @ self.deep

    @property
    def positions(self):
        return self.where[:, None, [place for place, _ in self.tokens]]

    @torch.inference_mode()
    def forward(self):
        """Logits [n, V] of the language model's own forward."""
        visual = torch.tensor([number >= 0 for _, number in self.tokens])
        states = self.language(
            inputs_embeds=self.hidden[None],
            position_ids=self.positions,
            visual_pos_masks=visual[None],
            deepstack_visual_embeds=[added[visual] for added in self.deep],
        ).last_hidden_state
        return self.model.lm_head(states)[0]

    @torch.inference_mode()
    def layers(self, stages):
        """Logits [n, V] with stages on the way."""
        for k, layer in enumerate(self.language.layers):
            for stage in stages:
                if stage.layer == k:
                    self.apply(stage)
            mask = torch.full((len(self.hidden),) * 2, float("-inf")).triu(1)[None, None]
            rotation = self.language.rotary_emb(self.hidden[None], position_ids=self.positions)
            (self.hidden,) = layer(self.hidden[None], attention_mask=mask, position_embeddings=rotation)
            if k < len(self.deep):
                self.hidden = self.hidden + self.deep[k]
        return self.model.lm_head(self.language.norm(self.hidden))


def check(rig, images, method, keep, **params):
    """Every token of a pruned answer is the likeliest by hand. Returns the run."""
    run = rig.engine.run(images, QUESTION, method, keep=keep, **FAST, **params)
    ids = [token.id for token in run.pruned.tokens]
    mine = ByHand(rig, images, ids[:-1])
    inside = [stage for stage in run.stages if stage.layer is not None]
    for stage in run.stages:
        if stage.layer is None:
            mine.apply(stage)
    logits = (mine.layers(inside) if inside else mine.forward())[-len(ids) :]
    assert logits.argmax(-1).tolist() == ids
    probs = torch.tensor([token.prob for token in run.pruned.tokens])
    assert torch.allclose(probs, logits.softmax(-1).amax(-1), atol=1e-5)
    return run


def test_what_the_tower_adds_is_the_models_own(rig):
    images = pictures(*MANY)
    prompt, (*_, deep) = rig.backbone.prepare(images, QUESTION), rig.whole(images)
    encoded = rig.backbone.encode(prompt)
    assert len(encoded.deep) == len(deep) == 3
    for mine, theirs in zip(encoded.deep, deep, strict=True):
        assert mine.shape == encoded.features.shape
        assert torch.allclose(mine, theirs[prompt.visual], atol=1e-5)


def test_it_matters_to_the_logits(rig):
    """Or no test here would miss it; nor does any part of it change nothing."""
    prompt = rig.backbone.prepare(pictures("odd"), QUESTION)
    encoded = rig.backbone.encode(prompt)

    def logits(deep):
        left = Pass(rig.backbone, prompt, [], Timer(rig.backbone.device))
        return left.prefill(1, dataclasses.replace(encoded, deep=deep)).logits

    whole = logits(encoded.deep)
    for part in range(3):
        deep = [torch.zeros_like(x) if i == part else x for i, x in enumerate(encoded.deep)]
        assert (logits(tuple(deep)) - whole).abs().max() > 0.1
    assert (logits(()) - whole).abs().max() > 0.1
    assert torch.equal(logits(encoded.deep), whole), "nothing of it is used up"


@pytest.mark.parametrize("method", ["random", "divprune", "downsample"])
@pytest.mark.parametrize("shapes", [("odd",), MANY])
def test_rows_follow_the_features(rig, method, shapes):
    run = check(rig, pictures(*shapes), method, 0.25)
    assert run.blended == (method == "downsample")


@pytest.mark.parametrize("shapes", [("odd",), MANY])
def test_renumbered_positions(rig, shapes):
    checks.check_pruned_before_the_layers(rig, pictures(*shapes), "random", 0.25, "renumber")


@pytest.mark.parametrize("k", [1, 2, 3])
def test_a_step_inside_takes_from_what_is_still_to_come(rig, k):
    run = check(rig, pictures(*MANY), "fastv", 0.9, k=k)
    assert [stage.layer for stage in run.stages] == [k]


@pytest.mark.parametrize("method", ["sparsevlm", "pyramiddrop", "dart"])
@pytest.mark.parametrize("shapes", [("square",), MANY])
def test_methods_inside(rig, method, shapes):
    run = check(rig, pictures(*shapes), method, 0.8)
    assert min(stage.layer for stage in run.stages) < 3 and run.blended == (method == "sparsevlm")


def blend(signals, _):
    """Every other token takes in a part of its neighbour; all else of an image becomes one token more."""
    ids, n = signals.image_ids(), signals.count
    keep = torch.arange(0, n, 2)
    weights = [torch.zeros(n) for _ in keep]
    for row, token in zip(weights, keep.tolist(), strict=True):
        row[token] = 0.75
        row[min(token + 1, n - 1)] += 0.25
    rest = torch.ones(n, dtype=torch.bool).index_fill(0, keep, False)
    for image in reversed(signals.images):
        weights.append((rest & (ids == image)) / (rest & (ids == image)).sum())
    return Selection(keep, merge=torch.stack(weights).to_sparse(), extra=len(signals.images))


@pytest.mark.parametrize("places", [("vision",), (("llm", 0),), ("vision", ("llm", 1), ("llm", 2))])
def test_new_tokens_of_what_is_merged(rig, monkeypatch, places):
    monkeypatch.setattr(base, "_registry", dict(base._registry))
    steps = [Step(at, None, blend) for at in places]
    custom = type("Blend", (base.Method,), {"plan": lambda self, budget, shape: steps})
    base.register("blend")(dataclasses.dataclass(frozen=True)(custom))
    run = check(rig, pictures(*MANY), "blend", 0.5)
    assert [stage.extra for stage in run.stages] == [3] * len(places)


@pytest.mark.parametrize("offset", [0, -1])
def test_a_look_sees_normed_heads_and_what_was_added(rig, offset):
    """Attention and keys at every layer are those of transformers' own pass."""
    images, seen = pictures("odd", "tall"), []

    def watch(signals, _):
        seen.append(signals)
        return Selection(torch.arange(signals.count))

    prompt, layers = rig.backbone.prepare(images, QUESTION), range(-offset, rig.backbone.layers)
    needs = ("attention", "llm_keys")
    steps = [Step(("llm", k), None, watch, needs, layer_offset=offset) for k in layers]
    Pass(rig.backbone, prompt, steps, Timer(rig.backbone.device)).prefill(1)
    with torch.inference_mode():
        cache = rig.model(**rig.inputs(images, QUESTION), use_cache=True).past_key_values
    assert len(seen) == len(layers)
    for k, signals in zip(layers, seen, strict=True):
        attention = checks.eager_attention(rig, images, k + offset)[prompt.visual]
        assert torch.allclose(signals.attention.mean((0, 1)), attention, atol=1e-5)
        keys = cache.layers[k + offset].keys[0, :, prompt.visual].transpose(0, 1).flatten(1)
        assert torch.allclose(signals.llm_keys, keys, atol=1e-4)


def test_one_with_experts_is_another_family(rig, folder, tmp_path):
    copy = shutil.copytree(folder, tmp_path / "model")
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps({**config, "model_type": "qwen3_vl_moe"}))
    with pytest.raises(vtprune.LoadError, match="'qwen3_vl_moe' model, which vtprune does not support"):
        vtprune.load(copy)
