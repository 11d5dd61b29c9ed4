"""Pictures of the page in its main states: ``python -m tests.browser.screenshots OUT``."""

from __future__ import annotations

import sys
from pathlib import Path

from playwright.sync_api import Page

sys.path.insert(0, str(Path(__file__).parent))
from browsing import alive, app, chromium, run, settle, visit


def pick(name: str):
    def steps(page: Page) -> None:
        page.locator(".vt-choice", has_text=name).click()
        settle(page)

    return steps


def scores(page: Page) -> None:
    page.check("input[value=scores]")
    page.locator("canvas").first.hover(position={"x": 80, "y": 90})


def empty(page: Page) -> None:
    page.locator("#vt-gallery button[aria-label=Clear]").first.click()
    settle(page)


def failed(page: Page) -> None:
    page.locator("textarea").fill(" ")
    run(page)


STATES = {
    "opening": lambda page: None,
    "scores": scores,
    "three": pick("Which of three?"),
    "sentence": pick("In a sentence"),
    "after-run": run,
    "error": failed,
    "empty": empty,
}


def main(out: Path) -> None:
    """Every state at both widths in both themes."""
    out.mkdir(parents=True, exist_ok=True)
    with app() as address, chromium() as browser:
        for width, height in ((1440, 900), (390, 844)):
            for theme in ("light", "dark"):
                for name, steps in STATES.items():
                    with visit(browser, address, width, height, theme) as page:
                        alive(page)
                        steps(page)
                        page.wait_for_timeout(500)
                        page.screenshot(path=out / f"{name}-{width}-{theme}.png", full_page=True)


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "screenshots"))
