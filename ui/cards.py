"""The methods' cards of the Learn tab, as data: the words are the docstrings', the pictures those that
vtprune.showcase recorded."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ui import panels, patchmap, uploads
from vtprune import methods, showcase
from vtprune.examples import Example
from vtprune.methods.base import MethodInfo
from vtprune.showcase import Shown

GROUPS = (
    ("all", "All", ""),
    ("vision", "Vision", "Right after the vision encoder, the part that turns patches into tokens."),
    ("projected", "Projector", "After the projector, which puts the tokens into the language model’s terms."),
    ("llm", "In the LLM", "Between two layers of the language model, which has read all tokens by then."),
    ("baseline", "Baselines", "Plain rules that look at nothing: what every method has to beat."),
)
"""Where methods act: name, label, and what that means."""
Values = dict[str, Any]


def value(examples: Mapping[str, Example]) -> Values:
    """What the component draws: a card for every method, and the example they are shown on."""
    example = examples.get(showcase.EXAMPLE)
    shown = showcase.load(example.pictures[0].parent) if example else {}
    known = {name: info for name, info in methods.list_methods().items() if name != showcase.BY_HAND}
    return {
        **(_pictures(example) if example else patchmap.EMPTY),
        "about": _about(example) if example and shown else "",
        "groups": [list(group) for group in GROUPS],
        "cards": [_card(name, info, shown.get(name)) for name, info in known.items()],
    }


def _pictures(example: Example) -> Values:
    run = example.run
    files = [uploads.opened(uploads.cached(path)).served for path in example.pictures]
    return patchmap.value(files, run.images, run.segments, evidence=example.questions[0].evidence)


def _about(example: Example) -> str:
    asked, percent = example.questions[0], round(100 * showcase.KEEP)
    return (
        f"The pictures show what each method keeps at {percent} % when it is asked “{asked.text}” "
        f"The right answer is {asked.answer}. One example is no ranking."
    )


def _card(name: str, info: MethodInfo, shown: Shown | None) -> Values:
    what, fails, how, needs = described(methods.card(name))
    return {
        "name": name,
        "title": info.title,
        "what": what,
        "fails": fails,
        "how": how,
        "ours": info.reconstruction,
        "needs": needs,
        "tags": panels.tags(info),
        "groups": groups(info),
        "paper": info.paper,
        "year": info.year,
        "shown": _shown(shown) if shown else None,
    }


def described(card: str) -> tuple[str, str, list[str], str]:
    """(what a method does, when it fails, paragraphs with its formula, what it needs) of its docstring. The
    first paragraph is what it does, and its last sentence where that ends."""
    first, *rest = (" ".join(paragraph.split()) for paragraph in card.split("\n\n"))
    what, _, fails = first.rpartition(". ")
    needs = " ".join(paragraph for paragraph in rest if paragraph.startswith("Needs "))
    how = [paragraph for paragraph in rest if not paragraph.startswith("Needs ")]
    return f"{what}.", fails, how, needs or "Needs nothing but the tokens themselves."


def groups(info: MethodInfo) -> list[str]:
    """The groups that a method is in: the places where it acts, or the baselines."""
    return info.acts_at.split("+") if info.paper else ["baseline"]


def _shown(shown: Shown) -> Values:
    if shown.reason and not shown.left:
        return {"reason": shown.reason}
    kept = set(shown.keep)
    merged = set(shown.merged)
    return {
        "keep": shown.keep,
        "blended": [0 if token in merged else -1 for token in range(shown.tokens)] if merged - kept else None,
        "caption": caption(shown),
        "answer": shown.answer,
        "right": shown.right,
        "evidence": shown.evidence,
    }


def caption(shown: Shown) -> str:
    """How many tokens a method left, and at which budget if not at the common one."""
    if len(shown.left) > 1:
        text = f"{', then '.join(map(str, shown.left))} of {shown.tokens}"
    elif shown.mean != shown.left[0]:
        text = f"{shown.left[0]} of {shown.tokens} in the end"
    elif len(shown.keep) + len(shown.merged) == shown.tokens:
        text = f"{shown.left[0]} stand for {shown.tokens}"
    else:
        text = f"{shown.left[0]} of {shown.tokens} kept"
    if shown.merged and not text.endswith(f"for {shown.tokens}"):
        text += f", with {len(shown.merged)} more blended in"
    if round(shown.mean) != shown.left[-1]:
        text += f", {shown.mean:.3g} on average"
    if shown.budget != showcase.KEEP:
        text += f"; {100 * shown.budget:.0f} % is the least it was run at"
    return text
