"""Everything by keys alone, and always seen where one is, in a real browser."""

from __future__ import annotations

import pytest
from browsing import pixels, settle, start, tab
from playwright.sync_api import expect

pytestmark = pytest.mark.browser

FOCUSED = """() => {
  const node = document.activeElement;
  if (!node || node === document.body) return null;
  const seen = (part) => {
    const { outlineStyle, outlineWidth } = part ? getComputedStyle(part) : {};
    return part && outlineStyle !== "none" && parseFloat(outlineWidth) >= 2;
  };
  const { top, bottom, width } = node.getBoundingClientRect();
  window.stops = window.stops || [];
  const again = window.stops.includes(node);
  window.stops.push(node);
  return {
    what: node.outerHTML.slice(0, 160),
    again,
    outlined: seen(node) || seen(node.nextElementSibling), // a radio button is hidden behind its label
    there: width > 0 && bottom > 0 && top < innerHeight,
  };
}"""


def stops(page, most=150):
    """What the Tab key comes to, from the top of the page to its end."""
    page.evaluate("document.activeElement.blur(); window.scrollTo(0, 0)")
    page.mouse.click(3, 3)
    found = []
    for _ in range(most):
        page.keyboard.press("Tab")
        stop = page.evaluate(FOCUSED)
        if stop is None:
            continue  # an open list that closes, or the end of the page
        if stop["again"]:
            break
        found.append(stop)
    return found


@pytest.mark.parametrize("name", ["Run", "Compare", "Paint"])
def test_what_has_the_focus_is_seen(page, name):
    page.get_by_role("button", name="Options").click()
    page.get_by_role("button", name="Choose another model").click()
    tab(page, name)
    settle(page)
    if name == "Compare":
        assert start(page, "compare").startswith("Done")
    page.locator("canvas:visible").first.wait_for()
    found = stops(page)
    assert len(found) > 40 and any("canvas" in stop["what"] for stop in found)
    assert any("textarea" in stop["what"] for stop in found)
    for stop in found:
        assert stop["outlined"] and stop["there"], stop


def test_the_small_maps_of_compare_are_walked_by_keys(page):
    tab(page, "Compare")
    assert start(page, "compare").startswith("Done")
    canvases = page.locator(".vt-cell canvas")
    page.wait_for_function("[...document.querySelectorAll('.vt-cell canvas')].every(c => c.width > 150)")
    readout = page.locator(".vt-comparison .vt-readout")
    before = [pixels(canvases.nth(i)) for i in (0, 1)]
    second = canvases.nth(1)
    assert "Arrow keys move from patch to patch" in second.get_attribute("aria-label")
    second.focus()
    for key, words in (
        ("ArrowRight", "Patch 0 · row 1, column 1"),
        ("ArrowRight", "Patch 1 · row 1, column 2"),
        ("ArrowDown", "Patch 17 · row 2, column 2"),
        ("ArrowLeft", "Patch 16 · row 2, column 1"),
        ("ArrowLeft", "Patch 16 · row 2, column 1"),  # the edge
        ("ArrowUp", "Patch 0 · row 1, column 1"),
    ):
        page.keyboard.press(key)
        expect(readout).to_contain_text(words)
    page.keyboard.press("Enter")
    expect(readout).to_contain_text("pinned")
    for i in (0, 1):  # marked on the one with the focus, and on the others
        assert (abs(pixels(canvases.nth(i)) - before[i]) > 60).any()
    page.keyboard.press("Tab")  # to the button below; what is pinned stays
    expect(second).not_to_be_focused()
    expect(readout).to_contain_text("Patch 0 ")
    second.focus()
    page.keyboard.press("Escape")
    expect(readout).to_contain_text("Point at a patch")
