"""Whole runs: equality at keep = 1, references, order, threads, hooks, records, errors."""

from __future__ import annotations

import dataclasses
import threading

import pytest
import torch
from conftest import build_model, picture
from test_decoder import embeds_of, hf_logits

import vtprune
from vtprune import methods
from vtprune.methods import base
from vtprune.types import Done, Encoded, Selected, Selection, Signals, Step, Timing, Token

QUESTION = "Which colour has the fish?"
FAST = {"max_new_tokens": 6, "repeats": 0}
EVERY = sorted(set(methods.list_methods()))


def facts(run):
    """What must not depend on anything but the request; timings may."""
    sides = [(s.answer, s.tokens, s.cost) for s in (run.full, run.pruned)]
    return sides, [dataclasses.replace(s, seconds=0) for s in run.stages], run.comparison


@pytest.fixture
def register(monkeypatch):
    """Register a method for one test: register(name, plan)."""
    monkeypatch.setattr(base, "_registry", dict(base._registry))

    def make(name, steps):
        class Custom(base.Method):
            def plan(self, budget, shape):
                return steps

        base.register(name)(dataclasses.dataclass(frozen=True)(Custom))

    return make


def every_second(signals, keep):
    return Selection(keep=torch.arange(0, signals.count, 2)[:keep])


@pytest.mark.parametrize("method", EVERY)
@pytest.mark.parametrize("images", [1, 3])
def test_keep_everything_is_the_unpruned_pipeline(engine, method, images):
    pictures = [picture(i) for i in range(images)]
    for keep in (1.0, 25 * images):
        run = engine.run(pictures, QUESTION, method=method, keep=keep, **FAST)
        assert run.stages == [] and run.pruned == run.full and run.comparison.same
        assert run.comparison.kl == [0.0] * len(run.comparison.kl)


@pytest.mark.parametrize("images", [1, 2, 16])
def test_full_answer_equals_generate(engine, reference, images):
    pictures = [picture(30 + i) for i in range(images)]
    run = engine.run(pictures, QUESTION, method="random", max_new_tokens=32, repeats=0)
    prompt = engine.backbone.prepare(pictures, QUESTION)
    expected = reference.generate(
        input_ids=prompt.ids[None],
        pixel_values=prompt.pixels,
        attention_mask=torch.ones_like(prompt.ids)[None],
        do_sample=False,
        max_new_tokens=32,
    )
    assert [t.id for t in run.full.tokens] == expected[0, len(prompt.ids) :].tolist()


@pytest.mark.parametrize(
    "options", [{"language": "mistral"}, {"language": "qwen2"}, {"tower": "siglip", "strategy": "full"}]
)
def test_other_towers_and_language_models(tmp_path, options):
    model = build_model(tmp_path, **options)
    engine = vtprune.load(tmp_path)
    prompt = engine.backbone.prepare([picture(1)], QUESTION)
    run = engine.run([picture(1)], QUESTION, method="fastv", keep=0.7, max_new_tokens=16, repeats=0)
    expected = model.generate(
        input_ids=prompt.ids[None],
        pixel_values=prompt.pixels,
        attention_mask=torch.ones_like(prompt.ids)[None],
        do_sample=False,
        max_new_tokens=16,
    )
    assert [t.id for t in run.full.tokens] == expected[0, len(prompt.ids) :].tolist()
    assert run.pruned.cost.tokens_per_layer[-1] < run.full.cost.tokens_per_layer[-1]
    reason = engine.supports("fastervlm")
    assert ("no CLS token" in reason) if "tower" in options else reason is None


@pytest.mark.parametrize("positions", ["original", "renumber"])
@pytest.mark.parametrize("method", ["uniform", "fastervlm"])
def test_pruned_answer_equals_hand_built_reference(engine, reference, method, positions):
    pictures = [picture(1), picture(2)]
    run = engine.run(pictures, QUESTION, method=method, keep=0.3, positions=positions, **FAST)
    backbone = engine.backbone
    prompt = backbone.prepare(pictures, QUESTION)
    places = torch.cat([prompt.text, prompt.visual[run.stages[0].keep]]).sort().values
    ids = torch.tensor([t.id for t in run.pruned.tokens])
    embeds = torch.cat([embeds_of(backbone, prompt)[places], backbone.embed(ids[:-1])])
    if positions == "original":
        where = torch.cat([places, prompt.next_position + torch.arange(len(ids) - 1)])
    else:
        where = torch.arange(len(embeds))
    logits = hf_logits(reference, embeds, where)[len(places) - 1 :]
    assert logits.argmax(-1).tolist() == ids.tolist()
    probs = logits.softmax(-1).amax(-1)
    assert torch.allclose(torch.tensor([t.prob for t in run.pruned.tokens]), probs, atol=1e-4)


def test_first_token_of_a_merging_method(engine, reference):
    run = engine.run([picture(5)], QUESTION, method="downsample", keep=9, **FAST)
    backbone, stage = engine.backbone, run.stages[0]
    prompt = backbone.prepare([picture(5)], QUESTION)
    embeds = embeds_of(backbone, prompt)
    merge = torch.zeros(stage.after, 25)
    merge[stage.merge_rows, stage.merge_cols] = torch.tensor(stage.merge_weights)
    places = torch.cat([prompt.text, prompt.visual[stage.keep]])
    mixed = torch.cat([embeds[prompt.text], merge @ embeds[prompt.visual]])
    order = places.argsort()
    logits = hf_logits(reference, mixed[order], places[order])[-1]
    assert int(logits.argmax()) == run.pruned.tokens[0].id
    assert float(logits.softmax(-1).max()) == pytest.approx(run.pruned.tokens[0].prob, abs=1e-4)


def test_same_request_same_result_whatever_ran_before(engine):
    def ask(method, seed=0, images=1):
        pictures = [picture(7 + i) for i in range(images)]
        return facts(engine.run(pictures, QUESTION, method=method, keep=0.5, seed=seed, **FAST))

    first = ask("random", seed=3)
    ask("fastv", images=3)
    ask("random", seed=4)
    ask("atp")
    assert ask("random", seed=3) == first
    assert ask("random", seed=4)[1] != first[1]


def test_threads_get_what_serial_calls_get(engine):
    requests = [("atp", 0.3, 1), ("fastv", 0.6, 2), ("resprune", 7, 3), ("downsample", 0.5, 1)]

    def ask(method, keep, images):
        pictures = [picture(40 + i) for i in range(images)]
        return facts(engine.run(pictures, QUESTION, method=method, keep=keep, **FAST))

    serial = [ask(*request) for request in requests]
    found = [None] * len(requests)

    def work(i):
        found[i] = ask(*requests[i])

    threads = [threading.Thread(target=work, args=(i,)) for i in range(len(requests))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == serial


def hooks(engine):
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks")
    return sum(len(getattr(m, kind)) for m in engine.backbone.model.modules() for kind in kinds)


@pytest.mark.parametrize("at", ["vision", "projected", ("llm", 2)])
def test_an_error_in_a_selector_leaves_nothing_behind(engine, register, at):
    before = facts(engine.run([picture(1)], QUESTION, method="fastervlm", **FAST)), hooks(engine)

    def fail(signals, keep):
        raise RuntimeError("no")

    needs = ("attention",) if isinstance(at, tuple) else ("cls_attention",)
    register("failing", [Step(at, 5, fail, needs)])
    with pytest.raises(RuntimeError, match="no"):
        engine.run([picture(1)], QUESTION, method="failing")
    assert (facts(engine.run([picture(1)], QUESTION, method="fastervlm", **FAST)), hooks(engine)) == before


def test_events_come_in_order(engine):
    events = list(
        engine.stream([picture(1)], QUESTION, method="fastv", keep=0.5, max_new_tokens=5, repeats=2)
    )
    kinds = [type(event) for event in events]
    assert kinds[:2] == [Encoded, Selected] and kinds[-3:] == [Timing, Timing, Done]
    tokens = [event for event in events if isinstance(event, Token)]
    assert [t.side for t in tokens[:4]] == ["full", "pruned", "full", "pruned"]
    run = events[-1].run
    for side, answer in (("full", run.full), ("pruned", run.pruned)):
        mine = [event.token for event in tokens if event.side == side]
        assert mine == answer.tokens
        assert all(t.prob == t.top[0][1] and len(t.top) == 5 for t in mine)
    assert [(e.done, e.total) for e in events if isinstance(e, Timing)] == [(1, 2), (2, 2)]


def test_timings_and_cost(engine):
    run = engine.run([picture(1)], QUESTION, method="fastv", keep=0.5, max_new_tokens=4, repeats=3)
    for side in (run.full, run.pruned):
        assert list(side.timings) == ["encode", "select", "prefill", "decode"]
        assert all(s.n == 3 and 0 <= s.low <= s.median <= s.high for s in side.timings.values())
        assert side.cost.peak_bytes == 0
    assert run.full.timings["select"].high == 0 < run.pruned.timings["select"].low
    assert run.stages[0].seconds * 1000 == pytest.approx(run.pruned.timings["select"].median)
    full, pruned, kept = run.full.cost, run.pruned.cost, run.stages[0].after
    text = full.prompt_tokens - 25
    assert full.tokens_per_layer == [25] * 6 and pruned.tokens_per_layer == [25] * 2 + [kept] * 4
    # 2 key heads of 12 numbers, keys and values, 4 bytes
    assert pruned.kv_bytes == sum(n + text for n in pruned.tokens_per_layer) * 2 * 2 * 12 * 4
    n = 25 + text
    layer = 2 * n * 48 * (2 * 48 + 2 * 24) + 2 * n * n * 48 + 6 * n * 48 * 96
    assert full.prefill_flops == 6 * layer > pruned.prefill_flops


def test_a_nested_method_records_the_order_of_all_tokens(engine):
    run = engine.run([picture(1)], QUESTION, method="fastervlm", keep=6, max_new_tokens=1, repeats=1)
    stage = run.stages[0]
    assert sorted(stage.order) == list(range(25)) and sorted(stage.order[:6]) == stage.keep


def test_stages_speak_of_original_tokens(engine, register):
    """Merging before the projector, dropping after it and inside: ids go on meaning the same tokens."""

    def merge(signals, keep):
        n = signals.count
        kept = torch.arange(1, n, 2)
        weights = torch.zeros(len(kept) + 2, n)
        weights[torch.arange(len(kept)), kept] = 1
        weights[-2, 0], weights[-1, 26] = 1, 1  # one of the first image, one of the second
        return Selection(keep=kept, merge=weights.to_sparse(), extra=2)

    def later(signals: Signals, keep):
        assert signals.cls_attention is not None and len(signals.cls_attention) == signals.count
        return Selection(keep=torch.arange(signals.count - keep, signals.count), scores=signals.cls_attention)

    needs = ("cls_attention",)
    register(
        "several",
        [
            Step("vision", 27, merge, needs),
            Step("projected", 20, later, needs),
            Step(("llm", 3), 10, later, needs),
        ],
    )
    run = engine.run([picture(1), picture(2)], QUESTION, method="several", keep=0.5, **FAST)
    first, second, third = run.stages
    assert [s.name for s in run.stages] == ["vision", "projected", "llm:3"]
    assert [(s.before, s.after) for s in run.stages] == [(50, 27), (27, 20), (20, 10)]
    assert first.keep == list(range(1, 50, 2)) and first.per_image == [12, 13]
    assert first.merge_cols[-2:] == [0, 26] and first.merge_rows[-2:] == [25, 26]
    # tokens made by merging are numbered from 50 and stand behind the kept ones of their image
    alive = [*range(1, 25, 2), 50, *range(25, 50, 2), 51]
    assert second.scored == alive and second.keep == alive[-20:] and third.keep == alive[-10:]
    assert run.pruned.cost.tokens_per_layer == [20] * 3 + [10] * 3
    attention = engine.backbone.encode(
        engine.backbone.prepare([picture(1), picture(2)], QUESTION), needs
    ).signals["cls_attention"]
    assert second.scores[12] == pytest.approx(float(attention[0]))


def test_merged_tokens_take_the_place_of_their_images_last_token(engine, register, reference):
    def merge(signals, keep):
        weights = torch.zeros(3, 25)
        weights[0, 3] = weights[1, 9] = 1
        weights[2, :] = 1 / 25
        return Selection(keep=torch.tensor([3, 9]), merge=weights.to_sparse(), extra=1)

    register("mean", [Step("projected", 3, merge)])
    run = engine.run([picture(1)], QUESTION, method="mean", keep=3, **FAST)
    backbone = engine.backbone
    prompt = backbone.prepare([picture(1)], QUESTION)
    embeds = embeds_of(backbone, prompt)
    visual = embeds[prompt.visual]
    first, last = int(prompt.visual[0]), int(prompt.visual[-1])
    sequence = torch.cat([embeds[:first], visual[[3, 9]], visual.mean(0, keepdim=True), embeds[last + 1 :]])
    places = torch.tensor([*range(first), first + 3, first + 9, last, *range(last + 1, len(embeds))])
    logits = hf_logits(reference, sequence, places)[-1]
    assert int(logits.argmax()) == run.pruned.tokens[0].id
    assert float(logits.softmax(-1).max()) == pytest.approx(run.pruned.tokens[0].prob, abs=1e-4)


def test_signals_inside_the_language_model(engine, register):
    seen = {}

    def look(signals, keep):
        seen["signals"] = signals
        return every_second(signals, keep)

    needs = ("attention", "llm_keys", "query_states", "query_keys", "keys")
    register("looking", [Step(("llm", 1), 10, look, needs, "instruction", -1)])
    engine.run([picture(1)], QUESTION, method="looking", keep=0.5, **FAST)
    signals, asked = seen["signals"], len(engine.backbone.prepare([picture(1)], QUESTION).instruction)
    assert signals.attention.shape == (4, asked, 25) and (signals.attention.sum(-1) < 1).all()
    assert signals.llm_keys.shape == (25, 24) and signals.query_keys.shape == (asked, 24)
    assert signals.features.shape == (25, 48) and signals.query_states.shape == (asked, 48)
    assert signals.keys.shape == (25, 8), "the encoder's, which stay beside them"
    register("misplaced", [Step("vision", 10, look, ("attention",))])
    assert "inside the language model" in engine.supports("misplaced")


def test_closing_a_stream_frees_the_model(engine):
    stream = engine.stream([picture(1)], QUESTION, method="random")
    assert isinstance(next(stream), Encoded)
    assert engine._lock.locked()
    stream.close()
    assert not engine._lock.locked()


@pytest.mark.parametrize("kind", [Encoded, Token, Timing])
def test_stop_ends_a_stream_without_done(engine, kind):
    stop = threading.Event()
    seen = []
    for event in engine.stream([picture(1)], QUESTION, method="random", max_new_tokens=32, stop=stop):
        seen.append(event)
        if isinstance(event, kind):
            stop.set()
    assert not any(isinstance(event, Done) for event in seen)
    assert kind is Encoded or isinstance(seen[-1], kind)
    assert not engine._lock.locked()
    with pytest.raises(vtprune.Stopped):
        engine.run([picture(1)], QUESTION, method="random", stop=stop)


def test_stop_while_waiting_for_the_model(engine):
    holder = engine.stream([picture(1)], QUESTION, method="random")
    next(holder)
    stop = threading.Event()
    stop.set()
    assert list(engine.stream([picture(1)], QUESTION, method="random", stop=stop)) == []
    holder.close()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"images": []}, "no picture"),
        ({"images": "a.png"}, "no picture"),
        ({"images": [picture(0)] * 17}, "takes 1 to 16"),
        ({"images": ["nothing.png"]}, "nothing.png"),
        ({"question": "  "}, "question is empty"),
        ({"question": "what is <image>"}, "<image>"),
        ({"max_new_tokens": 0}, "max_new_tokens"),
        ({"max_new_tokens": 600}, "do not fit"),
        ({"max_new_tokens": 2.5}, "max_new_tokens"),
        ({"repeats": -1}, "repeats"),
        ({"positions": "other"}, "positions"),
        ({"seed": -1}, "seed"),
        ({"keep": 0}, "keep=0"),
        ({"keep": 26}, "more than the 25"),
        ({"method": "atpp"}, "atp"),
        ({"method": "atp", "alfa": 1}, "alfa"),
        ({"method": "atp", "params": {"alpha": 7}}, "alpha"),
        ({"method": "fastv", "k": 9}, "layers"),
    ],
)
def test_requests_that_cannot_be_served_are_one_sentence(engine, change, message):
    request = {"images": [picture(1)], "question": QUESTION, "method": "random", **change}
    with pytest.raises(ValueError, match=message) as caught:
        engine.run(**request)
    assert "\n" not in str(caught.value)
    assert not engine._lock.locked()


def test_supports_names_the_layer(engine, register):
    register("deep", [Step(("llm", 9), 5, every_second)])
    register("early", [Step(("llm", 0), 5, every_second, ("attention",), "last", -1)])
    assert "layers 0 to 5" in engine.supports("deep")
    assert "reading the one before" in engine.supports("early")
    with pytest.raises(ValueError, match="layer 9"):
        engine.run([picture(1)], QUESTION, method="deep")
    assert all(engine.supports(method) is None for method in EVERY)


@pytest.mark.parametrize("colour", ["black", "white"])
@pytest.mark.parametrize("method", EVERY)
def test_blank_pictures(engine, method, colour):
    from PIL import Image

    run = engine.run([Image.new("RGB", (30, 30), colour)], QUESTION, method=method, keep=0.6, **FAST)
    assert run.pruned.cost.visual_tokens >= 1


def test_unfinished_characters_are_held_back(tmp_path):
    """Text pieces of a random model are full of broken bytes: joined, they are a prefix of the answer."""
    build_model(tmp_path, seed=5)
    run = vtprune.load(tmp_path).run([picture(1)], QUESTION, method="random", max_new_tokens=32, repeats=0)
    for side in (run.full, run.pruned):
        text = "".join(token.text for token in side.tokens)
        assert side.answer.startswith(text.strip())


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
def test_cuda_gives_what_the_cpu_gives(engine, tiny_folder):
    cuda = vtprune.load(tiny_folder, device="cuda", dtype="float32")
    for method in EVERY:
        request = {"images": [picture(1)], "question": QUESTION, "method": method, "keep": 0.6}
        a = engine.run(**request, **FAST)
        b = cuda.run(**request, max_new_tokens=6, repeats=2)
        assert [s.keep for s in a.stages] == [s.keep for s in b.stages]
        assert a.answer == b.answer and a.full.answer == b.full.answer
        assert b.pruned.timings["prefill"].low > 0 and b.pruned.cost.peak_bytes > 0
