"""Damaged pictures in a real browser: a card a severity, and which answers hold."""

from __future__ import annotations

import re

import numpy as np
import pytest
from browsing import alive, colourful, pixels, settle, start, stop, visit
from playwright.sync_api import expect

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def page(browser, address):
    with visit(browser, address) as page:
        alive(page)
        page.locator("#vt-tab-robustness-button").click()
        page.locator("#vt-robustness-kind").get_by_label("Covered squares").check()
        page.locator("#vt-robustness-start").click()
        expect(page.locator("#vt-robustness-status")).to_contain_text("Done")
        expect(cards(page)).to_have_count(6)
        settle(page)
        page.wait_for_timeout(500)
        yield page


def cards(page):
    return page.locator("#vt-robustness .vt-cell")


def answers(card):
    return card.locator(".vt-said").all_inner_texts()


def test_the_clean_pictures_come_first_and_each_severity_is_worse(page):
    titles = cards(page).locator("h3").all_inner_texts()
    assert titles == ["Clean", *(f"Severity {severity}" for severity in range(1, 6))]
    page.check("#vt-robustness input[value=damaged]")
    drawn = [pixels(cards(page).nth(i).locator("canvas")) for i in range(6)]
    grey = [(abs(picture - 127).max(-1) < 8).mean() for picture in drawn]  # the covered share
    assert grey == sorted(grey) and grey[0] < 0.02 and 0.3 < grey[5] < 0.6


def test_each_answer_is_marked_by_a_sign_and_words_against_its_clean_one(page):
    clean = answers(cards(page).first)
    assert len(clean) == 2 and cards(page).first.locator(".vt-agreement").count() == 0
    for i in range(1, 6):
        card = cards(page).nth(i)
        marks = card.locator(".vt-agreement").all_inner_texts()
        same = [
            " ".join(now.split()) == " ".join(before.split())
            for now, before in zip(answers(card), clean, strict=True)
        ]
        assert marks == ["✓ as clean" if holds else "≠ not as clean" for holds in same]
        assert (card.locator("mark").count() > 0) == (not all(same))


def test_one_sentence_says_how_far_the_answers_hold(page):
    line = page.locator("#vt-robustness .vt-asked strong").inner_text()
    assert line.endswith(".") and "severity" in line
    expect(page.locator("#vt-robustness-status")).to_contain_text(line[1:])
    marks = [cards(page).nth(i).locator(".vt-agreement").all_inner_texts() for i in range(1, 6)]
    held = []
    for side in (0, 1):
        changed = [i for i, row in enumerate(marks) if row[side][0] == "≠"]
        held.append(changed[0] if changed else 5)
    said = [int(number) for number in re.findall(r"up to (?:severity )?(\d)", line)]
    assert sorted(set(said)) == sorted({number for number in held if number})


def test_what_is_kept_can_be_seen_on_each_picture(page):
    page.check("#vt-robustness input[value=chosen]")
    page.wait_for_timeout(200)
    drawn = pixels(cards(page).first.locator("canvas"))
    spread = drawn.max(-1) - drawn.min(-1)
    assert (spread < 14).mean() > 0.5  # three patches of four are dropped, and grey
    page.check("#vt-robustness input[value=damaged]")
    page.wait_for_timeout(200)
    assert np.any(pixels(cards(page).first.locator("canvas")) != drawn) and colourful(drawn) < 14


def test_stop_ends_the_work_and_the_next_start_works(page):
    stop(page, "robustness", "Asking")
    assert cards(page).count() < 6
    expect(page.locator("#vt-robustness-start")).to_be_enabled()
    expect(page.locator("#vt-robustness-stop")).to_be_disabled()
    assert start(page, "robustness").startswith("Done")
    expect(cards(page)).to_have_count(6)


def test_other_pictures_clear_the_cards(page):
    page.locator(".vt-choice", has_text="Count them").click()
    expect(cards(page)).to_have_count(0)
