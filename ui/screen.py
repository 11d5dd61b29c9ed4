"""From an example or a run to what each part of the page shows: {part's name: value}."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ui import answers, charts, panels, patchmap, uploads
from ui.uploads import Upload
from vtprune import examples, methods
from vtprune.examples import Asked, Example
from vtprune.types import ImageInfo, Run


@dataclass(frozen=True)
class Record:
    """A run that is on the screen, with what it takes to draw it again. files: the uploads themselves.
    evidence: (image, box in shares) of what decides the answer."""

    run: Run
    files: tuple[str, ...]
    evidence: Sequence[Any] = ()


KINDS = {bool: "bool", int: "int", float: "float", str: "text"}
SUGGESTIONS = ("What is in the picture?", "How many objects are there?", "What does the sign say?")
"""Questions to try on an upload."""


def fields(method: str, params: Mapping[str, Any] | None = None) -> list[dict[str, Any]]:
    """A method's options for the form: those that are a number, a text or a switch. Each names the method, so
    that they cannot be taken for another's."""
    known = {**methods.list_methods()[method].params, **(params or {})}
    return [
        {"method": method, "name": name, "value": value, "kind": KINDS[type(value)]}
        for name, value in known.items()
        if type(value) in KINDS
    ]


def params(form: Sequence[Mapping[str, Any]] | None) -> dict[str, Any]:
    """The form's content as parameters. JavaScript has one kind of number, so whole ones are told here."""
    found = {}
    for field in form or ():
        value = field["value"]
        if field["kind"] == "float" and isinstance(value, int) and not isinstance(value, bool):
            value = float(value)
        found[field["name"]] = value
    return found


def chips(texts: Sequence[str]) -> dict[str, Any]:
    """Suggested questions."""
    return {"label": "Questions to try", "items": [{"id": text, "title": text} for text in texts]}


def strip(items: Sequence[Example], picked: str = "") -> dict[str, Any]:
    """The row of examples."""
    titles = methods.list_methods()
    return {
        "label": "Examples",
        "picked": picked,
        "items": [
            {
                "id": item.name,
                "title": item.title,
                "detail": titles[item.run.method].title,
                "thumb": uploads.served(uploads.cached(item.pictures[0])),
            }
            for item in items
        ],
    }


def percent(run: Run) -> int:
    """The budget of a run for the slider."""
    share = run.keep if isinstance(run.keep, float) else run.keep / run.tokens
    return max(1, round(100 * share))


def of_run(run: Run, files: Sequence[Upload], asked: Asked | None, recorded: bool = False) -> dict[str, Any]:
    """Everything that a finished run fills. asked: the question, where the right answer is known."""
    info = methods.list_methods()[run.method]
    finding = examples.finding(run, asked) if asked else ""
    return {
        "record": Record(run, tuple(upload.path for upload in files), asked.evidence if asked else ()),
        "map": patchmap.value(
            [upload.served for upload in files],
            run.images,
            run.segments,
            run.stages,
            nested=info.nested,
            request=[run.question, run.method, params(fields(run.method, run.params))],
            percent=percent(run),
            evidence=asked.evidence if asked else (),
            layers=() if run.pruned.cost.indirect else run.pruned.cost.tokens_per_layer,
        ),
        "answers": panels.answers(run, finding, asked.answer if asked else ""),
        "tokens": answers.of_run(run),
        "chart": charts.latency(run),
        "numbers": panels.numbers(run, recorded),
    }


def of_example(example: Example) -> dict[str, Any]:
    """The whole page on a recorded example, but for what depends on the loaded model."""
    run = example.run
    files = [uploads.cached(path) for path in example.pictures]
    return {
        "gallery": files,
        "question": run.question,
        "chips": chips([asked.text for asked in example.questions[1:]]),
        "method": run.method,
        "options": fields(run.method, run.params),
        "keep": percent(run),
        "look": panels.look(example.title, example.look),
        "note": "",
        "status": panels.status("A recorded run. Change anything and press Run."),
        **of_run(run, [uploads.opened(path) for path in files], example.questions[0], recorded=True),
    }


def of_pictures(files: Sequence[Upload]) -> dict[str, Any]:
    """Pictures that nothing was asked about yet."""
    infos = [ImageInfo(Path(upload.path).name, upload.width, upload.height) for upload in files]
    return {
        "map": patchmap.value([upload.served for upload in files], infos),
        "answers": panels.streaming("", ""),
        "tokens": answers.EMPTY,
        "record": None,
        "chart": charts.latency(None),
        "numbers": panels.numbers(None),
        "look": "",
    }
