"""A served page, a real browser, and what a person sees in it."""

from __future__ import annotations

import base64
import contextlib
import io
import json
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Literal
from weakref import WeakKeyDictionary

import numpy as np
from PIL import Image
from playwright.sync_api import Browser, Locator, Page, Request, TimeoutError, expect, sync_playwright

ROOT = Path(__file__).resolve().parents[2]
PATIENCE = 120_000
"""Milliseconds. A run takes seconds, unless the machine has much else to do."""


FLAGS = ["--no-sandbox", "--disable-gpu", "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"]
Theme = Literal["light", "dark"]

_asked: WeakKeyDictionary[Page, float] = WeakKeyDictionary()
"""When each page last asked the server for something."""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextlib.contextmanager
def app(*arguments: str) -> Iterator[str]:
    """``python app.py`` as a person starts it; gives its address."""
    port = free_port()
    command = [sys.executable, "app.py", "--port", str(port), *arguments]
    with (
        tempfile.TemporaryFile() as log,  # a pipe that nobody reads would fill up and block the app
        subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=subprocess.STDOUT) as process,
    ):
        try:
            address = f"http://127.0.0.1:{port}"
            for _ in range(600):
                with contextlib.suppress(OSError):
                    assert health(address)["ok"]
                    break
                if process.poll() is not None:
                    log.seek(0)
                    raise AssertionError(log.read().decode())
                time.sleep(0.2)
            else:
                raise AssertionError("the app did not start within two minutes")
            yield address
        finally:
            process.terminate()


def health(address: str) -> dict:
    with urllib.request.urlopen(f"{address}/health", timeout=5) as answer:
        return json.load(answer)


@contextlib.contextmanager
def chromium() -> Iterator[Browser]:
    """The system's Chromium, or Playwright's own; an error, not a skip, when there is none."""
    path = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=FLAGS)
        try:
            yield browser
        finally:
            browser.close()


@contextlib.contextmanager
def visit(
    browser: Browser,
    address: str,
    width: int = 1440,
    height: int = 900,
    theme: Theme = "light",
    alone: bool = False,
) -> Iterator[Page]:
    """A page that can reach 127.0.0.1 only; any attempt to reach more, and any error in a script, fails.

    alone: as another person's browser, which shares neither storage nor cookies with the others.
    """
    context = browser.contexts[0] if browser.contexts and not alone else browser.new_context()
    page = context.new_page()
    page.set_viewport_size({"width": width, "height": height})
    page.emulate_media(color_scheme=theme)
    page.set_default_timeout(PATIENCE)
    strangers, errors = [], []

    def note(request: Request) -> None:
        _asked[page] = time.monotonic()
        if not request.url.startswith(("http://127.0.0.1:", "data:", "blob:")):
            strangers.append(request.url)

    page.on("request", note)
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
    try:
        page.goto(address)
        yield page
        assert not strangers, f"the page asked others for {strangers}"
        assert not errors, f"the browser complained: {errors}"
    finally:
        page.close()
        if alone:
            context.close()


def alive(page: Page) -> None:
    """Wait until the map is drawn and the bars are there."""
    page.locator("canvas").first.wait_for()
    page.locator(".js-plotly-plot .bars path").first.wait_for(state="attached")
    page.wait_for_function("document.querySelector('canvas').width > 300")
    settle(page)


def settle(page: Page, quiet: float = 0.4) -> None:
    """Wait until the page has asked the server for nothing for a while. (It is never idle for good: it keeps
    a line open by which the server sees that it is still there.)"""
    while time.monotonic() - _asked[page] < quiet:
        page.wait_for_timeout(100)


def listen(page: Page) -> list[str]:
    """The addresses that the page asks for from now on, when what went on has certainly ended."""
    settle(page, 1.5)
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    return asked


def run(page: Page) -> str:
    """Press Run and wait for its end; what the status line says then."""
    page.evaluate("document.querySelector('#vt-ask .vt-status').textContent = ''")
    page.locator("#vt-run").click()
    page.wait_for_function(
        "/^(Done|Not run|Stopped|Something)/.test(document.querySelector('#vt-ask .vt-status').innerText)"
    )
    settle(page)
    return page.locator("#vt-ask .vt-status").inner_text()


def tab(page: Page, name: str) -> None:
    """Show a tab: "Run", "Compare", "Sweep"."""
    page.get_by_role("tab", name=name, exact=True).click()
    page.locator(f"#vt-tab-{name.lower()}").wait_for()
    page.wait_for_timeout(300)


OVER = "Done|Smallest found|Not run|Stopped|Something"
"""How the last words of a tab's work begin."""


def ended(page: Page, name: str) -> str:
    """Wait for the end of a tab's work; what its status line says then."""
    line = page.locator(f"#vt-{name}-status .vt-status")
    expect(line).to_have_text(re.compile(f"^({OVER})"))
    settle(page)
    return line.inner_text()


def start(page: Page, name: str) -> str:
    """Press a tab's Start and wait for its end."""
    page.evaluate("id => (document.querySelector(id).textContent = '')", f"#vt-{name}-status .vt-status")
    page.locator(f"#vt-{name}-start").click()
    return ended(page, name)


def stop(page: Page, name: str, under_way: str, button: str | None = None) -> None:
    """Begin a tab's work and stop it when its line says that it is under way, which takes another try where
    it was quicker."""
    line = page.locator(f"#vt-{name}-status .vt-status")
    for _ in range(5):
        line.evaluate("node => (node.textContent = '')")
        page.locator(button or f"#vt-{name}-start").click()
        expect(line).to_have_text(re.compile(f"^({under_way}|{OVER})"))
        with contextlib.suppress(TimeoutError):
            page.locator(f"#vt-{name}-stop:enabled").click(timeout=2000)
        if ended(page, name) == "Stopped.":
            return
    raise AssertionError("the work was over each time before it could be stopped")


def copied(page: Page) -> tuple[str, str]:
    """The link that the button puts on the clipboard, and what the page says."""
    page.evaluate("navigator.clipboard.writeText('')")
    page.locator(".vt-saved").evaluate("line => (line.textContent = '')")
    page.locator("#vt-link").click()
    said = page.locator(".vt-saved")
    expect(said).to_contain_text("Link copied.")
    return page.evaluate("navigator.clipboard.readText()"), said.inner_text()


def pixels(canvas: Locator) -> np.ndarray:
    """[height, width, 3] int: the canvas as it is drawn."""
    data = canvas.evaluate("node => node.toDataURL('image/png').split(',')[1]")
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB")).astype(int)


def patch(image: np.ndarray, box: tuple[float, float, float, float], size: tuple[int, int]) -> np.ndarray:
    """The inner part of a patch on a drawn canvas. box: in the upload's pixels, size: of the upload."""
    height, width = image.shape[:2]
    x0, x1 = (round(x / size[0] * width) for x in (box[0], box[2]))
    y0, y1 = (round(y / size[1] * height) for y in (box[1], box[3]))
    dx, dy = (x1 - x0) // 4, (y1 - y0) // 4
    return image[y0 + dy : y1 - dy, x0 + dx : x1 - dx]


def colourful(part: np.ndarray) -> float:
    """How far from grey the pixels are; the median, so that a line across does not count."""
    return float(np.median(part.max(-1) - part.min(-1)))
