"""A link to what the page is set to: its own parameters in the query of the address, read and checked."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vtprune import methods
from vtprune.examples import Example

LONGEST = 2000
"""Characters of a question."""
PARAMETER = "p."
"""What the names of a method's parameters begin with."""
KINDS = (bool, int, float, str)
SWITCHES = {"true": True, "false": False}
HUB_ID = re.compile(r"[A-Za-z0-9_][\w.-]{0,95}(/[A-Za-z0-9_][\w.-]{0,95})?", re.ASCII)
"""What the id of a model on the Hugging Face hub looks like."""


@dataclass
class Link:
    """What a link asks for; None where it does not say, or says what cannot be used.

    model: its id on the hub; a link made with the bundled model, or with one in a folder, does not say.
    own: it was made with somebody's own pictures, which no link carries. problems: what could not be used.
    """

    model: str | None = None
    example: str | None = None
    question: str | None = None
    method: str | None = None
    params: dict[str, Any] = field(default_factory=dict)
    percent: float | None = None
    tab: str | None = None
    own: bool = False
    problems: list[str] = field(default_factory=list)


def read(query: Mapping[str, str], examples: Mapping[str, Example], tabs: Collection[str]) -> Link | None:
    """The link in a query, or None when nothing in it is ours."""
    if not any(name in ("model", "example", "q", "method", "keep", "tab") for name in query):
        return None
    link = Link()
    model = query.get("model")
    if model and HUB_ID.fullmatch(model):
        link.model = model
    elif model is not None:
        link.problems.append(f"{_short(model)} is no id of a model on the Hugging Face hub")
    example = query.get("example")
    if example in examples:
        link.example = example
    elif example is not None:
        link.problems.append(f"there is no example {_short(example)}")
    else:
        link.own = "q" in query
    question = query.get("q")
    if question is not None and len(question) > LONGEST:
        link.problems.append(f"its question is longer than {LONGEST} characters")
    else:
        link.question = question
    _method(link, query, examples)
    _rest(link, query, tabs)
    return link


def public(model: str | None) -> str | None:
    """What of a model may be part of a link: the id of one on the hub, but no path on this machine."""
    known = model and HUB_ID.fullmatch(model) and not Path(model).is_dir()
    return model if known else None


def _method(link: Link, query: Mapping[str, str], examples: Mapping[str, Example]) -> None:
    known = methods.list_methods()
    name = query.get("method")
    if name in known:
        link.method = name
    elif name is not None:
        link.problems.append(f"there is no method {_short(name)}")
        return
    elif link.example:
        name = examples[link.example].run.method
    if name is None:
        return
    found = {}
    for key, text in query.items():
        parameter = key.removeprefix(PARAMETER)
        if parameter == key:
            continue
        default = known[name].params.get(parameter)
        if type(default) not in KINDS:  # lists and the like are no part of a link
            default = None
        value = None if default is None else _value(text, type(default))
        if default is None:
            link.problems.append(f"{name} has no parameter {_short(parameter)}")
        elif value is None:
            link.problems.append(f"{parameter}={_short(text)} is no value for it")
        else:
            found[parameter] = value
    try:
        methods.make(name, **found)
    except ValueError as error:
        link.problems.append(str(error).rstrip("."))
    else:
        link.params = found


def _rest(link: Link, query: Mapping[str, str], tabs: Collection[str]) -> None:
    keep, tab = query.get("keep"), query.get("tab")
    if keep is not None:
        percent = _value(keep, float)
        if percent is not None and 1 <= percent <= 100:
            link.percent = round(percent)
        else:
            link.problems.append(f"keep={_short(keep)} is not 1 to 100 percent")
    if tab in tabs:
        link.tab = tab
    elif tab is not None:
        link.problems.append(f"there is no tab {_short(tab)}")


def _value(text: str, kind: type) -> Any:
    """What was typed as a value of that kind, or None."""
    if kind is bool:
        return SWITCHES.get(text.lower())
    try:
        return kind(text)
    except ValueError:
        return None


def _short(text: str) -> str:
    return f"“{text if len(text) <= 40 else text[:40] + '…'}”"
