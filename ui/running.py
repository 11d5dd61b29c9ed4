"""From the engine's events to what the page shows while a run goes on."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from ui import answers, panels, patchmap, screen
from ui.uploads import Upload
from vtprune import methods
from vtprune.examples import Asked
from vtprune.types import Done, Encoded, Event, Selected, Stage, Timing, Token, TokenOut

PAUSE = 0.1
"""Seconds between two updates of the streaming text."""

Values = dict[str, Any]


@dataclass(frozen=True)
class Request:
    """What was asked for. keep: a share. longest: most tokens of an answer."""

    files: list[Upload]
    question: str
    method: str
    params: dict[str, Any]
    keep: float
    longest: int


def follow(
    events: Iterable[Event],
    request: Request,
    ends: Collection[int],
    asked: Asked | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> Iterator[Values]:
    """{part's name: value} after {…}: pictures once, then text about ten times a second, then everything.

    ends: tokens that end an answer. asked: the question, where the right answer is known. The last values
    have the key "done"; without it the run was stopped.
    """
    nested = methods.list_methods()[request.method].nested
    pictures = [upload.served for upload in request.files]
    stages: list[Stage] = []
    text: dict[str, str] = {"full": "", "pruned": ""}
    tokens: dict[str, list[TokenOut]] = {"full": [], "pruned": []}
    writing = set(text)
    shown = -PAUSE
    encoded: Encoded | None = None
    mapped = False
    for event in events:
        if isinstance(event, Encoded):
            encoded = event
            yield {
                "look": "",
                "answers": panels.streaming("", ""),
                "tokens": answers.EMPTY,
                "record": None,
                "status": panels.status("Answering …", busy=True),
            }
        elif isinstance(event, Selected):
            stages.append(event.stage)
        elif isinstance(event, Token):
            if encoded and not mapped:  # all selections are made before the first token
                mapped = True
                yield {
                    "map": patchmap.value(
                        pictures,
                        encoded.images,
                        encoded.segments,
                        stages,
                        nested=nested,
                        request=[request.question, request.method, request.params],
                        percent=round(100 * request.keep),
                    )
                }
            text[event.side] += event.token.text
            tokens[event.side].append(event.token)
            if event.token.id in ends or len(tokens[event.side]) == request.longest:
                writing.discard(event.side)
            if not writing or clock() - shown >= PAUSE:
                shown = clock()
                yield {"answers": panels.streaming(text["full"], text["pruned"])}
            if not writing:
                yield {
                    "tokens": answers.value(tokens["full"], tokens["pruned"]),
                    "status": panels.status("Measuring …", busy=True),
                }
        elif isinstance(event, Timing):
            words = f"Measuring, {event.done} of {event.total} …"
            yield {"status": panels.status(words, event.done / event.total, busy=True)}
        elif isinstance(event, Done):
            done = panels.status(f"Done: {event.run.comparison.summary}.")
            yield {**screen.of_run(event.run, request.files, asked), "status": done, "done": True}
