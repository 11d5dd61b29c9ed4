"""Sweep in a real browser: points that stream in, open their runs, and can be stopped."""

from __future__ import annotations

import pytest
from browsing import alive, app, ended, settle, start, tab, visit
from playwright.sync_api import expect

import vtprune
from vtprune import examples, study

pytestmark = pytest.mark.browser

POINT = ".vt-point[role=button]"


@pytest.fixture(scope="module")
def address():
    with app("--device", "cpu") as address:
        yield address


@pytest.fixture(scope="module")
def example():
    return examples.load()[0]


@pytest.fixture(scope="module")
def swept(browser, address):
    """A page on which the methods that come up first were swept over four budgets."""
    with visit(browser, address) as page:
        alive(page)
        tab(page, "Sweep")
        page.get_by_label("Budgets").fill("4")
        assert start(page, "sweep").startswith("Done")
        yield page


def test_points_and_flips_are_those_of_the_engine(swept, example):
    engine, names = vtprune.load(device="cpu"), ["atp", "divprune", "fastervlm", "random"]
    points = list(
        study.sweep(engine, example.pictures, example.run.question, names, study.spread(0.02, 1.0, 4))
    )
    expect(swept.locator(POINT)).to_have_count(16)
    for point in points:
        node = swept.locator(f'{POINT}[data-method={point.method}][data-keep="{point.keep:g}"]')
        label = node.get_attribute("aria-label")
        assert f"{point.tokens:g} of 256 tokens" in label and f"“{point.answer}”" in label
        assert ("same answer" in label) == point.same
        assert ("is-other" in node.get_attribute("class")) != point.same  # hollow, not only worded
    found = study.flips(points)
    assert swept.locator(".vt-flip-list button").count() == len(found)
    for flip in found:
        words = flip.words[0].upper() + flip.words[1:]
        expect(swept.locator(".vt-flips")).to_contain_text(words)


def test_lines_show_evidence_or_divergence(swept):
    assert "%" in swept.locator(".vt-axes text").first.text_content()
    swept.check(".vt-sweep input[value=kl]")
    assert "%" not in swept.locator(".vt-axes text").first.text_content()
    swept.check(".vt-sweep input[value=evidence]")


def test_the_keys_go_from_point_to_point(swept):
    stops = swept.locator(f"{POINT}[tabindex='0']")
    expect(stops).to_have_count(1)
    stops.focus()
    swept.keyboard.press("ArrowRight")
    swept.keyboard.press("ArrowDown")
    focused = swept.evaluate("[document.activeElement.dataset.method, document.activeElement.dataset.keep]")
    assert focused[0] == "divprune" and float(focused[1]) > 0.02
    expect(swept.locator(".vt-sweep .vt-readout")).to_contain_text("DivPrune · ")
    expect(stops).to_have_count(1)


def test_a_clicked_point_opens_its_run(swept, example):
    settle(swept)
    swept.evaluate("document.querySelector('#vt-ask .vt-status').textContent = ''")
    node = swept.locator(f"{POINT}[data-method=divprune]").nth(2)
    keep = float(node.get_attribute("data-keep"))
    node.click()
    expect(swept.get_by_role("tab", selected=True)).to_have_text("Run")
    expect(swept.locator("#vt-ask .vt-status")).to_contain_text("Done")
    expect(swept.locator("#vt-method input")).to_have_value("DivPrune")
    run = vtprune.load(device="cpu").run(example.pictures, example.run.question, "divprune", keep, repeats=0)
    expect(swept.locator("#vt-see figcaption")).to_contain_text(f"{len(run.stages[0].keep)} of 256")
    words = swept.locator(".vt-answer p").nth(1).inner_text()
    assert " ".join(words.split()) == " ".join(run.answer.split() or ["(no words)"])
    tab(swept, "Sweep")
    expect(swept.locator(POINT)).to_have_count(16)


def test_stop_ends_a_sweep_and_keeps_its_points(swept):
    settle(swept)
    swept.get_by_label("Budgets").fill("40")
    swept.locator("#vt-sweep-start").click()
    expect(swept.locator("#vt-sweep-status")).to_contain_text("Sweeping")
    swept.locator("#vt-sweep-stop").click()
    assert ended(swept, "sweep") == "Stopped."
    assert 1 <= swept.locator(POINT).count() < 4 * 35
    expect(swept.locator("#vt-sweep-start")).to_be_enabled()


def test_a_bad_range_is_one_sentence_and_nothing_is_lost(swept):
    count = swept.locator(POINT).count()
    swept.get_by_label("From, percent").fill("80")
    swept.get_by_label("To, percent").fill("20")
    assert start(swept, "sweep") == (
        "Not run: the range goes from 0.8 down to 0.2: give the smaller budget first."
    )
    assert swept.locator(POINT).count() == count


def test_a_phone_sees_the_whole_chart(browser, address):
    with visit(browser, address, 390, 844) as page:
        alive(page)
        tab(page, "Sweep")
        page.get_by_label("Budgets").fill("3")
        assert start(page, "sweep").startswith("Done")
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
        for background in ("rgb(243, 245, 248)", "rgb(14, 18, 26)"):
            expect(page.locator("body")).to_have_css("background-color", background)
            for point in page.locator(POINT).all():
                box = point.bounding_box()
                assert box["x"] >= 0 and box["x"] + box["width"] <= 391
            page.locator(".vt-theme").click()
