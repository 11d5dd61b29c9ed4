"""The guided tour without a browser: its steps are well formed, and what they say is true of the examples."""

from __future__ import annotations

import json
import re

import pytest

import vtprune
from ui import tour
from ui.tour import STEPS
from vtprune import examples, methods
from vtprune.scenes.phrases import same_answer


@pytest.fixture(scope="module")
def recorded():
    return {example.name: example for example in examples.load()}


def step(id):
    return next(step for step in STEPS if step.id == id)


def said(id):
    """All words of a step."""
    found = step(id)
    return " ".join([found.text, found.task.words, found.task.says] if found.task else [found.text])


def acts(id):
    return {act.kind: act.value for act in step(id).acts}


def share(example):
    """What was kept of the evidence, as the steps write it."""
    return f"{100 * examples.evidence_kept(example.run, example.questions[0].evidence):.0f} %"


# ---- form ----


def test_there_are_ten_steps_and_some_ask_for_something():
    assert len(STEPS) == 10 and len({step.id for step in STEPS}) == 10
    assert sum(step.task is not None for step in STEPS) >= 3
    for one in STEPS:
        assert one.title and one.at and 1 <= len(re.findall(r"[.?!](?= |$)", one.text)) <= 4
        assert one.text.endswith(".") and len(one.text) < 330, one.id


def test_every_step_puts_the_page_on_an_example_at_its_own_budget(recorded):
    for one in STEPS:
        done = acts(one.id)
        assert done["tab"] == "run" and set(done) == {"tab", "example", "keep", "scrub", "view", "pin"}
        assert done["keep"] == round(100 * recorded[done["example"]].run.keep)


def test_the_browser_gets_plain_data_and_none_where_examples_are_missing(recorded):
    value = tour.value(recorded)
    assert json.loads(json.dumps(value)) == json.loads(json.dumps(value, allow_nan=False))
    assert [one["id"] for one in value["steps"]] == [one.id for one in STEPS]
    run = recorded["count"].run
    assert value["examples"]["count"]["request"][:2] == [run.question, run.method]
    assert value["examples"]["count"]["percent"] == 15
    assert tour.value({name: recorded[name] for name in recorded if name != "which"})["steps"] == []


# ---- what they say ----


def test_a_picture_is_256_tokens(recorded):
    (segment,) = recorded["sign"].run.segments
    assert segment.grid == (16, 16) and recorded["sign"].run.tokens == 256
    assert "16 × 16" in said("tokens") and "256 tokens" in said("tokens")
    assert 0 <= acts("tokens")["pin"] < 256


def test_reading_fewer_tokens_took_less_than_half_as_long(recorded):
    run = recorded["sign"].run
    assert run.pruned.timings["prefill"].median < run.full.timings["prefill"].median / 2
    assert run.pruned.timings["select"].median > 0 == run.full.timings["select"].median
    assert len(run.stages[-1].keep) == 64 and "64 of the 256" in said("cost")


def test_the_sign_is_bright_and_the_ground_dark(recorded):
    example = recorded["sign"]
    (stage,), (segment,) = example.run.stages, example.run.segments
    (_, (x0, y0, x1, y1)), scores = (
        example.questions[0].evidence[0],
        dict(zip(stage.scored, stage.scores, strict=True)),
    )
    side = example.run.images[0].width
    inside = [
        token
        for token, box in enumerate(segment.boxes.tolist())
        if (box[0] + box[2]) / 2 / side > x0
        and (box[0] + box[2]) / 2 / side < x1
        and y0 < (box[1] + box[3]) / 2 / side < y1
    ]
    low, high = min(scores.values()), max(scores.values())
    heat = {token: (score - low) / (high - low) for token, score in scores.items()}
    assert sum(heat[token] for token in inside) / len(inside) > 0.6
    assert (
        sorted(heat.values())[len(heat) // 2] < 0.15
    )  # half of the picture, the ground, is darker than that
    assert example.run.method == "atp" and "ATP" in said("scores")


def test_the_budget_takes_the_highest_scores(recorded):
    (stage,) = recorded["sign"].run.stages
    scores = dict(zip(stage.scored, stage.scores, strict=True))
    dropped = max(score for token, score in scores.items() if token not in stage.keep)
    assert min(scores[token] for token in stage.keep) >= dropped
    assert methods.list_methods()["atp"].nested  # so that the map follows the slider
    assert step("budget").task.value == 10 and "25 % are 64 of the 256" in said("budget")


def test_the_number_survives(recorded):
    run, asked = recorded["sign"].run, recorded["sign"].questions[0]
    assert run.question.startswith("Read the number on the sign")
    assert run.full.answer == run.answer == asked.answer == "7" and said("same").count("7") == 2
    assert share(recorded["sign"]) in said("same") and "The other 192" in said("same")
    assert run.tokens - len(run.stages[-1].keep) == 192


def test_fastv_drops_more_than_half_after_two_layers(recorded):
    run = recorded["which"].run
    (stage,) = run.stages
    assert run.method == "fastv" and len(run.images) == 3 and run.tokens == 768
    assert stage.layer == 2 and stage.after == 288 < 768 / 2
    assert "768 tokens" in said("layers") and "From layer 2 on 288 of the 768" in said("layers")
    assert run.comparison.same


def test_the_count_breaks_and_nothing_warns(recorded):
    run, asked = recorded["count"].run, recorded["count"].questions[0]
    assert "cars" in run.question and run.method == "fastervlm" and len(run.stages[-1].keep) == 38
    assert same_answer(run.full.answer, asked.answer) and not same_answer(run.answer, asked.answer)
    words = said("broken")
    assert f"says {run.full.answer}, which is right" in words and f"says {run.answer}, and" in words
    assert "With 38 of them" in words


def test_what_was_lost_is_the_car(recorded):
    example = recorded["count"]
    (stage,), (segment,) = example.run.stages, example.run.segments
    ((_, box),) = example.questions[0].evidence  # the only car
    assert share(example) in said("why")
    assert not {"text", "clip_text"} & set(methods.list_methods()["fastervlm"].needs)  # blind to the question
    patch, side = acts("why")["pin"], example.run.images[0].width
    x0, y0, x1, y1 = (edge / side for edge in segment.boxes[patch].tolist())
    assert min(x1, box[2]) > max(x0, box[0]) and min(y1, box[3]) > max(y0, box[1])  # it shows part of the car
    assert patch not in stage.keep and stage.order is not None
    assert stage.order.index(patch) + 1 == 53 and "came 53rd" in said("why")
    assert len(stage.keep) == 38 and "room for 38" in said("why")


def test_atp_mends_the_count(recorded):
    """On the bundled model, as a visitor would run it."""
    example = recorded["count"]
    asked = example.questions[0]
    run = vtprune.load(device="cpu").run(example.pictures, asked.text, "atp", 0.15, repeats=0)
    assert same_answer(run.answer, asked.answer) and run.answer == "1" and "count is 1 again" in said("mend")
    assert examples.evidence_kept(run, asked.evidence) > 0.9
    assert {"clip_text"} <= set(methods.list_methods()["atp"].needs)
    assert step("mend").task.value == "atp" and acts("mend")["keep"] == 15 and "15 %" in said("mend")
