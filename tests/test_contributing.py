"""The worked example of CONTRIBUTING.md is a method like any other."""

from __future__ import annotations

import importlib
import re
import sys
from pathlib import Path

import pytest
import torch

from vtprune import methods
from vtprune.methods import base
from vtprune.types import Segment, Signals

TEXT = (Path(__file__).resolve().parent.parent / "CONTRIBUTING.md").read_text(encoding="utf-8")


@pytest.fixture
def loudest(monkeypatch, tmp_path):
    monkeypatch.setattr(base, "_registry", dict(base._registry))
    monkeypatch.syspath_prepend(tmp_path)
    (source,) = re.findall(r"```python\n(.*?)```", TEXT, flags=re.S)
    (tmp_path / "loudest_example.py").write_text(source, encoding="utf-8")
    yield importlib.import_module("loudest_example")
    del sys.modules["loudest_example"]


def test_the_example_selects_what_it_says(loudest):
    features = torch.randn(30, 8, generator=torch.Generator().manual_seed(0))
    signals = Signals(features, (Segment(0, 0, 30, (5, 6), torch.tensor([[0.0, 0.0, 1.0, 1.0]] * 30)),))
    kept = methods.select("loudest", signals, 7)
    norms = [float((row**2).sum() ** 0.5) for row in features]
    assert set(kept.keep.tolist()) == set(sorted(range(30), key=lambda i: -norms[i])[:7])
    assert kept.order is not None and len(kept.order) == 30
    assert methods.list_methods()["loudest"].params == {"power": 1.0}
    assert "largest norm" in methods.card("loudest")
