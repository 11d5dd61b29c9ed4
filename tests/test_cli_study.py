"""`vtprune compare`, `sweep` and `examples` print and write what the library finds."""

from __future__ import annotations

import json

import pytest

import vtprune
from vtprune import cli, examples, study
from vtprune.scenes.world import render, sample

QUESTION = "How many things are there?"


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    path = tmp_path_factory.mktemp("pictures") / "scene.png"
    render(sample(3), 300)[0].save(path)
    return str(path)


@pytest.fixture(scope="module")
def engine():
    return vtprune.load(device="cpu")


def test_compare_prints_a_line_a_method_and_writes_the_runs(scene, engine, tmp_path, capsys):
    out = tmp_path / "runs.json"
    arguments = ["compare", scene, "-q", QUESTION, "--methods", "divprune, fastv,random", "--keep", "10"]
    assert cli.main([*arguments, "--repeats", "1", "--json", str(out), "--device", "cpu"]) == 0
    lines = capsys.readouterr().out.splitlines()
    runs = [vtprune.Run.from_json(json.dumps(run)) for run in json.loads(out.read_text("utf-8"))]
    assert [run.method for run in runs] == ["divprune", "random"]
    for run in runs:
        alone = engine.run([scene], QUESTION, run.method, 10, repeats=0)
        assert run.answer == alone.answer and run.stages[0].keep == alone.stages[0].keep
        (line,) = [line for line in lines if line.startswith(run.method)]
        assert run.answer in line and run.comparison.summary in line and " ms" in line
    assert any(line.startswith("fastv") and "not run: fastv cannot" in line for line in lines)
    assert lines[1].split()[0] == "256" or lines[0].split()[0] == "256"


def test_sweep_prints_points_and_flips_and_writes_them(scene, engine, tmp_path, capsys):
    out = tmp_path / "points.json"
    arguments = ["sweep", scene, "-q", QUESTION, "--methods", "atp,random", "--keeps", "2%,0.1,1.0"]
    assert cli.main([*arguments, "--json", str(out), "--device", "cpu"]) == 0
    printed = capsys.readouterr().out
    rows = json.loads(out.read_text("utf-8"))
    points = list(study.sweep(engine, [scene], QUESTION, ["atp", "random"], [0.02, 0.1, 1.0]))
    assert [(row["method"], row["keep"], row["answer"], row["same"]) for row in rows] == [
        (point.method, point.keep, point.answer, point.same) for point in points
    ]
    assert printed.count("100%") == 2 and printed.startswith("atp\n")
    for flip in study.flips(points):
        assert flip.words in printed


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["compare", "--methods", "atpp"], "Did you mean 'atp'"),
        (["compare", "--methods", ","], "0 methods"),
        (["compare", "--keep", "1.5"], "(0, 1]"),
        (["sweep", "--keeps", "many"], "'many' is not a share"),
        (["sweep", "--keeps", "64"], "budget"),
        (["sweep", "--from", "0.5", "--to", "0.1"], "smaller budget first"),
        (["sweep", "--points", "1"], "2 to 50"),
    ],
)
def test_what_cannot_be_done_is_one_line(scene, arguments, words, capsys):
    assert cli.main([arguments[0], scene, "-q", "What?", *arguments[1:], "--device", "cpu"]) == 2
    captured = capsys.readouterr()
    assert captured.out == "" and words in captured.err and captured.err.count("\n") == 1


def test_the_recorded_examples_are_listed(capsys):
    assert cli.main(["examples"]) == 0
    lines = capsys.readouterr().out.splitlines()
    for example, line in zip(examples.load(), lines, strict=True):
        assert line.startswith(example.name) and example.questions[0].text in line
        assert line.endswith(examples.finding(example.run, example.questions[0]))


def test_they_are_made_by_the_command(engine, monkeypatch, capsys):
    made = []
    monkeypatch.setattr(examples, "rebuild", lambda used: made.append(used) or [])
    monkeypatch.setattr(cli, "_engine", lambda _: engine)
    assert cli.main(["examples", "--rebuild"]) == 0 and made == [engine]
