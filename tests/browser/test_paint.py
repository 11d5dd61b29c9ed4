"""Painting what is kept, in a real browser: the picture shows it at once, and nothing is sent until asked."""

from __future__ import annotations

import re

import numpy as np
import pytest
from browsing import PATIENCE, alive, colourful, listen, patch, pixels, settle, stop, visit
from PIL import Image
from playwright.sync_api import expect

import vtprune
from vtprune import examples

pytestmark = pytest.mark.browser

SIDE = 16
"""Patches along each side of the bundled model's grid."""


@pytest.fixture(scope="module")
def example():
    return next(one for one in examples.load() if one.name == "sign")


@pytest.fixture
def page(browser, address, example):
    with visit(browser, address) as page:
        alive(page)
        open_paint(page)
        yield page


def open_paint(page):
    page.locator("#vt-tab-paint-button").click()
    board(page).wait_for()
    page.wait_for_function("document.querySelector('#vt-painting canvas').width > 200")
    settle(page)


def board(page):
    return page.locator("#vt-painting canvas")


def press(page, label):
    page.locator("#vt-painting").get_by_role("button", name=label, exact=True).click()


def tool(page, name):
    page.check(f"#vt-painting input[value={name}]")


def count(page):
    return page.locator(".vt-painted-count")


def status(page, tab="paint"):
    return page.locator(f"#vt-{tab}-status .vt-status")


def middle(page, row, col):
    """The middle of a patch, on the page."""
    board(page).scroll_into_view_if_needed()
    frame = board(page).bounding_box()
    return frame["x"] + (col + 0.5) / SIDE * frame["width"], frame["y"] + (row + 0.5) / SIDE * frame["height"]


def drag(page, start, end, steps=2):
    page.mouse.move(*middle(page, *start))
    page.mouse.down()
    page.mouse.move(*middle(page, *end), steps=steps)
    page.mouse.up()
    page.mouse.move(2, 2)


def check(page, example, kept):
    """These patches are in colour as in the picture; all others are grey, and darker or hatched."""
    drawn = pixels(board(page))
    size = Image.open(example.pictures[0]).size
    original = Image.open(example.pictures[0]).convert("RGB").resize(drawn.shape[1::-1])
    real = np.asarray(original).astype(int)
    for token in range(SIDE**2):
        row, col = divmod(token, SIDE)
        box = [part / SIDE * size[0] for part in (col, row, col + 1, row + 1)]
        now, before = patch(drawn, box, size), patch(real, box, size)
        change = np.median(abs(now - before).max(-1))
        if token in kept:
            assert change < 12, f"patch {token} is kept and looks changed"
        else:
            assert colourful(now) < 14, f"patch {token} is dropped and in colour"
            assert colourful(before) < 25 or change >= 12, f"patch {token} is dropped and looks kept"
    expect(count(page)).to_contain_text(f"{len(kept)} of 256 tokens kept")


def tokens(*rows, cols=range(SIDE)):
    return {row * SIDE + col for row in rows for col in cols}


def test_it_begins_with_what_the_run_kept(page, example):
    check(page, example, set(example.run.stages[-1].keep))


def test_painting_shows_at_once_and_asks_nobody(page, example):
    asked = listen(page)
    press(page, "Clear")
    check(page, example, set())
    drag(page, (2, 0), (2, 15))  # two steps only: a quick hand leaves no gaps
    check(page, example, tokens(2))
    tool(page, "erase")
    drag(page, (2, 4), (2, 6))
    check(page, example, tokens(2) - tokens(2, cols=range(4, 7)))
    expect(count(page)).to_contain_text("13 of 256 tokens kept (5 %)")
    tool(page, "keep-box")
    drag(page, (8, 3), (10, 5))
    boxed = tokens(2) - tokens(2, cols=range(4, 7)) | tokens(8, 9, 10, cols=range(3, 6))
    check(page, example, boxed)
    tool(page, "drop-box")
    drag(page, (10, 8), (9, 5))  # backwards
    boxed -= tokens(9, 10, cols=[5])
    check(page, example, boxed)
    press(page, "Invert")
    check(page, example, set(range(256)) - boxed)
    press(page, "Undo")
    check(page, example, boxed)
    press(page, "All")
    check(page, example, set(range(256)))
    page.wait_for_timeout(500)
    assert not [url for url in asked if "heartbeat" not in url]


def test_nothing_kept_is_said_before_the_server_is_asked(page):
    press(page, "Clear")
    asked = listen(page)
    page.locator("#vt-paint-start").click()
    expect(status(page)).to_have_text("Nothing is kept: paint at least one patch, then ask again.")
    page.wait_for_timeout(500)
    assert not [url for url in asked if "heartbeat" not in url]
    tool(page, "keep-brush")
    drag(page, (0, 0), (0, 1))
    page.locator("#vt-paint-start").click()
    expect(status(page)).to_contain_text("Done")


def test_asking_again_answers_from_the_painted_patches(page, example):
    press(page, "Clear")
    tool(page, "keep-box")
    drag(page, (1, 1), (4, 9))
    keep = sorted(tokens(1, 2, 3, 4, cols=range(1, 10)))
    page.locator("#vt-paint-start").click()
    expect(status(page)).to_contain_text("Done")
    run = vtprune.load().run(
        example.pictures, example.run.question, "picked", len(keep), repeats=0, tokens=tuple(keep)
    )
    words = page.locator("#vt-paint-answers .vt-answer p").all_inner_texts()
    assert [" ".join(text.split()) for text in words] == [
        " ".join(answer.split()) or "(no words)" for answer in (run.full.answer, run.answer)
    ]
    result = page.locator("#vt-paint-answers")
    share = examples.evidence_kept(run, example.questions[0].evidence)
    expect(result).to_contain_text(f"{share:.0%} of what decides the answer was kept")
    expect(result.locator(".vt-agreement")).to_have_text(re.compile("^[✓≠] "))
    expect(count(page)).to_contain_text(f"{round(100 * share)} % of the evidence")
    check(page, example, set(keep))


def test_the_keyboard_is_enough(page, example):
    press(page, "Clear")
    board(page).focus()
    for key in ("ArrowRight", "ArrowRight", "ArrowDown", "Space", "Shift+ArrowRight", "Shift+ArrowDown"):
        page.keyboard.press(key)
    page.keyboard.press("Escape")
    kept = {SIDE + 1, SIDE + 2, 2 * SIDE + 2}
    check(page, example, kept)
    page.keyboard.press("Control+z")
    check(page, example, kept - {2 * SIDE + 2})
    tool(page, "keep-box")
    board(page).focus()
    for key in ("ArrowDown", "Space", "ArrowRight", "ArrowDown", "Space", "Escape"):
        page.keyboard.press(key)
    check(page, example, {0, 1, SIDE, SIDE + 1, SIDE + 2})
    page.keyboard.press("Enter")
    expect(status(page)).to_contain_text("Done")


def test_a_finger_paints(browser, address, example):
    context = browser.new_context(has_touch=True, viewport={"width": 390, "height": 844})
    page = context.new_page()
    try:
        page.goto(address)
        page.locator("canvas").first.wait_for(timeout=PATIENCE)
        page.locator("#vt-tab-paint-button").tap()
        board(page).wait_for()
        page.wait_for_timeout(1000)
        press(page, "Clear")
        places = [middle(page, 5, col) for col in range(2, 9)]
        touch = context.new_cdp_session(page)
        for kind, where in (
            ("touchStart", places[:1]),
            *(("touchMove", [p]) for p in places),
            ("touchEnd", []),
        ):
            points = [{"x": x, "y": y} for x, y in where]
            touch.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})
        page.wait_for_timeout(300)
        expect(count(page)).to_contain_text("7 of 256 tokens kept")
        check(page, example, tokens(5, cols=range(2, 9)))
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
    finally:
        context.close()


def test_the_set_of_a_method_and_the_smallest_set(page, example):
    press(page, "Clear")
    page.locator("#vt-paint-take").click()
    expect(status(page)).to_contain_text("Painted what ATP keeps: 64 of 256 tokens.")
    keep = vtprune.load().run(example.pictures, example.run.question, "atp", 0.25, repeats=0).stages[-1].keep
    check(page, example, set(keep))
    page.locator("#vt-paint-find").click()
    expect(status(page)).to_contain_text("Smallest found:")
    left = int(re.search(r"found: (\d+) of 256", status(page).inner_text())[1])
    expect(count(page)).to_contain_text(f"{left} of 256 tokens kept")
    assert left < 256
    expect(page.locator("#vt-paint-answers .vt-agreement")).to_have_text("✓ Same answer")
    press(page, "Undo")  # the whole search is one step
    expect(count(page)).to_contain_text("64 of 256")


def test_stop_ends_the_search_and_the_next_one_works(page):
    stop(page, "paint", "Smallest so far", "#vt-paint-find")
    for button in ("start", "find", "take"):
        expect(page.locator(f"#vt-paint-{button}")).to_be_enabled()
    expect(page.locator("#vt-paint-stop")).to_be_disabled()
    expect(page.locator("#vt-paint-answers .vt-answer")).to_have_count(0)  # half a search answers nothing
    page.locator("#vt-paint-find").click()
    expect(status(page)).to_contain_text("Smallest found:")
    page.locator("#vt-paint-start").click()
    expect(status(page)).to_contain_text("Done")


def test_each_method_is_listed_with_what_it_keeps_of_the_evidence(page):
    expect(page.locator("#vt-painting .vt-legend")).to_contain_text("what decides the answer")
    page.locator("#vt-paint-take").click()
    expect(status(page)).to_contain_text("Painted")
    page.locator("#vt-evidence-start").click()
    expect(status(page, "evidence")).to_contain_text("Done")
    rows = page.locator("#vt-weigh tbody tr")
    expect(rows).to_have_count(7)
    share = re.search(r"(\d+) % of the evidence", count(page).inner_text())[1]
    expect(rows.filter(has_text="ATP").locator("td").nth(1)).to_have_text(f"{share}%")
    assert all(text.strip() for text in rows.locator("td:last-child").all_inner_texts())

    tool(page, "evidence-box")
    drag(page, (1, 2), (5, 6))
    expect(page.locator("#vt-painting .vt-legend")).to_contain_text("your box")
    page.locator("#vt-evidence-start").click()
    page.wait_for_timeout(300)
    expect(status(page, "evidence")).to_contain_text("Done")
    share = re.search(r"(\d+) % of the evidence", count(page).inner_text())[1]
    expect(rows.filter(has_text="ATP").locator("td").nth(1)).to_have_text(f"{share}%")
    assert int(share) > 0
    press(page, "No evidence box")
    page.locator("#vt-evidence-start").click()
    expect(status(page, "evidence")).to_contain_text("there is no evidence box")


def test_other_pictures_are_another_board(page):
    press(page, "Clear")
    page.locator(".vt-choice", has_text="Which of three?").click()
    expect(board(page)).to_have_count(3)
    settle(page)
    page.locator("#vt-painting").get_by_role("button", name="Clear", exact=True).click()
    tool(page, "keep-brush")
    board(page).nth(1).click(position={"x": 40, "y": 40})
    page.locator("#vt-paint-start").click()
    expect(status(page)).to_have_text(
        "Nothing of picture 1 is kept: paint at least one patch of each picture, then ask again."
    )
