"""BLIP-2 against transformers: patches pruned in front of the Q-Former, an OPT decoder behind it."""

from __future__ import annotations

import json

import pytest
import torch
from backbone_checks import (
    FAST,
    QUESTION,
    Rig,
    check_errors_leave_nothing_behind,
    check_geometry,
    check_half_precision_selects_alike,
    check_order_does_not_matter,
    check_pruned_before_a_resampler,
    check_the_full_side,
    full_logits,
    silence,
)
from conftest import build_companion, build_tokenizer, picture

import vtprune

QUERIES = 8
SIZES = [(60, 50), (33, 264), (264, 33), (17, 23)]


def build(folder, *, seed=0, clip=False, pre_norm=True):
    """Save a random BLIP-2 of 25 patches, 8 query tokens and 4 OPT layers."""
    import transformers as hf
    from tokenizers.processors import TemplateProcessing

    torch.manual_seed(seed)
    tokenizer = build_tokenizer()
    begin = tokenizer.bos_token_id
    tokenizer._tokenizer.post_processor = TemplateProcessing(single="<s> $A", special_tokens=[("<s>", begin)])
    vision = hf.Blip2VisionConfig(
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=3,
        num_attention_heads=4,
        image_size=40,
        patch_size=8,
    )
    qformer = hf.Blip2QFormerConfig(
        hidden_size=24, intermediate_size=48, num_hidden_layers=3, num_attention_heads=4
    )
    text = hf.OPTConfig(
        vocab_size=len(tokenizer),
        hidden_size=48,
        ffn_dim=96,
        num_hidden_layers=4,
        num_attention_heads=4,
        max_position_embeddings=128,
        do_layer_norm_before=pre_norm,
        init_std=0.2,
        bos_token_id=begin,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    image_token = tokenizer.convert_tokens_to_ids("<image>")
    config = hf.Blip2Config(
        vision_config=vision,
        qformer_config=qformer,
        text_config=text,
        num_query_tokens=QUERIES,
        image_token_index=image_token,
    )
    model = hf.Blip2ForConditionalGeneration(config).eval()
    with torch.no_grad():
        # the default scale leaves a random tower almost blind: every token would look the same
        for part, parameter in model.named_parameters():
            if part.startswith(("vision_model", "qformer", "language_projection")) and parameter.dim() > 1:
                parameter.normal_(std=0.02 if "self_attn.projection" in part else 0.3)
            if part.endswith("qkv.bias"):
                parameter.normal_(std=0.3)
        model.query_tokens.normal_()
        model.language_projection.weight.normal_(std=0.5)
        model.language_model.model.decoder.embed_positions.weight.normal_()  # answers must not stand still
    silence(model, tokenizer.eos_token_id, image_token)
    ends = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    for holder in (model, model.language_model):
        holder.generation_config.update(**ends)
    images = hf.BlipImageProcessor(size={"height": 40, "width": 40})
    model.save_pretrained(folder)
    hf.Blip2Processor(images, tokenizer, num_query_tokens=QUERIES).save_pretrained(folder)
    if clip:
        build_companion(folder / "clip", build_tokenizer())
    return model


def make(folder, **options):
    from transformers import AutoProcessor

    model = build(folder, **options)
    processor = AutoProcessor.from_pretrained(folder)

    def inputs(images, question):
        return dict(processor(images=list(images), text=f"Question: {question} Answer:", return_tensors="pt"))

    return Rig(vtprune.load(folder), model, inputs)


@pytest.fixture(scope="module")
def rig(tmp_path_factory):
    return make(tmp_path_factory.mktemp("blip2"))


def by_hand(rig, rows):
    """reference for `check_pruned_before_a_resampler`; rows(features [1, 26, Dv], kept) -> [1, n, Dv]."""

    def logits(prompt, kept, said):
        model = rig.model
        seen = rows(model.vision_model(prompt.pixels).last_hidden_state, kept)
        made = model.qformer(query_embeds=model.query_tokens, encoder_hidden_states=seen)
        queries = model.language_projection(made.last_hidden_state)
        ids = torch.cat([prompt.ids[QUERIES:], said])
        embeds = torch.cat([queries, model.language_model.get_input_embeddings()(ids)[None]], 1)
        return model.language_model(inputs_embeds=embeds).logits[0]

    return logits


def picked(features, kept):
    return features[:, [0, *(i + 1 for i in kept)]]  # CLS stays


@pytest.mark.parametrize("size", SIZES)
def test_everything_is_the_model_itself(rig, size):
    image = picture(1, *size)
    with torch.inference_mode():
        logits = rig.model(**rig.inputs([image], QUESTION)).logits[0, -1]
    prompt = check_the_full_side(rig, [image], logits, method="fastervlm")
    asked = rig.backbone.tokenizer.decode(prompt.ids[prompt.instruction])
    assert asked.strip() == QUESTION and prompt.slots.tolist() == list(range(QUERIES))


def test_layer_norm_behind_the_attention(tmp_path):
    rig = make(tmp_path, pre_norm=False)
    with torch.inference_mode():
        logits = rig.model(**rig.inputs([picture(1)], QUESTION)).logits[0, -1]
    prompt = rig.backbone.prepare([picture(1)], QUESTION)
    assert (full_logits(rig, prompt) - logits).abs().max() <= 1e-5
    check_pruned_before_a_resampler(rig, [picture(1)], "fastervlm", 0.36, by_hand(rig, picked))


@pytest.mark.parametrize("keep", [0.04, 0.36])
@pytest.mark.parametrize("method", ["fastervlm", "hiprune"])
def test_pruned_before_the_q_former(rig, method, keep):
    check_pruned_before_a_resampler(rig, [picture(2, 44, 70)], method, keep, by_hand(rig, picked))


def test_merged_before_the_q_former(rig):
    run = rig.engine.run([picture(2)], QUESTION, "visionzip", keep=10, **FAST)
    (stage,) = run.stages
    merge = torch.zeros(stage.after, 25)
    merge[stage.merge_rows, stage.merge_cols] = torch.tensor(stage.merge_weights)
    assert stage.after == run.pruned.cost.visual_tokens == 10 and len(stage.merge_weights) > 10

    def rows(features, _):
        return torch.cat([features[:, :1], (merge @ features[0, 1:])[None]], 1)

    with torch.inference_mode():
        prompt = rig.backbone.prepare([picture(2)], QUESTION)
        logits = by_hand(rig, rows)(prompt, None, prompt.ids[:0])[-1]
    assert int(logits.argmax()) == run.pruned.tokens[0].id
    assert float(logits.softmax(-1).max()) == pytest.approx(run.pruned.tokens[0].prob, abs=1e-5)


@pytest.mark.parametrize("need", ["cls_attention", "shallow_attention", "received_attention"])
def test_attention_signals_equal_eager_attention(rig, need):
    from transformers import Blip2ForConditionalGeneration

    prompt = rig.backbone.prepare([picture(3)], QUESTION)
    eager = Blip2ForConditionalGeneration.from_pretrained(rig.engine.name, attn_implementation="eager").eval()
    with torch.inference_mode():
        attentions = eager.vision_model(prompt.pixels, output_attentions=True).attentions
    attention = attentions[1 if need == "shallow_attention" else 2].mean(1)[0]
    expected = attention[1:, 1:].mean(0) if need == "received_attention" else attention[0, 1:]
    signals = rig.backbone.encode(prompt, (need,)).signals
    assert set(signals) == {need} and torch.allclose(signals[need], expected, atol=1e-6)


@pytest.mark.parametrize("size", SIZES)
def test_a_bright_cell_changes_the_token_whose_box_holds_it(rig, size):
    assert check_geometry(rig, size) == 3


def test_cost_is_of_query_tokens_and_counts_patches(rig):
    run = rig.engine.run([picture(1)], QUESTION, "fastervlm", keep=5, **FAST)
    full, pruned = run.full.cost, run.pruned.cost
    assert (full.visual_tokens, pruned.visual_tokens) == (25, 5) == (full.mean_tokens, pruned.mean_tokens)
    assert full.tokens_per_layer == pruned.tokens_per_layer == [QUERIES] * 4
    n = len(rig.backbone.prepare([picture(1)], QUESTION).ids)
    assert full.prompt_tokens == pruned.prompt_tokens == n
    layer = 2 * n * 48 * 4 * 48 + 2 * n * n * 48 + 2 * n * 2 * 48 * 96
    assert full.prefill_flops == pruned.prefill_flops == 4 * layer
    assert full.kv_bytes == pruned.kv_bytes == 4 * n * 2 * 48 * 4
    assert vtprune.Run.from_json(run.to_json()).pruned == run.pruned


@pytest.mark.parametrize(
    ("method", "reason"),
    [
        ("fastv", "sees 8 query tokens of an image whatever is pruned, so methods inside it have nothing"),
        ("divprune", "so only methods that act on the vision tower's patches can be used"),
        ("vscan", "methods inside it have nothing to drop"),
        ("trim", "CLIP companion"),
    ],
)
def test_what_cannot_be_used_is_a_sentence(rig, method, reason):
    assert reason in rig.engine.supports(method)
    with pytest.raises(ValueError, match=reason):
        rig.engine.run([picture(1)], QUESTION, method, keep=0.1, **FAST)


def test_requests_that_it_was_not_made_for(rig):
    with pytest.raises(ValueError, match="takes 1 to 1"):
        rig.engine.run([picture(1), picture(2)], QUESTION, "fastervlm", **FAST)
    with pytest.raises(ValueError, match="<image>"):
        rig.engine.run([picture(1)], "what is <image>?", "fastervlm", **FAST)


def test_a_clip_companion_reads_the_pictures(tmp_path):
    build(tmp_path, clip=True)
    engine = vtprune.load(tmp_path)
    run = engine.run([picture(1, 90, 30)], QUESTION, "atp", keep=5, **FAST)
    assert len(run.stages[0].keep) == 5


@pytest.mark.parametrize(("kind", "reason"), [("t5", "an encoder-decoder 't5'"), ("llama", "a 'llama'")])
def test_other_language_models_are_refused(tmp_path, kind, reason):
    build(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config["text_config"] = {"model_type": kind}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(vtprune.LoadError, match=f"{reason} language model; vtprune knows opt\\."):
        vtprune.load(tmp_path)


def test_order_does_not_matter(rig):
    check_order_does_not_matter(rig, [picture(1)], [picture(2, 20, 90)], "fastervlm")


def test_errors_leave_nothing_behind(rig, monkeypatch):
    check_errors_leave_nothing_behind(
        rig, picture(1), monkeypatch, ("cls_attention",), "fastervlm", places=["vision"]
    )


@pytest.mark.parametrize("method", ["fastervlm", "prunesid"])
def test_half_precision_selects_alike(rig, method):
    check_half_precision_selects_alike(rig.engine.name, [picture(1)], method, 6)
