"""Compare and Sweep without a browser: what their events put on the page."""

from __future__ import annotations

import json
from types import SimpleNamespace

import gradio as gr
import pytest
from conftest import picture

from ui import patchmap, screen
from ui.handlers import Handlers
from ui.tabs import TABS, compare, sweep
from ui.tabs.base import Progress, duration
from vtprune import examples, list_methods, study
from vtprune.study import Point

VISITOR = SimpleNamespace(session_hash="somebody")
QUESTION = "what is in the picture"


@pytest.fixture
def upload(tmp_path):
    path = tmp_path / "some picture.png"
    picture(1).save(path)
    return str(path)


@pytest.fixture(scope="module")
def handlers(engine, tmp_path_factory):
    """Of a page with one example, each part named by its own name."""
    recorded = examples.rebuild(engine, tmp_path_factory.mktemp("examples"), examples.EXAMPLES[2:3])
    handlers = Handlers(engine, recorded, bundled=True)
    names = [*handlers.opening(), "run", "stop", "status", "tabs", "look"]
    handlers.parts.known = {name: name for name in names}
    return handlers


@pytest.fixture
def comparing(handlers):
    tab = compare.Compare(handlers)
    tab.parts.known = {name: name for name in ("methods", "start", "stop", "status", "grid", "kept")}
    return tab


@pytest.fixture
def sweeping(handlers):
    tab = sweep.Sweep(handlers)
    names = ("methods", "low", "high", "count", "start", "stop", "status", "chart", "asked")
    tab.parts.known = {name: name for name in names}
    return tab


def given(files, question=QUESTION, method="atp", percent=40, options=(), longest=3):
    return [(path, None) for path in files], question, method, percent, list(options), longest


def comparison(tab, files, chosen=("atp", "random"), **changes):
    return tab.does(tab.run, [*given(files, **changes), list(chosen)], VISITOR)


def swept(tab, files, chosen=("atp", "random"), low=10, high=100, count=3, **changes):
    return tab.does(tab.run, [*given(files, **changes), list(chosen), low, high, count], VISITOR)


def both(comparing, sweeping):
    return (comparing, comparison), (sweeping, swept)


def last_status(updates):
    return [update["status"] for update in updates if "status" in update][-1]


# ---- Compare ----


def test_cells_come_one_by_one_and_say_what_the_runs_say(comparing, engine, upload):
    updates = list(comparison(comparing, [upload], ["atp", "downsample", "fastv"], percent=3))
    grids = [update["grid"] for update in updates if "grid" in update]
    assert [len(grid["cells"]) for grid in grids] == [1, 2, 3]
    json.dumps(grids[-1], allow_nan=False)
    atp, downsample, fastv = grids[-1]["cells"]
    run = engine.run([upload], QUESTION, "atp", 0.03, 3, repeats=0)
    assert atp["keep"] == run.stages[-1].keep and atp["same"] == run.comparison.same
    assert atp["words"] == run.comparison.words_pruned and atp["tokens"] == "1 of 25 tokens"
    assert atp["first"] > 0 and atp["select"].endswith(" ms") and atp["evidence"] is None
    assert set(downsample["blended"]) == set(downsample["keep"]) and atp["blended"] is None
    assert fastv["reason"].startswith("Fastv cannot bring") or "annot bring" in fastv["reason"]
    assert grids[-1]["full"] == run.full.answer and grids[-1]["total"] == 25
    assert "2 methods give" in last_status(updates) and "1 could not be run" in last_status(updates)
    assert updates[-1]["start"]["interactive"] and not updates[-1]["stop"]["interactive"]


def test_evidence_and_the_right_answer_come_with_an_example(comparing, handlers):
    (example,) = handlers.examples.values()
    asked, files = example.questions[0], [str(path) for path in example.pictures]
    updates = list(comparison(comparing, files, ["uniform"], question=asked.text, percent=20))
    grid = [update["grid"] for update in updates if "grid" in update][-1]
    run = handlers.engine.run(files, asked.text, "uniform", 0.2, 3, repeats=0)
    (cell,) = grid["cells"]
    assert cell["evidence"] == pytest.approx(examples.evidence_kept(run, asked.evidence))
    assert grid["truth"] == asked.answer and grid["evidence"] == [[i, *box] for i, box in asked.evidence]


def test_options_belong_to_the_method_they_were_set_for(comparing, upload):
    options = screen.fields("atp", {"alpha": 1.0})
    updates = list(comparison(comparing, [upload], ["atp", "resprune"], options=options))
    kept = [update["kept"] for update in updates if "kept" in update][-1]
    assert kept["runs"]["atp"].params["alpha"] == 1.0 and kept["runs"]["resprune"].params == {}


def test_a_clicked_cell_fills_the_run_tab(comparing, upload):
    updates = list(comparison(comparing, [upload]))
    kept = [update["kept"] for update in updates if "kept" in update][-1]
    opened = comparing.open(kept, SimpleNamespace(method="random"), VISITOR)
    run = kept["runs"]["random"]
    assert opened["method"] == "random" and opened["question"] == QUESTION and opened["keep"] == 40
    assert opened["map"]["stages"][0]["keep"] == run.stages[0].keep
    assert opened["map"]["images"][0]["name"] == "some picture.png" and opened["answers"]
    assert comparing.open(None, SimpleNamespace(method="random"), VISITOR) == gr.skip()
    assert comparing.open(kept, SimpleNamespace(method="atpp"), VISITOR) == gr.skip()


# ---- Sweep ----


def test_points_stream_in_and_are_those_of_the_engine(sweeping, engine, upload):
    updates = list(swept(sweeping, [upload], low=20, count=4))
    chart = [update["chart"] for update in updates if "chart" in update][-1]
    json.dumps(chart, allow_nan=False)
    assert [series["method"] for series in chart["series"]] == ["atp", "random"]
    assert chart["range"] == [0.2, 1.0] and chart["total"] == 25
    for series in chart["series"]:
        assert [point["keep"] for point in series["points"]] == study.spread(0.2, 1.0, 4)
        for point in series["points"]:
            run = engine.run([upload], QUESTION, series["method"], point["keep"], 3, repeats=0)
            assert (point["answer"], point["same"]) == (run.answer, run.comparison.same)
            assert point["tokens"] == run.pruned.cost.mean_tokens
    assert "of 8 points" in last_status(updates)


def test_a_sweep_says_where_the_answer_changes_and_what_was_not_run():
    def point(tokens, answer, reason=""):
        return Point("atp", tokens / 100, tokens, 100, answer, "red", None, 0.1, reason)

    inputs = SimpleNamespace(question="what", asked=None)
    found = [point(2, "", "two layers see everything."), point(10, "blue"), point(40, "red")]
    (series,) = sweep.value(inputs, found, [0.02, 0.4], "a model")["series"]
    assert [flip["words"] for flip in series["flips"]] == [
        "The answer changes at 10 tokens: “red” becomes “blue”."
    ]
    assert [one["tokens"] for one in series["points"]] == [10, 40]
    assert series["words"] == ["Not run at 2%: two layers see everything."]
    assert sweep.words([found[2]]) == ["The answer stays “red” down to 40 tokens."]
    assert sweep.outcome(found) == "Done: 1 of 2 points give the answer of all tokens; 1 could not be run."


def test_a_clicked_point_sets_what_run_will_run(sweeping, upload):
    updates = list(swept(sweeping, [upload], count=2))
    asked = [update["asked"] for update in updates if "asked" in update][-1]
    opened = sweeping.open(asked, SimpleNamespace(method="random", keep=0.1), VISITOR)
    assert (opened["method"], opened["keep"], opened["question"]) == ("random", 10, QUESTION)
    assert "map" not in opened  # what is shown stays until the run comes
    assert sweeping.open(None, SimpleNamespace(method="random", keep=0.1), VISITOR) == gr.skip()


# ---- both ----


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"question": "  "}, "Not run: the question is empty"),
        ({"files": []}, "Not run: there is no picture"),
        ({"chosen": []}, "Not run: 0 methods were chosen"),
        ({"longest": None}, "Not run: max_new_tokens=0"),
        ({"percent": None}, "Not run: the budget is empty"),
        ({"question": "what is <image>"}, "Not run: the question holds"),
        ({"options": [{"name": "alpha", "value": 7, "kind": "float"}]}, "Not run: atp: alpha=7"),
    ],
)
def test_a_bad_input_is_one_sentence_and_nothing_is_lost(comparing, sweeping, upload, changes, sentence):
    for tab, ask in both(comparing, sweeping):
        updates = list(ask(tab, **{"files": [upload], **changes}))
        assert sentence in last_status(updates) and "vt-error" in last_status(updates)
        assert not any("grid" in update or "chart" in update for update in updates)
        assert updates[-1]["start"]["interactive"]
        assert "Done" in last_status(list(ask(tab, [upload])))


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"low": None}, "the range is not complete"),
        ({"low": 60, "high": 20}, "give the smaller budget first"),
        ({"low": 0}, "budgets lie between"),
        ({"count": 1}, "whole number from 2 to 50"),
    ],
)
def test_a_bad_range_is_one_sentence(sweeping, upload, changes, sentence):
    assert sentence in last_status(list(swept(sweeping, [upload], **changes)))


def test_stop_ends_the_work_and_keeps_what_is_there(comparing, sweeping, handlers, upload):
    for tab, ask in both(comparing, sweeping):
        updates, seen = ask(tab, [upload], ["atp", "random", "uniform"]), []
        for update in updates:
            seen.append(update)
            if "grid" in update or "chart" in update:
                handlers.halt(VISITOR)
        assert "Stopped" in last_status(seen) and seen[-1]["start"]["interactive"]
        values = [update.get("grid") or update.get("chart") for update in seen]
        assert len([value for value in values if value]) >= 1
        assert not handlers._beside["somebody"] and not handlers.engine._lock.locked()


def test_leaving_frees_the_model(comparing, handlers, upload):
    updates = comparison(comparing, [upload])
    for update in updates:
        if "grid" in update:
            break
    updates.close()
    assert not handlers._beside["somebody"] and not handlers.engine._lock.locked()


def test_an_unexpected_error_is_one_sentence(comparing, sweeping, upload, monkeypatch, capsys):
    for tab, ask in both(comparing, sweeping):
        with monkeypatch.context() as patched:
            patched.setattr(tab.handlers.engine.backbone, "encode", lambda *_: 1 / 0)
            assert "Something went wrong" in last_status(list(ask(tab, [upload])))
        assert "Traceback" in capsys.readouterr().err
        assert "Done" in last_status(list(ask(tab, [upload])))


def test_other_pictures_clear_what_was_found(comparing, sweeping):
    assert comparing.clear()["grid"]["cells"] == [] and comparing.clear()["kept"] is None
    assert sweeping.clear()["chart"]["series"] == [] and sweeping.clear()["asked"] is None


def test_the_time_left_is_told_in_words():
    ticks = iter([0.0, 4.0, 8.0, 12.0])
    progress = Progress(40, lambda: next(ticks))
    assert "Sweeping, 1 of 40 …" in progress.step("Sweeping")  # the first one also encodes
    assert "2 of 40, about 3 min left" in progress.step("Sweeping")
    assert 'value="0.07"' in progress.step("Sweeping")
    assert [duration(s) for s in (0.2, 59.6, 100)] == ["1 s", "60 s", "2 min"]


def test_every_tab_has_a_name_and_a_title():
    names = [tab.name for tab in TABS]
    assert len(set(names)) == len(names) and all(tab.title for tab in TABS)
    assert {"compare", "sweep"} <= set(names)
    for chosen in (compare.FIRST, sweep.FIRST):
        assert {"random"} <= set(chosen) <= set(list_methods())
    assert compare.EMPTY["images"] == patchmap.EMPTY["images"] == []
