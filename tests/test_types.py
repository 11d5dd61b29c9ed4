"""Guards of the data types, and the lossless way through JSON."""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch
from conftest import picture

from vtprune.types import Budget, Run, Segment, Signals


@pytest.mark.parametrize("keep", [0, -1, 1.5, 0.0, -0.1, float("nan"), True, "half", None])
def test_budget_refuses(keep):
    with pytest.raises(ValueError, match="keep="):
        Budget(keep)


def test_budget_counts():
    assert Budget(0.25).count(100) == 25 and Budget(1.0).count(7) == 7 and Budget(64).count(100) == 64
    assert Budget(0.01).count(10, images=3) == 3, "one token an image"
    for keep, message in ((101, "more than"), (2, "without a token")):
        with pytest.raises(ValueError, match=message):
            Budget(keep).count(100, images=3)


def test_signals_take_keeps_rows_and_segments_together():
    segments = (
        Segment(0, 0, 4, (2, 2), torch.arange(16).reshape(4, 4).float()),
        Segment(1, 4, 2, (1, 2), torch.arange(8).reshape(2, 4).float()),
    )
    signals = Signals(
        torch.arange(6.0)[:, None], segments, cls_attention=torch.arange(6.0), attention=torch.rand(2, 3, 6)
    )
    taken = signals.take(torch.tensor([1, 3, 4, 5]))
    assert [(s.image, s.start, s.length, s.grid) for s in taken.segments] == [
        (0, 0, 2, (1, 2)),
        (1, 2, 2, (1, 2)),
    ]
    assert taken.cls_attention.tolist() == [1, 3, 4, 5] and taken.attention.shape == (2, 3, 4)
    assert torch.equal(taken.segments[0].boxes, segments[0].boxes[[1, 3]])
    assert taken.image_ids().tolist() == [0, 0, 1, 1]
    assert [s.image for s in signals.take(torch.tensor([4])).segments] == [1]


def test_run_through_json_is_lossless(engine):
    run = engine.run(
        [picture(1), picture(2)],
        "Wo ist der Fisch? ☃",
        method="downsample",
        keep=0.3,
        max_new_tokens=3,
        repeats=2,
    )
    text = run.to_json()
    again = Run.from_json(text)
    assert again.to_json() == text
    for field in dataclasses.fields(Run):
        if field.name == "segments":
            for a, b in zip(run.segments, again.segments, strict=True):
                assert torch.equal(a.boxes, b.boxes) and dataclasses.replace(
                    a, boxes=b.boxes
                ) == dataclasses.replace(b, boxes=b.boxes)
        else:
            assert getattr(again, field.name) == getattr(run, field.name), field.name
    assert again.stages[0].merge_rows and "☃" in text


@pytest.mark.parametrize("text", ["", "[]", "{}", "null", '{"version": 1}', "nonsense"])
def test_other_json_is_refused(text):
    with pytest.raises(ValueError, match="not a recorded vtprune run"):
        Run.from_json(text)


def test_a_run_with_a_field_missing_is_refused(engine):
    data = json.loads(
        engine.run([picture(1)], "fish?", method="uniform", max_new_tokens=1, repeats=0).to_json()
    )
    del data["stages"][0]["keep"]
    with pytest.raises(ValueError, match="keep"):
        Run.from_json(json.dumps(data))
