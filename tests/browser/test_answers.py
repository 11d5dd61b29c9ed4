"""Both answers token by token, and the way of the tokens through the model, in a real browser."""

from __future__ import annotations

import io
import math

import numpy as np
import pytest
from browsing import alive, listen, pixels, run, settle, visit
from PIL import Image
from playwright.sync_api import expect

pytestmark = pytest.mark.browser


def pick(page, example):
    page.locator(".vt-choice", has_text=example.title).click()
    settle(page)


def percent(p):
    if p >= 0.995:
        return "100%" if p == 1 else ">99%"
    return "<1%" if p < 0.005 else f"{math.floor(100 * p + 0.5)}%"


def shown(token):
    return token.text.strip() or token.top[0][0].strip() or "␣"


def test_every_token_has_its_probability_as_a_bar_and_a_number(page, recorded):
    result = recorded["caption"].run
    pick(page, recorded["caption"])
    steps = page.locator(".vt-step")
    expect(steps).to_have_count(max(len(result.full.tokens), len(result.pruned.tokens)))
    for name, side in (("full", result.full), ("pruned", result.pruned)):
        words = page.locator(f".vt-token.is-{name} b").all_inner_texts()
        numbers = page.locator(f".vt-token.is-{name} small").all_inner_texts()
        assert [word for word in words if word != "–"] == [shown(token) for token in side.tokens]
        assert numbers == [percent(round(token.prob, 4)) for token in side.tokens]
        bars = page.locator(f".vt-token.is-{name} .vt-prob").evaluate_all(
            "bars => bars.map(bar => bar.firstChild.getBoundingClientRect().width / bar.clientWidth)"
        )
        assert bars == pytest.approx([token.prob for token in side.tokens], abs=0.05)


def test_pointing_at_a_token_shows_the_five_likeliest_of_both_sides(page, recorded):
    result = recorded["sign"].run
    pick(page, recorded["sign"])
    weighed = page.locator(".vt-weighed")
    page.locator(".vt-step").nth(1).hover()
    expect(weighed).to_contain_text("Step 2")
    for index, side in enumerate((result.full, result.pruned)):
        rows = weighed.locator(".vt-top").nth(index).locator(".vt-top-row")
        expect(rows).to_have_count(5)
        for row, (text, p) in zip(rows.all(), side.tokens[1].top, strict=True):
            assert row.inner_text().split() == [text.strip() or "␣", percent(round(p, 4))]
    page.locator(".vt-step").first.focus()
    expect(weighed).to_contain_text("Step 1")
    page.keyboard.press("ArrowRight")
    expect(weighed).to_contain_text("Step 2")
    assert page.locator(".vt-step[tabindex='0']").count() == 1  # one stop on the way of the Tab key


def test_where_the_answers_part_is_marked_and_divergence_ends_there(page, recorded):
    parted = [e for e in recorded.values() if e.run.comparison.first_difference is not None]
    same = [e for e in recorded.values() if e.run.comparison.same]
    assert parted and same, "the examples show only one kind; record others"
    first = parted[0].run.comparison.first_difference
    pick(page, parted[0])
    marked = page.locator(".vt-step.is-parting")
    expect(marked).to_have_count(1)
    expect(marked).to_contain_text("parts here")
    assert marked.get_attribute("aria-label").startswith(f"Step {first + 1}.")
    known = page.locator(".vt-kl:not(.is-unknown)")
    expect(known).to_have_count(len(parted[0].run.comparison.kl))
    expect(page.locator(".vt-tokens > .vt-quiet")).to_contain_text("it ends where the two part")
    expect(page.locator(".vt-weighed")).to_contain_text(f"Step {first + 1}")
    expect(page.locator(".vt-weighed")).to_contain_text("KL")
    pick(page, same[0])
    expect(marked).to_have_count(0)
    expect(page.locator(".vt-agreement")).to_have_text("✓ Same answer")


def test_a_run_fills_the_tokens(page, recorded):
    pick(page, recorded["word"])
    assert run(page).startswith("Done")
    words = page.locator(".vt-token.is-pruned b").all_inner_texts()
    answer = page.locator(".vt-answer p").nth(1).inner_text()
    assert "".join(answer.split()) in "".join(words).replace("␣", "")
    expect(page.locator(".vt-kl:not(.is-unknown)").first).to_be_attached()


# ---- the way through the model ----


def test_scrubbing_shows_what_is_alive_at_every_point_without_the_server(page, recorded):
    result = recorded["which"].run  # prunes inside the language model, once
    pick(page, recorded["which"])
    said, canvas = page.locator(".vt-alive"), page.locator("canvas").last
    (stage,) = result.stages
    layers = result.pruned.cost.tokens_per_layer
    last = f"LLM layers {stage.layer} to {len(layers) - 1}: {stage.after} of {result.tokens} alive"
    expect(said).to_have_text(last)
    expect(page.locator(".vt-scrub")).to_contain_text(f"Chosen once, before LLM layer {stage.layer}")
    after = pixels(canvas)
    asked = listen(page)
    slider = page.get_by_role("slider", name="Where in the model")
    slider.focus()
    page.keyboard.press("Home")
    expect(said).to_have_text(f"Vision encoder: {result.tokens} of {result.tokens} alive")
    expect(page.locator("figcaption").last).to_contain_text("all 256 patches kept")
    before = pixels(canvas)
    assert (abs(after - before).max(-1) > 30).mean() > 0.3, "the map does not change"
    page.keyboard.press("ArrowRight")
    expect(said).to_have_text(f"Projector: {result.tokens} of {result.tokens} alive")
    assert slider.get_attribute("aria-valuetext") == said.inner_text()
    page.keyboard.press("End")
    expect(said).to_have_text(last)
    assert (pixels(canvas) == after).all()
    page.get_by_role("button", name="Play").click()
    expect(said).to_contain_text("Vision encoder")
    expect(said).to_have_text(last)
    expect(page.get_by_role("button", name="Play")).to_be_visible()  # it has stopped at the end
    assert not asked, f"scrubbing asked the server for {asked}"


def test_a_method_of_several_steps_is_told_layer_by_layer(page, recorded):
    pick(page, recorded["sign"])
    page.locator("#vt-method input").click()
    page.get_by_role("option", name="PyramidDrop").click()
    page.locator("#vt-keep input[type=number]").fill("50")
    assert run(page).startswith("Done")
    slider, said = page.get_by_role("slider", name="Where in the model"), page.locator(".vt-alive")
    expect(page.locator(".vt-scrub")).to_contain_text("steps")
    slider.focus()
    page.keyboard.press("Home")
    counts, points = [], int(slider.get_attribute("max")) + 1
    for _ in range(points):
        counts.append(int(said.inner_text().split(": ")[1].split(" of ")[0]))
        page.keyboard.press("ArrowRight")
    expect(said).to_contain_text("LLM layer 9:")
    assert points == 12 and counts[0] == 256
    assert counts == sorted(counts, reverse=True) and len(set(counts)) > 2
    caption = page.locator("figcaption").inner_text()
    assert f"{counts[-1]} of 256 patches kept" in caption


@pytest.mark.parametrize("width", [1440, 390])
def test_the_thumb_stands_under_its_bar(browser, address, recorded, width):
    with visit(browser, address, width, 900, alone=True) as page:
        alive(page)
        pick(page, recorded["which"])
        slider, track = page.get_by_role("slider", name="Where in the model"), page.locator(".vt-track")
        bars = page.locator(".vt-bars i")
        assert bars.count() > 2
        for index in range(bars.count()):
            slider.fill(str(index))
            bar, frame = bars.nth(index).bounding_box(), track.bounding_box()
            shot = Image.open(io.BytesIO(track.screenshot())).convert("RGB")
            accent = abs(np.asarray(shot).astype(int) - np.array([0x0F, 0x76, 0x6E])).max(-1) < 30
            below = bar["y"] + bar["height"] - frame["y"]
            row = next(row for row in np.flatnonzero(accent.any(1)) if row > below) + 1
            dot = np.flatnonzero(accent[row])  # above and below the rail there is the dot alone
            assert frame["x"] + dot.mean() == pytest.approx(bar["x"] + bar["width"] / 2, abs=2)
        ends = [bars.first.bounding_box(), bars.last.bounding_box()]
        rail = slider.bounding_box()
        assert rail["x"] <= ends[0]["x"] and rail["x"] + rail["width"] >= ends[1]["x"] + ends[1]["width"]
        page.mouse.click(ends[0]["x"] + 3, rail["y"] + rail["height"] / 2)  # under the edge of the first bar
        expect(slider).to_have_value("0")


# ---- for everybody ----


def test_canvases_say_what_they_show(page):
    words = page.locator("canvas").first.get_attribute("aria-label")
    assert "of 256 patches kept" in words and "Arrow keys" in words
    assert np.all([image.get_attribute("alt") is not None for image in page.locator("img").all()])
