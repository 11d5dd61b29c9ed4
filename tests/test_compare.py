"""Diffs and divergences on cases worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch

from vtprune.compare import compare, diff_words, divergence, first_difference


def logits(*rows):
    return [torch.tensor(row).log() for row in rows]


def test_same_answer():
    rows = logits([0.5, 0.5], [0.9, 0.1])
    result = compare("a cat", "a cat", [0, 1], [0, 1], rows, rows)
    assert result.same and result.first_difference is None and result.summary == "same answer"
    assert result.kl == pytest.approx([0, 0], abs=1e-12)
    assert result.words_pruned == [("a", False), ("cat", False)]


def test_divergence_by_hand():
    p, q = torch.tensor([0.5, 0.5]).log(), torch.tensor([0.25, 0.75]).log()
    assert divergence(p, q) == pytest.approx(0.5 * math.log(2) + 0.5 * math.log(2 / 3))


def test_divergence_stops_at_the_first_difference():
    full, pruned = logits([0.5, 0.5], [0.9, 0.1], [0.5, 0.5]), logits([0.5, 0.5], [0.1, 0.9], [0.9, 0.1])
    result = compare("a b c", "a x c", [0, 1, 2], [0, 3, 2], full, pruned)
    assert result.first_difference == 1 and len(result.kl) == 2 and result.kl[1] > 1
    assert result.words_pruned == [("a", False), ("x", True), ("c", False)]
    assert result.summary == "differs from word 2"


def test_divergence_is_that_of_the_distributions_a_token_was_picked_from():
    full, pruned = logits([0.5, 0.5], [0.8, 0.2]), logits([0.5, 0.5], [0.4, 0.6])
    result = compare("a b", "a c", [0, 0], [0, 1], full, pruned)
    by_hand = 0.8 * math.log(0.8 / 0.4) + 0.2 * math.log(0.2 / 0.6)
    assert result.kl == pytest.approx([0.0, by_hand])
    other_way = compare("a c", "a b", [0, 1], [0, 0], pruned, full).kl[1]
    assert other_way == pytest.approx(0.4 * math.log(0.4 / 0.8) + 0.6 * math.log(0.6 / 0.2))


def test_one_answer_ends_earlier():
    rows = logits([0.5, 0.5], [0.9, 0.1], [0.5, 0.5])
    result = compare("a b", "a", [0, 1, 9], [0, 9], rows, rows[:2])
    assert result.first_difference == 1 and len(result.kl) == 2
    assert result.summary == "differs from word 2"


def test_empty_answers():
    assert compare("a", "", [1], [0], [], []).summary == "the pruned answer is empty"
    assert compare("", "a", [1], [0], [], []).summary == "the full answer is empty"
    assert compare("a  b", "a b", [1], [0], [], []).summary == "same words, spaced differently"


def test_first_difference():
    assert first_difference([1, 2], [1, 2]) is None
    assert first_difference([1, 2, 3], [1, 2]) == 2
    assert first_difference([], [1]) == 0


def test_diff_aligns_insertions():
    full, pruned = diff_words("a red fish", "a big red fish")
    assert not any(differs for _, differs in full)
    assert pruned == [("a", False), ("big", True), ("red", False), ("fish", False)]
