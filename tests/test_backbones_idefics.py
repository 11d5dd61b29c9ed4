"""IDEFICS against transformers: patches pruned in front of the perceiver, or of the cross-attention."""

from __future__ import annotations

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
    check_sixteen_pictures,
    check_the_full_side,
    silence,
)
from conftest import build_companion, build_tokenizer, picture

import vtprune

LATENTS = 6
SIZES = [(60, 50), (33, 264), (264, 33), (17, 23)]


def build(folder, *, resampler=True, seed=0, clip=False, interval=2, norms=True, chat=True):
    """Save a random IDEFICS of 25 patches an image, 6 latents, cross-attention in front of some layers."""
    import transformers as hf

    torch.manual_seed(seed)
    tokenizer = build_tokenizer()
    # tokens beyond the vocabulary proper, as in the published models; one is of those tuned to chat
    marks = ["<fake_token_around_image>", *["<end_of_utterance>"] * chat]
    tokenizer.add_special_tokens({"additional_special_tokens": marks})
    image_token = tokenizer.convert_tokens_to_ids("<image>")
    config = hf.IdeficsConfig(
        vocab_size=len(tokenizer) - len(marks),
        additional_vocab_size=len(marks),
        hidden_size=48,
        intermediate_size=96,
        num_hidden_layers=4,
        num_attention_heads=4,
        max_position_embeddings=256,
        initializer_range=0.2,
        alpha_initializer="ones",
        cross_layer_interval=interval,
        qk_layer_norms=norms,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        use_resampler=resampler,
        vision_config={
            "embed_dim": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "image_size": 40,
            "patch_size": 8,
        },
        perceiver_config={
            "use_resampler": resampler,
            "resampler_n_latents": LATENTS,
            "resampler_depth": 2,
            "resampler_n_heads": 4,
            "resampler_head_dim": 8,
            "qk_layer_norms_perceiver": norms,
        },
    )
    model = hf.IdeficsForVisionText2Text(config).eval()
    with torch.no_grad():
        # the default scale leaves a random tower almost blind: every token would look the same
        for part, parameter in model.model.vision_model.named_parameters():
            if parameter.dim() > 1:
                parameter.normal_(std=0.02 if "out_proj" in part else 0.25)
    silence(model, tokenizer.eos_token_id, image_token)
    model.lm_head.additional_fc.weight.data.zero_()
    images = hf.IdeficsImageProcessor(image_size=40)
    model.save_pretrained(folder)
    hf.IdeficsProcessor(images, tokenizer, image_size=40).save_pretrained(folder)
    if clip:
        build_companion(folder / "clip", build_tokenizer())
    return model


def make(folder, **options):
    from transformers import AutoProcessor

    model = build(folder, **options)
    processor = AutoProcessor.from_pretrained(folder)

    def inputs(images, question):
        text = ["User:", *images, question, "\nAssistant:"]
        chat = options.get("chat", True)
        return dict(processor(text=text, add_end_of_utterance_token=chat, return_tensors="pt"))

    return Rig(vtprune.load(folder), model, inputs)


@pytest.fixture(scope="module")
def perceiver(tmp_path_factory):
    return make(tmp_path_factory.mktemp("perceiver"), seed=1)


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    return make(
        tmp_path_factory.mktemp("plain"), resampler=False, interval=1, norms=False, chat=False, seed=1
    )


@pytest.fixture(params=["perceiver", "plain"])
def rig(request):
    return request.getfixturevalue(request.param)


def by_hand(rig, pictures):
    """reference for `check_pruned_before_a_resampler`, on transformers' tower, perceiver and model."""

    def logits(prompt, kept, said):
        model, patches = rig.model, 25
        given = rig.inputs(pictures, QUESTION)
        features = model.model.vision_model(given["pixel_values"][0]).last_hidden_state
        rows = [
            one[[0, *(1 + i - patches * image for i in kept if i // patches == image)]]  # CLS stays
            for image, one in enumerate(features)
        ]
        if model.config.use_resampler:
            made = torch.stack([model.model.perceiver_resampler(one[None])[0] for one in rows])
            seen = {"perceiver_embeddings": made[None]}
        else:
            seen = {"image_encoder_embeddings": torch.stack(rows)[None]}
        mask = given["image_attention_mask"]
        mask = torch.cat([mask, mask[:, -1:].expand(-1, len(said), -1)], 1)
        ids = torch.cat([given["input_ids"][0], said])[None]
        return model(input_ids=ids, image_attention_mask=mask, use_cache=False, **seen).logits[0]

    return logits


def test_sixteen_pictures(rig):
    check_sixteen_pictures(rig)


@pytest.mark.parametrize("sizes", [SIZES[:1], SIZES[1:], SIZES[2:3]])
def test_everything_is_the_model_itself(rig, sizes):
    pictures = [picture(i, *size) for i, size in enumerate(sizes)]
    with torch.inference_mode():
        logits = rig.model(**rig.inputs(pictures, QUESTION)).logits[0, -1]
    prompt = check_the_full_side(rig, pictures, logits, method="fastervlm")
    assert rig.backbone.tokenizer.decode(prompt.ids[prompt.instruction]).strip() == QUESTION
    assert len(prompt.text) == len(prompt.ids) and len(prompt.visual) == 25 * len(pictures)
    marks = (prompt.ids == rig.backbone.tokenizer.convert_tokens_to_ids("<image>")).nonzero().flatten()
    assert prompt.last_places.tolist() == marks.tolist()


@pytest.mark.parametrize("images", [1, 2])
@pytest.mark.parametrize(("method", "keep"), [("fastervlm", 0.04), ("fastervlm", 0.4), ("hiprune", 0.4)])
def test_pruned_before_the_resampler(rig, method, keep, images):
    pictures = [picture(i, 44, 70) for i in range(images)]
    check_pruned_before_a_resampler(rig, pictures, method, keep, by_hand(rig, pictures))


def test_pruned_unevenly(perceiver):
    pictures = [picture(i, 44, 70) for i in range(3)]
    run = perceiver.engine.run(pictures, QUESTION, "fastervlm", keep=8, **FAST)
    assert run.stages[0].per_image == [3, 3, 2]
    check_pruned_before_a_resampler(perceiver, pictures, "fastervlm", 8 / 75, by_hand(perceiver, pictures))


def test_a_token_sees_the_last_image_before_it(perceiver):
    """And none behind the end of a text, as in the processor's mask."""
    backbone = perceiver.backbone
    prompt = backbone.prepare([picture(1), picture(2)], "fish </s> house")
    encoded = backbone.encode(prompt)
    owners = torch.tensor([0] * LATENTS + [1] * LATENTS)
    seen = backbone._seen(prompt, torch.zeros(2 * LATENTS, 32), owners)
    given = perceiver.inputs([picture(1), picture(2)], "fish </s> house")["image_attention_mask"][0]
    expected = given.repeat_interleave(LATENTS, 1).bool()
    assert torch.equal(seen.mask[0, 0] == 0, expected) and expected.any(1).tolist().count(False) > 5
    assert torch.equal(seen.gate[0].bool(), expected.any(1))
    assert encoded.state.shape == (2, 1, 32)


@pytest.mark.parametrize("need", ["cls_attention", "headless_attention", "keys", "middle_attention"])
def test_signals_equal_eager_attention(plain, need):
    prompt = plain.backbone.prepare([picture(3), picture(4)], QUESTION)
    encoded = plain.backbone.encode(prompt, (need,))
    vision, k = plain.model.model.vision_model, 1 if need == "middle_attention" else 2
    with torch.inference_mode():
        hidden = vision.pre_layrnorm(vision.embeddings(prompt.pixels))
        for block in vision.encoder.layers[:k]:
            hidden = block(hidden, None)
        block = vision.encoder.layers[k]
        x = block.layer_norm1(hidden)
        query, key = block.self_attn.q_proj(x), block.self_attn.k_proj(x)
        heads = [part.unflatten(-1, (4, 8)).transpose(1, 2) for part in (query, key)]
        attention = (heads[0] @ heads[1].transpose(-1, -2) / 8**0.5).softmax(-1).mean(1)
        expected = {
            "cls_attention": attention[:, 0, 1:],
            "headless_attention": (query[:, :1] @ key.transpose(-1, -2) / 32**0.5).softmax(-1)[:, 0, 1:],
            "keys": heads[1].mean(1)[:, 1:],
            "middle_attention": attention[:, 1:, 1:].mean(1),
        }[need]
    assert set(encoded.signals) == {need}
    assert torch.allclose(encoded.signals[need], expected.flatten(0, 1), atol=1e-5)


@pytest.mark.parametrize("size", SIZES)
def test_a_bright_cell_changes_the_token_whose_box_holds_it(plain, size):
    assert check_geometry(plain, size) == 3


def test_cost_counts_patches_and_cross_attention(rig):
    run = rig.engine.run([picture(1), picture(2)], QUESTION, "fastervlm", keep=10, **FAST)
    full, pruned, with_perceiver = run.full.cost, run.pruned.cost, rig.model.config.use_resampler
    assert (full.visual_tokens, pruned.visual_tokens) == (50, 10) == (full.mean_tokens, pruned.mean_tokens)
    n = len(rig.backbone.prepare([picture(1), picture(2)], QUESTION).ids)
    assert full.prompt_tokens == pruned.prompt_tokens == n
    assert full.kv_bytes == pruned.kv_bytes == 4 * n * 2 * 48 * 4
    layer = 2 * n * 48 * 4 * 48 + 2 * n * n * 48 + 2 * n * 3 * 48 * 96
    for cost, states in ((full, 52), (pruned, 12)):
        states = 2 * LATENTS if with_perceiver else states
        crossing = 4 * n * 48 * 48 + 4 * states * 32 * 48 + 4 * n * states * 48 + 2 * n * 3 * 48 * 96
        assert cost.prefill_flops == 4 * layer + (2 if with_perceiver else 4) * crossing
        assert cost.tokens_per_layer == [states] * 4


@pytest.mark.parametrize("method", ["fastv", "divprune", "vscan"])
def test_what_cannot_be_used_is_a_sentence(perceiver, plain, method):
    reason = (
        "methods inside it have nothing" if method != "divprune" else "only methods that act on the vision"
    )
    whole = f"cross-attends to {LATENTS} latents of an image whatever is pruned, so {reason}"
    assert whole in perceiver.engine.supports(method)
    assert f"sees pictures through cross-attention only, so {reason}" in plain.engine.supports(method)
    with pytest.raises(ValueError, match=reason):
        plain.engine.run([picture(1)], QUESTION, method, keep=0.1, **FAST)
    assert "CLIP companion" in plain.engine.supports("trim")


def test_a_clip_companion_reads_the_pictures(tmp_path):
    build(tmp_path, clip=True)
    pictures = [picture(1, 90, 30), picture(2)]
    run = vtprune.load(tmp_path).run(pictures, QUESTION, "atp", keep=5, **FAST)
    assert len(run.stages[0].keep) == 5


def test_the_end_of_an_utterance_ends_an_answer(perceiver, plain):
    def ends(rig):
        return sorted(rig.backbone.tokenizer.convert_ids_to_tokens(list(rig.backbone.eos)))

    assert ends(perceiver) == ["</s>", "<end_of_utterance>"] and ends(plain) == ["</s>"]


def test_order_does_not_matter(rig):
    check_order_does_not_matter(rig, [picture(1)], [picture(2, 20, 90), picture(3)], "fastervlm")


def test_errors_leave_nothing_behind(rig, monkeypatch):
    check_errors_leave_nothing_behind(
        rig, picture(1), monkeypatch, ("cls_attention",), "fastervlm", places=["vision"]
    )


@pytest.mark.parametrize("method", ["fastervlm", "prunesid"])
def test_half_precision_selects_alike(rig, method):
    check_half_precision_selects_alike(rig.engine.name, [picture(1), picture(2)], method, 9)
