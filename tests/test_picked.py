"""Keeping exactly the tokens that somebody named."""

import pytest
from method_signals import make_signals

import vtprune


def pick(tokens, keep):
    return vtprune.select("picked", make_signals((6, 6)), keep, tokens=tokens)


def test_named_tokens_are_kept_and_nothing_else():
    assert pick((9, 2, 30), 3).keep.tolist() == [2, 9, 30]


def test_a_smaller_budget_keeps_the_first_named():
    assert pick((9, 2, 30), 2).keep.tolist() == [2, 9]


def test_a_larger_budget_is_filled_by_lot():
    kept = pick((9, 2, 30), 10)
    assert len(kept.keep) == 10 and {2, 9, 30} <= set(kept.keep.tolist())
    assert kept.order.tolist()[:3] == [9, 2, 30] and len(kept.order) == len(set(kept.order.tolist()))


@pytest.mark.parametrize(
    ("tokens", "words"),
    [
        ((1, 1), "different"),
        ((1.5,), "whole numbers"),
        ((10_000,), "numbered 0 to"),
        ((-1,), "numbered 0 to"),
    ],
)
def test_what_cannot_be_kept_is_said(tokens, words):
    with pytest.raises(ValueError, match=words):
        pick(tokens, 2)


def test_every_picture_keeps_one():
    two = make_signals((4, 4), (4, 4))
    with pytest.raises(ValueError, match="nothing of picture 2"):
        vtprune.select("picked", two, 2, tokens=(0, 1))
    assert vtprune.select("picked", two, 2, tokens=(0, 17)).keep.tolist() == [0, 17]
