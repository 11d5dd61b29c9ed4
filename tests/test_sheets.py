"""Tokens that lie over one another are drawn apart."""

import dataclasses

import numpy as np
import torch
from conftest import picture

from ui import patchmap
from vtprune import export
from vtprune.sheets import sheets
from vtprune.types import Segment


def segment(image, start, x0, y0, x1, y1, rows=2, cols=2):
    down, across = torch.meshgrid(torch.arange(rows), torch.arange(cols), indexing="ij")
    wide, high = (x1 - x0) / cols, (y1 - y0) / rows
    corners = torch.stack([x0 + across * wide, y0 + down * high], -1).reshape(-1, 2)
    boxes = torch.cat([corners, corners + torch.tensor([wide, high])], 1).float()
    return Segment(image, start, rows * cols, (rows, cols), boxes)


def summary(segments):
    return [(sheet.image, sheet.name, [s.start for s in sheet.segments]) for sheet in sheets(segments)]


def test_one_segment_an_image_is_one_sheet():
    assert summary([segment(0, 0, 0, 0, 10, 10), segment(1, 4, 0, 0, 10, 10)]) == [(0, "", [0]), (1, "", [4])]
    assert sheets([]) == []


def test_an_overview_and_its_tiles():
    """As LLaVA-NeXT has them: the overview first, all tiles as one grid."""
    grid = segment(0, 4, 0, 0, 100, 80, 4, 4)
    assert summary([segment(0, 0, 0, 0, 100, 80), grid]) == [(0, "overview", [0]), (0, "detail", [4])]


def test_tiles_and_their_overview():
    """As SmolVLM has them: a segment for each tile, the overview last; edges may be rounded."""
    tiles = [segment(0, 0, 0, 0, 50.4, 80), segment(0, 4, 49.8, 0, 100, 80)]
    whole = segment(0, 8, 0, 0, 100, 80)
    assert summary([*tiles, whole, segment(1, 12, 0, 0, 9, 9)]) == [
        (0, "detail", [0, 4]),
        (0, "overview", [8]),
        (1, "", [12]),
    ]


def test_padding_lies_over_nothing():
    empty = Segment(0, 4, 4, (2, 2), torch.zeros(4, 4))
    assert summary([segment(0, 0, 0, 0, 10, 10), empty]) == [(0, "", [0, 4])]


def test_both_maps_of_a_picture_show_their_own_tokens(engine):
    """On a picture of 25 tokens that is made to have an overview of 4 and a grid of 21."""
    pictures = [picture(1, 60, 60), picture(2, 60, 60)]
    run = engine.run(pictures, "what is in the picture", "random", 20, 2, repeats=0)
    apart = (
        segment(0, 0, 0, 0, 60, 60),
        segment(0, 4, 0, 0, 60, 60, 3, 7),
        segment(1, 25, 0, 0, 60, 60, 5, 5),
    )
    run = dataclasses.replace(run, segments=apart)
    keep = set(run.stages[-1].keep)
    found = list(export.maps(run, pictures, run.stages[-1], ("kept",)))
    assert [number for number, _, _ in found] == [0, 1, 2]
    for number, sheet in enumerate(sheets(apart)):
        own = [token for part in sheet.segments for token in range(part.start, part.stop)]
        shown = export.patches(run, number, run.stages[-1])
        assert np.flatnonzero(shown.kept).tolist() == [i for i, token in enumerate(own) if token in keep]
    assert export.render_map(run, pictures).width == 3 * 60 + 2 * export.MARGIN
    assert export.render_png(run, pictures).height > export.render_png(run, pictures).width / 2

    files = [{"url": "a"}, {"url": "b"}]
    value = patchmap.value(files, run.images, apart, evidence=[(0, (0, 0, 1, 1)), (1, (0, 0, 0.5, 1))])
    names = [info.name for info in run.images]
    assert [image["name"] for image in value["images"]] == [
        f"{names[0]}, overview",
        f"{names[0]}, detail",
        names[1],
    ]
    assert [image["of"] for image in value["images"]] == [0, 0, 1] and value["pictures"] == 2
    assert [(part["image"], part["start"]) for part in value["segments"]] == [(0, 0), (1, 4), (2, 25)]
    assert value["evidence"] == [[0, 0, 0, 1, 1], [1, 0, 0, 1, 1], [2, 0, 0, 0.5, 1]]
