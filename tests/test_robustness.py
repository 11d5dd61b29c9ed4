"""Damaged pictures: each severity is a run of its own, and told against the clean answers."""

from __future__ import annotations

import threading
from types import SimpleNamespace

import pytest
from conftest import picture

from vtprune import robustness as module
from vtprune.perturb import KINDS, perturb
from vtprune.robustness import holds, robustness
from vtprune.study import kept_of

QUESTION = "Which colour has the fish?"
EVIDENCE = ((0, (0.1, 0.2, 0.6, 0.7)),)


@pytest.mark.parametrize("kind", KINDS)
def test_each_severity_is_a_run_on_the_damaged_pictures(engine, kind):
    clean = [picture(1, 200, 160), picture(2, 160, 200)]
    found = list(robustness(engine, clean, QUESTION, "divprune", 0.4, kind, 4, seed=5, evidence=EVIDENCE))
    assert [damaged.severity for damaged in found] == [0, 1, 2, 3, 4, 5]
    first = found[0].run
    for damaged in found:
        pictures = clean
        if damaged.severity:
            pictures = [perturb(p, kind, damaged.severity, 5 + i) for i, p in enumerate(clean)]
        run = engine.run(pictures, QUESTION, "divprune", 0.4, 4, seed=5, repeats=0)
        assert (damaged.run.answer, damaged.run.full.answer) == (run.answer, run.full.answer)
        assert damaged.run.stages[0].keep == run.stages[0].keep
        assert damaged.evidence == kept_of(run, EVIDENCE)
        assert damaged.full == (run.full.answer == first.full.answer)
        assert damaged.pruned == (run.answer == first.answer)
        assert [p.tobytes() for p in damaged.pictures] == [p.tobytes() for p in pictures]


def test_answers_are_told_against_their_own_clean_answer(engine, monkeypatch):
    said = iter([("red", "blue"), ("red", "blue"), ("red", "red"), ("blue", "blue")])

    def stream(*args, **kwargs):
        full, pruned = next(said)
        run = SimpleNamespace(full=SimpleNamespace(answer=full), answer=pruned, stages=[])
        yield module.Done(run)

    monkeypatch.setattr(engine, "stream", stream)
    found = list(robustness(engine, [picture(1)], QUESTION, severities=(1, 2, 3)))
    assert [(damaged.full, damaged.pruned) for damaged in found] == [
        (True, True),
        (True, True),
        (True, False),
        (False, True),
    ]
    assert holds(found, "full") == 2 and holds(found, "pruned") == 1  # what comes back later does not count
    assert holds(found[::-1], "full") == 2 and holds([], "full") == 0


def test_large_pictures_are_scaled_down_clean_ones_too(engine, monkeypatch):
    monkeypatch.setattr(module, "LARGEST", 40)
    found = list(
        robustness(engine, [picture(1, 120, 80)], QUESTION, "random", 0.4, "blur", 2, severities=(2,))
    )
    assert [damaged.pictures[0].size for damaged in found] == [(40, 27)] * 2


def test_stop_ends_it_and_frees_the_model(engine):
    stop, seen = threading.Event(), []
    for damaged in robustness(engine, [picture(1)], QUESTION, "random", 0.4, max_new_tokens=2, stop=stop):
        seen.append(damaged.severity)
        if len(seen) == 2:
            stop.set()
    assert seen == [0, 1] and not engine._lock.locked()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"kind": "rain"}, "no damage called 'rain'"),
        ({"severities": (1, 6)}, "from 1 to 5"),
        ({"method": "atpp"}, "Did you mean"),
        ({"keep": 0.0}, "budget"),
        ({"images": []}, "no picture"),
        ({"question": ""}, "question is empty"),
    ],
)
def test_what_cannot_be_asked_is_one_sentence(engine, change, words):
    with pytest.raises(ValueError, match=words) as caught:
        list(robustness(engine, **{"images": [picture(1)], "question": QUESTION, **change}))
    assert "\n" not in str(caught.value) and not engine._lock.locked()
