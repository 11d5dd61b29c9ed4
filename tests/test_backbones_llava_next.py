"""LLaVA-NeXT: tiles, newlines and unpadding, against transformers' own model."""

from __future__ import annotations

import backbone_checks as checks
import pytest
import torch
from backbone_checks import QUESTION, Rig
from conftest import (
    TEMPLATE,
    build_companion,
    build_tokenizer,
    picture,
    text_config,
    vision_config,
    wake,
)

import vtprune
from vtprune.backbones.geometry import overlap

TILE, PATCH = 40, 8
PINPOINTS = [[40, 80], [80, 40], [80, 80], [120, 40], [40, 120]]
SHAPES = {"square": (64, 64), "wide": (160, 20), "tall": (18, 144), "odd": (61, 47), "large": (401, 399)}


def build_next(folder, *, mixing=0.25, language="llama", tower="clip", template=TEMPLATE, clip=None, **more):
    """Save a random LLaVA-NeXT to a folder and return it, with its processor.

    clip: None, "same" tower or an "other" one. more: of its config.
    """
    from transformers import (
        LlavaNextConfig,
        LlavaNextForConditionalGeneration,
        LlavaNextImageProcessor,
        LlavaNextProcessor,
    )

    torch.manual_seed(0)
    tokenizer = build_tokenizer()
    strategy = "default" if tower == "clip" else "full"
    config = LlavaNextConfig(
        vision_config=vision_config(tower, TILE, PATCH),
        text_config=text_config(language, 3, len(tokenizer), 2048),
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        image_grid_pinpoints=PINPOINTS,
        **{"vision_feature_select_strategy": strategy, **more},
    )
    model = LlavaNextForConditionalGeneration(config).eval()
    wake(model, mixing)
    checks.silence(model, tokenizer.eos_token_id)
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    images = LlavaNextImageProcessor(
        size={"shortest_edge": TILE},
        crop_size={"height": TILE, "width": TILE},
        image_grid_pinpoints=PINPOINTS,
    )
    processor = LlavaNextProcessor(
        image_processor=images,
        tokenizer=tokenizer,
        patch_size=PATCH,
        vision_feature_select_strategy=strategy,
        num_additional_image_tokens=1 if tower == "clip" else 0,
        chat_template=template,
    )
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    if clip:
        build_companion(folder / "clip", tokenizer, model.model.vision_tower if clip == "same" else None)
    return model, processor


def rig_of(folder, **options) -> Rig:
    model, processor = build_next(folder, **options)
    model.set_attn_implementation("sdpa")

    def inputs(images, question):
        marks = "<image>\n" * len(images)
        text = f"USER: {marks}{question} ASSISTANT:"
        return dict(processor(images=list(images), text=text, return_tensors="pt"))

    return Rig(vtprune.load(folder), model, inputs)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("next")


@pytest.fixture(scope="module")
def rig(folder):
    return rig_of(folder)


def pictures(count, *shapes):
    names = shapes or tuple(SHAPES)
    return [picture(i, *SHAPES[names[i % len(names)]]) for i in range(count)]


@pytest.mark.parametrize("shapes", [("square",), ("wide",), ("tall",), ("odd",), ("wide", "square", "tall")])
def test_keep_everything_is_the_model_itself(rig, shapes):
    checks.check_everything_is_the_model_itself(rig, pictures(len(shapes), *shapes))


@pytest.mark.parametrize("options", [{"language": "mistral"}, {"language": "qwen2"}, {"tower": "siglip"}])
def test_other_towers_and_language_models(tmp_path, options):
    rig = rig_of(tmp_path, **options)
    checks.check_everything_is_the_model_itself(rig, pictures(2), tokens=8)
    reason = rig.engine.supports("fastervlm")
    assert ("no CLS token" in reason) if "tower" in options else reason is None


@pytest.mark.parametrize("positions", ["original", "renumber"])
@pytest.mark.parametrize("method", ["uniform", "fastervlm"])
@pytest.mark.parametrize("shapes", [("odd",), ("wide", "tall")])
def test_pruned_answer_equals_hand_built_reference(rig, method, shapes, positions):
    checks.check_pruned_before_the_layers(rig, pictures(len(shapes), *shapes), method, 0.25, positions)


@pytest.mark.parametrize("shapes", [("odd",), ("wide", "tall")])
def test_pruning_inside_equals_masking(rig, shapes):
    checks.check_pruned_inside(rig, pictures(len(shapes), *shapes), 0.8)


@pytest.mark.parametrize("shape", SHAPES)
def test_segments_are_the_base_view_and_the_tiles_without_their_padding(rig, shape):
    (width, height), backbone = SHAPES[shape], rig.backbone
    prompt = backbone.prepare([picture(1, width, height)], QUESTION)
    base, tiles = prompt.segments
    assert base.grid == (5, 5) and tiles.length == tiles.grid[0] * tiles.grid[1]
    # the base view shows everything, and so do the tiles but for rounding
    assert base.boxes[:, :2].amin(0).tolist() == [0, 0]
    assert base.boxes[:, 2:].amax(0).tolist() == pytest.approx([width, height])
    assert tiles.boxes[:, :2].amin(0).tolist() == pytest.approx([0, 0], abs=max(width, height) / 24)
    assert tiles.boxes[:, 2:].amax(0).tolist() == pytest.approx([width, height], abs=max(width, height) / 24)
    shares = overlap(tiles.boxes, tiles.boxes)
    assert torch.allclose(shares, torch.eye(tiles.length), atol=1e-4)
    # a newline ends each row of the tiles: a placeholder that counts as text
    image = backbone.config.image_token_id
    newlines = [i for i in prompt.text.tolist() if prompt.ids[i] == image]
    first = int(prompt.visual[tiles.start])
    assert newlines == [first + row * (tiles.grid[1] + 1) + tiles.grid[1] for row in range(tiles.grid[0])]
    assert prompt.last_places.tolist() == [newlines[-1] - 1]
    assert rig.engine.tokens([picture(1, width, height)]) == len(prompt.visual)
    newline = backbone.embed_text(prompt)[prompt.text.tolist().index(newlines[0])]
    assert torch.equal(newline, rig.model.model.image_newline)


def test_newlines_stay_when_everything_else_goes(rig):
    run = rig.engine.run(pictures(1, "odd"), QUESTION, "uniform", keep=1, max_new_tokens=2, repeats=0)
    text = run.full.cost.prompt_tokens - run.full.cost.visual_tokens
    assert run.pruned.cost.prompt_tokens == text + 1 and run.tokens == run.full.cost.visual_tokens


@pytest.mark.parametrize("size", [(64, 64), (90, 60), (60, 90), (33, 264), (264, 33), (17, 23), (401, 399)])
def test_a_bright_cell_changes_the_token_whose_box_holds_it(blind, size):
    assert checks.check_geometry(blind, size) == 6


@pytest.fixture(scope="module")
def blind(tmp_path_factory):
    """Its tower's tokens hardly tell each other what they see."""
    return rig_of(tmp_path_factory.mktemp("blind"), mixing=0.01)


def test_extremely_thin_pictures(rig):
    """Rounding may leave nothing of the tiles but newlines, or not even those."""
    for size, tokens in (((3, 400), 25), ((400, 3), 35), ((1, 500), 25), ((500, 1), 35)):
        image = picture(1, *size)
        prompt = rig.backbone.prepare([image], QUESTION)
        assert len(prompt.visual) == tokens and len(prompt.segments) == (1 if tokens == 25 else 2)
        assert torch.equal(prompt.ids, rig.inputs([image], QUESTION)["input_ids"][0])
        run = rig.engine.run([image], QUESTION, "uniform", keep=4, max_new_tokens=2, repeats=0)
        assert run.tokens == tokens and len(run.stages[0].keep) == 4


@pytest.mark.parametrize(
    ("need", "layer"),
    [("cls_attention", 2), ("received_attention", 2), ("shallow_attention", 1), ("middle_attention", 1)],
)
def test_signals_are_those_of_the_tiles_in_the_order_of_the_tokens(rig, need, layer):
    """Transformers' own code packs an attention as if it were a feature of one number."""
    images = pictures(2, "odd", "wide")
    prompt = rig.backbone.prepare(images, QUESTION)
    signal = rig.backbone.encode(prompt, (need,)).signals[need]
    tower = rig.model.model.vision_tower
    tower.set_attn_implementation("eager")
    with torch.inference_mode():
        attention = tower(prompt.pixels, output_attentions=True).attentions[layer].mean(1)
    tower.set_attn_implementation("sdpa")
    rows = attention[:, 1:, 1:].mean(1)
    if need in ("cls_attention", "shallow_attention"):
        rows = attention[:, 0, 1:]
    assert torch.allclose(signal, packed(rig, rows[..., None], images)[:, 0], atol=1e-6)


def packed(rig, rows, images):
    """[N, D] from those of all patches [tiles, P, D], by transformers' own code, newlines left out."""
    inputs = rig.inputs(images, QUESTION)
    counts = [len([tile for tile in tiles if tile.any()]) for tiles in inputs["pixel_values"]]
    newline = torch.full((rows.shape[-1],), torch.inf)
    together, _ = rig.model.model.pack_image_features(
        list(rows.split(counts)), inputs["image_sizes"], "default", newline
    )
    together = torch.cat(together)
    return together[together.isfinite().all(1)]


def test_features_equal_the_models_own(rig):
    images = pictures(3)
    prompt, (_, embeds, *_) = rig.backbone.prepare(images, QUESTION), rig.whole(images)
    features = rig.backbone.project(rig.backbone.encode(prompt).features)
    assert torch.allclose(features, embeds[prompt.visual], atol=1e-5)


def test_order_of_requests_does_not_matter(rig):
    checks.check_order_does_not_matter(rig, pictures(1, "odd"), pictures(3))


def test_an_error_in_a_selector_leaves_nothing_behind(rig, monkeypatch):
    checks.check_errors_leave_nothing_behind(rig, picture(1), monkeypatch, ("cls_attention", "keys"))


@pytest.mark.parametrize("method", ["fastervlm", "prumerge", "divprune"])
def test_half_precision_selects_on_float32_signals(rig, folder, method):
    checks.check_half_precision_selects_alike(folder, pictures(2), method, 20)


def test_a_companion_maps_to_the_tiles(tmp_path):
    build_next(tmp_path, clip="other")
    engine = vtprune.load(tmp_path)
    assert engine.supports("trim") is None
    run = engine.run(pictures(2, "odd", "tall"), QUESTION, "trim", keep=0.3, max_new_tokens=2, repeats=0)
    assert run.stages[0].scores and min(run.stages[0].per_image) >= 1


def test_the_tower_itself_as_companion(tmp_path):
    rig = rig_of(tmp_path, clip="same")
    images = pictures(2, "wide", "odd")
    prompt = rig.backbone.prepare(images, QUESTION)
    found, _, sign = rig.backbone.clip(prompt, rig.backbone.encode(prompt))
    with torch.inference_mode():
        hidden = rig.model.model.vision_tower(prompt.pixels, output_hidden_states=True).hidden_states[-1]
    expected = packed(rig, rig.backbone.companion.project(hidden[:, 1:]), images)
    assert torch.allclose(found, expected, atol=1e-5) and sign == 1


def test_sixteen_pictures(rig):
    checks.check_sixteen_pictures(rig)


@pytest.mark.parametrize(
    ("language", "expected"),
    [
        ("llama", "USER: \nwhat? ASSISTANT:"),
        ("mistral", "[INST] \nwhat? [/INST]"),
        ("qwen2", "<|im_start|>user\n\nwhat?<|im_end|>\n<|im_start|>assistant\n"),
    ],
)
def test_prompt_without_a_chat_template(tmp_path, language, expected):
    build_next(tmp_path, template=None, language=language)
    backbone = vtprune.load(tmp_path).backbone
    prompt = backbone.prepare([picture(1)], "what?")
    assert backbone.tokenizer.decode(prompt.ids).replace("<image>", "") == expected
    assert backbone.tokenizer.decode(prompt.ids[prompt.instruction]).strip() == "what?"


def test_models_whose_tiles_do_not_fit_are_refused(tmp_path):
    build_next(tmp_path, vision_feature_select_strategy="full")
    with pytest.raises(vtprune.LoadError, match="'full' features of a tower with a CLS token"):
        vtprune.load(tmp_path)
