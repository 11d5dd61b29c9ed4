"""SmolVLM and Idefics3 against transformers: tiles, pixel shuffle, geometry, pruning before and inside."""

from __future__ import annotations

import json

import pytest
import torch
from backbone_checks import (
    FAST,
    QUESTION,
    Rig,
    check_errors_leave_nothing_behind,
    check_everything_is_the_model_itself,
    check_geometry,
    check_half_precision_selects_alike,
    check_order_does_not_matter,
    check_pruned_before_the_layers,
    check_pruned_inside,
    check_saliency_without_cls,
    check_sixteen_pictures,
    silence,
)
from conftest import build_companion, build_tokenizer, picture
from PIL import Image

import vtprune
from vtprune.backbones.smolvlm import resized

TILE = 32
SHAPES = [(60, 50), (40, 320), (320, 40), (31, 77), (64, 64)]
TEMPLATE = (
    "<s>{% for message in messages %}User:{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<image>{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}<end_of_utterance>\nAssistant:{% endfor %}"
)


def build(folder, kind="smolvlm", *, seed=1, splitting=True, template=TEMPLATE, clip=False):
    """Save a random SmolVLM or Idefics3: tiles of 32 pixels, at most 4 of them on a side, 16 tokens each."""
    import transformers as hf

    torch.manual_seed(seed)
    tokenizer = build_tokenizer()
    marks = [f"<row_{row + 1}_col_{col + 1}>" for row in range(4) for col in range(4)]
    marks += ["<image>", "<fake_token_around_image>", "<global-img>", "<end_of_utterance>"]
    tokenizer.add_special_tokens({"additional_special_tokens": marks})
    tokenizer.chat_template = template
    name = {"smolvlm": "SmolVLM", "idefics3": "Idefics3"}[kind]
    vision = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "image_size": TILE,
        "patch_size": 4,
    }
    text = hf.LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=48,
        intermediate_size=96,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=8192,
        initializer_range=0.2,
    )
    image_token = tokenizer.convert_tokens_to_ids("<image>")
    config = getattr(hf, f"{name}Config")(
        vision_config=vision, text_config=text, image_token_id=image_token, scale_factor=2
    )
    model = getattr(hf, f"{name}ForConditionalGeneration")(config).eval()
    with torch.no_grad():
        # the default scale leaves a random tower almost blind: every token would look the same
        for part, parameter in model.model.vision_model.named_parameters():
            if parameter.dim() > 1:
                parameter.normal_(std=0.02 if "out_proj" in part else 0.25)
        model.model.connector.modality_projection.proj.weight.normal_(std=0.2)
    silence(model, tokenizer.eos_token_id, image_token)
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    images = getattr(hf, f"{name}ImageProcessor")(
        size={"longest_edge": 4 * TILE},
        max_image_size={"longest_edge": TILE},
        do_image_splitting=splitting,
    )
    model.save_pretrained(folder)
    images.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    if clip:
        build_companion(folder / "clip", build_tokenizer())
    return model


def processor_of(folder, kind):
    """The real processor; its video part needs a package that no picture does."""
    from transformers import AutoImageProcessor, AutoTokenizer, Idefics3Processor, SmolVLMProcessor
    from transformers.models.smolvlm import processing_smolvlm

    images, tokenizer = AutoImageProcessor.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    if kind == "idefics3":
        return Idefics3Processor(images, tokenizer, image_seq_len=16)
    from transformers import SmolVLMVideoProcessor

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(processing_smolvlm, "num2words", str)
        return SmolVLMProcessor(images, tokenizer, SmolVLMVideoProcessor(), image_seq_len=16)


@pytest.fixture(scope="module")
def smolvlm(tmp_path_factory):
    return make(tmp_path_factory.mktemp("smolvlm"), "smolvlm")


@pytest.fixture(scope="module")
def idefics3(tmp_path_factory):
    return make(tmp_path_factory.mktemp("idefics3"), "idefics3")


@pytest.fixture(params=["smolvlm", "idefics3"])
def rig(request):
    return request.getfixturevalue(request.param)


def make(folder, kind):
    model = build(folder, kind)
    processor = processor_of(folder, kind)

    def inputs(images, question):
        marks = "<image>" * len(images)
        text = f"<s>User:{marks}{question}<end_of_utterance>\nAssistant:"
        made = processor(text=text, images=[list(images)], add_special_tokens=False, return_tensors="pt")
        return dict(made)

    return Rig(vtprune.load(folder), model, inputs)


@pytest.mark.parametrize("sizes", [SHAPES[:1], SHAPES[1:4], [(128, 128)]])
def test_everything_is_the_model_itself(rig, sizes):
    check_everything_is_the_model_itself(rig, [picture(i, *size) for i, size in enumerate(sizes)])


@pytest.mark.parametrize("positions", ["original", "renumber"])
@pytest.mark.parametrize("method", ["uniform", "divprune"])
def test_pruned_before_the_layers(rig, method, positions):
    check_pruned_before_the_layers(rig, [picture(1, 60, 50), picture(2, 33, 90)], method, 0.25, positions)


def test_pruned_inside(rig):
    check_pruned_inside(rig, [picture(3, 70, 41)], keep=0.7)


@pytest.mark.parametrize("size", SHAPES)
def test_a_bright_cell_changes_the_token_whose_box_holds_it(smolvlm, size):
    assert check_geometry(smolvlm, size) >= 3


@pytest.mark.parametrize("size", [*SHAPES, (1, 300), (500, 3), (97, 101), (1000, 999)])
def test_tiles_are_the_image_processors(smolvlm, size):
    backbone, image = smolvlm.backbone, Image.new("RGB", size)
    segments = backbone.segments([image])
    given = backbone.processor.image_processor([[image]], return_row_col_info=True, return_tensors="pt")
    rows, cols, _ = backbone._tiles(image)
    assert (rows, cols) == (given["rows"][0][0], given["cols"][0][0])
    assert len(segments) == rows * cols + 1 == given["pixel_values"].shape[1]
    tiles, whole = segments[:-1], segments[-1]
    for part in (tiles, [whole]) if tiles else ([whole],):
        boxes = torch.cat([segment.boxes for segment in part])
        area = (boxes[:, 2:] - boxes[:, :2]).prod(1).sum()
        assert float(area) == pytest.approx(size[0] * size[1], rel=1e-4), "all of the upload, once"


@pytest.mark.parametrize("size", [(60, 50), (50, 61), (3, 900), (900, 3), (5000, 4999)])
@pytest.mark.parametrize("edge", [128, 6000])
def test_the_first_resize_is_transformers(size, edge):
    from transformers.models.smolvlm.image_processing_smolvlm import get_resize_output_image_size

    expected = get_resize_output_image_size(torch.empty(3, size[1], size[0]), edge)
    assert resized({"longest_edge": edge}, *size) == expected[::-1]
    assert resized({"height": 7, "width": 9}, *size) == (9, 7)


def test_without_splitting_there_is_the_global_view_only(tmp_path):
    model = build(tmp_path, splitting=False)
    engine = vtprune.load(tmp_path)
    (segment,) = engine.backbone.segments([Image.new("RGB", (90, 20))])
    assert segment.grid == (4, 4) and segment.boxes[-1].tolist() == [67.5, 15, 90, 20]
    prompt = engine.backbone.prepare([picture(1, 90, 20)], QUESTION)
    with torch.inference_mode():
        expected = model.get_image_features(prompt.pixels[None]).pooler_output[0]
    features = engine.backbone.project(engine.backbone.encode(prompt).features)
    assert torch.allclose(features, expected, atol=1e-5)


def test_marks_of_rows_and_columns_are_text(smolvlm):
    prompt = smolvlm.backbone.prepare([picture(1, 60, 50)], QUESTION)
    text = smolvlm.backbone.tokenizer.decode(prompt.ids[prompt.text])
    assert "<row_1_col_1>" in text and "<global-img>" in text and "<image>" not in text
    assert smolvlm.backbone.tokenizer.decode(prompt.ids[prompt.instruction]).strip() == QUESTION
    run = smolvlm.engine.run([picture(1, 60, 50)], QUESTION, "uniform", keep=0.1, **FAST)
    assert run.pruned.cost.prompt_tokens == len(prompt.text) + run.pruned.cost.visual_tokens


def test_signals_are_means_over_the_squares_that_make_a_token(smolvlm):
    from transformers import SmolVLMForConditionalGeneration

    backbone, prompt = smolvlm.backbone, smolvlm.backbone.prepare([picture(1, 60, 50)], QUESTION)
    encoded = backbone.encode(prompt, ("received_attention", "keys", "vision_features"))
    eager = SmolVLMForConditionalGeneration.from_pretrained(smolvlm.engine.name, attn_implementation="eager")
    with torch.inference_mode():
        out = eager.eval().model.vision_model(
            prompt.pixels, output_attentions=True, output_hidden_states=True
        )
    received = out.attentions[2].mean((1, 2))
    block = eager.model.vision_model.encoder.layers[2]
    with torch.inference_mode():
        keys = block.self_attn.k_proj(block.layer_norm1(out.hidden_states[2])).unflatten(-1, (4, 8)).mean(2)
    # the token in row 1 and column 2 of the second tile: patches in rows 2, 3 and columns 4, 5 of 8 by 8
    token, patches = 16 + 1 * 4 + 2, [20, 21, 28, 29]
    assert float(encoded.signals["received_attention"][token]) == pytest.approx(
        float(received[1, patches].mean()), abs=1e-6
    )
    assert torch.allclose(encoded.signals["keys"][token], keys[1, patches].mean(0), atol=1e-5)
    assert torch.allclose(
        encoded.signals["vision_features"][token], out.last_hidden_state[1, patches].flatten(), atol=1e-5
    )


def test_what_is_missing_is_a_sentence(smolvlm, tmp_path):
    assert "no CLS token" in smolvlm.engine.supports("fastervlm")
    assert "CLIP companion" in smolvlm.engine.supports("cdpruner")
    with pytest.raises(ValueError, match="no CLS token"):
        smolvlm.engine.run([picture(1)], QUESTION, "visionzip")
    build(tmp_path, clip=True)
    engine = vtprune.load(tmp_path)
    pictures = [picture(1, 60, 50), picture(2, 20, 90)]
    run = engine.run(pictures, QUESTION, "cdpruner", keep=0.2, **FAST)
    assert len(run.stages[0].keep) == round(0.2 * run.tokens)
    check_saliency_without_cls(tmp_path, pictures)


@pytest.mark.parametrize("template", [None, "{{ messages[0]['content'][-1]['text'] }}"])
def test_chat_templates(tmp_path, template):
    build(tmp_path, template=template)
    engine = vtprune.load(tmp_path)
    if template:
        with pytest.raises(ValueError, match="chat template"):
            engine.backbone.prepare([picture(1)], QUESTION)
    else:
        text = engine.backbone.tokenizer.decode(engine.backbone.prepare([picture(1)], QUESTION).ids)
        assert text.startswith("<s>User:<fake_token_around_image><row_1_col_1><image>")
        assert text.endswith(f"{QUESTION}<end_of_utterance>\nAssistant:")


def test_other_language_models_are_refused(tmp_path):
    build(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config["text_config"]["model_type"] = "gemma"
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(vtprune.LoadError, match="'gemma' language model"):
        vtprune.load(tmp_path)


def test_sixteen_pictures(rig):
    check_sixteen_pictures(rig)


def test_order_does_not_matter(smolvlm):
    check_order_does_not_matter(smolvlm, [picture(1, 60, 50)], [picture(2, 20, 90), picture(3)])


def test_errors_leave_nothing_behind(smolvlm, monkeypatch):
    check_errors_leave_nothing_behind(smolvlm, picture(1), monkeypatch, needs=("keys",))


@pytest.mark.parametrize("method", ["divprune", "hiprune"])
def test_half_precision_selects_alike(smolvlm, method):
    pictures = [picture(1, 60, 50), picture(2, 20, 90)]
    check_half_precision_selects_alike(smolvlm.engine.name, pictures, method, 40)
