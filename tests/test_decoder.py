"""The decoder against transformers: whole, pruned before the layers, pruned between them."""

from __future__ import annotations

import copy
import random

import pytest
import torch
from conftest import picture

from vtprune.assets import assets_dir
from vtprune.decoder import LayerCache, prefill

QUESTIONS = ["What is in the picture?", "which colour has the house", "How many birds?", "fish", "Ωμέγα 42 ?"]


def inputs_of(backbone, images, question):
    prompt = backbone.prepare(images, question)
    return prompt, {
        "input_ids": prompt.ids[None],
        "pixel_values": prompt.pixels,
        "attention_mask": torch.ones_like(prompt.ids)[None],
    }


def embeds_of(backbone, prompt):
    embeds = backbone.embed(prompt.ids).clone()
    embeds[prompt.visual] = backbone.project(backbone.encode(prompt).features)
    return embeds


@torch.inference_mode()
def hf_logits(reference, embeds, positions):
    """Logits [n, V] of transformers' language model. The mask keeps it from reading gaps as packed texts."""
    hidden = reference.model.language_model(
        inputs_embeds=embeds[None],
        position_ids=positions[None],
        attention_mask=torch.ones(1, len(embeds), dtype=torch.int64),
        use_cache=False,
    ).last_hidden_state
    return reference.lm_head(hidden)[0]


@torch.inference_mode()
def masked_logits(reference, embeds, positions, layer, hidden_columns):
    """Logits [n, V] of a run of full length in which some columns cannot be seen from `layer` on."""
    model = reference.model.language_model
    n = len(embeds)
    causal = torch.full((n, n), float("-inf")).triu(1)
    masked = causal.clone()
    masked[:, hidden_columns] = float("-inf")
    masked[torch.arange(n), torch.arange(n)] = 0.0  # a row must see something
    hidden = embeds[None]
    rotation = model.rotary_emb(hidden, position_ids=positions[None])
    for k, block in enumerate(model.layers):
        mask = (masked if k >= layer else causal)[None, None]
        hidden = block(hidden, attention_mask=mask, position_embeddings=rotation)
    return reference.lm_head(model.norm(hidden))[0]


def greedy(backbone, decoding, count):
    """`count` tokens and the logits that each was taken from."""
    ids, logits = [], []
    for _ in range(count):
        logits.append(decoding.logits)
        ids.append(int(decoding.logits.argmax()))
        decoding.step(backbone.embed(torch.tensor(ids[-1:]))[0])
    return ids, logits


@pytest.mark.parametrize("images", [1, 3])
def test_prefill_logits_equal_the_models_forward(engine, reference, images):
    backbone = engine.backbone
    prompt, inputs = inputs_of(backbone, [picture(i, 50 + 9 * i, 70) for i in range(images)], QUESTIONS[0])
    with torch.inference_mode():
        expected = reference(**inputs).logits[0, -1]
    decoding = prefill(backbone.llm, embeds_of(backbone, prompt), prompt.positions, room=1)
    assert (decoding.logits - expected).abs().max() <= 1e-5


@pytest.mark.parametrize("seed", range(10))
def test_greedy_tokens_equal_generate(engine, reference, seed):
    backbone = engine.backbone
    images = [picture(10 * seed + i) for i in range(1 + seed % 3)]
    prompt, inputs = inputs_of(backbone, images, QUESTIONS[seed % len(QUESTIONS)])
    out = reference.generate(**inputs, do_sample=False, max_new_tokens=32, min_new_tokens=32)
    expected = out[0, len(prompt.ids) :].tolist()
    config = reference.generation_config
    decoding = prefill(backbone.llm, embeds_of(backbone, prompt), prompt.positions, room=32)
    ids = []
    for _ in range(32):
        logits = decoding.logits.clone()
        logits[config.eos_token_id] = float("-inf")  # what min_new_tokens does
        ids.append(int(logits.argmax()))
        decoding.step(backbone.embed(torch.tensor(ids[-1:]))[0])
    assert ids == expected
    assert len(set(ids)) > 3, "the fixture must not repeat one token, or this proves little"


@pytest.mark.slow
def test_the_bundled_model_on_held_out_prompts():
    """50 held-out questions about 1 to 3 scenes: 32 tokens, also behind the end of the answer."""
    from transformers import LlavaForConditionalGeneration

    import vtprune
    from vtprune.scenes.questions import ask
    from vtprune.scenes.world import render, sample, split_seed

    backbone = vtprune.load(device="cpu", dtype="float32").backbone
    model = LlavaForConditionalGeneration.from_pretrained(assets_dir() / "model", dtype=torch.float32).eval()
    config = copy.deepcopy(model.generation_config)
    config.update(do_sample=False, max_new_tokens=32, eos_token_id=None)
    model.generation_config = config  # generate would take an end mark that is None from here
    rng = random.Random(0)
    for i in range(50):
        scenes = [sample(split_seed("heldout", 3 * i + j)) for j in range((1, 1, 1, 2, 3)[i % 5])]
        questions = ask(scenes, rng, 1)
        text = questions[0].text if questions else "How many pictures show a fish?"
        prompt, inputs = inputs_of(backbone, [render(scene, 224)[0] for scene in scenes], text)
        expected = model.generate(**inputs, generation_config=config)[0, len(prompt.ids) :].tolist()
        decoding = prefill(backbone.llm, embeds_of(backbone, prompt), prompt.positions, room=32)
        assert greedy(backbone, decoding, 32)[0] == expected


def test_pruned_prompt_equals_hand_built_inputs(engine, reference):
    backbone = engine.backbone
    prompt, _ = inputs_of(backbone, [picture(1), picture(2)], QUESTIONS[0])
    keep = torch.ones(len(prompt.ids), dtype=torch.bool)
    keep[prompt.visual[torch.randperm(len(prompt.visual), generator=torch.manual_seed(0))[:35]]] = False
    embeds, positions = embeds_of(backbone, prompt)[keep], prompt.positions[keep]
    decoding = prefill(backbone.llm, embeds, positions, room=8, next_position=prompt.next_position)
    ids, logits = greedy(backbone, decoding, 8)
    everything = torch.cat([embeds, backbone.embed(torch.tensor(ids[:-1]))])
    places = torch.cat([positions, torch.arange(7) + prompt.next_position])
    expected = hf_logits(reference, everything, places)[len(embeds) - 1 :]
    assert torch.allclose(torch.stack(logits), expected, atol=1e-4)
    assert (logits[0] - expected[0]).abs().max() <= 1e-5


@pytest.mark.parametrize("layer", [1, 3, 5])
def test_dropping_inside_equals_masking(engine, reference, layer):
    backbone = engine.backbone
    prompt, _ = inputs_of(backbone, [picture(3)], QUESTIONS[2])
    dropped = prompt.visual[::2]
    keep = torch.ones(len(prompt.ids), dtype=torch.bool)
    keep[dropped] = False

    def before_layer(k, hidden, look):
        return (hidden[keep], prompt.positions[keep]) if k == layer else None

    embeds = embeds_of(backbone, prompt)
    decoding = prefill(
        backbone.llm,
        embeds,
        prompt.positions,
        room=8,
        next_position=prompt.next_position,
        before_layer=before_layer,
    )
    layers = backbone.layers
    assert decoding.lengths == (len(keep),) * layer + (int(keep.sum()),) * (layers - layer)
    ids, logits = greedy(backbone, decoding, 8)
    everything = torch.cat([embeds, backbone.embed(torch.tensor(ids[:-1]))])
    expected = masked_logits(reference, everything, torch.arange(len(everything)), layer, dropped)
    assert torch.allclose(torch.stack(logits), expected[len(embeds) - 1 :], atol=1e-4)


@pytest.mark.parametrize("offset", [0, -1])
def test_attention_rows_equal_eager_attention(engine, tiny_folder, offset):
    from transformers import LlavaForConditionalGeneration

    eager = LlavaForConditionalGeneration.from_pretrained(tiny_folder, attn_implementation="eager").eval()
    backbone = engine.backbone
    prompt, inputs = inputs_of(backbone, [picture(4)], QUESTIONS[0])
    with torch.inference_mode():
        expected = eager(**inputs, output_attentions=True).attentions
    rows = torch.cat([prompt.instruction, torch.tensor([len(prompt.ids) - 1])])
    seen = {}

    def before_layer(k, hidden, look):
        if k + offset >= 0:
            seen[k + offset] = look.attention(rows, offset)

    prefill(backbone.llm, embeds_of(backbone, prompt), prompt.positions, room=1, before_layer=before_layer)
    assert len(seen) == backbone.layers + offset
    for layer, attention in seen.items():
        assert torch.allclose(attention, expected[layer][0][:, rows], atol=1e-5)


def test_there_is_no_layer_before_the_first(engine):
    backbone = engine.backbone
    prompt, _ = inputs_of(backbone, [picture(4)], QUESTIONS[0])

    def before_layer(k, hidden, look):
        look.attention(torch.tensor([3]), -1)

    with pytest.raises(ValueError, match="layer 0"):
        prefill(
            backbone.llm, embeds_of(backbone, prompt), prompt.positions, room=1, before_layer=before_layer
        )


def test_cache_holds_layers_of_different_length():
    cache = LayerCache(2, room=1)
    for layer, n in enumerate((5, 2)):
        key = torch.randn(1, 2, n, 3)
        keys, values = cache.update(key, key + 1, layer)
        assert torch.equal(keys, key) and torch.equal(values, key + 1)
    more = torch.randn(1, 2, 1, 3)
    keys, _ = cache.update(more, more, 1)
    assert cache.lengths == [5, 3] and torch.equal(keys[:, :, 2:], more)
