"""A run in numbers and words."""

from __future__ import annotations

import dataclasses

import pytest
from conftest import picture

from vtprune import summary
from vtprune.types import Spread


@pytest.fixture(scope="module")
def run(engine):
    return engine.run([picture(1)], "what is in the picture", "atp", 0.4, 4, repeats=2)


def timed(run, full, pruned):
    """The run with other times, in milliseconds: (encode, select, prefill, decode) of each side."""

    def side(old, values):
        spreads = [Spread(value, value * 0.99, value * 1.01, 5) for value in values]
        return dataclasses.replace(old, timings=dict(zip(summary.STAGES, spreads, strict=True)))

    return dataclasses.replace(run, full=side(run.full, full), pruned=side(run.pruned, pruned))


def on(run, device, peaks=(0, 0)):
    sides = {
        name: dataclasses.replace(side, cost=dataclasses.replace(side.cost, peak_bytes=peak))
        for (name, side), peak in zip({"full": run.full, "pruned": run.pruned}.items(), peaks, strict=True)
    }
    return dataclasses.replace(run, device=device, **sides)


def memory(run):
    (row,) = [row for row in summary.rows(run) if row[0].startswith("Peak memory")]
    return row[1:]


def test_memory_is_measured_on_a_gpu_and_said_not_to_be_on_a_cpu(run):
    assert memory(run) == ("not measured on a CPU", "not measured on a CPU", "")
    assert memory(on(run, "cuda:0", (3_000_000_000, 2_000_000_000))) == ("3 GB", "2 GB", "1.5× less")
    assert memory(on(run, "cuda:0"))[0] == "not measured"


def test_the_device_is_named(run):
    assert "on a CPU (cpu, float32)" in summary.measured(run)
    assert "on a CUDA GPU (cuda:0, float32)" in summary.measured(on(run, "cuda:0"))
    assert summary.measured(run, recorded=True).startswith("Recorded with")


def test_a_loss_of_time_is_said_with_its_cause(run):
    slower = summary.savings(timed(run, (10, 0, 5, 1), (10, 9, 3, 1)))
    assert ("1.5× slower", "to the first token, encoding and selecting included") in slower
    assert slower[-1] == ("Choosing costs more than it saves here:", "9 ms against 2 ms of prefill")
    faster = summary.savings(timed(run, (10, 0, 20, 1), (10, 2, 3, 1)))
    assert faster[-1][0] == "2× faster" and len(faster) == 3
    worse = summary.savings(timed(run, (10, 0, 5, 1), (10, 1, 6, 1)))
    assert worse[-1][1] == "1 ms against 0 ms of prefill"


def test_without_times_nothing_is_said_about_them(run):
    bare = dataclasses.replace(
        run, **{name: dataclasses.replace(getattr(run, name), timings={}) for name in ("full", "pruned")}
    )
    assert len(summary.savings(bare)) == 2 and len(summary.rows(bare)) == 4
    assert "medians" not in summary.measured(bare)


def test_ranges_are_written_with_the_median():
    assert summary.spread(Spread(42.04, 40.6, 144.5, 5)) == "42 ms (40.6–144)"


def test_formulas_are_those_of_the_code():
    assert "2 n² H h" in summary.formulas() and "Bytes of keys and values" in summary.formulas()
