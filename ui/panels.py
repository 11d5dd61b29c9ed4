"""The parts of the page that are plain HTML. Everything that a person or a model wrote is escaped here."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from html import escape

from vtprune import summary
from vtprune.methods.base import MethodInfo
from vtprune.summary import mean_tokens, savings
from vtprune.types import Run

ACTS_AT = {
    "vision": "acts after the vision encoder",
    "projected": "acts after the projector",
    "llm": "acts inside the language model",
}


def header(model: str, device: str) -> str:
    """The title line. model, device: what answers, and on what."""
    return (
        '<header class="vt-header"><h1>vtprune</h1>'
        "<p>See which visual tokens a method keeps, what that saves, and when it breaks the answer.</p>"
        '<span class="vt-tour-call" hidden></span>'  # filled by tour.js, where there is a tour
        f'<span class="vt-device" title="What answers, and on what">{escape(model)} · {escape(device)}</span>'
        '<button type="button" class="vt-theme" aria-label="Switch between light and dark">'
        '<span aria-hidden="true">◐</span></button></header>'
    )


def tags(info: MethodInfo) -> list[str]:
    """What kind of method it is, in a few words each."""
    places = " and ".join(ACTS_AT.get(place, place) for place in info.acts_at.split("+"))
    return [places, *["sets the number itself"] * info.adaptive, *["blends tokens"] * info.merges]


def method(info: MethodInfo, card: str, reason: str | None) -> str:
    """A method in a line or two, and the rest a click away. reason: why this model cannot run it."""
    first = re.split(r"[.:;] ", info.summary, maxsplit=1)[0].rstrip(".")
    paper = (
        f'<a href="{escape(info.paper)}" target="_blank" rel="noopener">paper, {info.year}</a>'
        if info.paper
        else ""
    )
    note = f'<p class="vt-error">{escape(_sentence(reason))}</p>' if reason else ""
    tags_html = "".join(f"<span>{escape(tag)}</span>" for tag in tags(info)) + paper
    ours = [f"Where the paper leaves it open: {info.reconstruction}"] if info.reconstruction else []
    more = escape("\n\n".join(" ".join(part.split()) for part in [*card.split("\n\n"), *ours]))
    return (
        f'{note}<div class="vt-method"><p>{escape(first)}.</p><div class="vt-tags">{tags_html}</div>'
        f"<details><summary>How it works, and when it fails</summary><div>{more}</div></details></div>"
    )


def status(text: str, done: float | None = None, *, busy: bool = False, error: bool = False) -> str:
    """The line under the Run button. done: share of the work; busy without it: no telling."""
    if error:
        return f'<div class="vt-status vt-error" role="alert">{escape(text)}</div>'
    bar = ""
    if busy:
        known = "" if done is None else f' value="{done:.2f}" max="1"'
        bar = f'<progress aria-label="Progress"{known}></progress>'
    return (
        f'<div class="vt-status" role="status"><span class="vt-status-text">{escape(text)}</span>{bar}</div>'
    )


def failure(error: Exception) -> str:
    """The status line for what nobody expected."""
    reason = (str(error).strip().splitlines() or [""])[0]
    text = f"Something went wrong while running this ({type(error).__name__}: {reason}); try again."
    return status(text, error=True)


def drawn_only() -> str:
    """The note for uploads to the bundled model."""
    return (
        '<div class="vt-note" role="note">The bundled model is small and knows drawn scenes only, like the '
        "examples: of a photograph it will say little that is true. The map and the timings are real. "
        "For photographs load another model: see “Choose another model” at the top.</div>"
    )


def refusals(reasons: Mapping[str, Sequence[str]]) -> str:
    """Which methods the model cannot run. reasons: sentence -> methods' titles."""
    lines = "".join(
        f"<li>{escape(', '.join(titles))}: {escape(reason)}</li>" for reason, titles in reasons.items()
    )
    if not lines:
        return '<p class="vt-quiet">The model in use runs every method.</p>'
    return f'<p class="vt-quiet">The model in use cannot run:</p><ul class="vt-quiet">{lines}</ul>'


def made_with(model: str, used: str, fixed: bool) -> str:
    """A link was made with another model than the one in use. fixed: nobody may change that."""
    way = '<button type="button" class="vt-made-show">Show where to load it</button>'
    if fixed:
        way = (
            "<span>This page is open to other machines, so its model stays. In an app of your own: "
            f"<code>python app.py --model {escape(model)}</code></span>"
        )
    return (
        f'<div class="vt-note vt-made" role="note"><span>This link was made with <b>{escape(model)}</b>; '
        f"it is answered by <b>{escape(used)}</b> now.</span>{way}</div>"
    )


def look(title: str, text: str) -> str:
    """What to look for in an example."""
    end = "" if title.endswith("?") else "."
    return f'<p class="vt-look"><strong>{escape(title)}{end}</strong> {escape(text)}</p>'


def streaming(full: str, pruned: str) -> str:
    """Both answers while they are written."""
    return _pair(_answer("All tokens", "", escape(full), False), _answer("Pruned", "", escape(pruned), True))


def answers(run: Run, finding: str = "", truth: str = "") -> str:
    """Both answers with the differing words marked, how they relate, and what it saved, in words."""
    kept = f"{mean_tokens(run.pruned):.4g} of {run.tokens} tokens"
    if len(set(run.pruned.cost.tokens_per_layer)) > 1:
        kept += " on average over the layers"
    agreement = run.comparison.summary
    same = run.comparison.same
    facts = [f"<b>Right answer:</b> {escape(truth)}"] if truth else []
    facts += [escape(finding)] if finding else []
    facts += [f"<b>{escape(text)}</b> {escape(rest)}" for text, rest in savings(run)]
    return (
        _pair(
            _answer("All tokens", f"{run.tokens} tokens", _words(run.comparison.words_full), False),
            _answer("Pruned", kept, _words(run.comparison.words_pruned), True),
        )
        + f'<p class="vt-agreement {"is-same" if same else "is-different"}" role="status">'
        f"{'✓' if same else '≠'} {escape(agreement[0].upper() + agreement[1:])}</p>"
        f'<ul class="vt-facts">{"".join(f"<li>{fact}</li>" for fact in facts)}</ul>'
    )


def numbers(run: Run | None, recorded: bool = False) -> str:
    """The table of costs, with the formulas a click away."""
    if run is None:
        return '<div class="vt-numbers"><p class="vt-quiet">The numbers come with the answers.</p></div>'
    where = summary.measured(run, recorded)
    if run.full.timings and run.pruned.timings:
        where += " The whisker at the end of a bar is all stages at their fastest and at their slowest."
    cells = "".join(
        f'<tr><th scope="row">{name}</th>{_cells(full, pruned)}<td>{change}</td></tr>'
        for name, full, pruned, change in summary.rows(run)
    )
    return (
        '<div class="vt-numbers"><table><thead><tr><th scope="col"></th><th scope="col">All tokens</th>'
        f'<th scope="col">Pruned</th><th scope="col">Change</th></tr></thead><tbody>{cells}</tbody></table>'
        f'<p class="vt-quiet vt-where">{escape(where)}</p>'
        "<details><summary>How operations and bytes are counted</summary>"
        f"<pre>{escape(summary.formulas())}</pre></details></div>"
    )


def _cells(full: str, pruned: str) -> str:
    """The two middle cells; one over both where they say the same words."""
    if full == pruned and not full[0].isdigit():
        return f'<td colspan="2" class="vt-quiet">{escape(full)}</td>'
    return "".join(
        f"<td>{escape(cell).replace(' (', ' <small>(').replace(')', ')</small>')}</td>"
        for cell in (full, pruned)
    )


def _pair(full: str, pruned: str) -> str:
    return f'<div class="vt-pair">{full}{pruned}</div>'


def _answer(title: str, detail: str, body: str, pruned: bool) -> str:
    head = f"{title} · {escape(detail)}" if detail else title
    return f'<section class="vt-answer{" is-pruned" * pruned}"><h3>{head}</h3><p>{body or "…"}</p></section>'


def _words(words: Sequence[tuple[str, bool]]) -> str:
    marked = (f"<mark>{escape(word)}</mark>" if differs else escape(word) for word, differs in words)
    return " ".join(marked) or "(no words)"


def _sentence(text: str | None) -> str:
    return f"{text[0].upper()}{text[1:]}" if text else ""
