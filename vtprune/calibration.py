"""What has to be found once for each model: above all the thresholds with which E-AdaPrune meets a budget.

They lie in a file beside the model's weights, and a loaded model brings them along as defaults of its
methods' parameters. The file may also say how many pictures a prompt the model was trained on.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from vtprune.backbones.base import Backbone, LoadError
from vtprune.budgets import calibrate

FILE = "vtprune.json"
KEEPS = (0.05, 0.1, 0.15, 0.2, 0.25, 0.33, 0.5)
"""Budgets of the table. Above half of the tokens what is left of the energy is often less than float32 tells
apart, and a budget there gets the threshold of the last one."""
PICTURES = 256
"""Drawn validation scenes that the bundled model is calibrated on."""

Table = tuple[tuple[float, float], ...]


def drawn(count: int = PICTURES) -> Iterator[Image.Image]:
    """Pictures of validation scenes, as large as those of an evaluation."""
    from vtprune.evaluate import PICTURE_SIDE
    from vtprune.scenes.world import render, sample, split_seed

    return (render(sample(split_seed("validation", i)), PICTURE_SIDE)[0] for i in range(count))


def energy_table(
    backbone: Backbone, pictures: Iterable[Image.Image], keeps: Sequence[float] = KEEPS
) -> Table:
    """(keep, tau) pairs with which E-AdaPrune keeps `keep` of the tokens on average over these pictures."""
    features = [backbone.encode(backbone.prepare([picture], "?")).features for picture in pictures]
    return tuple((keep, calibrate(features, keep)) for keep in keeps)


def apply(folder: str | Path, backbone: Backbone) -> None:
    """Gives a model what the file in its folder says of it, if there is one.

    Raises LoadError with one sentence when the file cannot be read so.
    """
    path = Path(folder) / FILE
    try:
        facts = _facts(path)
        if "max_images" in facts:
            backbone.max_images = int(facts["max_images"])
        if "e_adaprune" in facts:
            table = facts["e_adaprune"]["table"]
            rows = tuple((float(keep), float(tau)) for keep, tau in table)
            backbone.defaults = {"e_adaprune": {"table": rows}}
    except (KeyError, TypeError, ValueError) as error:
        raise LoadError(f"{path} is not a table of E-AdaPrune's thresholds ({error}).") from error


def write(folder: str | Path, table: Table) -> None:
    """Puts the table into the file beside a model's weights; what else it says stays."""
    path = Path(folder) / FILE
    rows = [[keep, round(tau, 10)] for keep, tau in table]
    path.write_text(json.dumps({**_facts(path), "e_adaprune": {"table": rows}}, indent=2) + "\n", "utf-8")


def _facts(path: Path) -> dict[str, Any]:
    return dict(json.loads(path.read_text("utf-8"))) if path.is_file() else {}
