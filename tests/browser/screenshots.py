"""Pictures of the page in its main states: ``python -m tests.browser.screenshots OUT [STATE …]``."""

from __future__ import annotations

import sys
from pathlib import Path

from playwright.sync_api import Page

sys.path.insert(0, str(Path(__file__).parent))
from browsing import alive, app, chromium, run, settle, start, tab, visit

from ui.tour import STEPS


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


def compare(page: Page) -> None:
    tab(page, "Compare")
    start(page, "compare")
    page.locator(".vt-cell canvas").first.hover(position={"x": 80, "y": 90})


def compare_three(page: Page) -> None:
    pick("Which of three?")(page)
    compare(page)


def sweep(page: Page) -> None:
    tab(page, "Sweep")
    start(page, "sweep")


def paint(page: Page) -> None:
    tab(page, "Paint")
    page.locator("#vt-painting canvas").first.wait_for()
    settle(page)
    start(page, "paint")
    start(page, "evidence")


def paint_three(page: Page) -> None:
    pick("Which of three?")(page)
    paint(page)


def robustness(page: Page) -> None:
    tab(page, "Robustness")
    page.get_by_label("Blur").check()
    start(page, "robustness")


def robustness_three(page: Page) -> None:
    pick("Which of three?")(page)
    tab(page, "Robustness")
    start(page, "robustness")
    page.check("input[value=chosen]")


def scrubbed(page: Page) -> None:
    pick("Which of three?")(page)
    page.get_by_role("slider", name="Where in the model").focus()
    page.keyboard.press("ArrowLeft")


def linked(page: Page) -> None:
    page.goto(f"{page.url}?q=What+is+this%3F&method=divprune&keep=20")
    settle(page)


def learn(page: Page) -> None:
    tab(page, "Learn")
    page.locator(".vt-method-card summary").first.click()


def touring(id: str):
    """The tour at a step; what is on the screen, as its card lies there."""

    def steps(page: Page) -> None:
        page.evaluate("id => localStorage.setItem('vtprune-tour', id)", id)
        page.locator(".vt-header .vt-tour-start").click()
        page.locator(".vt-tour-ring").wait_for()
        page.wait_for_timeout(2000)

    return steps


STATES = {
    "opening": lambda page: None,
    "scores": scores,
    "three": pick("Which of three?"),
    "sentence": pick("In a sentence"),
    "scrubbed": scrubbed,
    "linked": linked,
    "after-run": run,
    "error": failed,
    "empty": empty,
    "compare": compare,
    "compare-three": compare_three,
    "sweep": sweep,
    "paint": paint,
    "paint-three": paint_three,
    "robustness": robustness,
    "robustness-three": robustness_three,
    "learn": learn,
    **{f"tour-{step.id}": touring(step.id) for step in STEPS},
}


def main(out: Path, names: list[str]) -> None:
    """Every state, or those that are named, at both widths in both themes."""
    out.mkdir(parents=True, exist_ok=True)
    with app() as address, chromium() as browser:
        for width, height in ((1440, 900), (390, 844)):
            for theme in ("light", "dark"):
                for name in names or STATES:
                    with visit(browser, address, width, height, theme, alone=True) as page:
                        alive(page)
                        STATES[name](page)
                        page.wait_for_timeout(500)
                        whole = not name.startswith("tour-")
                        page.screenshot(path=out / f"{name}-{width}-{theme}.png", full_page=whole)


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "screenshots"), sys.argv[2:])
