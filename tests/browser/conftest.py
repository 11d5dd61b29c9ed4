"""What the browser tests share: the served app, the browser, a page of it, and the recorded examples."""

from __future__ import annotations

import pytest
from browsing import PATIENCE, alive, app, chromium, visit
from playwright.sync_api import expect

from vtprune import examples

expect.set_options(timeout=PATIENCE)


@pytest.fixture(scope="session")
def address():
    """Of an app that serves all tests; those that change its model start one of their own."""
    with app() as address:
        yield address


@pytest.fixture(scope="module")
def browser():
    """With storage that the pages of a module share."""
    with chromium() as browser:
        yield browser


@pytest.fixture
def page(browser, address):
    """The app as it opens."""
    with visit(browser, address) as page:
        alive(page)
        yield page


@pytest.fixture(scope="module")
def recorded():
    """The examples by name."""
    return {example.name: example for example in examples.load()}
