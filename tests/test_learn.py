"""The Learn tab without a browser: the methods' cards, what was recorded for them, and Try it."""

from __future__ import annotations

import dataclasses
import json
from types import SimpleNamespace

import gradio as gr
import pytest

import vtprune
from ui import cards
from ui.handlers import Handlers
from ui.tabs.learn import Learn
from vtprune import cli, examples, methods, showcase

KNOWN = [name for name in methods.list_methods() if name != showcase.BY_HAND]


@pytest.fixture(scope="module")
def recorded():
    return {example.name: example for example in examples.load()}


@pytest.fixture(scope="module")
def shown():
    return showcase.load()


@pytest.fixture(scope="module")
def value(recorded):
    return cards.value(recorded)


# ---- what was recorded ----


def test_every_method_was_recorded_on_the_example(shown, recorded):
    assert list(shown) == KNOWN, "record them again: vtprune examples --methods"
    total = recorded[showcase.EXAMPLE].run.tokens
    for one in shown.values():
        if one.reason:
            continue
        assert one.tokens == total and one.left and one.answer and one.keep == sorted(set(one.keep))
        assert set(one.keep) | set(one.merged) <= set(range(total)) and not set(one.keep) & set(one.merged)
    file = examples.assets_dir() / "examples" / showcase.FILE
    assert file.stat().st_size < 200_000


def test_the_records_are_what_the_bundled_model_does(shown, recorded):
    engine, example = vtprune.load(device="cpu"), recorded[showcase.EXAMPLE]
    for name in ("atp", "divprune", "downsample"):
        again = showcase.show(engine, example, name)
        assert len(set(again.keep) & set(shown[name].keep)) >= 0.95 * len(again.keep)
        assert (again.answer, again.left, again.right) == (
            shown[name].answer,
            shown[name].left,
            shown[name].right,
        )
    assert shown["random"].evidence < 0.1 < 0.9 < shown["atp"].evidence
    assert shown["downsample"].evidence is None and len(shown["downsample"].merged) == 192


def test_they_are_made_with_the_examples(engine, tmp_path):
    made = examples.rebuild(engine, tmp_path, [d for d in examples.EXAMPLES if d.name == showcase.EXAMPLE])
    again = showcase.load(tmp_path)
    assert list(again) == KNOWN and [one.name for one in made] == [showcase.EXAMPLE]
    run = engine.run(made[0].pictures, made[0].questions[0].text, "divprune", showcase.KEEP, repeats=0)
    assert again["divprune"].keep == run.stages[-1].keep and again["divprune"].answer == run.answer
    examples.rebuild(engine, tmp_path, examples.EXAMPLES[2:3])
    assert showcase.load(tmp_path) == {}  # without the example there is nothing to show


def test_the_command_makes_them_alone(engine, monkeypatch, capsys, tmp_path):
    examples.rebuild(engine, tmp_path, examples.EXAMPLES[1:2])
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    (tmp_path / showcase.FILE).unlink()
    made = examples.load(tmp_path)
    monkeypatch.setattr(examples, "load", lambda: made)
    monkeypatch.setattr(cli, "_engine", lambda _: engine)
    monkeypatch.setattr(showcase, "assets_dir", lambda: tmp_path / "assets")
    (tmp_path / "assets/examples").mkdir(parents=True)
    assert cli.main(["examples", "--methods"]) == 0
    assert "divprune" in capsys.readouterr().out
    assert (tmp_path / "assets/examples" / showcase.FILE).read_bytes() == before[showcase.FILE]
    left = {name: (tmp_path / name).read_bytes() for name in before if name != showcase.FILE}
    assert left == {name: data for name, data in before.items() if name != showcase.FILE}


def test_a_budget_out_of_reach_becomes_the_nearest_and_says_so(engine, tmp_path, monkeypatch):
    (example,) = examples.rebuild(engine, tmp_path, examples.EXAMPLES[1:2])
    monkeypatch.setattr(showcase, "KEEP", 0.03)
    one = showcase.show(engine, example, "fastv")  # whose first layers see everything
    assert one.budget in showcase.STEPS and one.left and not one.reason
    assert f"{100 * one.budget:.0f} % is the least it was run at" in cards.caption(one)
    monkeypatch.setattr(showcase, "STEPS", (0.04,))
    one = showcase.show(engine, example, "fastv")
    assert not one.left and "cannot" in one.reason


def test_a_method_that_the_model_lacks_the_signals_for_says_why(recorded):
    engine = SimpleNamespace(supports=lambda method: "it has no CLS token.")
    one = showcase.show(engine, recorded[showcase.EXAMPLE], "fastervlm")
    assert one.reason == "it has no CLS token." and cards._shown(one) == {"reason": "it has no CLS token."}


# ---- the cards ----


def test_there_is_a_card_for_every_method_in_its_own_words(value):
    assert [card["name"] for card in value["cards"]] == KNOWN
    for card in value["cards"]:
        info = methods.list_methods()[card["name"]]
        whole = " ".join(methods.card(card["name"]).split())
        assert f"{card['what']} {card['fails']}" == info.summary and card["what"].endswith(".")
        assert card["fails"].endswith(".") and all(paragraph in whole for paragraph in card["how"])
        assert card["title"] == info.title and card["paper"] == info.paper and card["tags"]
        assert card["how"], f"{card['name']} does not say how it works"
        assert card["shown"], f"{card['name']} has no picture"
    json.dumps(value, allow_nan=False)


def test_every_card_is_in_a_group_and_every_group_has_cards(value):
    known = [name for name, *_ in value["groups"][1:]]
    for card in value["cards"]:
        assert card["groups"] and set(card["groups"]) <= set(known)
    for name in known:
        assert any(name in card["groups"] for card in value["cards"])
    groups = {card["name"]: card["groups"] for card in value["cards"]}
    assert groups["random"] == ["baseline"] and groups["vscan"] == ["vision", "llm"]
    assert groups["divprune"] == ["projected"] and groups["fastv"] == ["llm"]


def test_a_docstring_is_taken_apart():
    text = "Keeps what is bright. It\nfails in the dark.\n\nscore = light.\n\nNeeds light\nand time."
    assert cards.described(text) == (
        "Keeps what is bright.",
        "It fails in the dark.",
        ["score = light."],
        "Needs light and time.",
    )
    assert cards.described("One. Two.")[3].startswith("Needs nothing")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, "64 of 256 kept"),
        ({"merged": list(range(64, 256))}, "64 stand for 256"),
        ({"merged": [70, 71]}, "64 of 256 kept, with 2 more blended in"),
        ({"left": [37, 5, 1], "keep": [3]}, "37, then 5, then 1 of 256, 64 on average"),
        ({"left": [16], "keep": list(range(16))}, "16 of 256 in the end, 64 on average"),
        ({"budget": 0.3}, "64 of 256 kept; 30 % is the least it was run at"),
    ],
)
def test_a_picture_says_how_many_tokens_it_shows(changes, words):
    plain = showcase.Shown("atp", 0.25, 256, 64.0, [64], list(range(64)))
    assert cards.caption(dataclasses.replace(plain, **changes)) == words


def test_without_the_example_there_are_cards_without_pictures(recorded):
    others = {name: recorded[name] for name in recorded if name != showcase.EXAMPLE}
    value = cards.value(others)
    assert len(value["cards"]) == len(KNOWN) and value["images"] == [] and value["about"] == ""
    assert all(card["shown"] is None for card in value["cards"])


# ---- Try it ----


def test_try_it_sets_the_method_and_runs_nothing(engine):
    handlers = Handlers(engine, [], bundled=True)
    handlers.parts.known = {name: name for name in ("method", "card", "options", "status")}
    tab = Learn(handlers)
    taken = tab.take(SimpleNamespace(method="divprune"))
    assert taken["method"] == "divprune" and "as different from one another" in taken["card"]
    assert "DivPrune is set: press Run" in taken["status"] and set(taken) == set(handlers.parts.known)
    assert [field["name"] for field in tab.take(SimpleNamespace(method="atp"))["options"]] == [
        "alpha",
        "clip_sign",
        "attention",
    ]
    assert tab.take(SimpleNamespace(method="nonsense")) == gr.skip()
