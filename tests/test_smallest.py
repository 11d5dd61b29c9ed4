"""The search for a small set of tokens: what it ends with gives the answer, and little is run for it."""

from __future__ import annotations

import threading

import pytest
from conftest import picture

from vtprune import smallest as module
from vtprune.smallest import smallest

QUESTION = "Which colour has the fish?"


def last(found):
    return list(found)[-1]


def alone(engine, pictures, tokens):
    return engine.run(pictures, QUESTION, "picked", len(tokens), 4, tokens=tuple(tokens), repeats=0)


@pytest.mark.parametrize("images", [1, 2])
@pytest.mark.parametrize("method", ["atp", "divprune", "fastv"])
def test_the_set_that_is_found_gives_the_answer_of_all_tokens(engine, images, method):
    pictures = [picture(3 + i) for i in range(images)]
    found = last(smallest(engine, pictures, QUESTION, method, 4))
    assert found.over and found.done <= found.limit
    run = alone(engine, pictures, found.tokens)
    assert run.answer == run.full.answer == found.run.full.answer
    assert run.stages[-1].keep == sorted(found.tokens) and len(found.tokens) < run.tokens
    kept = {
        segment.image for segment in run.segments for t in found.tokens if segment.start <= t < segment.stop
    }
    assert kept == set(range(images))


def test_no_single_token_of_it_can_be_left_out(engine):
    pictures = [picture(5)]
    found = last(smallest(engine, pictures, QUESTION, "random", 4, limit=400))
    assert found.alone
    for token in found.tokens if len(found.tokens) > 1 else ():
        rest = [other for other in found.tokens if other != token]
        assert alone(engine, pictures, rest).answer != found.run.full.answer


def hanging_on(engine, monkeypatch, needed):
    """Make the answer hang on these tokens alone, so that the smallest set is known."""
    asked = []
    ask = module._Search._ask

    def asking(self, method, keep, params):
        run = ask(self, method, keep, params)
        if method == "picked":
            asked.append(params["tokens"])
            object.__setattr__(run.comparison, "same", needed <= set(params["tokens"]))
        return run

    monkeypatch.setattr(module._Search, "_ask", asking)
    return asked


@pytest.mark.parametrize("needed", [{7}, {0, 24}, {3, 4, 11, 19, 20}, set(range(25))])
def test_the_smallest_is_found_where_the_answer_hangs_on_certain_tokens(engine, monkeypatch, needed):
    asked = hanging_on(engine, monkeypatch, needed)
    found = last(smallest(engine, [picture(1)], QUESTION, "divprune", 2))
    assert set(found.tokens) == needed and found.alone and found.over
    assert found.done == len(asked) == len({frozenset(tokens) for tokens in asked})  # nothing is tried twice


def test_each_picture_keeps_a_token(engine, monkeypatch):
    hanging_on(engine, monkeypatch, {30})
    found = last(smallest(engine, [picture(1), picture(2)], QUESTION, "random", 2))
    assert 30 in found.tokens and len(found.tokens) == 2 and min(found.tokens) < 25 and found.alone


def test_a_search_among_painted_tokens_stays_among_them(engine, monkeypatch):
    hanging_on(engine, monkeypatch, {4, 9})
    painted = [2, 9, 4, 17, 21, 6]
    for method in ("atp", "uniform"):  # with an order, and without one
        found = last(smallest(engine, [picture(1)], QUESTION, method, 2, among=painted))
        assert set(found.tokens) == {4, 9}
    with pytest.raises(ValueError, match="alone do not keep the answer"):
        list(smallest(engine, [picture(1)], QUESTION, "atp", 2, among=[2, 9]))


def test_the_pictures_are_encoded_once_and_tries_are_bounded(engine, monkeypatch):
    encoded = []
    encode = engine.backbone.encode
    monkeypatch.setattr(engine.backbone, "encode", lambda *a: encoded.append(1) or encode(*a))
    asked = hanging_on(engine, monkeypatch, {1, 6, 13, 22})
    seen = list(smallest(engine, [picture(1)], QUESTION, "random", 2, limit=6))
    assert len(encoded) == 1 and len(asked) == 6
    assert seen[-1].over and not seen[-1].alone and seen[-1].done == 6
    sizes = [len(found.tokens) for found in seen]
    assert sizes == sorted(sizes, reverse=True) and [found.done for found in seen] == sorted(
        found.done for found in seen
    )
    assert {1, 6, 13, 22} <= set(seen[-1].tokens)


def test_stop_ends_the_search_and_frees_the_model(engine):
    stop, seen = threading.Event(), []
    for found in smallest(engine, [picture(1)], QUESTION, "atp", 4, stop=stop):
        seen.append(found)
        stop.set()
    assert len(seen) == 1 and not seen[0].over and not engine._lock.locked()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"method": "visionzip"}, "no order of choice"),
        ({"method": "uniform"}, "no order of choice"),
        ({"method": "atpp"}, "Did you mean"),
        ({"among": []}, "no token to search among"),
        ({"among": [99]}, "there is no token"),
        ({"limit": 0}, "limit=0"),
        ({"images": []}, "no picture"),
        ({"question": " "}, "question is empty"),
    ],
)
def test_what_cannot_be_searched_is_one_sentence(engine, change, words):
    request = {"images": [picture(1)], "question": QUESTION, "max_new_tokens": 2, **change}
    with pytest.raises(ValueError, match=words) as caught:
        list(smallest(engine, **request))
    assert "\n" not in str(caught.value) and not engine._lock.locked()
