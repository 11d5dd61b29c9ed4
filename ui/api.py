"""What programs may ask of a served app, by gradio_client or as MCP tools: /run, /select, /methods, /models.

Docstrings and type hints here are what callers are shown.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import traceback
from collections.abc import Iterator
from importlib.util import find_spec
from typing import Any
from urllib.parse import unquote

import gradio as gr
from gradio import processing_utils
from gradio.data_classes import FileData
from gradio.utils import get_upload_folder, is_in_or_equal

from ui import uploads
from ui.handlers import Handlers
from vtprune import methods, models
from vtprune.images import ALLOWED, MAX_BYTES
from vtprune.types import Done, Encoded, Event, Selected, Token

Value = float | int | str | bool


def connect(handlers: Handlers) -> None:
    """Add the endpoints to the page that is being built."""
    model: dict[str, Any] = {"concurrency_id": "model", "concurrency_limit": 1}
    calls = Calls(handlers)
    gr.api(calls.run, api_name="run", **model)
    gr.api(calls.select, api_name="select", **model)
    gr.api(calls.methods, api_name="methods")
    gr.api(calls.models, api_name="models")


def require_mcp() -> None:
    """Raises ValueError when what serves MCP is not installed."""
    if find_spec("mcp") is None:
        raise ValueError("--mcp needs one more package: pip install 'vtprune[mcp]'.")


class Calls:
    """The endpoints of one app. Files pass the checks that uploads of the page pass."""

    def __init__(self, handlers: Handlers) -> None:
        self._handlers = handlers

    def run(
        self,
        images: list[FileData],
        question: str,
        method: str = "atp",
        keep: float = 0.25,
        params: dict[str, Value] | None = None,
        max_new_tokens: int = 32,
    ) -> dict[str, Any]:
        """Answer a question about pictures twice, with all visual tokens and with the pruned ones, and tell
        everything that happened: both answers, which tokens were kept, times, operations, memory.

        Args:
            images: pictures (PNG, JPEG or WebP); the bundled model takes up to 4, others up to 16.
            question: What to ask about them.
            method: Name of the pruning method, one of those that /methods lists.
            keep: How much to keep: a share of the visual tokens in (0, 1], or a whole number above 1.
            params: Options of the method that differ from its defaults, such as {"alpha": 0.5}.
            max_new_tokens: Most tokens of an answer.

        Returns:
            The run as vtprune.Run.from_json reads it: full.answer, pruned.answer, stages, comparison ….
        """
        with _sentences():
            events = self._events(images, question, method, keep, params, max_new_tokens, repeats=3)
            done = next(event for event in events if isinstance(event, Done))
            return json.loads(done.run.to_json())

    def select(
        self,
        images: list[FileData],
        question: str,
        method: str = "atp",
        keep: float = 0.25,
        params: dict[str, Value] | None = None,
    ) -> dict[str, Any]:
        """Choose visual tokens without answering: which patches of the pictures a method would keep.

        Args:
            images: pictures (PNG, JPEG or WebP); the bundled model takes up to 4, others up to 16.
            question: The question that a question-driven method goes by.
            method: Name of the pruning method, one of those that /methods lists.
            keep: How much to keep: a share of the visual tokens in (0, 1], or a whole number above 1.
            params: Options of the method that differ from its defaults, such as {"alpha": 0.5}.

        Returns:
            tokens: how many there are; images: name and size of each; boxes: of each token its image and its
            place in that picture's pixels, x0, y0, x1, y1; stages: of each selection the tokens kept, their
            order and their scores.
        """
        with _sentences():
            events = self._events(images, question, method, keep, params, 4, repeats=0)
            return _chosen(events)

    def methods(self) -> list[dict[str, Any]]:
        """List the pruning methods.

        Returns:
            Of each method its name, title, paper, what it does, where it acts, its options with their
            defaults, and why this model cannot run it (null when it can).
        """
        return [
            {
                "name": name,
                **{key: value for key, value in dataclasses.asdict(info).items() if _is_plain(value)},
                "obstacle": self._handlers.models.reasons.get(name),
            }
            for name, info in methods.list_methods().items()
        ]

    def models(self) -> list[dict[str, Any]]:
        """List the models that are known to work, and which of them answers here.

        Returns:
            Of each model its id (null for the bundled one), name, family, number of parameters, visual tokens
            of an image, memory in bytes, licence of its weights, kinds of methods it runs, and whether it is
            the one that answers.
        """
        return [
            {
                "id": model.id,
                "name": model.name,
                "family": model.kind,
                "parameters": model.size,
                "tokens": model.tokens,
                "memory": model.memory,
                "licence": model.licence,
                "kinds": list(model.kinds),
                "answers": model.name == self._handlers.engine.name,
            }
            for model in models.MODELS
        ]

    def _events(
        self,
        images: Any,
        question: str,
        method: str,
        keep: float,
        params: dict[str, Value] | None,
        longest: int,
        repeats: int,
    ) -> Iterator[Event]:
        engine = self._handlers.engine
        files, problems = uploads.check(_paths(images), engine.backbone.max_images)
        if problems:
            raise ValueError(" ".join(problems))
        if params is not None and not isinstance(params, dict):
            raise ValueError('params is not of the form {"alpha": 0.5}.')
        events: Any = engine.stream(
            [upload.path for upload in files],
            question,
            method,
            _budget(keep),
            longest,
            params,
            repeats=repeats,
        )
        with contextlib.closing(events):
            yield from events


def _chosen(events: Any) -> dict[str, Any]:
    """What was chosen; the answer is not waited for."""
    stages: list[dict[str, Any]] = []
    told: dict[str, Any] = {}
    with contextlib.closing(events):
        for event in events:
            if isinstance(event, Encoded):
                told = {
                    "tokens": sum(segment.length for segment in event.segments),
                    "images": [dataclasses.asdict(info) for info in event.images],
                    "boxes": [
                        {"image": segment.image, "box": box}
                        for segment in event.segments
                        for box in segment.boxes.tolist()
                    ],
                }
            elif isinstance(event, Selected):
                stages.append(dataclasses.asdict(event.stage))
            elif isinstance(event, Token):
                break
    return {**told, "stages": stages}


def _paths(images: Any) -> list[str]:
    """Where the files lie. Raises ValueError for what is not an upload, such as a path on the server."""
    if not isinstance(images, list):
        raise ValueError("images has to be a list of files.")
    return [_path(image) for image in images]


def _path(image: Any) -> str:
    """An upload as gradio_client sends it, or a text as MCP clients do: an address, or a data: URL."""
    if isinstance(image, dict):
        image = image.get("path")
    elif isinstance(image, str):
        image = _fetched(image)
    if not isinstance(image, str) or not is_in_or_equal(image, get_upload_folder()):
        raise ValueError("images has to be a list of uploaded files: with gradio_client, [handle_file(…)].")
    return image


def _fetched(text: str) -> str | None:
    """The file behind a data: URL, an address of an upload to this app, or a public address."""
    if text.startswith("data:"):
        if len(text) > 2 * MAX_BYTES:
            raise ValueError(f"a picture in a data: URL is too large: pictures may be {ALLOWED}.")
        try:
            return processing_utils.save_base64_to_cache(text, get_upload_folder())
        except ValueError as error:
            raise ValueError("a data: URL in images cannot be decoded.") from error
    if not text.startswith(("http://", "https://")):
        return None
    _, here, path = text.partition("/gradio_api/file=")
    if here:
        return unquote(path)
    try:  # Gradio's own download, which refuses addresses inside a private network
        return processing_utils.ssrf_protected_download(text, get_upload_folder())
    except Exception as error:
        raise ValueError(f"{text[:200]} could not be fetched.") from error


def _budget(keep: Any) -> Any:
    """JSON has one kind of number: 1 is everything, and only what is above counts tokens."""
    if isinstance(keep, bool) or not isinstance(keep, float | int):
        raise ValueError(f"keep={keep!r} is not a number.")
    return int(keep) if keep > 1 and keep == int(keep) else float(keep)


def _is_plain(value: Any) -> bool:
    return value is None or isinstance(value, str | int | float | bool | dict | list | tuple)


@contextlib.contextmanager
def _sentences() -> Iterator[None]:
    """What goes wrong reaches the caller as one sentence."""
    try:
        yield
    except ValueError as error:
        raise gr.Error(str(error), print_exception=False) from error
    except Exception as error:
        traceback.print_exc()
        reason = (str(error).strip().splitlines() or [""])[0]
        raise gr.Error(
            f"Something went wrong ({type(error).__name__}: {reason}).", print_exception=False
        ) from error
