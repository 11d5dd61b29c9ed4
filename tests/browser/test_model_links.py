"""Links that name a model, in a real browser: what they say where another one answers, and what never is in
them."""

from __future__ import annotations

import shutil
from urllib.parse import parse_qs, urlparse

import pytest
from browsing import alive, app, copied, health, settle, visit
from playwright.sync_api import expect

pytestmark = pytest.mark.browser

HUB_ID = "somebody/tiny-llava"
LISTS = (
    ("run", "#vt-method"),
    ("compare", "#vt-compare-methods"),
    ("sweep", "#vt-sweep-methods"),
    ("paint", "#vt-paint-base"),
    ("paint", "#vt-evidence-methods"),
)
"""Where methods are chosen: the tab, and the choice."""


@pytest.fixture
def hub(tiny_folder, tmp_path, monkeypatch):
    """A machine without a network that fetched HUB_ID before."""
    stored = tmp_path / "hub" / "models--somebody--tiny-llava"
    shutil.copytree(tiny_folder, stored / "snapshots" / "0123")
    (stored / "refs").mkdir()
    (stored / "refs" / "main").write_text("0123")
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


def query(link):
    return {name: values[0] for name, values in parse_qs(urlparse(link).query).items()}


def opened(page):
    """Wait until the link is."""
    expect(page.locator("#vt-ask .vt-status")).to_contain_text("Opened from a link")
    settle(page)


def open_picker(page):
    page.get_by_role("button", name="Choose another model").click()


def test_a_link_names_a_model_of_the_hub_and_loads_nothing_by_itself(browser, hub, tiny_folder):
    with app("--device", "cpu") as address:
        with visit(browser, f"{address}?example=word&method=divprune&model={HUB_ID}", alone=True) as page:
            page.context.grant_permissions(["clipboard-read", "clipboard-write"])
            opened(page)
            made = page.locator(".vt-made")
            expect(made).to_contain_text(
                f"This link was made with {HUB_ID}; it is answered by the bundled model now."
            )
            expect(page.locator("#vt-method input")).to_have_value("DivPrune")
            assert health(address)["model"] == "the bundled model"
            assert "model" not in query(copied(page)[0])

            made.get_by_role("button").click()
            field = page.get_by_label("Another model")
            expect(field).to_be_focused()
            expect(field).to_have_value(HUB_ID)
            page.locator("#vt-load").click()
            expect(page.locator(".vt-device")).to_contain_text(HUB_ID)
            expect(made).to_have_count(0)
            settle(page)
            link, _ = copied(page)
            assert query(link)["model"] == HUB_ID and query(link)["method"] == "divprune"

            with visit(browser, link, alone=True) as other:  # made with the model that answers
                expect(other.locator(".vt-device")).to_contain_text(HUB_ID)
                opened(other)
                expect(other.locator("#vt-method input")).to_have_value("DivPrune")
                expect(other.locator(".vt-method")).to_contain_text("after the projector")  # its card, too
                expect(other.locator(".vt-made")).to_have_count(0)

            field.fill(str(tiny_folder))
            page.locator("#vt-load").click()
            expect(page.locator(".vt-device")).to_contain_text(str(tiny_folder))
            settle(page)
            local, _ = copied(page)
            assert "model" not in query(local) and tiny_folder.name not in local

        with visit(browser, link, alone=True) as page:
            expect(page.locator(".vt-made")).to_contain_text(HUB_ID)
            page.locator(".vt-choice", has_text="Count them").click()
            expect(page.locator(".vt-made")).to_have_count(0)  # the link is left behind


def test_on_a_page_that_is_open_to_others_the_link_says_that_its_model_stays(browser, hub):
    with (
        app("--device", "cpu", "--host", "0.0.0.0") as address,
        visit(browser, f"{address}?example=word&model={HUB_ID}", alone=True) as page,
    ):
        opened(page)
        made = page.locator(".vt-made")
        expect(made).to_contain_text(f"made with {HUB_ID}; it is answered by the bundled model now.")
        expect(made).to_contain_text("its model stays")
        expect(made.get_by_role("button")).to_have_count(0)
        open_picker(page)
        expect(page.get_by_label("Another model")).to_have_value("")


def test_what_is_no_id_of_the_hub_is_told_and_goes_nowhere(browser, hub):
    with app("--device", "cpu") as address:
        for bad in ("/etc/models/secret", "..%2Fmodels", "%3Cb%3Ex", "a/b/c"):
            with visit(browser, f"{address}?example=word&model={bad}", alone=True) as page:
                expect(page.locator("#vt-ask .vt-status")).to_contain_text("is no id of a model")
                expect(page.locator(".vt-made")).to_have_count(0)
                open_picker(page)
                expect(page.get_by_label("Another model")).to_have_value("")


def test_the_methods_of_every_list_are_marked_for_the_model_in_use(browser, no_cls):
    def check(page, marks):
        for name, part in LISTS:
            page.locator(f"#vt-tab-{name}-button").click()
            titles = offered(page, part)
            assert "Picked by hand" not in titles and "DivPrune" in titles
            assert any(title.startswith("FasterVLM (not with") for title in titles) == marks, part

    with app("--device", "cpu") as address, visit(browser, address, alone=True) as page:
        alive(page)
        check(page, marks=False)
        open_picker(page)
        page.get_by_label("Another model").fill(str(no_cls))
        page.locator("#vt-load").click()
        expect(page.locator(".vt-device")).to_contain_text(str(no_cls))
        settle(page)
        check(page, marks=True)
        with visit(browser, address, alone=True) as other:  # came when the model was changed already
            expect(other.locator(".vt-device")).to_contain_text(str(no_cls))
            settle(other)
            check(other, marks=True)


def test_a_link_to_a_set_picked_by_hand_still_opens(browser, address):
    with visit(browser, f"{address}?example=word&method=picked&keep=20", alone=True) as page:
        opened(page)
        expect(page.locator("#vt-method input")).to_have_value("Picked by hand")
        page.locator("#vt-run").click()
        expect(page.locator("#vt-ask .vt-status")).to_contain_text("Done")
        assert "ATP" in offered(page, "#vt-method")


@pytest.fixture(scope="module")
def no_cls(tmp_path_factory):
    """A model without a CLS token, which some methods read."""
    from conftest import build_model

    folder = tmp_path_factory.mktemp("models") / "siglip"
    build_model(folder, layers=2, tower="siglip", strategy="full")
    return folder


def offered(page, part):
    """The titles in a list of methods."""
    if page.locator(part).locator(".remove-all").count():  # a list does not offer what was chosen
        page.locator(part).locator(".remove-all").click()
    page.locator(f"{part} input").click()
    page.get_by_role("option").first.wait_for()
    texts = page.get_by_role("option").all_inner_texts()
    page.locator("h1").click()
    return [" ".join(text.replace("✓", "").split()) for text in texts]
