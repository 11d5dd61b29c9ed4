"""The drawn world: its truth is checked against its pixels, its answers against a reading of the scene."""

from __future__ import annotations

import dataclasses
import itertools
import random
from collections import defaultdict

import numpy as np
import pytest

from vtprune.scenes import draw, questions, tokens
from vtprune.scenes.phrases import matches, same_answer, zone
from vtprune.scenes.questions import SEVERAL, SINGLE
from vtprune.scenes.world import (
    CHANGES,
    MAX_OCCLUSION,
    MAX_THINGS,
    SPLITS,
    change,
    render,
    sample,
    split_seed,
)

SIDE = 224


def alone(scene, index):
    """The mask [SIDE, SIDE] of one thing drawn without the others."""
    only = dataclasses.replace(scene, things=(scene.things[index],))
    return render(only, SIDE)[1] == 0


def test_the_world_is_as_large_as_promised():
    assert len(draw.KINDS) >= 24 and len(set(draw.KINDS)) == len(draw.KINDS)
    assert len(draw.COLOURS) == 10 and len(draw.BACKGROUNDS) >= 6
    scenes = [sample(seed) for seed in range(600)]
    counts = {len(scene.things) for scene in scenes}
    assert counts == set(range(1, MAX_THINGS + 1))
    things = [thing for scene in scenes for thing in scene.things]
    assert {thing.kind for thing in things} == set(draw.KINDS)
    assert {thing.colour for thing in things} == set(draw.COLOURS)
    assert {thing.size for thing in things} == {"small", "medium", "large"}
    assert {thing.style for thing in things if thing.kind == "sign"} == {0, 1, 2, 3}


def test_splits_never_overlap():
    for (_, a), (_, b) in itertools.combinations(SPLITS.items(), 2):
        assert a.stop <= b.start or b.stop <= a.start
    with pytest.raises(ValueError, match="no scene"):
        split_seed("heldout", 10**7)
    with pytest.raises(ValueError, match="no scene"):
        split_seed("nowhere", 0)


def test_a_seed_is_one_picture():
    for seed in (0, 7, 10**9 + 5):
        first, second = sample(seed), sample(seed)
        assert first == second
        assert render(first, 300)[0].tobytes() == render(second, 300)[0].tobytes()
    assert sample(1) != sample(2)


@pytest.mark.parametrize("seed", range(40))
def test_boxes_and_occlusion_are_those_of_the_pixels(seed):
    scene = sample(seed)
    _, ids = render(scene, SIDE)
    for index, thing in enumerate(scene.things):
        mask = alone(scene, index)
        rows, columns = np.nonzero(mask)
        seen = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
        assert np.abs(np.array(seen) - np.array(thing.box) * SIDE).max() <= 2.5, thing
        assert min(thing.box) >= 0 and max(thing.box) <= 1
        visible = np.count_nonzero(ids == index) / mask.sum()
        assert visible >= 1 - MAX_OCCLUSION - 0.02, f"{thing.kind} is hidden by {1 - visible:.0%}"
        if thing.text:
            assert visible > 0.98, "letters are never hidden"


def test_colours_are_what_they_are_called():
    """An object's colour, or (for details in shade) the runner-up, is the one its pixels are nearest to."""
    names, palette = list(draw.COLOURS), np.array(list(draw.COLOURS.values()), dtype=float)
    for kind, colour in itertools.product(draw.KINDS, names):
        picture = np.asarray(draw.sprite(kind, colour, 64, text="7" if kind == "sign" else ""))
        pixels = picture[picture[..., 3] > 250][:, :3].astype(float)
        nearest = np.linalg.norm(pixels[:, None] - palette[None], axis=2).argmin(1)
        share = np.bincount(nearest, minlength=len(names)) / len(nearest)
        own = share[names.index(colour)]
        assert own >= 0.25 and own >= np.sort(share)[-2], f"a {colour} {kind} looks {names[share.argmax()]}"


def all_questions(count=250):
    """(scenes, question) of every type."""
    rng = random.Random(0)
    for seed in range(count):
        scene = sample(seed)
        for question in questions.ask([scene], rng, 10):
            yield (scene,), question
        several = [sample(10**6 + seed * 4 + i) for i in range(rng.randint(2, 4))]
        for question in questions.ask(several, rng, 4):
            yield tuple(several), question
        pair = questions.ask_changed(scene, rng, 3)
        for question in pair[1] if pair else []:
            yield pair[0], question


@pytest.fixture(scope="module")
def asked():
    return list(all_questions())


def found(scenes, subject):
    return [(i, thing) for i, scene in enumerate(scenes) for thing in scene.things if matches(thing, subject)]


def centre(box):
    return (box[0] + box[2]) / 2, (box[1] + box[3]) / 2


def check(scenes, question):
    """The answer worked out again from the scene, the noun phrases and the evidence alone."""
    by_box = {(i, thing.box): thing for i, scene in enumerate(scenes) for thing in scene.things}
    shown = [by_box[place] for place in question.evidence]
    parts = [found(scenes, subject) for subject in question.subjects]
    kind, answer = question.type, question.answer
    if kind in ("kind", "colour", "size", "position", "number", "word"):
        assert len(shown) == 1 and question.subjects
        thing = shown[0]
        assert [thing] == [t for _, t in parts[0]], "the phrase names one thing only"
        wanted = {
            "kind": thing.kind,
            "colour": thing.colour,
            "size": thing.size,
            "number": thing.text,
            "word": thing.text,
            "position": zone(*centre(thing.box)),
        }
        assert answer == wanted[kind]
        assert kind == "size" or answer.lower() not in question.text.lower().split(), (
            "the answer is given away"
        )
    elif kind == "count":
        assert 0 <= int(answer) <= 8 and int(answer) == len(parts[0]) == len(shown)
    elif kind == "existence":
        assert (answer == "yes") == bool(parts[0]) == bool(shown)
    elif kind == "compare":
        a, b = len(parts[0]), len(parts[1])
        truth = a < b if " fewer " in question.text else a > b
        assert (answer == "yes") == truth and len(shown) == a + b
    elif kind == "relation":
        (ax, ay), (bx, by) = (centre(thing.box) for thing in shown)
        sides = {"left": bx - ax, "right": ax - bx, "above": by - ay, "below": ay - by}
        best = max(sides, key=lambda side: sides[side])
        if answer in ("yes", "no"):
            said = [side for side in sides if side in question.text]
            assert len(said) == 1 and (answer == "yes") == (said[0] == best)
        else:
            assert answer == best
    elif kind == "which image":
        assert {i + 1 for i, _ in parts[0]} == {int(answer)}
    elif kind == "how many images":
        assert len({i for i, _ in parts[0]}) == int(answer)
    elif kind == "changed":
        first, second = (set(scene.things) for scene in scenes)
        different = (first - second) | (second - first)
        assert {thing.kind for thing in different} == {question.subjects[0][0]}
        if answer in CHANGES:
            old, new = list(first - second), list(second - first)
            assert (answer == "added") == (not old) and (answer == "removed") == (not new)
            if old and new:
                assert (answer == "color") == (old[0].colour != new[0].colour)
                assert (answer == "size") == (old[0].size != new[0].size)
        else:
            assert answer in {thing.kind for thing in different}
    elif kind == "caption":
        assert answer.endswith(".") and all(
            thing.kind in answer and thing.colour in answer.lower() for thing in shown
        )
    else:
        raise AssertionError(f"{kind} is not checked")


def test_every_answer_follows_from_the_scene(asked):
    for scenes, question in asked:
        check(scenes, question)
    assert {question.type for _, question in asked} == set(questions.TYPES)


def test_each_type_is_worded_in_at_least_four_ways(asked):
    """Told apart by the words before the first noun phrase."""
    openings = defaultdict(set)
    for _, question in asked:
        words = question.text.rstrip("?.").lower().split()
        openings[question.type].add((words[0], words[1] if len(words) > 1 else "", len(words)))
    assert all(len(openings[kind]) >= 4 for kind in questions.TYPES), openings
    texts = [question.text for _, question in asked]
    assert any("colour" in text for text in texts) and any("color" in text for text in texts)
    assert any(text.endswith("?") for text in texts) and any(text[-1].isalpha() for text in texts)


def test_yes_and_no_are_both_common(asked):
    for kind in ("existence", "relation", "compare"):
        answers = [q.answer for _, q in asked if q.type == kind and q.answer in ("yes", "no")]
        assert 0.3 < answers.count("yes") / len(answers) < 0.7, kind


def test_counts_reach_eight(asked):
    answers = {q.answer for _, q in asked if q.type == "count"}
    assert answers == {str(n) for n in range(9)}


def test_changes_of_every_kind_happen_and_are_seen():
    seen = set()
    for seed in range(60):
        scene = sample(seed)
        made = change(scene, random.Random(seed))
        if made is None:
            continue
        other, what, _, _ = made
        seen.add(what)
        assert render(scene, SIDE)[0].tobytes() != render(other, SIDE)[0].tobytes()
    assert seen == set(CHANGES)


def test_asking_for_one_type_gives_that_type():
    rng = random.Random(3)
    for kind in SINGLE:
        got = [q for seed in range(30) for q in questions.ask([sample(seed)], rng, 2, only=kind)]
        assert got and {q.type for q in got} == {kind}
    several = [sample(seed) for seed in range(3)]
    for kind in SEVERAL:
        assert {q.type for q in questions.ask(several, rng, 2, only=kind)} <= {kind}


def test_exact_match_forgives_case_full_stop_and_spelling_only():
    assert same_answer("Red", "red.") and same_answer("colour", "color")
    assert not same_answer("red", "dark red") and not same_answer("", "red")


def test_the_tokenizer_takes_any_text_and_knows_every_word():
    tokenizer = tokens.build()
    for text in ("Zürich ≈ 漢字 🙂\n\ttabs", "a" * 50, "What colour is the cat?", "<|nothing|>"):
        assert tokenizer.decode(tokenizer.encode(text, add_special_tokens=False)) == text
    for word in (*draw.KINDS, *draw.COLOURS, "yes", "no"):
        assert len(tokenizer.encode(f" {word}", add_special_tokens=False)) == 1
    assert tokenizer.tokenize(" 47")[-2:] == ["4", "7"]
