"""The guided tour and the Learn tab in a real browser: the tour moves the page itself, and comes back."""

from __future__ import annotations

import numpy as np
import pytest
from axe_playwright_python.sync_playwright import Axe
from browsing import alive, colourful, patch, pixels, run, settle, tab, visit
from playwright.sync_api import expect

from ui.tour import STEPS
from vtprune import list_methods, showcase

pytestmark = pytest.mark.browser

CARD = ".vt-tour-card"
PLACES = {step.id: index for index, step in enumerate(STEPS)}


@pytest.fixture
def page(browser, address):
    """The app as it opens for somebody who was never there."""
    with visit(browser, address, alone=True) as page:
        alive(page)
        yield page


@pytest.fixture(scope="module")
def learning(browser, address):
    """A page on the Learn tab, with its pictures drawn."""
    with visit(browser, address, alone=True) as page:
        alive(page)
        tab(page, "Learn")
        page.wait_for_function(
            "document.querySelectorAll('.vt-method-card canvas').length > 20 && "
            "[...document.querySelectorAll('.vt-method-card canvas')].every(c => c.width > 150)"
        )
        page.wait_for_timeout(300)
        yield page


def begin(page, id="tokens"):
    """Start the tour at a step."""
    if id != STEPS[0].id:
        page.evaluate("id => localStorage.setItem('vtprune-tour', id)", id)
    page.locator(".vt-header .vt-tour-start").click()
    arrived(page, id)


def following(page):
    page.locator(".vt-tour-next").click()


def arrived(page, id):
    """The step is shown, its card has the focus, and the page came to rest under its ring."""
    expect(page.locator(".vt-tour-count")).to_have_text(f"Step {PLACES[id] + 1} of 10")
    expect(page.locator(f"{CARD} h2")).to_have_text(STEPS[PLACES[id]].title)
    expect(page.locator(CARD)).to_be_focused()
    expect(page.locator(".vt-tour-ring")).to_be_visible()
    settle(page)
    last = None
    for _ in range(40):
        page.wait_for_timeout(200)
        now = page.locator(".vt-tour-ring").bounding_box(), page.locator(CARD).bounding_box()
        if now == last:
            return
        last = now
    raise AssertionError("the page does not come to rest")


def pressed(page):
    return page.locator(".vt-strip [aria-pressed=true]").get_attribute("data-id")


def answers(page):
    return [" ".join(text.split()) for text in page.locator(".vt-pair p").all_inner_texts()]


def alive_line(page):
    return page.locator("#vt-see .vt-alive")


def seen(page, id):
    """The real page shows what the step speaks about."""
    view = page.locator("#vt-see .vt-views input:checked").get_attribute("value")
    keep = page.locator("#vt-keep input[type=number]").input_value()
    expect(page.get_by_role("tab", selected=True)).to_have_text("Run")
    if id == "tokens":
        assert (pressed(page), view) == ("sign", "picture")
        expect(alive_line(page)).to_contain_text("256 of 256 alive")
        expect(page.locator("#vt-see .vt-readout")).to_contain_text("Patch 119 ")
    elif id == "patches":
        assert view == "kept"
        expect(page.locator("#vt-see .vt-readout")).to_contain_text("Point at a patch")
        expect(page.locator("#vt-see figcaption")).to_contain_text("all 256 patches")
    elif id == "cost":
        expect(page.locator(".js-plotly-plot .bars path").first).to_be_visible()
    elif id == "scores":
        assert view == "scores"
        expect(page.locator("#vt-see .vt-scale")).to_be_visible()
    elif id == "budget":
        assert (view, keep) == ("kept", "25")
        expect(page.locator("#vt-see figcaption")).to_contain_text("64 of 256 patches kept")
    elif id == "same":
        assert answers(page) == ["7", "7"]
    elif id == "layers":
        assert (pressed(page), page.locator("#vt-see canvas").count()) == ("which", 3)
        expect(alive_line(page)).to_contain_text("768 of 768 alive")
    elif id == "broken":
        assert (pressed(page), keep, answers(page)) == ("count", "15", ["1", "0"])
    elif id == "why":
        expect(page.locator("#vt-see .vt-readout")).to_contain_text("Patch 254 ")
        expect(page.locator("#vt-see .vt-readout")).to_contain_text("dropped")
        expect(page.locator("#vt-see .vt-readout")).to_contain_text("53rd of 256")
    else:
        assert (id, page.locator("#vt-method input").input_value()) == ("mend", "FasterVLM")


def uncovered(page, id):
    """What the step points at is in view, and the card beside it, not over it."""
    width, height = page.viewport_size["width"], page.viewport_size["height"]
    card, ring = (page.locator(part).bounding_box() for part in (CARD, ".vt-tour-ring"))
    assert card["x"] >= 0 and card["x"] + card["width"] <= width + 1
    assert card["y"] >= 0 and card["y"] + card["height"] <= height + 1
    assert ring["y"] >= -1 and ring["y"] + ring["height"] <= height + 1, id
    apart = (
        ring["x"] + ring["width"] <= card["x"] + 1
        or card["x"] + card["width"] <= ring["x"] + 1
        or ring["y"] + ring["height"] <= card["y"] + 1
        or card["y"] + card["height"] <= ring["y"] + 1
    )
    assert apart, f"{id}: the card covers what it points at"
    assert page.evaluate("document.documentElement.scrollWidth") <= width


@pytest.mark.parametrize(("width", "height"), [(1440, 900), (390, 844)])
def test_ten_steps_move_the_real_page(browser, address, width, height):
    with visit(browser, address, width, height, alone=True) as page:
        page.emulate_media(reduced_motion="reduce")
        alive(page)
        start = page.locator(".vt-header .vt-tour-start")
        start.click()
        for id in PLACES:
            arrived(page, id)
            seen(page, id)
            uncovered(page, id)
            assert page.locator(".vt-tour-task").is_visible() == (STEPS[PLACES[id]].task is not None)
            expect(page.locator(".vt-tour-done")).to_have_text("")  # nobody did anything yet
            following(page)
        expect(page.locator(CARD)).to_have_count(0)
        expect(start).to_be_focused()
        expect(start).to_have_text("Take the tour")  # it came to its end, so it begins anew


def test_the_card_is_a_named_dialog_that_lets_the_page_be_used(page):
    begin(page)
    card = page.get_by_role("dialog", name="A picture is 256 tokens")
    expect(card).to_have_attribute("aria-modal", "false")
    expect(page.locator("#vt-tour-text")).to_contain_text("one visual token")
    assert card.get_attribute("aria-describedby") == "vt-tour-text"
    expect(page.get_by_role("button", name="Back")).to_be_disabled()
    page.keyboard.press("Tab")
    expect(page.get_by_role("button", name="Leave")).to_be_focused()
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")  # Next; Back is off
    arrived(page, "patches")
    page.get_by_role("button", name="Back").click()
    arrived(page, "tokens")
    page.locator("textarea").first.fill("What is this?")  # the page can be used all the same
    following(page)
    arrived(page, "patches")  # and what was changed is put back, for this step speaks of the example
    expect(page.locator("textarea").first).to_have_value("Read the number on the sign.")


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [1440, 390])
def test_axe_finds_nothing_in_the_card(browser, address, width, theme):
    with visit(browser, address, width, 844, theme, alone=True) as page:
        alive(page)
        begin(page, "patches")
        page.locator("#vt-see canvas").focus()
        page.keyboard.press("ArrowRight")
        expect(page.locator(".vt-tour-done")).not_to_have_text("")  # with all that it can show
        found = Axe().run(page, ".vt-tour-card").response["violations"]
        assert not found, [(rule["id"], [node["html"][:120] for node in rule["nodes"]]) for rule in found]


def test_moving_the_slider_is_noticed_and_only_when_it_is_low_enough(page):
    begin(page, "budget")
    page.get_by_role("button", name="Take me there").click()
    slider = page.locator("#vt-keep input[type=range]")
    expect(slider).to_be_focused()
    for _ in range(15):
        page.keyboard.press("ArrowLeft")  # 10 %: not below
    expect(page.locator("#vt-keep input[type=number]")).to_have_value("10")
    page.wait_for_timeout(500)
    expect(page.locator(".vt-tour-done")).to_have_text("")
    page.keyboard.press("ArrowLeft")
    expect(page.locator(".vt-tour-done")).to_contain_text("highest scores of all")
    expect(page.locator("#vt-see figcaption")).to_contain_text("23 of 256 patches kept")
    expect(slider).to_be_focused()  # nobody is taken away from what they do
    following(page)
    arrived(page, "same")  # where the budget is what it was
    expect(page.locator("#vt-keep input[type=number]")).to_have_value("25")


def test_pointing_and_scrubbing_are_noticed(page):
    begin(page, "patches")
    expect(page.locator(".vt-tour-done")).to_have_text("")
    page.locator("#vt-see canvas").hover(position={"x": 100, "y": 100})
    expect(page.locator(".vt-tour-done")).to_contain_text("its number")
    page.mouse.move(2, 2)
    page.evaluate("localStorage.setItem('vtprune-tour', 'layers')")
    page.keyboard.press("Escape")
    begin(page, "layers")
    page.get_by_role("button", name="Take me there").click()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    expect(page.locator(".vt-tour-done")).to_have_text("")  # layers 0 and 1 still have everything
    page.keyboard.press("ArrowRight")
    expect(page.locator(".vt-tour-done")).to_contain_text("288 of the 768 are left")
    expect(alive_line(page)).to_contain_text("288 of 768 alive")


def test_the_count_is_mended_by_hand(page):
    begin(page, "mend")
    page.locator("#vt-method input").click()
    page.get_by_role("option", name="ATP", exact=True).click()
    page.wait_for_timeout(500)
    expect(page.locator(".vt-tour-done")).to_have_text("")  # it was not run yet
    assert run(page).startswith("Done")
    expect(page.locator(".vt-tour-done")).to_contain_text("the count is 1 again")
    assert answers(page) == ["1", "1"]


def test_escape_leaves_from_anywhere_and_the_place_is_remembered(page):
    begin(page)
    for id in ("patches", "cost", "scores"):
        following(page)
        arrived(page, id)
    page.locator("#vt-keep input[type=range]").focus()
    page.keyboard.press("Escape")
    expect(page.locator(CARD)).to_have_count(0)
    expect(page.locator(".vt-tour-ring")).to_have_count(0)
    start = page.locator(".vt-header .vt-tour-start")
    expect(start).to_be_focused()
    expect(start).to_have_text("Continue the tour (step 4 of 10)")
    page.reload()
    alive(page)
    expect(start).to_have_text("Continue the tour (step 4 of 10)")
    start.click()
    arrived(page, "scores")
    seen(page, "scores")
    page.get_by_role("button", name="Leave").click()
    page.locator(".vt-header").get_by_role("button", name="Start over").click()
    arrived(page, "tokens")
    page.keyboard.press("Escape")
    expect(start).to_have_text("Take the tour")
    expect(page.locator(".vt-header .vt-tour-again")).to_be_hidden()


def test_without_storage_there_is_a_tour_all_the_same(browser, address):
    with visit(browser, address, alone=True) as page:
        page.add_init_script(
            "Object.defineProperty(window, 'localStorage', {get() { throw new Error('forbidden'); }})"
        )
        page.goto(address)
        alive(page)
        page.locator(".vt-header .vt-tour-start").click()
        arrived(page, "tokens")
        following(page)
        arrived(page, "patches")
        page.keyboard.press("Escape")
        expect(page.locator(".vt-header .vt-tour-start")).to_contain_text("step 2 of 10")


# ---- the Learn tab ----


def test_the_list_of_steps_leads_into_the_tour(page):
    tab(page, "Learn")
    expect(page.locator(".vt-tour-steps button")).to_have_count(10)
    expect(page.locator("#vt-tour .vt-tour-start")).to_have_text("Take the tour")
    link = page.locator(".vt-tour-steps button").nth(8)
    link.click()
    arrived(page, "why")
    seen(page, "why")
    page.keyboard.press("Escape")
    tab(page, "Learn")
    expect(link).to_have_attribute("aria-current", "step")
    expect(page.locator("#vt-tour .vt-tour-start")).to_have_text("Continue the tour (step 9 of 10)")


def test_a_cards_picture_shows_what_its_method_kept(learning, recorded):
    example, shown = recorded[showcase.EXAMPLE], showcase.load()
    size = example.run.images[0].width, example.run.images[0].height
    for name in ("divprune", "random"):
        drawn = pixels(learning.locator(f".vt-method-card[data-method={name}] canvas"))
        parts = [patch(drawn, box, size) for box in example.run.segments[0].boxes.tolist()]
        kept = set(shown[name].keep)
        colours = [colourful(part) for part in parts]
        assert max(colour for token, colour in enumerate(colours) if token not in kept) < 20
        assert np.median([colours[token] for token in kept]) > 25
        light = [part.mean() for part in parts]
        assert np.median([light[t] for t in kept]) > 20 + np.median(
            [light[t] for t in range(256) if t not in kept]
        )


def test_a_card_says_what_the_records_say(learning):
    for name, one in showcase.load().items():
        card = learning.locator(f".vt-method-card[data-method={name}]")
        info = list_methods()[name]
        expect(card.locator("h3")).to_have_text(info.title)
        expect(card.locator(".vt-card-said")).to_contain_text(
            f"{'✓' if one.right else '≠'} Says {one.answer}"
        )
        if info.paper:
            expect(card.get_by_role("link")).to_have_attribute("href", info.paper)
    card = learning.locator(".vt-method-card[data-method=fastervlm]")
    expect(card).to_contain_text("Where it falls short: Cheap and steady, but")
    formula = card.get_by_text("score_i = mean over heads")
    expect(formula).to_be_hidden()
    card.locator("summary").click()
    expect(formula).to_be_visible()
    expect(card).to_contain_text("Needs the CLS attention of the encoder.")


def test_groups_and_search_choose_cards(learning):
    visible = learning.locator(".vt-method-card:visible")
    total = len(showcase.load())
    expect(visible).to_have_count(total)
    learning.check(".vt-cards input[value=baseline]")
    assert visible.evaluate_all("cards => cards.map(card => card.dataset.method)") == [
        "downsample",
        "random",
        "uniform",
    ]
    expect(learning.locator(".vt-cards [role=status]")).to_contain_text(f"3 of {total} methods")
    learning.check(".vt-cards input[value=all]")
    learning.get_by_role("searchbox").fill("determinantal CLIP")
    assert visible.evaluate_all("cards => cards.map(card => card.dataset.method)") == ["cdpruner"]
    learning.get_by_role("searchbox").fill("no such words")
    expect(visible).to_have_count(0)
    learning.get_by_role("searchbox").fill("")
    expect(visible).to_have_count(total)


def test_pointing_marks_the_patch_in_all_pictures(learning):
    learning.locator(".vt-method-card[data-method=atp] canvas").hover(position={"x": 4, "y": 4})
    kept = sum(0 in one.keep for one in showcase.load().values())
    expect(learning.locator(".vt-cards .vt-readout")).to_contain_text(
        f"Patch 0 · row 1, column 1 · kept by {kept} "
    )
    learning.mouse.move(2, 2)


def test_try_it_sets_the_method_and_shows_run(page):
    tab(page, "Learn")
    page.get_by_role("button", name="Try it: DivPrune").click()
    expect(page.get_by_role("tab", selected=True)).to_have_text("Run")
    expect(page.locator("#vt-method input")).to_have_value("DivPrune")
    expect(page.locator("#vt-ask .vt-method")).to_contain_text("as different from one another")
    expect(page.locator("#vt-ask .vt-status")).to_contain_text("DivPrune is set: press Run")
    expect(page.locator("#vt-run")).to_be_focused()
    settle(page)
    page.wait_for_timeout(1000)
    settle(page)  # nothing goes on asking the server
    assert run(page).startswith("Done")
    expect(page.locator("#vt-see figcaption")).to_contain_text("64 of 256 patches kept")
