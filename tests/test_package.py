"""A wheel carries everything: it runs from any folder, without the checkout."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

SCRIPT = """
import sys, pathlib
import vtprune, ui
from vtprune.cli import main
from vtprune.scenes.world import render, sample
site = pathlib.Path(sys.argv[1]).resolve()
assert site in pathlib.Path(vtprune.__file__).resolve().parents, vtprune.__file__
render(sample(3), 224)[0].save("scene.png")
assert main(["run", "scene.png", "-q", "How many things are there?", "--keep", "0.25", "--repeats", "0",
             "--png", "out.png", "--device", "cpu"]) == 0
"""


@pytest.mark.slow
def test_the_wheel_works_in_an_empty_folder(tmp_path):
    wheels, site, work = tmp_path / "wheels", tmp_path / "site", tmp_path / "work"
    work.mkdir()
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    subprocess.run([*pip, "wheel", "--no-deps", "-q", "-w", str(wheels), str(ROOT)], check=True, cwd=work)
    (wheel,) = wheels.glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    for wanted in (
        "model/model.safetensors",
        "model/clip/open_clip_model.safetensors",
        "examples/index.json",
        "examples/methods.json",
    ):
        assert f"vtprune/assets/{wanted}" in names
    assert any(name.startswith("vtprune/assets/web/") for name in names)
    assert not any(name.startswith(("tests/", "assets/", "runs/")) for name in names)
    subprocess.run(
        [*pip, "install", "--no-deps", "-q", "--target", str(site), str(wheel)], check=True, cwd=work
    )
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(site)],
        cwd=work,
        env={"PYTHONPATH": str(site), "PATH": "/usr/bin:/bin", "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "all 256 tokens" in done.stdout and (work / "out.png").stat().st_size > 1000
