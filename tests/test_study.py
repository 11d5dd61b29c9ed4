"""Comparisons and sweeps: each point is what a run of its own gives, with the shared work done once."""

from __future__ import annotations

import dataclasses
import threading
from itertools import pairwise

import pytest
from conftest import build_model, picture

import vtprune
from vtprune import methods, study
from vtprune.study import Point

QUESTION = "Which colour has the fish?"
EVERY = sorted(methods.list_methods())
EVIDENCE = ((0, (0.1, 0.2, 0.6, 0.7)),)


def facts(run):
    """What must not depend on anything but the request; timings may."""
    stages = [dataclasses.replace(stage, seconds=0, order=None) for stage in run.stages]
    sides = [(side.answer, side.tokens, side.cost) for side in (run.full, run.pruned)]
    return stages, sides, run.comparison, run.method, run.params, run.keep, run.images


@pytest.fixture
def counted(engine, monkeypatch):
    """How often the vision tower ran, and the selectors."""
    counts = {"encode": 0, "select": 0}
    encode, guarded = engine.backbone.encode, methods.base.guarded

    def count(name, function):
        def counting(*args, **kwargs):
            counts[name] += 1
            return function(*args, **kwargs)

        return counting

    monkeypatch.setattr(engine.backbone, "encode", count("encode", encode))
    monkeypatch.setattr(methods.base, "guarded", count("select", guarded))
    return counts


@pytest.mark.parametrize("images", [1, 3])
@pytest.mark.parametrize("start", range(0, len(EVERY), study.MOST))
def test_a_cell_is_the_run_of_its_method(engine, images, start):
    pictures, chosen = [picture(i) for i in range(images)], EVERY[start : start + study.MOST]
    cells = list(study.compare(engine, pictures, QUESTION, chosen, 0.5, 6, repeats=0, evidence=EVIDENCE))
    assert [cell.method for cell in cells] == chosen
    for cell in cells:
        alone = engine.run(pictures, QUESTION, cell.method, 0.5, 6, repeats=0)
        assert cell.run is not None and facts(cell.run) == facts(alone), cell.method
        assert cell.evidence == study.kept_of(alone, EVIDENCE)


@pytest.mark.parametrize("images", [1, 2])
@pytest.mark.parametrize("method", EVERY)
def test_a_point_is_the_run_of_its_method_and_budget(engine, images, method):
    pictures, budgets = [picture(7 + i) for i in range(images)], [0.06, 0.3, 0.62, 0.9, 1.0]
    points = list(study.sweep(engine, pictures, QUESTION, [method], budgets, 5, evidence=EVIDENCE))
    assert [point.keep for point in points] == budgets
    for point in points:
        try:
            run = engine.run(pictures, QUESTION, method, point.keep, 5, repeats=0)
        except ValueError as error:
            assert point.reason == str(error)
            continue
        layers = run.pruned.cost.tokens_per_layer
        assert (point.answer, point.full, point.total) == (run.answer, run.full.answer, run.tokens)
        assert point.tokens == sum(layers) / len(layers)
        assert point.evidence == study.kept_of(run, EVIDENCE)
        assert point.kl == max(run.comparison.kl) and point.same == run.comparison.same
    assert points[-1].same and points[-1].share == 1 and points[-1].kl == 0


def test_the_tower_runs_once_and_nested_methods_choose_once(engine, counted):
    chosen = ["atp", "divprune", "fastv", "random", "visionzip"]
    budgets = [0.4, 0.5, 0.6, 0.7]
    points = list(study.sweep(engine, [picture(1)], QUESTION, chosen, budgets, 3))
    assert len(points) == 20 and not any(point.reason for point in points)
    assert counted["encode"] == 1
    assert counted["select"] == 4 + len(budgets)  # of the five only VisionZip blends tokens
    list(study.compare(engine, [picture(1)], QUESTION, chosen, 0.5, 3, repeats=0))
    assert counted["encode"] == 2


def test_options_reach_their_method_only(engine):
    params = {"atp": {"alpha": 1.0}}
    first, second = study.compare(
        engine, [picture(1)], QUESTION, ["atp", "resprune"], 0.3, 3, params, repeats=0
    )
    assert first.run.params == {"alpha": 1.0} and second.run.params == {}
    alone = engine.run([picture(1)], QUESTION, "atp", 0.3, 3, {"alpha": 1.0}, repeats=0)
    assert first.run.stages[0].keep == alone.stages[0].keep
    (point,) = study.sweep(engine, [picture(1)], QUESTION, ["atp"], [0.3], 3, params)
    assert point.answer == alone.answer


def test_cells_have_times_of_both_sides_measured_together(engine):
    cells = list(study.compare(engine, [picture(1)], QUESTION, ["atp", "fastv"], 0.5, 3, repeats=2))
    assert cells[0].run.full.timings != cells[1].run.full.timings
    for cell in cells:
        for side in (cell.run.full, cell.run.pruned):
            assert all(spread.n == 2 for spread in side.timings.values())
        assert cell.run.pruned.timings["select"].low > 0
        assert vtprune.Run.from_json(cell.run.to_json()).to_json() == cell.run.to_json()
    order = cells[0].run.stages[0].order
    assert sorted(order) == list(range(25))  # so that the map can replay other budgets


def test_what_cannot_be_served_says_so_and_the_others_go_on(engine, tmp_path):
    cells = list(study.compare(engine, [picture(1)], QUESTION, ["fastv", "random"], 2, 3, repeats=0))
    assert "fastv cannot bring" in cells[0].reason and cells[0].run is None
    assert cells[1].run.stages[0].after == 2
    points = list(study.sweep(engine, [picture(1)], QUESTION, ["fastv", "random"], [0.1, 0.8], 3))
    assert [bool(point.reason) for point in points] == [True, False, False, False]

    build_model(tmp_path, tower="siglip", strategy="full")
    other = vtprune.load(tmp_path)
    blind, seeing = study.compare(other, [picture(1)], QUESTION, ["fastervlm", "divprune"], 0.3, 3, repeats=0)
    assert "no CLS token" in blind.reason and seeing.run is not None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"methods": []}, "0 methods were chosen"),
        ({"methods": EVERY[:13]}, "13 methods were chosen"),
        ({"methods": ["atpp"]}, "Did you mean 'atp'"),
        ({"params": {"atp": {"alpha": 7}}}, "alpha"),
        ({"images": []}, "no picture"),
        ({"question": " "}, "question is empty"),
        ({"question": "what is <image>"}, "<image>"),
        ({"max_new_tokens": 600}, "do not fit"),
    ],
)
def test_requests_that_cannot_be_served_are_one_sentence(engine, change, message):
    request = {"images": [picture(1)], "question": QUESTION, "methods": ["atp", "random"], **change}
    for work in (
        lambda: list(study.compare(engine, keep=0.5, **request)),
        lambda: list(study.sweep(engine, budgets=[0.5], **request)),
    ):
        with pytest.raises(ValueError, match=message) as caught:
            work()
        assert "\n" not in str(caught.value) and not engine._lock.locked()


@pytest.mark.parametrize("budgets", [[], [0.0], [0.5, 1.5], [3]])
def test_budgets_that_are_none_are_refused(engine, budgets):
    with pytest.raises(ValueError, match="budget"):
        study.sweep(engine, [picture(1)], QUESTION, ["random"], budgets)


def test_stop_ends_both_and_frees_the_model(engine):
    for work in (
        lambda stop: study.compare(engine, [picture(1)], QUESTION, EVERY[:4], 0.6, stop=stop),
        lambda stop: study.sweep(engine, [picture(1)], QUESTION, EVERY[:4], [0.6, 0.8], stop=stop),
    ):
        stop, seen = threading.Event(), []
        for found in work(stop):
            seen.append(found)
            stop.set()
        assert len(seen) == 1 and not engine._lock.locked()


def test_others_get_their_turn_between_two_points(engine):
    points = study.sweep(engine, [picture(1)], QUESTION, ["random"], [0.2, 0.4], 3)
    next(points)
    run = engine.run([picture(2)], QUESTION, "fastv", 0.5, 3, repeats=0)
    (last,) = points
    alone = engine.run([picture(1)], QUESTION, "random", 0.4, 3, repeats=0)
    assert last.answer == alone.answer and run.comparison is not None


def test_a_spread_is_whole_percents_in_equal_factors():
    shares = study.spread(0.02, 1.0, 12)
    assert shares[0] == 0.02 and shares[-1] == 1.0 and len(shares) == 12
    assert all(a < b and round(100 * a) / 100 == a for a, b in pairwise(shares))
    assert study.spread(0.01, 0.03, 12) == [0.01, 0.02, 0.03]
    assert study.spread(0.5, 0.5, 2) == [0.5]
    for bad in ((0.5, 0.2, 5), (0, 1, 5), (0.1, 1.2, 5), (0.1, 1, 1), (0.1, 1, 99), (0.1, 1, 2.5)):
        with pytest.raises(ValueError):
            study.spread(*bad)


def test_flips_are_where_neighbouring_answers_differ():
    def point(tokens, answer, method="a"):
        return Point(method, tokens / 100, tokens, 100, answer, "red")

    points = [point(5, "blue"), point(12, "red"), point(23, "green"), point(50, "red"), point(100, "red")]
    found = study.flips([points[i] for i in (3, 0, 4, 2, 1)])  # in any order
    assert [(flip.tokens, flip.above, flip.before, flip.after) for flip in found] == [
        (23, 50, "red", "green"),
        (12, 23, "green", "red"),
        (5, 12, "red", "blue"),
    ]
    # the answer of all tokens counts even where the sweep ends below
    (only,) = study.flips([point(40, "blue", "b"), Point("b", 0.1, reason="no")])
    assert (only.method, only.tokens, only.above, only.before) == ("b", 40, 100, "red")
    assert study.flips([point(40, "red")]) == [] and study.flips([]) == []
    assert study.flips([point(40, "blue")], ended=False) == []  # larger budgets are still to come
