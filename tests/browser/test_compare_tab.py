"""Compare in a real browser: linked maps, sorting, and the way to the Run tab."""

from __future__ import annotations

import numpy as np
import pytest
from browsing import alive, app, colourful, listen, patch, pixels, settle, start, tab, visit
from PIL import Image
from playwright.sync_api import expect

import vtprune
from vtprune import examples, study

pytestmark = pytest.mark.browser

CHOSEN = ("ATP", "Random", "Uniform grid")
NAMES = ("atp", "random", "uniform")


@pytest.fixture(scope="module")
def address():
    with app("--device", "cpu") as address:
        yield address


@pytest.fixture(scope="module")
def recorded():
    return examples.load()


@pytest.fixture(scope="module")
def example(recorded):
    """The one that the page opens on."""
    return recorded[0]


@pytest.fixture(scope="module")
def compared(browser, address):
    """A page on which three methods were compared; the tests leave it as they found it."""
    with visit(browser, address) as page:
        alive(page)
        tab(page, "Compare")
        choose(page, *CHOSEN)
        assert start(page, "compare").startswith("Done")
        page.wait_for_function(
            "[...document.querySelectorAll('.vt-cell canvas')].filter(c => c.width > 150).length === 3"
        )
        yield page


def choose(page, *titles):
    """Put these methods, and no others, into the choice."""
    box = page.locator("#vt-compare-methods")
    box.locator(".remove-all").click()
    for title in titles:
        box.locator("input").fill(title)
        page.get_by_role("option", name=title, exact=True).click()
    page.keyboard.press("Escape")
    expect(box.locator(".token")).to_have_count(len(titles))


def order(page):
    return page.locator(".vt-cell").evaluate_all("cells => cells.map(cell => cell.dataset.method)")


def test_each_cell_shows_what_its_method_keeps_and_says(compared, example):
    engine = vtprune.load(device="cpu")
    cells = study.compare(engine, example.pictures, example.run.question, NAMES, example.run.keep, repeats=0)
    size = Image.open(example.pictures[0]).size
    for cell in cells:
        card = compared.locator(f".vt-cell[data-method={cell.method}]")
        run = cell.run
        words = card.locator(".vt-said").inner_text()
        assert " ".join(words.split()) == " ".join(run.answer.split() or ["(no words)"])
        expect(card.locator(".vt-agreement")).to_contain_text(
            "Same answer" if run.comparison.same else "Differs"
        )
        expect(card).to_contain_text(f"{len(run.stages[-1].keep)} of {run.tokens} tokens")
        expect(card).to_contain_text("Selecting")
        drawn, kept = pixels(card.locator("canvas")), set(run.stages[-1].keep)
        shown = [patch(drawn, box, size) for box in run.segments[0].boxes.tolist()]
        dropped = [colourful(part) for token, part in enumerate(shown) if token not in kept]
        assert max(dropped) < 20 < np.median([colourful(shown[token]) for token in kept])
    expect(compared.locator(".vt-asked").first).to_contain_text(example.run.question)


def test_pointing_at_one_map_marks_the_same_patch_on_all_and_on_the_large_one(compared, example):
    size, token = Image.open(example.pictures[0]).size, 37
    box = example.run.segments[0].boxes[token].tolist()
    canvases = compared.locator(".vt-cell canvas")
    before = [pixels(canvases.nth(i)) for i in range(3)]
    frame = canvases.first.bounding_box()
    middle = {"x": (box[0] + box[2]) / 2 / size[0] * frame["width"], "y": 0}
    middle["y"] = (box[1] + box[3]) / 2 / size[1] * frame["height"]
    canvases.first.click(position=middle)  # pins it, so that it stays when the tab is left
    expect(compared.locator(".vt-comparison .vt-readout")).to_contain_text(f"Patch {token} ")
    expect(compared.locator(".vt-comparison .vt-readout")).to_contain_text("pinned")
    for i in range(3):
        assert changed_box(before[i], pixels(canvases.nth(i)), size) == pytest.approx(box, abs=16)
    expect(compared.get_by_role("tab", selected=True)).to_have_text("Compare")  # a map is no button
    tab(compared, "Run")
    expect(compared.locator("#vt-see .vt-readout")).to_contain_text(f"Patch {token} ")
    compared.locator("#vt-see canvas").focus()
    compared.keyboard.press("Escape")
    tab(compared, "Compare")
    expect(compared.locator(".vt-comparison .vt-readout")).to_contain_text("Point at a patch")
    compared.wait_for_timeout(300)
    assert not (abs(pixels(canvases.nth(1)) - before[1]) > 8).any()


def changed_box(before, after, size):
    """The box around all pixels that changed, in the upload's pixels."""
    ys, xs = np.nonzero((abs(before - after) > 8).any(-1))
    scale = before.shape[1] / size[0]
    return [xs.min() / scale, ys.min() / scale, (xs.max() + 1) / scale, (ys.max() + 1) / scale]


def test_sorting_changes_the_order_without_the_server(compared):
    asked = listen(compared)
    assert order(compared) == list(NAMES)
    compared.check("input[value=evidence]")
    shares = [
        float(text.split()[0])
        for text in compared.locator(".vt-cell dt:text('Evidence kept') + dd").all_inner_texts()
    ]
    assert shares == sorted(shares, reverse=True)
    compared.check("input[value=time]")
    times = [
        float(text.split()[0])
        for text in compared.locator(".vt-cell dt:text('First token') + dd").all_inner_texts()
    ]
    assert times == sorted(times)
    compared.check("input[value=agreement]")
    signs = [text[0] for text in compared.locator(".vt-cell .vt-agreement").all_inner_texts()]
    assert signs == sorted(signs, reverse=True)  # ≠ comes after ✓, whose code is higher
    compared.locator("input[value=agreement]").focus()
    compared.keyboard.press("ArrowLeft")  # the arrow keys work, too
    assert order(compared) == list(NAMES)
    assert not asked


def test_a_cell_opens_its_run(compared, example):
    settle(compared)
    compared.locator(".vt-cell[data-method=random]").get_by_role("button").click()
    expect(compared.get_by_role("tab", selected=True)).to_have_text("Run")
    expect(compared.locator("#vt-method input")).to_have_value("Random")
    expect(compared.locator("#vt-ask .vt-status")).to_contain_text("The run of the comparison")
    run = vtprune.load(device="cpu").run(
        example.pictures,
        example.run.question,
        "random",
        example.run.keep,
        repeats=0,
    )
    expect(compared.locator("#vt-see figcaption")).to_contain_text(f"{len(run.stages[0].keep)} of 256")
    words = compared.locator(".vt-answer p").nth(1).inner_text()
    assert " ".join(words.split()) == " ".join(run.answer.split() or ["(no words)"])
    assert compared.locator(".js-plotly-plot .bars path").count() >= 8  # measured, so there are bars
    tab(compared, "Compare")
    expect(compared.locator(".vt-cell")).to_have_count(3)


def test_what_cannot_be_run_says_why_in_its_cell_and_a_bad_input_loses_nothing(compared):
    choose(compared, "FastV", "Random")
    compared.locator("#vt-keep input[type=number]").fill("5")
    compared.keyboard.press("Tab")
    assert "1 could not be run" in start(compared, "compare")
    expect(compared.locator(".vt-cell[data-method=fastv]")).to_contain_text("cannot bring")
    expect(compared.locator(".vt-cell[data-method=random] .vt-said")).to_be_visible()
    compared.locator("#vt-compare-methods .remove-all").click()
    assert start(compared, "compare") == "Not run: 0 methods were chosen: take 1 to 12."
    expect(compared.locator(".vt-cell")).to_have_count(2)


def test_other_pictures_clear_the_comparison(compared, recorded):
    compared.locator(".vt-choice", has_text=recorded[1].title).click()
    expect(compared.locator(".vt-cell")).to_have_count(0)
    expect(compared.locator(".vt-comparison")).to_be_hidden()


def test_a_phone_sees_two_maps_side_by_side(browser, address):
    with visit(browser, address, 390, 844) as page:
        alive(page)
        tab(page, "Compare")
        choose(page, "Random", "Uniform grid")
        assert start(page, "compare").startswith("Done")
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
        for background in ("rgb(243, 245, 248)", "rgb(14, 18, 26)"):
            expect(page.locator("body")).to_have_css("background-color", background)
            frames = [page.locator(".vt-cell").nth(i).bounding_box() for i in range(2)]
            assert frames[0]["y"] == frames[1]["y"] and frames[1]["x"] + frames[1]["width"] <= 391
            for radio in page.locator(".vt-comparison .vt-view").all():
                box = radio.bounding_box()
                assert box["x"] + box["width"] <= 391
            page.locator(".vt-theme").click()
