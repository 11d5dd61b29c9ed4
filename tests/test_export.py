"""Pictures of a run, drawn with Pillow."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from conftest import picture
from PIL import Image

from vtprune import export
from vtprune.types import Segment, Stage

GRID = (4, 6)
SIZE = (120, 80)
BRIGHT = 9


def boxes(rows: int = GRID[0], columns: int = GRID[1], side: int = 20) -> torch.Tensor:
    places = [
        (c * side, r * side, (c + 1) * side, (r + 1) * side) for r in range(rows) for c in range(columns)
    ]
    return torch.tensor(places, dtype=torch.float32)


@pytest.fixture
def one_hot(engine):
    """A run whose only scored and kept token is number 9."""
    run = engine.run([picture(1)], "what is in the picture", "random", 0.2, 4, repeats=0)
    count = GRID[0] * GRID[1]
    scores = [float(token == BRIGHT) for token in range(count)]
    stage = Stage("vision", None, count, 1, [BRIGHT], None, list(range(count)), scores)
    info = dataclasses.replace(run.images[0], width=SIZE[0], height=SIZE[1])
    segment = Segment(0, 0, count, GRID, boxes())
    return dataclasses.replace(run, segments=(segment,), stages=[stage], images=[info])


def inner(image: Image.Image, token: int) -> np.ndarray:
    x0, y0, x1, y1 = (int(value) for value in boxes()[token])
    return np.asarray(image).astype(int)[y0 + 5 : y1 - 5, x0 + 5 : x1 - 5]


def test_a_kept_patch_is_untouched_and_a_dropped_one_is_grey(one_hot):
    plain = Image.new("RGB", SIZE, "#c9502b")
    drawn = export.draw_map(plain, export.patches(one_hot, 0, one_hot.stages[0]))
    assert drawn.size == SIZE
    for token in range(GRID[0] * GRID[1]):
        part = inner(drawn, token)
        if token == BRIGHT:
            assert (part == np.array([0xC9, 0x50, 0x2B])).all()
        else:
            assert np.median(part.max(-1) - part.min(-1)) < 14
            assert part.std((0, 1)).max() > 5  # hatched


def test_a_one_hot_score_lights_exactly_its_patch(one_hot):
    drawn = export.draw_map(
        Image.new("RGB", SIZE, "grey"), export.patches(one_hot, 0, one_hot.stages[0]), "scores"
    )
    light = [inner(drawn, token).mean() for token in range(GRID[0] * GRID[1])]
    assert int(np.argmax(light)) == BRIGHT
    assert light[BRIGHT] > 60 + max(value for token, value in enumerate(light) if token != BRIGHT)


def test_without_a_stage_nothing_is_changed_but_the_border(one_hot):
    plain = Image.new("RGB", SIZE, "#c9502b")
    drawn = export.draw_map(plain, export.patches(one_hot, 0, None))
    assert all((inner(drawn, token) == np.array([0xC9, 0x50, 0x2B])).all() for token in range(24))


def test_what_a_later_selection_drops_is_blended_into_nothing(one_hot):
    first = dataclasses.replace(
        one_hot.stages[0],
        keep=[2, 5],
        merge_rows=[0, 0, 1, 1],
        merge_cols=[2, 3, 5, 6],
        merge_weights=[0.5] * 4,
    )
    second = dataclasses.replace(
        first, name="llm:3", keep=[2], merge_rows=[], merge_cols=[], merge_weights=[]
    )
    run = dataclasses.replace(one_hot, stages=[first, second])
    assert np.flatnonzero(export.patches(run, 0, first).merged).tolist() == [3, 6]
    assert np.flatnonzero(export.patches(run, 0, second).merged).tolist() == [3]


def test_merged_patches_are_lighter_than_dropped_ones(one_hot):
    stage = dataclasses.replace(
        one_hot.stages[0], merge_rows=[0, 0], merge_cols=[BRIGHT, 0], merge_weights=[0.5, 0.5]
    )
    drawn = export.draw_map(Image.new("RGB", SIZE, "#c9502b"), export.patches(one_hot, 0, stage))
    merged, dropped = inner(drawn, 0), inner(drawn, 20)
    assert merged.mean() > dropped.mean() + 15 and merged.std((0, 1)).max() < 2


def test_what_no_token_sees_is_darkest(one_hot):
    segment = dataclasses.replace(one_hot.segments[0], boxes=boxes() / 2)
    run = dataclasses.replace(one_hot, segments=(segment,))
    drawn = np.asarray(
        export.draw_map(Image.new("RGB", SIZE, "white"), export.patches(run, 0, run.stages[0]))
    )
    assert drawn[60:, 80:].mean() < 80 and drawn[60:, 80:].std() < 8


def test_colours_run_along_the_palette():
    assert export.colour(0.0).tolist() == [0x44, 0x01, 0x54]
    assert export.colour(1.0).tolist() == [0xFD, 0xE7, 0x25]
    assert export.colour(2.0).tolist() == export.colour(1.0).tolist()
    light = [export.colour(share).mean() for share in np.linspace(0, 1, 30)]
    assert light == sorted(light)


@pytest.mark.parametrize("method", ["random", "downsample", "fastv"])
def test_a_sheet_of_a_real_run(engine, method):
    pictures = [picture(1, 90, 50), picture(2, 40, 70)]
    run = engine.run(pictures, "what is in the picture? " * 8, method, 0.5, 4, repeats=0)
    sheet = export.render_png(run, pictures)
    assert sheet.mode == "RGB" and sheet.width > export.PANEL
    assert len(sheet.getcolors(1 << 20)) > 50


def test_a_sheet_of_other_pictures_is_refused(engine):
    run = engine.run([picture(1)], "what", "random", 0.5, 4, repeats=0)
    with pytest.raises(ValueError, match="not the pictures of the run"):
        export.render_png(run, [picture(1, 61, 50)])
    with pytest.raises(ValueError, match="not the pictures of the run"):
        export.render_png(run, [picture(1), picture(1)])


def test_a_map_has_the_size_of_the_upload_and_the_look_of_its_parts(one_hot, monkeypatch):
    plain = Image.new("RGB", SIZE, "#c9502b")
    whole = export.render_map(one_hot, [plain], "kept", one_hot.stages[0])
    assert whole.size == SIZE
    parts = export.draw_map(plain, export.patches(one_hot, 0, one_hot.stages[0]))
    assert (np.asarray(whole) == np.asarray(parts)).all()
    monkeypatch.setattr(export, "BAND", 17)  # seams between the bands would show
    banded = export.render_map(one_hot, [plain], "kept", one_hot.stages[0])
    assert (np.asarray(whole) == np.asarray(banded)).all()


def test_maps_of_several_pictures_lie_side_by_side_and_share_their_colours(engine):
    pictures = [picture(1, 90, 50), picture(2, 40, 70)]
    run = engine.run(pictures, "what", "divprune", 0.5, 4, repeats=0)
    sheet = export.render_map(run, pictures, "picture", None)
    assert sheet.size == (90 + export.MARGIN + 40, 70)
    assert (np.asarray(sheet.crop((0, 0, 90, 50))) == np.asarray(pictures[0])).all()
    assert (np.asarray(sheet.crop((110, 0, 150, 70))) == np.asarray(pictures[1])).all()


def test_sizes_beyond_the_limit_are_made_smaller_together(engine, monkeypatch):
    pictures = [picture(1, 90, 50), picture(2, 40, 70)]
    run = engine.run(pictures, "what", "random", 0.5, 4, repeats=0)
    monkeypatch.setattr(export, "LARGEST", 150 * 70 // 4)
    assert export.render_map(run, pictures, "kept", run.stages[0]).size == (45 + export.MARGIN + 20, 35)


def test_the_order_lights_the_first_choice_most(one_hot):
    order = [BRIGHT, *(token for token in range(24) if token != BRIGHT)]
    stage = dataclasses.replace(one_hot.stages[0], order=order)
    drawn = export.render_map(one_hot, [Image.new("RGB", SIZE, "grey")], "order", stage)
    light = [inner(drawn, token)[..., 1].mean() for token in order]
    assert int(np.argmax(light)) == 0 and light == sorted(light, reverse=True)


def test_another_budget_and_an_earlier_point_can_be_drawn(one_hot):
    order = [BRIGHT, 4, *(token for token in range(24) if token not in (BRIGHT, 4))]
    run = dataclasses.replace(one_hot, stages=[dataclasses.replace(one_hot.stages[0], order=order)])
    assert export.reached(run).keep == [BRIGHT]
    assert export.reached(run, 0, 2).keep == [4, BRIGHT]
    assert export.reached(run, 7).keep == [BRIGHT] and export.reached(run, -1) is None


def test_what_decides_the_answer_is_framed(one_hot):
    plain = Image.new("RGB", SIZE, "#c9502b")
    box = (0.25, 0.25, 0.75, 0.75)
    drawn = np.asarray(export.render_map(one_hot, [plain], "picture", None, [(0, box), (1, box)])).astype(int)
    changed = (drawn != np.array([0xC9, 0x50, 0x2B])).any(-1)
    ys, xs = np.nonzero(changed)
    assert (xs.min(), ys.min(), xs.max(), ys.max()) == pytest.approx((30, 20, 90, 60), abs=2)
    assert not changed[30:50, 45:75].any()
    assert (drawn[changed].max(-1) > 200).any() and (
        drawn[changed].max(-1) < 40
    ).any()  # dashes, both colours
