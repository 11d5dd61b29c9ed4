"""What axe-core finds on each tab when something was done on it, with all that can be opened open, in both
themes."""

from __future__ import annotations

import pytest
from axe_playwright_python.sync_playwright import Axe
from browsing import alive, run, settle, start, tab, visit
from playwright.sync_api import expect

from ui.tabs import TABS

pytestmark = pytest.mark.browser

RULES = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa"]


@pytest.fixture(scope="module", params=["light", "dark"])
def page(request, browser, address):
    """A page that was run once; each test leaves it on the tab that it looked at."""
    with visit(browser, address, theme=request.param, alone=True) as page:
        alive(page)
        assert run(page).startswith("Done")
        yield page


def check(page):
    """Nothing is found on the page as it is."""
    page.mouse.move(2, 2)
    page.wait_for_timeout(400)  # colours on their way from one to another
    found = Axe().run(page, options={"runOnly": RULES}).response
    problems = [
        f"{rule['id']}: {node['html'][:160]} {node['failureSummary']}"
        for rule in found["violations"]
        for node in rule["nodes"]
    ]
    assert not problems, "\n".join(problems)


def test_a_run(page):
    tab(page, "Run")
    for more in page.locator("summary:visible").all():
        more.click()
    check(page)


def test_the_open_options(page):
    page.get_by_role("button", name="Options").click()
    expect(page.locator(".vt-options")).to_be_visible()
    check(page)


def test_the_open_choice_of_models(page):
    page.get_by_role("button", name="Choose another model").click()
    expect(page.locator(".vt-models tbody tr").first).to_be_visible()
    check(page)


def test_the_open_list_of_methods(page):
    page.locator("#vt-method input").click()
    page.get_by_role("option").first.wait_for()
    check(page)
    page.keyboard.press("Escape")


@pytest.mark.parametrize("one", TABS, ids=lambda one: one.name)
def test_a_tab_with_its_results(page, one):
    tab(page, one.title)
    settle(page)
    names = {"paint": ("paint", "evidence")}.get(one.name, (one.name,))
    for name in names:
        if page.locator(f"#vt-{name}-start").count():
            assert start(page, name).startswith("Done")
    if page.locator(f"#vt-tab-{one.name} canvas:visible").count():
        page.locator(f"#vt-tab-{one.name} canvas:visible").first.click()  # a patch is pinned, and told
    check(page)
