"""Qwen2.5-VL and Qwen3-VL: their own resolution, merged patches and positions on three axes, against
transformers' models."""

from __future__ import annotations

import backbone_checks as checks
import pytest
import torch
from backbone_checks import QUESTION
from conftest import picture
from PIL import Image
from qwen_rigs import FAMILIES, MANY, SHAPES, build_qwen, pictures, rig_of

import vtprune
from vtprune.backbones.geometry import overlap


@pytest.fixture(scope="module", params=FAMILIES)
def family(request):
    return request.param


@pytest.fixture(scope="module")
def folder(family, tmp_path_factory):
    return tmp_path_factory.mktemp(family)


@pytest.fixture(scope="module")
def rig(folder, family):
    return rig_of(folder, family)


@pytest.mark.parametrize("shapes", [*((shape,) for shape in SHAPES), MANY])
def test_keep_everything_is_the_model_itself(rig, shapes):
    checks.check_everything_is_the_model_itself(rig, pictures(*shapes))


@pytest.mark.parametrize("positions", ["original", "renumber"])
@pytest.mark.parametrize("method", ["uniform", "divprune"])
@pytest.mark.parametrize("shapes", [("odd",), MANY])
def test_pruned_answer_equals_hand_built_reference(rig, method, shapes, positions):
    checks.check_pruned_before_the_layers(rig, pictures(*shapes), method, 0.25, positions)


@pytest.mark.parametrize("k", [1, 2, 3])
@pytest.mark.parametrize("shapes", [("odd",), MANY])
def test_pruning_inside_equals_masking(rig, shapes, k):
    checks.check_pruned_inside(rig, pictures(*shapes), 0.9, k)


def test_features_equal_the_models_own(rig):
    images = pictures(*MANY)
    prompt, (_, embeds, *_) = rig.backbone.prepare(images, QUESTION), rig.whole(images)
    features = rig.backbone.project(rig.backbone.encode(prompt, ("keys", "received_attention")).features)
    assert torch.allclose(features, embeds[prompt.visual], atol=1e-5)


@pytest.mark.parametrize("shape", SHAPES)
def test_boxes_cover_the_upload_once(rig, shape):
    (width, height), (segment,) = SHAPES[shape], rig.backbone.segments(pictures(shape))
    assert segment.length == segment.grid[0] * segment.grid[1] <= 40
    assert segment.boxes[:, :2].amin(0).tolist() == [0, 0]
    assert segment.boxes[:, 2:].amax(0).tolist() == pytest.approx([width, height])
    assert torch.allclose(overlap(segment.boxes, segment.boxes), torch.eye(segment.length), atol=1e-4)


@pytest.fixture(scope="module")
def blind(family, tmp_path_factory):
    """Its tower's patches hardly tell each other what they see."""
    return rig_of(tmp_path_factory.mktemp("blind"), family, mixing=0.01)


@pytest.mark.parametrize("size", [(40, 40), (90, 60), (60, 90), (33, 264), (264, 33), (17, 23), (401, 399)])
def test_a_bright_cell_changes_the_token_whose_box_holds_it(blind, size):
    assert checks.check_geometry(blind, size) == 3


def test_signals_are_means_over_the_patches_of_a_token(rig, family):
    """One picture of 3 x 5 tokens, so that windows are cut; by hand from the tower's own layers."""
    image = picture(3, 40, 24)
    prompt = rig.backbone.prepare([image], QUESTION)
    assert prompt.segments[0].grid == (3, 5)
    encoded = rig.backbone.encode(prompt, ("received_attention", "middle_attention", "keys"))
    attention, keys = by_hand(rig, prompt)
    # four blocks of which 1 and 3 see everything, 9/24 of the depth is 1.5; or all of five, and 1.875
    last, middle = {"qwen2_5_vl": (3, 1), "qwen3_vl": (4, 2)}[family]
    to_tokens = {"qwen2_5_vl": from_windows, "qwen3_vl": from_rows}[family]
    for need, layer in (("received_attention", last), ("middle_attention", middle)):
        received = attention[layer][0].mean(0).mean(0)
        assert torch.allclose(encoded.signals[need], to_tokens(received), atol=1e-6)
    expected = to_tokens(keys[last].unflatten(-1, (4, 8)).mean(1))
    assert torch.allclose(encoded.signals["keys"], expected, atol=1e-5)


def by_hand(rig, prompt):
    """Eager attention of every layer, and keys [P, D] of every layer before their rotation, in the tower's
    order of the patches."""
    tower = rig.model.model.visual
    keys = {}
    hooks = [
        block.attn.qkv.register_forward_hook(lambda _, __, out, i=i: keys.update({i: out.chunk(3, -1)[1]}))
        for i, block in enumerate(tower.blocks)
    ]
    attention = {}

    def eager(module, query, key, value, attention_mask, scaling, **rest):
        weights = (query @ key.transpose(-1, -2) * scaling).softmax(-1)
        attention.setdefault(id(module), []).append(weights)
        return (weights @ value).transpose(1, 2).contiguous(), weights

    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    ALL_ATTENTION_FUNCTIONS["by_hand"] = eager
    kept = tower.config._attn_implementation
    tower.config._attn_implementation = "by_hand"
    try:
        with torch.inference_mode():
            tower(prompt.pixels, grid_thw=torch.tensor([[1, 6, 10]]))
    finally:
        tower.config._attn_implementation = kept
        del ALL_ATTENTION_FUNCTIONS["by_hand"]
        for hook in hooks:
            hook.remove()
    return [attention[id(block.attn)][0] for block in tower.blocks], keys


def from_rows(rows):
    """Rows of the patches of tokens, four of each in turn -> the tokens."""
    return rows.unflatten(0, (-1, 4)).mean(1)


def from_windows(rows):
    """Rows of the patches of 3 x 5 tokens in windows of 2 x 2 tokens -> the tokens row by row."""
    order = [*(0, 1, 5, 6), *(2, 3, 7, 8), *(4, 9), *(10, 11), *(12, 13), 14]
    found = torch.empty(15, *rows.shape[1:])
    found[order] = from_rows(rows)
    return found


def test_received_attention_stays_inside_each_picture(rig):
    images = pictures("odd", "tall")
    needs = ("received_attention", "middle_attention", "keys")
    both = rig.backbone.encode(rig.backbone.prepare(images, QUESTION), needs).signals
    alone = [rig.backbone.encode(rig.backbone.prepare([image], QUESTION), needs).signals for image in images]
    for need in needs:
        assert torch.allclose(both[need], torch.cat([one[need] for one in alone]), atol=1e-5)


def test_long_attention_maps_are_made_in_pieces(rig, monkeypatch):
    prompt = rig.backbone.prepare(pictures("odd", "tall"), QUESTION)
    whole = rig.backbone.encode(prompt, ("received_attention",)).signals["received_attention"]
    monkeypatch.setattr("vtprune.backbones.qwen_vl.AT_ONCE", 4 * 500)
    pieces = rig.backbone.encode(prompt, ("received_attention",)).signals["received_attention"]
    assert torch.allclose(pieces, whole, atol=1e-6)


def test_what_this_tower_cannot_give_is_named(rig):
    for method in ("fastervlm", "visionzip", "prumerge", "vscan"):
        assert "no CLS token" in rig.engine.supports(method)
    assert "CLIP companion" in rig.engine.supports("trim")
    assert all(rig.engine.supports(method) is None for method in ("hiprune", "divprune", "fastv", "dart"))
    with pytest.raises(ValueError, match="no CLS token"):
        rig.engine.run(pictures("odd"), QUESTION, "fastervlm")


@pytest.mark.parametrize("method", ["hiprune", "mmtok", "sparsevlm", "dart", "pyramiddrop", "downsample"])
def test_methods_of_every_place_run(rig, method):
    run = rig.engine.run(pictures(*MANY), QUESTION, method, keep=0.8, max_new_tokens=3, repeats=0)
    assert min(run.stages[-1].per_image) >= 1
    assert run.pruned.cost.tokens_per_layer[-1] < run.full.cost.tokens_per_layer[-1]


def test_renumbered_positions_close_gaps_and_keep_the_grid(rig):
    """Rows 0 and 4 of a 5 x 5 picture are left: they become neighbours, text has one number on all axes."""
    from vtprune.cost import Timer
    from vtprune.pipeline import Pass
    from vtprune.tokens import weave

    prompt = rig.backbone.prepare(pictures("square"), QUESTION)
    assert prompt.segments[0].grid == (5, 5)
    left = Pass(rig.backbone, prompt, [], Timer(rig.backbone.device), positions="renumber")
    places = prompt.visual[[0, 2, 20, 22]]
    left._sequence = weave(torch.zeros(len(prompt.text), 1), prompt.text, torch.zeros(4, 1), places)
    positions = left._positions()
    before = int(prompt.visual[0])
    assert (positions[:, :before] == torch.arange(before)).all()
    picture_part = positions[:, before : before + 4] - before
    assert picture_part.tolist() == [[0, 0, 0, 0], [0, 0, 2, 2], [0, 1, 0, 1]]
    after = positions[:, before + 4 :]
    assert (after == after[0]).all() and after[0, 0] == before + 3 and (after[0].diff() == 1).all()


def test_order_of_requests_does_not_matter(rig):
    checks.check_order_does_not_matter(rig, pictures("odd"), pictures(*MANY))
    assert rig.backbone.model.model.rope_deltas is None


def test_an_error_in_a_selector_leaves_nothing_behind(rig, monkeypatch):
    checks.check_errors_leave_nothing_behind(rig, picture(1), monkeypatch, ("received_attention", "keys"))


def test_an_error_in_the_tower_leaves_no_hook(rig, monkeypatch):
    def fail(*_):
        raise RuntimeError("no")

    prompt = rig.backbone.prepare(pictures("odd"), QUESTION)
    monkeypatch.setattr(rig.backbone._tower.merger, "forward", fail)
    with pytest.raises(RuntimeError, match="no"):
        rig.backbone.encode(prompt, ("keys",))
    assert checks.hooks(rig) == 0


@pytest.mark.parametrize("method", ["hiprune", "divprune", "mmtok"])
def test_half_precision_selects_on_float32_signals(rig, folder, method):
    checks.check_half_precision_selects_alike(folder, pictures(*MANY), method, 12)


def test_a_companion_maps_to_the_tokens(family, tmp_path):
    build_qwen(tmp_path, family, clip=True)
    engine = vtprune.load(tmp_path)
    assert engine.supports("trim") is None
    for method in ("trim", "cdpruner"):
        run = engine.run(pictures("odd", "tall"), QUESTION, method, keep=0.3, max_new_tokens=2, repeats=0)
        assert min(run.stages[0].per_image) >= 1
    checks.check_saliency_without_cls(tmp_path, pictures("odd", "tall"))


def test_sixteen_pictures(rig):
    checks.check_sixteen_pictures(rig)


def test_prompt_without_a_chat_template_is_the_familys(rig, family, tmp_path):
    build_qwen(tmp_path, family, template=False)
    backbone = vtprune.load(tmp_path).backbone
    prompt = backbone.prepare(pictures("odd", "tall"), QUESTION)
    assert torch.equal(prompt.ids, rig.inputs(pictures("odd", "tall"), QUESTION)["input_ids"][0])
    assert backbone.tokenizer.decode(prompt.ids[prompt.instruction]).strip() == QUESTION


@pytest.mark.parametrize("mark", ["<|image_pad|>", "<|video_pad|>"])
def test_question_must_not_hold_a_mark(rig, mark):
    with pytest.raises(ValueError, match="own mark"):
        rig.backbone.prepare(pictures("odd"), f"what is {mark}?")


def test_thin_pictures(rig):
    checks.check_everything_is_the_model_itself(rig, [picture(1, 199, 1)], tokens=8)
    with pytest.raises(ValueError, match="201 x 1 pixels is too thin"):
        rig.backbone.prepare([Image.new("RGB", (201, 1))], QUESTION)
