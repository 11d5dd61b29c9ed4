"""The Paint and Robustness tabs without a browser: what they show for what was painted or damaged."""

from __future__ import annotations

from types import SimpleNamespace

import gradio as gr
import pytest
from conftest import picture

from ui import screen
from ui.handlers import Handlers
from ui.tabs.evidence import table
from ui.tabs.paint import NOTHING, Paint
from ui.tabs.robustness import Robustness, outcome
from vtprune import examples, study

VISITOR = SimpleNamespace(session_hash="somebody")
QUESTION = "what is in the picture"
BOX = [0, 0.2, 0.2, 0.8, 0.8]


@pytest.fixture
def files(tmp_path):
    paths = [tmp_path / f"{name}.png" for name in ("first", "second")]
    for seed, path in enumerate(paths):
        picture(seed, 200, 200).save(path)
    return [str(path) for path in paths]


def opened(kind, engine, examples=()):
    """A tab, each part named by its own name."""
    with gr.Blocks():
        tab = kind(Handlers(engine, examples, bundled=False))
        tab.place()
        inner = [tab, tab.weighing] if kind is Paint else [tab]
        for one in inner:
            one.parts.known = {name: name for name in one.parts.known}
    return tab


@pytest.fixture
def paint(engine):
    return opened(Paint, engine)


def given(files, percent=40, longest=4):
    return [(path, None) for path in files], QUESTION, "divprune", percent, screen.fields("divprune"), longest


def painted(keep, files=1, evidence=()):
    return {"keep": list(keep), "evidence": list(evidence), "total": 25 * files}


def test_asking_again_keeps_exactly_what_was_painted(paint, engine, files):
    keep = [3, 7, 11, 12]
    last = list(paint.does(paint.ask, [*given(files[:1]), painted(keep, evidence=[BOX])], VISITOR))
    run = engine.run(files[:1], QUESTION, "picked", 4, 4, tokens=tuple(keep), repeats=0)
    assert run.stages[-1].keep == keep
    (shown,) = (update["answers"] for update in last if "answers" in update)
    share = examples.evidence_kept(run, [(0, tuple(BOX[1:]))])
    assert f"{share:.0%} of the evidence box was kept." in shown and "4 of 25 tokens" in shown
    assert run.comparison.summary.capitalize()[:12] in shown
    assert last[-1]["start"]["interactive"] and last[-1]["take"]["interactive"]
    assert not last[0]["find"]["interactive"] and last[0]["stop"]["interactive"]


@pytest.mark.parametrize(
    ("count", "value", "sentence"),
    [
        (1, painted([]), "Not run: nothing is kept"),
        (2, painted([1, 2], 2), "nothing of picture 2 is kept"),
        (1, painted([99]), "there is no token"),
        (1, painted([1], evidence=[[1, 0, 0, 1, 1]]), "not inside a picture"),
        (1, painted([1], evidence=[[0, 0, 0, 1, 7]]), "not inside a picture"),
        (1, NOTHING, "not painted on yet"),
        (1, None, "not painted on yet"),
        (2, painted([1, 2], 1), "not painted on yet"),
    ],
)
def test_what_cannot_be_asked_is_one_sentence(paint, files, count, value, sentence):
    last = list(paint.does(paint.ask, [*given(files[:count]), value], VISITOR))[-1]
    assert sentence in last["status"] and "vt-error" in last["status"] and last["start"]["interactive"]


@pytest.mark.parametrize("base", ["divprune", "fastv", "downsample"])
def test_the_set_of_a_method_is_what_it_keeps_at_this_budget(paint, engine, files, base):
    updates = list(paint.does(paint.take, [*given(files, 60), base], VISITOR))
    run = engine.run(files, QUESTION, base, 0.6, 4, repeats=0)
    (update,) = (update for update in updates if "painted" in update)
    assert update["painted"]["keep"] == run.stages[-1].keep
    assert ("blends" in update["status"]) == (base == "downsample")
    everything = list(paint.does(paint.take, [*given(files, 100), base], VISITOR))
    assert [u["painted"]["keep"] for u in everything if "painted" in u] == [list(range(50))]


@pytest.mark.parametrize("among", ["all", "painted"])
def test_the_smallest_set_is_painted_and_keeps_the_answer(paint, engine, files, among):
    value = painted(range(25))
    updates = list(paint.does(paint.find, [*given(files[:1]), "divprune", among, value], VISITOR))
    keep = [update["painted"]["keep"] for update in updates if "painted" in update][-1]
    run = engine.run(files[:1], QUESTION, "picked", len(keep), 4, tokens=tuple(keep), repeats=0)
    assert run.comparison.same and len(keep) < 25
    said = next(update["status"] for update in updates if "Smallest found" in update.get("status", ""))
    assert f"Smallest found: {len(keep)} of 25 tokens" in said and (
        "not all were tried" in said or "not proven" in said
    )
    assert "Same answer" in next(update["answers"] for update in updates if "answers" in update)


def test_a_search_can_be_stopped_and_what_was_found_stays(paint, files):
    updates = paint.does(paint.find, [*given(files[:1]), "divprune", "all", painted([])], VISITOR)
    for update in updates:
        if "painted" in update:
            paint.handlers.halt(VISITOR)
    assert "Stopped" in update["status"] and update["start"]["interactive"]
    assert not paint.handlers.engine._lock.locked()


def test_a_method_without_an_order_is_refused_in_a_sentence(paint, files):
    last = list(paint.does(paint.find, [*given(files[:1]), "visionzip", "all", painted([])], VISITOR))[-1]
    assert "visionzip has no order of choice" in last["status"]


def test_the_board_has_the_evidence_of_known_questions(engine, tmp_path):
    made = examples.rebuild(engine, tmp_path, examples.EXAMPLES[:2])
    tab = opened(Paint, engine, made)
    board = tab.fresh([(str(path), None) for path in made[1].pictures], "  other  ")["board"]
    assert board["total"] == 25 and board["question"] == "other"
    assert board["known"] == {
        asked.text: [[image, *box] for image, box in asked.evidence] for asked in made[1].questions
    }
    empty = tab.fresh([], "")["board"]
    assert empty["total"] == 0 and empty["images"] == [] and empty["known"] == {}


def test_each_method_is_listed_with_its_share_of_the_box(paint, engine, files):
    chosen = ["divprune", "random", "downsample"]
    updates = list(
        paint.weighing.does(
            paint.weighing.run, [*given(files[:1]), chosen, painted([], evidence=[BOX])], VISITOR
        )
    )
    shown = [update["table"] for update in updates if "table" in update]
    assert [text.count("<tr>") for text in shown] == [3, 4, 5]  # the head, all tokens, and one more each time
    for name in chosen[:2]:
        run = engine.run(files[:1], QUESTION, name, 0.4, 4, repeats=0)
        share = study.kept_of(run, [(0, tuple(BOX[1:]))])
        assert f">{share:.0%}<" in shown[-1] and run.answer.strip()[:1] in shown[-1]
    assert "blended, so no share" in shown[-1]
    last = list(paint.weighing.does(paint.weighing.run, [*given(files[:1]), chosen, painted([])], VISITOR))[
        -1
    ]
    assert "there is no evidence box" in last["status"]


def test_answers_and_reasons_in_the_table_are_escaped(engine, files):
    run = engine.run(files[:1], QUESTION, "random", 0.4, 2, repeats=0)
    object.__setattr__(run.pruned, "answer", "<script>")
    text = table([study.Cell("random", run, evidence=0.5), study.Cell("atp", reason="<b>no")], 40)
    assert "<script" not in text and "<b>no" not in text and "&lt;script&gt;" in text


# ---- robustness ----


def test_every_severity_comes_in_turn_clean_first(engine, files):
    tab = opened(Robustness, engine)
    updates = list(tab.does(tab.run, [*given(files), "occlusion"], VISITOR))
    grids = [update["grid"] for update in updates if "grid" in update]
    assert [len(grid["rows"]) for grid in grids] == [1, 2, 3, 4, 5, 6]
    rows = grids[-1]["rows"]
    assert [row["severity"] for row in rows] == list(range(6)) and rows[0]["full"]["holds"]
    assert all(len(row["files"]) == 2 and row["tokens"] == "20 of 50" for row in rows)
    assert [image["name"] for image in grids[-1]["images"]] == ["first.png", "second.png"]
    assert not grids[0]["outcome"] and "severity" in grids[-1]["outcome"]
    clean = engine.run(files, QUESTION, "divprune", 0.4, 4, repeats=0)
    assert " ".join(word for word, _ in rows[0]["pruned"]["words"]) == " ".join(clean.answer.split())
    for row in rows:
        for side in ("full", "pruned"):
            assert (
                row[side]["holds"] == (not any(differs for _, differs in row[side]["words"]))
                or not row[side]["holds"]
            )
    assert "Done: " in updates[-2]["status"]


def test_a_damage_that_cannot_be_done_is_a_sentence_and_stop_ends_it(engine, files):
    tab = opened(Robustness, engine)
    assert "no damage called" in list(tab.does(tab.run, [*given(files), "rain"], VISITOR))[-1]["status"]
    updates = tab.does(tab.run, [*given(files), "blur"], VISITOR)
    for update in updates:
        if "grid" in update:
            tab.handlers.halt(VISITOR)
    assert "Stopped" in update["status"] and not engine._lock.locked()


@pytest.mark.parametrize(
    ("full", "pruned", "words"),
    [
        ("11110", "11010", "the pruned answer holds up to severity 2, the full one up to 4."),
        (
            "11111",
            "00000",
            "the pruned answer changes at severity 1 already, the full one holds up to severity 5.",
        ),
        (
            "00000",
            "10111",
            "the full answer changes at severity 1 already, the pruned one holds up to severity 1.",
        ),
        ("01111", "00000", "both answers change at severity 1 already."),
        ("11100", "11101", "both answers hold up to severity 3."),
    ],
)
def test_the_outcome_is_one_sentence(full, pruned, words):
    found = [SimpleNamespace(severity=0, full=True, pruned=True)] + [
        SimpleNamespace(severity=i + 1, full=f == "1", pruned=p == "1")
        for i, (f, p) in enumerate(zip(full, pruned, strict=True))
    ]
    assert outcome(found) == words
