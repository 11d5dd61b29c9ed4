"""The patch map alone on a page, with runs made by hand: what lights up is what should."""

from __future__ import annotations

import gradio as gr
import numpy as np
import pytest
from browsing import colourful, free_port, patch, pixels, visit
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
    # 0 takes 9, 16 and 27, and a part of 7, which is kept; 21 goes into 7 and 35; 3 into a new token
    took = [(0, 0, 0.4), (0, 9, 0.3), (0, 16, 0.2), (0, 27, 0.06), (0, 7, 0.04), (1, 7, 0.7), (1, 21, 0.3)]
    took += [(2, 35, 0.5), (2, 21, 0.5), (3, 3, 1.0)]
    rows, tokens, weights = (list(part) for part in zip(*took, strict=True))
    blending = Stage("vision", None, count, 4, [0, 7, 35], None, [], [], rows, tokens, weights, 1)
    again = Stage("llm:2", 2, 4, 2, [7, 35], None, [], [], [0, 0, 1], [7, 0, 35], [0.5, 0.5, 1.0])
    infos = [ImageInfo("plain.png", *SIZE)]
    return {
        "one": patchmap.value([file], infos, segments, [one_hot], nested=True),
        "two": patchmap.value([file], infos, segments, [merging]),
        "none": patchmap.value([file], infos, segments),
        "blended": patchmap.value([file], infos, segments, [blending]),
        "twice": patchmap.value([file], infos, segments, [blending, again]),
    }


@pytest.fixture(scope="module")
def page(browser, values):
    with gr.Blocks(analytics_enabled=False) as blocks:
        for name, value in values.items():
            patchmap.patch_map(value, name, elem_id=name)
    port = free_port()
    ui.serve(blocks, "none", port=port, prevent_thread_lock=True, quiet=True)
    with visit(browser, f"http://127.0.0.1:{port}") as page:
        page.wait_for_function(
            "[...document.querySelectorAll('canvas')].filter(c => c.width > 300).length === 5"
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


# ---- who went into whom ----

GROUP, CURSOR = (0x4C, 0xC9, 0xF0), (0xFF, 0x9F, 0x1C)


def point(page, name, token, segments):
    """Point at a patch; what the line below the map says of it."""
    canvas = page.locator(f"#{name} canvas")
    canvas.scroll_into_view_if_needed()
    scale = canvas.bounding_box()["width"] / SIZE[0]
    x0, y0, x1, y1 = segments[0].boxes[token].tolist()
    canvas.hover(position={"x": (x0 + x1) / 2 * scale, "y": (y0 + y1) / 2 * scale})
    return page.locator(f"#{name} .vt-readout").inner_text().split(" · ")[2:]


def framed(drawn, colour, segments):
    """The patches with a frame of a colour: in the middle of all four sides."""
    scale, near = drawn.shape[1] / SIZE[0], (abs(drawn - np.array(colour)).max(-1) < 40)
    found = []
    for token, box in enumerate(segments[0].boxes.tolist()):
        x0, y0, x1, y1 = (round(edge * scale) for edge in box)
        x, y = (x0 + x1) // 2, (y0 + y1) // 2
        sides = [(x, y0), (x, y1), (x0, y), (x1, y)]
        spots = [near[max(0, b - 4) : b + 5, max(0, a - 4) : a + 5] for a, b in sides]
        if all(spot.any() for spot in spots):
            found.append(token)
    return found


def test_pointing_at_a_patch_shows_what_went_into_it(page, segments):
    assert point(page, "blended", 0, segments) == [
        "kept",
        "absorbed 3 patches: 9, 16, 27",  # the heaviest first
        "holds parts of 1 kept one",
    ]
    drawn = pixels(page.locator("#blended canvas"))
    assert framed(drawn, GROUP, segments) == [9, 16, 27]
    assert framed(drawn, CURSOR, segments) == [0]
    assert "blended with the patch you point at" in page.locator("#blended .vt-legend").inner_text()


def test_pointing_at_an_absorbed_patch_shows_where_it_went(page, segments):
    assert point(page, "blended", 16, segments) == ["went into patch 0"]
    assert framed(pixels(page.locator("#blended canvas")), GROUP, segments) == [0]
    assert point(page, "blended", 21, segments) == ["went into 2 patches: 35, 7"]
    assert framed(pixels(page.locator("#blended canvas")), GROUP, segments) == [7, 35]
    assert point(page, "blended", 3, segments) == ["went into a new token"]
    assert point(page, "blended", 20, segments) == ["dropped"]
    assert framed(pixels(page.locator("#blended canvas")), GROUP, segments) == []
    caption = page.locator("#blended figcaption").inner_text()
    assert "3 of 36 patches kept, 5 blended into them" in caption


def test_a_pinned_patch_keeps_its_lines(page, segments):
    point(page, "blended", 21, segments)
    page.locator("#blended canvas").focus()
    page.keyboard.press("Enter")
    page.mouse.move(2, 2)
    assert page.locator("#blended .vt-readout").inner_text().endswith("2 patches: 35, 7 · pinned")
    drawn = pixels(page.locator("#blended canvas"))
    assert framed(drawn, GROUP, segments) == [7, 35]
    page.keyboard.press("Escape")
    without = pixels(page.locator("#blended canvas"))
    changed = (abs(drawn - without).max(-1) > 60).nonzero()
    boxes = np.array([segments[0].boxes[token].tolist() for token in (21, 35)]).mean(0)
    scale = drawn.shape[1] / SIZE[0]
    middle = [
        (boxes[i] + boxes[i + 2]) / 2 * scale for i in (0, 1)
    ]  # half way: nothing but the line is there
    assert np.hypot(changed[1] - middle[0], changed[0] - middle[1]).min() < 4


def test_over_several_selections_it_says_when_and_whether_it_lasts(page, segments):
    assert point(page, "twice", 16, segments) == ["went into patch 0 after the vision encoder"]
    assert point(page, "twice", 0, segments) == [
        "absorbed 3 patches: 9, 16, 27",
        "holds parts of 1 kept one",
        "went into patch 7 before LLM layer 2",
    ]
    assert framed(pixels(page.locator("#twice canvas")), GROUP, segments) == [7, 9, 16, 27]
    drawn = pixels(page.locator("#twice canvas"))
    dropped = patch(drawn, segments[0].boxes[20].tolist(), SIZE)
    lives = patch(drawn, segments[0].boxes[27].tolist(), SIZE)
    assert lives.mean() > dropped.mean() + 15  # part of one that is part of a kept one
