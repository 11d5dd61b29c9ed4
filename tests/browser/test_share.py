"""Links, saved files, and what two people at once see of each other, in a real browser."""

from __future__ import annotations

import io
from urllib.parse import parse_qs, urlparse

import numpy as np
import pytest
from browsing import alive, copied, pixels, run, settle, visit
from PIL import Image, ImageDraw
from playwright.sync_api import expect

from vtprune.types import Run

pytestmark = pytest.mark.browser


@pytest.fixture
def page(browser, address):
    with visit(browser, address, alone=True) as page:
        page.context.grant_permissions(["clipboard-read", "clipboard-write"])
        alive(page)
        yield page


@pytest.fixture
def photo(tmp_path):
    """1600 x 1300, larger than what the browser is sent of it."""
    picture = Image.new("RGB", (1600, 1300), "#2f7d32")
    ImageDraw.Draw(picture).ellipse((300, 300, 1100, 1000), "#d9480f")
    path = tmp_path / "my holiday.jpg"
    picture.save(path, quality=92)
    return path


def upload(page, path):
    page.locator("#vt-gallery input[type=file]").first.set_input_files(path)
    expect(page.locator(".vt-name")).to_have_text(path.name)
    settle(page)


def saved(page, button, folder):
    """The file that a button hands over."""
    with page.expect_download() as waiting:
        page.locator(button).click()
    path = folder / waiting.value.suggested_filename
    waiting.value.save_as(path)
    expect(page.locator(".vt-saved")).to_have_text(f"Saved {path.name}.")
    return path


def test_a_copied_link_opens_the_page_as_it_was(browser, page, recorded):
    page.locator(".vt-choice", has_text=recorded["count"].title).click()
    settle(page)
    page.locator("textarea").first.fill("What colour is the boat?")
    page.locator("#vt-method input").click()
    page.get_by_role("option", name="ATP", exact=True).click()
    page.get_by_role("button", name="Options").click()
    page.locator(".vt-option input").first.fill("0.75")
    page.locator("#vt-keep input[type=number]").fill("35")
    page.get_by_role("tab", name="Compare").click()
    page.get_by_role("tab", name="Run").click()
    link, said = copied(page)
    assert said == "Link copied."
    query = {name: values[0] for name, values in parse_qs(urlparse(link).query).items()}
    assert query["example"] == "count" and query["q"] == "What colour is the boat?"
    assert (query["method"], query["keep"], query["p.alpha"]) == ("atp", "35", "0.75")
    with visit(browser, link, alone=True) as other:
        other.locator("canvas").first.wait_for()
        expect(other.locator("textarea").first).to_have_value("What colour is the boat?")
        expect(other.locator("#vt-method input")).to_have_value("ATP")
        expect(other.locator("#vt-keep input[type=number]")).to_have_value("35")
        expect(other.locator(".vt-name")).to_have_text("count-1.png")
        expect(other.locator("#vt-ask .vt-status")).to_contain_text("Opened from a link: press Run")
        other.get_by_role("button", name="Options").click()
        expect(other.locator(".vt-option input").first).to_have_value("0.75")
        settle(other)
        assert run(other).startswith("Done")


def test_a_link_with_a_tab_opens_it(browser, address):
    with visit(browser, f"{address}?example=word&tab=compare", alone=True) as page:
        expect(page.get_by_role("tab", name="Compare")).to_have_attribute("aria-selected", "true")


def test_a_link_made_with_an_upload_has_no_picture_in_it_and_says_so(browser, page, photo):
    upload(page, photo)
    page.locator("textarea").first.fill("Where was I?")
    link, said = copied(page)
    assert "Your pictures are not part of it" in said
    query = parse_qs(urlparse(link).query)
    assert "example" not in query and "holiday" not in link and query["q"] == ["Where was I?"]
    with visit(browser, link, alone=True) as other:
        expect(other.locator("#vt-ask .vt-status")).to_contain_text("which are not part of it")
        expect(other.locator("textarea").first).to_have_value("Where was I?")
        expect(other.locator(".vt-empty")).to_be_visible()
        expect(other.locator("canvas")).to_have_count(0)


def test_a_bad_link_is_one_sentence_and_the_page_works(browser, address, recorded):
    bad = f"{address}?example=%3Cb%3Enothing&method=atpp&keep=900&tab=nowhere"
    with visit(browser, bad, alone=True) as page:
        alive(page)
        status = page.locator("#vt-ask .vt-status")
        expect(status).to_contain_text("Part of this link could not be used")
        for words in ("“<b>nothing”", "“atpp”", "keep=“900”", "“nowhere”"):
            expect(status).to_contain_text(words)
        first = next(iter(recorded.values()))
        expect(page.locator("textarea").first).to_have_value(first.run.question)


def test_the_saved_map_is_the_one_on_the_screen(page, recorded, tmp_path):
    for view in ("kept", "order"):
        page.check(f"input[value={view}]")
        drawn = pixels(page.locator("canvas"))
        path = saved(page, "#vt-png", tmp_path)
        picture = Image.open(path)
        assert picture.size == (672, 672)
        same = np.asarray(picture.convert("RGB").resize(drawn.shape[1::-1])).astype(int)
        assert np.median(abs(same - drawn)) < 12 and (abs(same - drawn).max(-1) > 90).mean() < 0.06


def test_a_large_upload_is_saved_in_its_own_size(page, photo, tmp_path):
    upload(page, photo)
    page.locator("textarea").first.fill("What is it?")
    assert run(page).startswith("Done")
    assert Image.open(saved(page, "#vt-png", tmp_path)).size == (1600, 1300)


def test_the_saved_run_and_report_say_what_the_page_says(browser, page, recorded, tmp_path):
    result = recorded["sign"].run
    page.locator(".vt-choice", has_text=recorded["sign"].title).click()
    settle(page)
    again = Run.from_json(saved(page, "#vt-json", tmp_path).read_text("utf-8"))
    assert again.to_json() == result.to_json()
    report = saved(page, "#vt-html", tmp_path)
    asked = []
    alone = browser.new_context()
    try:
        other = alone.new_page()
        other.on("request", lambda request: asked.append(request.url))
        other.goto(report.as_uri())
        expect(other.locator("h1")).to_have_text(result.question)
        widths = other.locator("img").evaluate_all("images => images.map(image => image.naturalWidth)")
        assert widths == [672, 672]
        drawn = np.asarray(Image.open(io.BytesIO(other.locator("img").first.screenshot())).convert("RGB"))
        assert drawn.std() > 20
        assert all(url.startswith(("file://", "data:")) for url in asked)
    finally:
        alone.close()


def test_before_a_run_there_is_nothing_to_save(page, photo):
    upload(page, photo)
    page.locator("#vt-png").click()
    expect(page.locator(".vt-saved")).to_have_text("There is no run to save yet: press Run first.")


def test_two_people_at_once_see_only_their_own(browser, address, photo, tmp_path):
    other_photo = tmp_path / "other.png"
    Image.new("RGB", (400, 300), "#1864ab").save(other_photo)
    with visit(browser, address, alone=True) as one, visit(browser, address, alone=True) as two:
        for page, path, question in ((one, photo, "What is mine?"), (two, other_photo, "What is yours?")):
            alive(page)
            upload(page, path)
            page.locator("textarea").first.fill(question)
        one.locator("#vt-run").click()  # both wait for the same model
        two.locator("#vt-run").click()
        for page, path, size in ((one, photo, (1600, 1300)), (two, other_photo, (400, 300))):
            expect(page.locator("#vt-ask .vt-status")).to_contain_text("Done")
            settle(page)
            expect(page.locator(".vt-name")).to_have_text(path.name)
            assert Image.open(saved(page, "#vt-png", tmp_path)).size == size
        runs = [Run.from_json(saved(page, "#vt-json", tmp_path).read_text("utf-8")) for page in (one, two)]
        assert [run.question for run in runs] == ["What is mine?", "What is yours?"]
        assert [run.images[0].name for run in runs] == ["my holiday.jpg", "other.png"]
        for page, (own, foreign) in ((one, runs), (two, runs[::-1])):
            words = page.locator(".vt-answer p").all_inner_texts()
            assert [" ".join(text.split()) for text in words] == [
                " ".join(side.answer.split()) or "(no words)" for side in (own.full, own.pruned)
            ]
            assert foreign.images[0].name not in page.content() and foreign.question not in page.content()
        with visit(browser, address, alone=True) as third:
            alive(third)
            assert not any(run.images[0].name in third.content() for run in runs)
