"""The patch map alone on a page, with runs made by hand: what lights up is what should."""

from __future__ import annotations

import gradio as gr
import numpy as np
import pytest
from browsing import chromium, colourful, free_port, patch, pixels, visit
from PIL import Image

import ui
from ui import patchmap, uploads
from vtprune.backbones.geometry import View, patch_boxes
from vtprune.types import ImageInfo, Segment, Stage

pytestmark = pytest.mark.browser

SIZE = (600, 400)
BRIGHT, ROWS, COLUMNS = 29, 6, 6
"""The one token with a score: row 4, column 5. The model sees the middle 400 x 400 of the picture."""


@pytest.fixture(scope="module")
def segments():
    view = View(scale=(0.5, 0.5), offset=(-50.0, 0.0), size=(200, 200))
    grid = (ROWS, COLUMNS)
    return (Segment(0, 0, ROWS * COLUMNS, grid, patch_boxes(view, grid, (200 / 6, 200 / 6), SIZE)),)


@pytest.fixture(scope="module")
def values(tmp_path_factory, segments):
    path = tmp_path_factory.mktemp("map") / "plain.png"
    Image.new("RGB", SIZE, "#c9502b").save(path)
    file = uploads.served(uploads.cached(path))
    count = ROWS * COLUMNS
    scores = [float(token == BRIGHT) for token in range(count)]
    order = [BRIGHT, *(token for token in range(count) if token != BRIGHT)]
    one_hot = Stage("vision", None, count, 1, [BRIGHT], order, list(range(count)), scores)
    merging = Stage("projected", None, count, 2, [0, 7], None, [], [], [0, 0, 1], [0, 1, 7], [0.5, 0.5, 1.0])
    infos = [ImageInfo("plain.png", *SIZE)]
    return {
        "one": patchmap.value([file], infos, segments, [one_hot], nested=True),
        "two": patchmap.value([file], infos, segments, [merging]),
        "none": patchmap.value([file], infos, segments),
    }


@pytest.fixture(scope="module")
def page(values):
    with gr.Blocks(analytics_enabled=False) as blocks:
        for name, value in values.items():
            patchmap.patch_map(value, name, elem_id=name)
    port = free_port()
    ui.serve(blocks, "none", port=port, prevent_thread_lock=True, quiet=True)
    with chromium() as browser, visit(browser, f"http://127.0.0.1:{port}") as page:
        page.wait_for_function(
            "[...document.querySelectorAll('canvas')].filter(c => c.width > 300).length === 3"
        )
        page.wait_for_timeout(300)
        yield page
    blocks.close()


def uneven(part):
    return part.std((0, 1)).max()


def parts(canvas, segments):
    drawn = pixels(canvas)
    return drawn, [patch(drawn, box, SIZE) for box in segments[0].boxes.tolist()]


def test_a_one_hot_score_lights_exactly_its_patch(page, segments):
    page.locator("#one input[value=scores]").check()
    drawn, shown = parts(page.locator("#one canvas"), segments)
    light = [part.mean() for part in shown]
    assert int(np.argmax(light)) == BRIGHT
    dark = [value for token, value in enumerate(light) if token != BRIGHT]
    assert light[BRIGHT] > max(dark) + 60 and max(dark) - min(dark) < 4
    # nothing beyond the patch is lit: its box is where the brightest pixels are
    ys, xs = np.nonzero(drawn[..., 1] > drawn[..., 1].max() - 12)
    scale = drawn.shape[1] / SIZE[0]
    x0, y0, x1, y1 = (value * scale for value in segments[0].boxes[BRIGHT].tolist())
    assert (xs.min(), ys.min(), xs.max(), ys.max()) == pytest.approx((x0, y0, x1, y1), abs=5)


def test_kept_is_in_colour_dropped_is_not_and_what_no_token_sees_is_darkest(page, segments):
    page.locator("#one input[value=kept]").check()
    drawn, shown = parts(page.locator("#one canvas"), segments)
    assert abs(shown[BRIGHT].mean((0, 1)) - np.array([0xC9, 0x50, 0x2B])).max() < 6
    for token, part in enumerate(shown):
        if token != BRIGHT:
            assert colourful(part) < 14 and uneven(part) > 5  # grey, and hatched
    unseen = drawn[:, : drawn.shape[1] // 8]
    assert colourful(unseen) < 20 and unseen.mean() < shown[0].mean() - 10 and uneven(unseen) < 3
    assert "outside the model's view" in page.locator("#one .vt-legend").inner_text()


def test_views_that_a_method_cannot_fill_are_off_and_say_why(page):
    scores = page.locator("#two input[value=scores]")
    assert scores.is_disabled()
    assert "gives no scores" in page.locator("#two .vt-view").nth(1).get_attribute("title")


def test_merged_patches_are_told_from_dropped_ones(page, segments):
    _, shown = parts(page.locator("#two canvas"), segments)
    merged, dropped = shown[1], shown[20]
    assert colourful(merged) < 20 and uneven(merged) < 4 and merged.mean() > dropped.mean() + 15
    legend = page.locator("#two .vt-legend").inner_text()
    assert "blended" in legend and "dropped" in legend


def test_without_a_selection_everything_is_kept(page, segments):
    _, shown = parts(page.locator("#none canvas"), segments)
    assert min(colourful(part) for part in shown) > 100


def test_hovering_names_the_patch_under_the_pointer(page, segments):
    canvas = page.locator("#one canvas")
    frame = canvas.bounding_box()
    scale = frame["width"] / SIZE[0]
    for token in (0, 5, BRIGHT, 35):
        x0, y0, x1, y1 = segments[0].boxes[token].tolist()
        canvas.hover(position={"x": (x0 + x1) / 2 * scale, "y": (y0 + y1) / 2 * scale})
        text = page.locator("#one .vt-readout").inner_text()
        assert text.startswith(f"Patch {token} · row {token // 6 + 1}, column {token % 6 + 1}")
    canvas.hover(position={"x": 20, "y": 20})
    assert page.locator("#one .vt-readout").inner_text().startswith("Point at a patch")
