"""Accuracy and evidence are counted as one would by hand."""

from __future__ import annotations

import dataclasses
from collections import Counter

import pytest
import torch

import vtprune
from vtprune.evaluate import PICTURE_SIDE, Asked, Report, evidence_kept, heldout
from vtprune.scenes import questions
from vtprune.scenes.world import render, sample


@pytest.fixture(scope="module")
def run():
    engine = vtprune.load(device="cpu")
    return engine.run([render(sample(3), PICTURE_SIDE)[0]], "What is there?", "uniform", 0.5, repeats=0)


def test_heldout_questions_take_turns_and_repeat_exactly():
    asked = [question for _, question in heldout(42)]
    assert Counter(q.type for q in asked) == dict.fromkeys(questions.TYPES, 3)
    assert asked == [question for _, question in heldout(42)]
    assert asked != [question for _, question in heldout(42, split="validation")]


def test_evidence_is_the_share_of_its_pixels(run):
    """Against painting every kept token's box, pixel by pixel."""
    boxes = [(0, (30.0, 50.0, 200.0, 130.0)), (0, (300.0, 300.0, 310.0, 440.0))]
    painted = torch.zeros(PICTURE_SIDE, PICTURE_SIDE)
    for index in run.stages[-1].keep:
        x0, y0, x1, y1 = (round(v) for v in run.segments[0].boxes[index].tolist())
        painted[y0:y1, x0:x1] = 1
    inside = sum(float(painted[int(b[1]) : int(b[3]), int(b[0]) : int(b[2])].sum()) for _, b in boxes)
    area = sum((b[2] - b[0]) * (b[3] - b[1]) for _, b in boxes)
    assert evidence_kept(run, boxes) == pytest.approx(inside / area, abs=1e-3)


def test_evidence_at_the_ends(run):
    everything = dataclasses.replace(run, stages=[])
    assert evidence_kept(everything, [(0, (10.0, 10.0, 400.0, 90.0))]) == pytest.approx(1.0)
    assert evidence_kept(run, []) is None
    nothing = dataclasses.replace(run, stages=[dataclasses.replace(run.stages[0], keep=[0])])
    assert evidence_kept(nothing, [(0, (400.0, 400.0, 440.0, 440.0))]) == 0.0


def test_a_report_counts_right_answers():
    asked = [
        Asked("count", "?", "3", "3", "2", 0.5),
        Asked("count", "?", "3", "3.", "3", None),
        Asked("kind", "?", "cat", "dog", "Dog", 1.0),
        Asked("caption", "?", "A cat.", "A dog.", "A cat.", 1.0),
    ]
    report = Report("atp", 0.1, asked)
    assert report.full_accuracy == 0.5 and report.accuracy == 0.5 and report.agreement == 0.5
    assert report.short.full_accuracy == pytest.approx(2 / 3) and report.short.accuracy == pytest.approx(
        1 / 3
    )
    assert report.evidence == pytest.approx(2.5 / 3)
    assert "| count | 2 | 100.0% | 50.0% |" in report.table()
