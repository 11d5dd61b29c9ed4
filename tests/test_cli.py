"""The command line does what the library does, and says clearly when it cannot."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
from PIL import Image

import vtprune
from vtprune import cli
from vtprune.assets import assets_dir
from vtprune.export import render_map
from vtprune.scenes.world import render, sample


@pytest.fixture(scope="module")
def picture(tmp_path_factory):
    path = tmp_path_factory.mktemp("pictures") / "scene.png"
    render(sample(3), 300)[0].save(path)
    return path


def test_run_writes_the_run_that_the_library_makes(picture, tmp_path, capsys):
    out, png = tmp_path / "run.json", tmp_path / "run.png"
    question = "How many things are there?"
    arguments = ["run", str(picture), "-q", question, "--method", "divprune", "--keep", "40"]
    assert (
        cli.main([*arguments, "--repeats", "1", "--json", str(out), "--png", str(png), "--device", "cpu"])
        == 0
    )
    printed = capsys.readouterr().out
    run = vtprune.Run.from_json(out.read_text(encoding="utf-8"))
    same = vtprune.load(device="cpu").run([picture], question, "divprune", 40, repeats=0)
    assert [stage.keep for stage in run.stages] == [stage.keep for stage in same.stages]
    assert (run.answer, run.full.answer) == (same.answer, same.full.answer)
    assert len(run.stages[0].keep) == 40
    assert run.answer in printed and run.full.answer in printed and "prefill" in printed
    assert Image.open(png).format == "PNG"


def test_options_of_a_method_reach_it(picture, tmp_path):
    outs = []
    for alpha in ("0.0", "1.0"):
        out = tmp_path / f"{alpha}.json"
        arguments = [
            "run",
            str(picture),
            "-q",
            "Where?",
            "--method",
            "atp",
            "--keep",
            "10%",
            "--param",
            f"alpha={alpha}",
        ]
        assert cli.main([*arguments, "--repeats", "0", "--json", str(out), "--device", "cpu"]) == 0
        outs.append(json.loads(out.read_text(encoding="utf-8")))
    assert outs[0]["params"] == {"alpha": 0.0} and outs[1]["keep"] == pytest.approx(0.1)
    assert outs[0]["stages"][0]["keep"] != outs[1]["stages"][0]["keep"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["run", "missing.png", "-q", "What?"], "missing.png"),
        (["methods", "nothing"], "nothing"),
        (["run", "{picture}", "-q", "What?", "--method", "atpp"], "atp"),
        (["run", "{picture}", "-q", "What?", "--keep", "1.5"], "(0, 1]"),
        (["run", "{picture}", "-q", "What?", "--keep", "9999"], "9999"),
        (["run", "{picture}", "-q", "  "], "question"),
        (["run", "{picture}", "-q", "What?", "--param", "bogus=1"], "bogus"),
        (["run", "{picture}", "-q", "What?", "--model", "/no/such/folder"], "/no/such/folder"),
        (
            ["run", "{picture}", "-q", "What?", "--device", "cpu", "--quantize", "4bit"],
            "quantize='4bit' needs a CUDA GPU",
        ),
        (["models", "nobody/nothing"], "'nobody/nothing' is not in the table"),
        (["scenes", "sample", "--size", "7", "-o", "x.png"], "7"),
    ],
)
def test_what_cannot_be_done_is_one_line(arguments, words, picture, capsys):
    assert cli.main([a.format(picture=picture) for a in arguments]) == 2
    captured = capsys.readouterr()
    assert captured.out == "" and words in captured.err
    assert captured.err.startswith("vtprune: ") and captured.err.count("\n") == 1


@pytest.mark.parametrize("text", ["many", "", "0.2.5", "%"])
def test_a_budget_that_is_no_number_is_refused(text, capsys):
    with pytest.raises(SystemExit):
        cli.main(["run", "a.png", "-q", "What?", "--keep", text])
    assert "budget" in capsys.readouterr().err


def test_budgets_and_options_are_read_as_typed():
    assert cli.keep("64") == 64 and isinstance(cli.keep("64"), int)
    assert cli.keep("1.0") == 1.0 and isinstance(cli.keep("1.0"), float)
    assert cli.keep("12.5%") == 0.125
    assert [cli.parameter(t) for t in ("a=1", "b=.5", "c=true", "d=x", "e=none")] == [
        ("a", 1),
        ("b", 0.5),
        ("c", True),
        ("d", "x"),
        ("e", None),
    ]


def test_every_method_is_listed_and_has_a_card(capsys):
    assert cli.main(["methods"]) == 0
    listed = capsys.readouterr().out
    for name, info in vtprune.list_methods().items():
        assert f"\n{name} " in f"\n{listed}" and info.title in listed
        assert cli.main(["methods", name]) == 0
        page = capsys.readouterr().out
        assert page.startswith(info.title) and info.summary in " ".join(page.split())
        assert (
            info.paper in page and info.reconstruction in page and all(param in page for param in info.params)
        )


def test_models_are_listed_and_told_one_by_one(capsys):
    from vtprune.models import MODELS

    assert cli.main(["models"]) == 0
    listed = capsys.readouterr().out
    for model in MODELS:
        assert f"\n{model.name} " in f"\n{listed}"
    assert cli.main(["models", "llava-hf/llava-1.5-7b-hf"]) == 0
    page = capsys.readouterr().out
    assert "576" in page and "Llama 2" in page and "vtprune app --model llava-hf/llava-1.5-7b-hf" in page


def test_a_sample_scene_is_drawn_and_told(tmp_path, capsys):
    out = tmp_path / "scene.png"
    assert cli.main(["scenes", "sample", "--seed", "7", "--size", "200", "-o", str(out)]) == 0
    assert Image.open(out).size == (200, 200)
    printed = capsys.readouterr().out.split("\n")
    assert [line.split(" that says")[0] for line in printed if line] == [
        t.describe(size=True) for t in sample(7).things
    ]


def test_help_teaches(capsys):
    for arguments in (["--help"], ["run", "--help"], ["bench", "--help"], ["scenes", "sample", "--help"]):
        with pytest.raises(SystemExit) as stop:
            cli.main(arguments)
        assert stop.value.code == 0
    assert "--method" in capsys.readouterr().out


def test_evaluate_prints_a_table(capsys):
    arguments = ["evaluate", "--count", "28", "--method", "random", "--keep", "0.5", "--split", "validation"]
    assert cli.main([*arguments, "--device", "cpu"]) == 0
    printed = capsys.readouterr().out
    assert "| all but captions" in printed.replace("**", "") and "| changed | 2 |" in printed


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    """A run with its picture beside it."""
    folder = tmp_path_factory.mktemp("recorded")
    examples = assets_dir() / "examples"
    for name in ("sign.run.json", "sign-1.png"):
        (folder / name).write_bytes((examples / name).read_bytes())
    return folder / "sign.run.json"


def test_a_recorded_run_is_drawn_without_a_model(recorded, tmp_path, monkeypatch):
    monkeypatch.setattr(vtprune, "load", None)
    png, html = tmp_path / "map.png", tmp_path / "report.html"
    assert cli.main(["render", str(recorded), "-o", str(png)]) == 0
    run = vtprune.Run.from_json(recorded.read_text(encoding="utf-8"))
    drawn = np.asarray(Image.open(png))
    expected = render_map(run, [recorded.parent / "sign-1.png"], "kept", run.stages[-1])
    assert drawn.shape == (672, 672, 3) and (drawn == np.asarray(expected)).all()
    assert cli.main(["render", str(recorded), "-o", str(png), "--view", "scores"]) == 0
    assert (np.asarray(Image.open(png)) != drawn).any()
    assert cli.main(["render", str(recorded), "-o", str(html)]) == 0
    page = html.read_text(encoding="utf-8")
    assert run.question in page and page.count("data:image/webp") == 2


def test_pictures_elsewhere_are_named(recorded, tmp_path, capsys):
    lonely = tmp_path / "lonely.json"
    lonely.write_bytes(recorded.read_bytes())
    picture, out = str(recorded.parent / "sign-1.png"), str(tmp_path / "map.png")
    assert cli.main(["render", str(lonely), "-o", out, "--images", picture]) == 0
    assert cli.main(["render", str(lonely), "-o", out]) == 2
    error = capsys.readouterr().err
    assert "sign-1.png" in error and "--images" in error and error.count("\n") == 1


@pytest.mark.parametrize(
    ("change", "output", "words"),
    [
        (lambda text: text, "map.gif", ".png nor .html"),
        (lambda text: "[1, 2]", "map.png", "not a recorded vtprune run"),
        (lambda text: "nothing", "map.png", "not a recorded vtprune run"),
        (lambda text: text.replace('"width": 672', '"width": 671'), "map.png", "not the pictures"),
        (
            lambda text: re.sub(r'"keep": \[[^\]]*\]', '"keep": [9999]', text),
            "map.png",
            "something in it is wrong",
        ),
        (
            lambda text: re.sub(r'"tokens_per_layer": \[[^\]]*\]', '"tokens_per_layer": ["x"]', text),
            "a.html",
            "wrong",
        ),
    ],
)
def test_what_cannot_be_drawn_is_one_line(recorded, tmp_path, change, output, words, capsys):
    broken = recorded.parent / "broken.json"
    broken.write_text(change(recorded.read_text(encoding="utf-8")), encoding="utf-8")
    assert cli.main(["render", str(broken), "-o", str(tmp_path / output)]) == 2
    captured = capsys.readouterr()
    assert words in captured.err and captured.err.count("\n") == 1 and captured.err.startswith("vtprune: ")
