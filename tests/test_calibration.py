"""Thresholds that a model brings along."""

import json
import shutil

import pytest

import vtprune
from vtprune import calibration
from vtprune.backbones import LoadError
from vtprune.cli import main


def test_a_calibrated_budget_is_met_on_average():
    engine = vtprune.load(device="cpu")
    pictures = list(calibration.drawn(12))
    table = calibration.energy_table(engine.backbone, pictures, (0.1, 0.3))
    assert 0 < table[0][1] < table[1][1] <= 1
    for keep, _ in table:
        asked = {"base": "random", "table": table}
        runs = [engine.run([p], "?", "e_adaprune", keep, 1, asked, repeats=0) for p in pictures]
        counts = [run.stages[-1].after for run in runs]
        assert sum(counts) / sum(run.tokens for run in runs) == pytest.approx(keep, abs=0.02)
        assert len(set(counts)) > 1  # a budget of its own for each


def test_the_table_travels_with_the_model(tiny_folder, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(tiny_folder, folder)
    table = ((0.1, 0.9), (0.5, 0.999))
    calibration.write(folder, table)
    engine = vtprune.load(folder, device="cpu")
    assert engine.method("e_adaprune").table == table
    assert engine.method("e_adaprune", tau=0.7).policy(0.3).tau == 0.7
    assert engine.backbone.max_images == 16 and vtprune.load(device="cpu").backbone.max_images == 4
    (folder / calibration.FILE).write_text(json.dumps({"max_images": 2}))
    calibration.write(folder, table)
    engine = vtprune.load(folder, device="cpu")
    assert engine.backbone.max_images == 2 and engine.method("e_adaprune").table == table
    (folder / calibration.FILE).write_text(json.dumps({"e_adaprune": {"table": [[1]]}}))
    with pytest.raises(LoadError, match="not a table"):
        vtprune.load(folder, device="cpu")


def test_the_command_writes_it(tiny_folder, tmp_path, capsys):
    picture = tmp_path / "a.png"
    next(calibration.drawn(1)).save(picture)
    assert main(["calibrate", str(picture), "--model", str(tiny_folder), "-o", str(tmp_path)]) == 0
    written = json.loads((tmp_path / calibration.FILE).read_text())["e_adaprune"]["table"]
    assert [keep for keep, _ in written] == list(calibration.KEEPS)
    assert f"{written[0][1]:.10f}" in capsys.readouterr().out
