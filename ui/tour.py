"""The guided tour: ten steps as data. assets/web/tour.js walks them on the real page.

What a step says is true of the recorded examples; tests/test_tour.py holds it to them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from ui import screen
from vtprune import methods
from vtprune.examples import Example
from vtprune.types import Run

MAP = "#vt-see .vt-figure"
"""The pictures of the Run tab."""


@dataclass(frozen=True)
class Act:
    """Something that is done to the page. kind: which control is operated; value: what with, None where that
    means to put it back."""

    kind: Literal["tab", "example", "keep", "scrub", "view", "pin"]
    value: str | int | None


@dataclass(frozen=True)
class Task:
    """What a visitor is asked to do.

    words: the asking. kind, value: what counts as done; `pointed` at a patch, `below` a budget in percent,
    `reached` the point of a selection in the model, `ran` with a method. go: the control it is done with, for
    those who cannot point. says: once it is done. at: what to look at then, where that is something else.
    """

    words: str
    kind: Literal["pointed", "below", "reached", "ran"]
    value: str | int | None
    go: str
    says: str
    at: str = ""


@dataclass(frozen=True)
class Step:
    """One step. id: by which a browser remembers where one was. at: a CSS selector of what it speaks about.
    acts: what is done to the page on arrival."""

    id: str
    title: str
    text: str
    at: str
    acts: tuple[Act, ...]
    task: Task | None = None


def on(
    example: str, keep: int, view: str = "kept", scrub: int | None = None, pin: int | None = None
) -> tuple[Act, ...]:
    """The page on a recorded example, at its budget, whatever was done to it before. scrub: a point in the
    model, None for the last; pin: a patch, None for none."""
    return (
        Act("tab", "run"),
        Act("example", example),
        Act("keep", keep),
        Act("scrub", scrub),
        Act("view", view),
        Act("pin", pin),
    )


STEPS = (
    Step(
        "tokens",
        "A picture is 256 tokens",
        "A language model reads tokens: small pieces, most of them words. To show it a picture, the model "
        "cuts it into 16 × 16 square patches and turns each patch, like the one in the orange frame, into "
        "one visual token. So this picture is 256 tokens long, before the first word of the question.",
        MAP,
        on("sign", 25, "picture", scrub=0, pin=119),
    ),
    Step(
        "patches",
        "Every token is a place",
        "Each visual token belongs to one patch of the picture. The line at the bottom of the frame names "
        "the patch that you point at.",
        f"{MAP}, #vt-see .vt-readout",
        on("sign", 25, "kept", scrub=0),
        Task(
            "Point at a patch: with the mouse, a finger, or the arrow keys.",
            "pointed",
            None,
            f"{MAP} canvas",
            "This is the patch, and its number is the token’s number.",
        ),
    ),
    Step(
        "cost",
        "Every token costs",
        "Before it can answer, the language model has to read all tokens; that is “Prefill” in this chart. "
        "With 64 of the 256 visual tokens it took less than half as long. Leaving tokens out to save this "
        "is called pruning, and choosing them takes some time as well: “Select tokens”.",
        "#vt-results .vt-costs .js-plotly-plot",
        on("sign", 25),
    ),
    Step(
        "scores",
        "A method scores the patches",
        "A pruning method decides which tokens can go. This one, ATP, scores every patch: does it stand "
        "out in the picture, and does it fit the question? Bright is a high score: the sign is bright, the "
        "plain ground is dark.",
        MAP,
        on("sign", 25, "scores"),
    ),
    Step(
        "budget",
        "The budget decides how many stay",
        "The patches with the highest scores stay, as many as the budget allows: 25 % are 64 of the 256. "
        "All others, grey on the map, are dropped: the language model never gets them.",
        "#vt-keep",
        on("sign", 25),
        Task(
            "Move the slider “Keep, in percent” below 10.",
            "below",
            10,
            "#vt-keep input[type=range]",
            "The patches that are left have the highest scores of all.",
            MAP,
        ),
    ),
    Step(
        "same",
        "Often the answer stays",
        "“Read the number on the sign”: with all 256 tokens the model says 7, and with 64 it still says 7. "
        "What decides the answer is the sign, in the dashed box on the picture, and 93 % of it was kept. "
        "The other 192 tokens were not needed for this question.",
        "#vt-read .vt-pair",
        on("sign", 25),
    ),
    Step(
        "layers",
        "Tokens can go later, too",
        "A language model works in layers, one after the other. These three pictures are 768 tokens, and "
        "the method FastV lets the first two layers read them all. Only then it drops more than half, by "
        "what those layers looked at.",
        "#vt-see .vt-scrub",
        on("which", 50, scrub=0),
        Task(
            "Drag this slider to the right, or press ▶, until tokens are dropped.",
            "reached",
            0,
            "#vt-see .vt-track input",
            "From layer 2 on 288 of the 768 are left. Going later saves less, but the model had a first "
            "look.",
        ),
    ),
    Step(
        "broken",
        "Then a count breaks",
        "Another picture and another method, FasterVLM: how many cars are there? With all 256 tokens the "
        "model says 1, which is right. With 38 of them it says 0, and nothing in the answer warns you.",
        "#vt-read .vt-pair",
        on("count", 15),
    ),
    Step(
        "why",
        "Why the count broke",
        "The dashed box holds the only car, and 49 % of it was kept. FasterVLM keeps what stands out in "
        "the picture, and never reads the question. It cannot know that a small car matters: the marked "
        "patch, with a wheel, came 53rd, and there was room for 38.",
        MAP,
        on("count", 15, pin=254),
    ),
    Step(
        "mend",
        "Mend the count",
        "ATP reads the question as well. Give it the same picture and the same budget, 15 %.",
        "#vt-method, #vt-run",
        on("count", 15),
        Task(
            "Choose ATP as the pruning method, then press Run.",
            "ran",
            "atp",
            "#vt-method input",
            "With ATP nearly all of the car was kept, and the count is 1 again. The tab Compare shows many "
            "methods side by side, the tab Learn tells how each of them works.",
            "#vt-read .vt-pair",
        ),
    ),
)


def value(examples: Mapping[str, Example]) -> dict[str, Any]:
    """What the browser gets: the steps, and how to tell that an example is on the page as it was recorded.
    Without the examples that it needs there is no tour."""
    needed = {str(act.value) for step in STEPS for act in step.acts if act.kind == "example"}
    if not needed <= set(examples):
        return {"steps": [], "examples": {}}
    return {
        "steps": [dataclasses.asdict(step) for step in STEPS],
        "examples": {name: _recorded(examples[name].run) for name in sorted(needed)},
    }


def _recorded(run: Run) -> dict[str, Any]:
    """By what the page shows a run: what its map and its inputs say then."""
    return {
        "request": [run.question, run.method, screen.params(screen.fields(run.method, run.params))],
        "percent": screen.percent(run),
        "method": methods.list_methods()[run.method].title,
    }
