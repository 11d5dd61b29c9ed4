"""Links that are read, and files that are offered."""

from __future__ import annotations

import dataclasses
import io
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import picture
from PIL import Image

from ui import links, screen, sharing
from ui.handlers import Handlers
from vtprune import examples, export
from vtprune.types import Run

TABS = ("run", "compare")


@pytest.fixture(scope="module")
def made(engine, tmp_path_factory):
    return examples.rebuild(engine, tmp_path_factory.mktemp("examples"), examples.EXAMPLES[2:4])


@pytest.fixture(scope="module")
def known(made):
    return {example.name: example for example in made}


@pytest.fixture
def page(engine, made):
    return Handlers(engine, made, bundled=True)


def opened(page, **query):
    return sharing.linked(page, links.read(query, page.examples, TABS))


# ---- links ----


def test_an_address_without_our_parameters_is_no_link(known):
    assert links.read({}, known, TABS) is None
    assert links.read({"__theme": "dark", "utm_source": "x"}, known, TABS) is None


def test_everything_in_a_link_is_read(known):
    query = {
        "example": "word",
        "q": "Where?",
        "method": "atp",
        "p.alpha": "1",
        "keep": "30",
        "tab": "compare",
    }
    link = links.read(query, known, TABS)
    assert (link.example, link.question, link.method, link.percent) == ("word", "Where?", "atp", 30)
    assert link.params == {"alpha": 1.0} and isinstance(link.params["alpha"], float)
    assert link.tab == "compare" and not link.own and not link.problems


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ({"example": "nothing"}, "there is no example “nothing”"),
        ({"method": "atpp"}, "there is no method “atpp”"),
        ({"method": "atp", "p.bogus": "1"}, "atp has no parameter “bogus”"),
        ({"method": "atp", "p.alpha": "x"}, "alpha=“x” is no value"),
        ({"method": "atp", "p.alpha": "7"}, "alpha=7"),
        ({"method": "atp", "p.alpha": "nan"}, "alpha=nan"),
        ({"keep": "0"}, "keep=“0” is not 1 to 100"),
        ({"keep": "inf"}, "keep=“inf”"),
        ({"keep": "nan"}, "keep=“nan”"),
        ({"keep": "many"}, "keep=“many”"),
        ({"tab": "elsewhere"}, "there is no tab “elsewhere”"),
        ({"q": "x" * 3000}, "longer than 2000"),
    ],
)
def test_what_cannot_be_used_is_told_in_one_sentence_and_the_default_stays(page, query, words):
    first = {"example": "word"}
    values = opened(page, **{**first, **query})
    assert words in values["status"] and values["status"].count("Part of this link") == 1
    assert "vt-error" in values["status"]
    plain = opened(page, **(first if "example" not in query else {"tab": "run"}))
    assert [values[name] for name in ("question", "keep", "gallery")] == [
        plain[name] for name in ("question", "keep", "gallery")
    ]


def test_what_a_link_says_is_escaped(page):
    values = opened(page, example="<script>alert(1)</script>")
    assert "<script" not in values["status"] and "&lt;script" in values["status"]


def test_a_link_to_an_example_as_it_is_shows_its_recorded_run(page, known):
    values = opened(page, example="relation")
    assert values["record"].run == known["relation"].run and values["map"]["stages"]
    assert values["strip"]["picked"] == "relation" and "tabs" not in values


def test_a_link_that_changes_something_asks_to_run_it(page):
    values = opened(page, example="word", q="Which colour?", keep="40", tab="compare")
    assert values["question"] == "Which colour?" and values["keep"] == 40
    assert values["budget"]["keep"] == 40 and values["tabs"]["selected"] == "compare"
    assert not values["map"]["stages"] and values["map"]["images"] and values["record"] is None
    assert "press Run" in values["status"]


def test_parameters_of_a_link_reach_the_form(page):
    values = opened(page, example="word", method="atp", **{"p.alpha": "0.25"})
    assert screen.params(values["options"])["alpha"] == 0.25 and values["method"] == "atp"
    assert "ATP" in values["card"] or "attention" in values["card"].lower()


def test_a_link_to_own_pictures_has_none_and_says_so(page):
    values = opened(page, q="Who is this?", method="divprune", keep="20")
    assert values["gallery"] == [] and not values["map"]["images"]
    assert values["question"] == "Who is this?" and values["method"] == "divprune"
    assert "own pictures, which are not part of it" in values["status"]


def test_a_link_that_names_another_model_says_so_and_only_fills_in_its_id(page):
    values = opened(page, example="word", model="somebody/some-model")
    assert "made with <b>somebody/some-model</b>" in values["made"] and page.models.name in values["made"]
    assert "<button" in values["made"] and values["model"] == "somebody/some-model"
    assert "made" not in opened(page, example="word")
    page.models._fixed = True  # open to other machines
    values = opened(page, example="word", model="somebody/some-model")
    assert "its model stays" in values["made"] and "<button" not in values["made"] and "model" not in values
    page.models.id = "somebody/some-model"
    assert "made" not in opened(page, example="word", model="somebody/some-model")


@pytest.mark.parametrize(
    "model", ["", "/etc/passwd", "../up", "~/model", "a/b/c", "a b", "<b>x</b>", "x" * 300]
)
def test_a_link_names_a_model_of_the_hub_or_none(page, model):
    values = opened(page, example="word", model=model)
    assert "is no id of a model" in values["status"] and "made" not in values and "model" not in values


def test_no_path_of_this_machine_gets_into_a_link(tmp_path, monkeypatch):
    (tmp_path / "models" / "mine").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert links.public("llava-hf/llava-1.5-7b-hf") == "llava-hf/llava-1.5-7b-hf"
    for path in (None, str(tmp_path / "models"), "models/mine", "models", "./models", "~/models", "/gone/it"):
        assert links.public(path) is None


def test_a_set_picked_by_hand_is_offered_nowhere_but_its_link_opens(page):
    assert "picked" not in [name for _, name in page.models.choices()]
    opened_method = opened(page, example="word", method="picked", keep="30")["method"]
    assert opened_method["value"] == "picked"
    assert "picked" in [name for _, name in opened_method["choices"]]
    assert "picked" in [name for _, name in page.models.told("picked")["method"]["choices"]]


# ---- files ----


@pytest.fixture
def record(engine, tmp_path):
    path = tmp_path / "Große Straße (1).png"
    picture(1, 90, 70).save(path)
    run = engine.run([path], "what is in the picture", "divprune", 0.4, 4, repeats=0)
    return screen.Record(run, (str(path),))


def test_the_map_is_that_of_the_screen_in_the_uploads_own_size(record):
    data, name = sharing.png(record, {"view": "kept", "selection": 0, "first": None})
    drawn = Image.open(io.BytesIO(data))
    assert name == "Gro-e-Stra-e-1-divprune.png" and drawn.size == (90, 70)
    expected = export.render_map(record.run, record.files, "kept", record.run.stages[0])
    assert (np.asarray(drawn) == np.asarray(expected)).all()


def test_the_map_follows_view_point_and_budget(record):
    def drawn(**looking):
        return np.asarray(Image.open(io.BytesIO(sharing.png(record, looking)[0]))).astype(int)

    kept = drawn(view="kept", selection=0)
    for other in (
        drawn(view="picture", selection=0),
        drawn(view="order", selection=0),
        drawn(view="kept", selection=-1),
        drawn(view="kept", selection=0, first=3),
    ):
        assert (other != kept).any()
    for nonsense in ({}, {"view": "<b>", "selection": "x", "first": 2.5}, {"selection": 99}):
        assert (drawn(**nonsense) == kept).all()
    assert drawn(first=10**9).shape == kept.shape


def test_a_run_comes_back_from_its_file(record):
    data, name = sharing.run_json(record, {})
    assert Run.from_json(data.decode()).to_json() == record.run.to_json() and name.endswith(".json")


def test_the_report_is_html(record):
    data, name = sharing.report(record, {})
    assert data.startswith(b"<!doctype html>") and name.endswith(".html")


def test_offers_end_in_words_when_there_is_nothing_or_something_is_missing(record):
    event = sharing._saving(sharing.png)
    assert event(None, None)["said"] == sharing.NOTHING
    good = event(record, {"view": "kept"})
    assert good["file"]["path"].endswith(good["name"]) and good["said"].startswith("Saved")
    gone = dataclasses.replace(record, files=("nowhere.png",))
    assert event(gone, None)["file"] is None and "nowhere.png" in event(gone, None)["said"]


def test_what_is_on_the_screen_is_what_is_saved(page, known):
    values = page.opening()
    assert values["record"].run == known["word"].run
    assert [Image.open(path).size for path in values["record"].files] == [(672, 672)]
    page.parts.known = {name: name for name in (*values, "run", "stop")}
    upload = [(values["gallery"][0], None)]
    visitor = SimpleNamespace(session_hash="somebody")
    updates = list(page.run(upload, "what", "random", 40, [], 3, visitor))
    assert any(update.get("record", "") is None for update in updates)  # nothing stale while it runs
    assert updates[-1]["record"].run.question == "what"
