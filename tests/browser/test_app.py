"""The main job with the bundled model, in a real browser, through ``python app.py``."""

from __future__ import annotations

import contextlib
import re

import numpy as np
import pytest
from browsing import alive, colourful, health, listen, patch, pixels, run, settle, start, tab, visit
from PIL import Image, ImageDraw
from playwright.sync_api import TimeoutError, expect

import vtprune

pytestmark = pytest.mark.browser


@pytest.fixture
def photo(tmp_path):
    """A JPEG that is stored lying and stands upright only after its EXIF rotation: 300 x 400."""
    picture = Image.new("RGB", (400, 300), "#2f7d32")
    draw = ImageDraw.Draw(picture)
    draw.ellipse((40, 60, 180, 200), "#d9480f")
    draw.rectangle((230, 90, 350, 250), "#1864ab")
    exif = Image.Exif()
    exif[0x0112] = 6
    path = tmp_path / "holiday.jpg"
    picture.save(path, exif=exif, quality=92)
    return path


def test_opens_on_a_recorded_example(page, recorded, address):
    first = next(iter(recorded.values()))
    assert page.locator("canvas").count() == len(first.pictures)
    expect(page.locator(".vt-answer")).to_have_count(2)
    words = page.locator(".vt-answer p").all_inner_texts()
    assert [" ".join(text.split()) for text in words] == [
        " ".join(side.answer.split()) for side in (first.run.full, first.run.pruned)
    ]
    assert page.locator(".js-plotly-plot .bars path").count() >= 8  # four stages of two sides
    assert page.locator("textarea").input_value() == first.run.question
    expect(page.locator(".vt-look")).to_contain_text(first.look)
    expect(page.locator(".vt-numbers")).to_contain_text("Recorded")
    assert health(address)["ok"]


def test_run_shows_what_the_engine_keeps(page, recorded):
    example = recorded["sign"]
    page.locator(".vt-choice", has_text=example.title).click()
    settle(page)
    assert run(page).startswith("Done")
    expected = vtprune.load().run(example.pictures, example.run.question, "atp", example.run.keep, repeats=0)
    words = page.locator(".vt-answer p").all_inner_texts()
    assert " ".join(words[1].split()) == " ".join(expected.answer.split())
    assert " ".join(words[0].split()) == " ".join(expected.full.answer.split())
    assert page.locator(".js-plotly-plot .bars path").count() >= 8

    drawn = pixels(page.locator("canvas"))
    original = np.asarray(Image.open(example.pictures[0]).convert("RGB").resize(drawn.shape[1::-1])).astype(
        int
    )
    size, kept = Image.open(example.pictures[0]).size, set(expected.stages[-1].keep)
    (segment,) = expected.segments
    for token, box in enumerate(segment.boxes.tolist()):
        shown, real = patch(drawn, box, size), patch(original, box, size)
        if token in kept:
            assert np.median(abs(shown - real)) < 8, f"patch {token} was kept and looks changed"
        else:
            assert colourful(shown) < 14, f"patch {token} was dropped and is in colour"
            assert shown.mean() < 0.8 * real.mean() + 25, f"patch {token} was dropped and is bright"

    page.check("input[value=scores]")
    hot = pixels(page.locator("canvas"))
    scores = dict(zip(expected.stages[-1].scored, expected.stages[-1].scores, strict=True))
    low, high = (patch(hot, segment.boxes[f(scores, key=scores.get)].tolist(), size) for f in (min, max))
    assert (high.mean((0, 1)) - low.mean((0, 1)))[1] > 60  # viridis: green rises from end to end
    expect(page.locator(".vt-ends").first).to_contain_text(f"{max(scores.values()):.3g}"[:4])


def upload(page, files):
    """Add own pictures, which take the place of the example's."""
    page.locator("#vt-gallery input[type=file]").first.set_input_files(files)


def test_an_own_upload(page, photo):
    upload(page, photo)
    expect(page.locator(".vt-name", has_text="holiday.jpg")).to_be_visible()
    expect(page.locator(".vt-name")).to_have_count(1)
    expect(page.locator(".vt-note")).to_contain_text("drawn scenes only")
    expect(page.locator(".vt-note")).to_contain_text("Choose another model")
    settle(page)
    page.wait_for_timeout(300)
    assert colourful(pixels(page.locator("canvas"))) > 60  # nothing is chosen yet, so it is all there
    asked = listen(page)
    page.wait_for_timeout(2000)
    assert not asked, "the page goes on asking when nothing happens"
    page.locator("textarea").fill("What is in the picture?")
    assert run(page).startswith("Done")
    drawn = pixels(page.locator("canvas"))
    assert drawn.shape[0] / drawn.shape[1] == pytest.approx(400 / 300, abs=0.01)
    expect(page.locator("figcaption")).to_contain_text("64 of 256 patches kept")


def test_a_corrupt_file_is_named_and_the_rest_survives(page, photo, tmp_path):
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"\x89PNG\r\n\x1a\n" + b"no picture at all")
    upload(page, [broken, photo])
    expect(page.locator(".vt-refused")).to_contain_text("broken.png")
    expect(page.locator(".vt-name")).to_have_text("holiday.jpg")
    page.locator("textarea").fill("What colour is the circle?")
    assert run(page).startswith("Done")
    page.locator("textarea").fill("   ")
    assert run(page) == "Not run: the question is empty: ask something about the picture."
    expect(page.locator(".vt-answer")).to_have_count(2)
    page.locator("textarea").fill("What colour is the circle?")
    assert run(page).startswith("Done")


def test_files_that_are_too_large_or_no_pictures_are_named(page, photo, tmp_path):
    large, notes = tmp_path / "large.png", tmp_path / "notes.txt"
    large.write_bytes(bytes(21 * 2**20))
    notes.write_text("no picture")
    upload(page, [large, notes])
    expect(page.locator(".vt-refused")).to_contain_text("large.png has 21.0 MB")
    expect(page.locator(".vt-refused")).to_contain_text("notes.txt is not a picture")
    upload(page, [large, photo])
    expect(page.locator(".vt-name", has_text="holiday.jpg")).to_be_visible()
    expect(page.locator(".vt-refused")).to_contain_text("large.png")
    assert run(page).startswith("Done")


def test_stop_then_run_again(page, recorded):
    page.locator(".vt-choice", has_text=recorded["which"].title).click()  # three pictures take longest
    settle(page)
    status = page.locator("#vt-ask .vt-status")
    for _ in range(5):  # on a fast machine a run may end before the click
        page.locator("#vt-run").click()
        with contextlib.suppress(TimeoutError):
            page.locator("#vt-stop:enabled").click(timeout=2000)
        expect(status).to_have_text(re.compile("^(Stopped|Done)"))
        if status.inner_text() == "Stopped.":
            break
    assert status.inner_text() == "Stopped."
    expect(page.locator("#vt-run")).to_be_enabled()
    assert run(page).startswith("Done")


def test_what_rests_says_why(page, photo):
    for button in page.locator('button[id$="-stop"]').all():
        assert "rests while nothing is running" in button.get_attribute("title")
    assert "rests while the work" in page.locator("#vt-run").get_attribute("title")
    page.locator("textarea").fill("What is in the picture?")
    upload(page, photo)
    expect(page.locator(".vt-note")).to_contain_text("drawn scenes only")
    tab(page, "Compare")
    start(page, "compare")
    sorting = page.locator(".vt-comparison .vt-view", has_text="Evidence")
    expect(sorting.locator("input")).to_be_disabled()
    assert "known of recorded examples only" in sorting.get_attribute("title")


def test_impatient_clicks_do_no_harm(page):
    page.locator("#vt-run").dblclick()
    page.locator("#vt-run").click(force=True)
    expect(page.locator("#vt-ask .vt-status")).to_contain_text("Done")
    expect(page.locator("#vt-run")).to_be_enabled()
    assert run(page).startswith("Done")


@pytest.mark.parametrize("name", ["run", "compare-start", "paint-find"])
def test_three_clicks_at_once_are_one_run(page, name):
    tab = name.split("-")[0]
    page.locator(f"#vt-tab-{tab}-button").click()
    settle(page)
    asked = []
    page.on("request", lambda request: "queue/join" in request.url and asked.append(request.post_data_json))
    page.evaluate("id => [1, 2, 3].forEach(() => document.getElementById(id).click())", f"vt-{name}")
    page.wait_for_timeout(1500)
    assert len(asked) == 1
    expect(page.locator(f"#vt-{name}")).to_be_enabled()


def test_the_slider_replays_a_nested_method_without_the_server(page, recorded):
    example = recorded["sign"]
    page.locator(".vt-choice", has_text=example.title).click()
    asked = listen(page)
    page.locator("#vt-keep input[type=range]").focus()
    for _ in range(10):
        page.keyboard.press("ArrowRight")
    share = round(100 * example.run.keep) + 10
    count = round(share / 100 * example.run.tokens)
    expect(page.locator(".vt-budget")).to_contain_text(f"{count} of {example.run.tokens} tokens")
    expect(page.locator("figcaption")).to_contain_text(f"{count} of {example.run.tokens} patches kept")
    assert not asked


def test_pointing_at_a_patch_by_mouse_and_by_keys(page, recorded):
    example = recorded["sign"]
    page.locator(".vt-choice", has_text=example.title).click()
    settle(page)
    canvas, readout = page.locator("canvas"), page.locator(".vt-readout")
    box = example.run.segments[0].boxes[37].tolist()
    frame = canvas.bounding_box()
    middle = [(box[i] + box[i + 2]) / 2 / 672 * frame["width"] for i in (0, 1)]
    canvas.hover(position={"x": middle[0], "y": middle[1]})
    expect(readout).to_contain_text("Patch 37 · row 3, column 6")
    canvas.focus()
    page.keyboard.press("ArrowDown")
    expect(readout).to_contain_text("Patch 53")
    page.keyboard.press("Enter")
    expect(readout).to_contain_text("pinned")


def test_options_and_method_card_follow_the_method(page):
    page.locator("#vt-method input").click()
    page.get_by_role("option", name="FastV").click()
    expect(page.locator(".vt-method")).to_contain_text("inside the language model")
    page.get_by_role("button", name="Options").click()
    page.locator(".vt-option input").fill("0")
    assert run(page).startswith("Not run: fastv: k=0")
    page.locator(".vt-option input").fill("1")
    assert run(page).startswith("Done")
    expect(page.locator(".vt-map-bar")).to_contain_text("before LLM layer 1")


def test_a_phone_sees_everything_in_both_themes_without_scrolling_sideways(browser, address):
    with visit(browser, address, 390, 844) as page:
        alive(page)
        for background in ("rgb(243, 245, 248)", "rgb(14, 18, 26)"):
            expect(page.locator("body")).to_have_css("background-color", background)
            assert page.evaluate("document.documentElement.scrollWidth") <= 390
            for part in ("#vt-run", "canvas", ".vt-answer", ".js-plotly-plot", ".vt-numbers table"):
                frame = page.locator(part).first.bounding_box()
                assert frame["x"] >= 0 and frame["x"] + frame["width"] <= 391, part
            page.locator(".vt-theme").click()


def test_two_visitors_do_not_see_each_other(browser, address, photo):
    with visit(browser, address) as one, visit(browser, address) as two:
        alive(one)
        alive(two)
        upload(one, photo)
        expect(one.locator(".vt-name", has_text="holiday.jpg")).to_be_visible()
        one.locator("textarea").fill("What colour is the circle?")
        one.locator("#vt-run").click()
        assert run(two).startswith("Done")
        expect(one.locator("#vt-ask .vt-status")).to_contain_text("Done")
        expect(two.locator(".vt-name", has_text="holiday.jpg")).to_have_count(0)
