"""Choosing another model in a real browser."""

from __future__ import annotations

import shutil

import pytest
from browsing import alive, app, health, run, settle, visit
from playwright.sync_api import expect

from vtprune.models import MODELS

pytestmark = pytest.mark.browser


def test_another_model_is_loaded_and_a_broken_one_is_not(browser, tiny_folder, tmp_path):
    broken = shutil.copytree(tiny_folder, tmp_path / "broken")
    (broken / "model.safetensors").write_bytes(b"nothing")
    with (
        app("--device", "cpu") as address,
        visit(browser, address) as page,
        visit(browser, address, width=390, height=844) as other,
    ):
        alive(page)
        page.get_by_role("button", name="Choose another model").click()
        expect(page.locator(".vt-models tbody tr")).to_have_count(len(MODELS))
        expect(page.locator(".vt-models .is-used")).to_contain_text("the bundled model")
        expect(page.locator("#vt-models")).to_contain_text("for all")
        field = page.get_by_label("Another model")

        field.fill(str(tiny_folder))
        page.locator("#vt-load").click()
        expect(page.locator(".vt-device")).to_contain_text(str(tiny_folder))
        expect(page.locator("#vt-models .vt-status")).to_contain_text("is in use")
        assert health(address)["model"] == str(tiny_folder)
        settle(page)
        assert run(page).startswith("Done")
        expect(page.locator(".vt-numbers")).to_contain_text(str(tiny_folder))
        page.locator(".vt-theme").click()  # the header's button goes on working
        expect(page.locator("body.dark")).to_have_count(1)

        field.fill(str(broken))
        page.locator("#vt-load").click()
        expect(page.locator("#vt-models .vt-error")).to_contain_text("as before")
        expect(page.locator(".vt-device")).to_contain_text(str(tiny_folder))

        assert other.evaluate("document.documentElement.scrollWidth") <= 390
        assert run(other).startswith("Done")
        expect(other.locator(".vt-device")).to_contain_text(str(tiny_folder))

        page.get_by_role("button", name="Load the bundled model").click()
        expect(page.locator(".vt-device")).to_contain_text("the bundled model")
        expect(page.locator(".vt-models .is-used")).to_contain_text("the bundled model")
