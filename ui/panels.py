"""The parts of the page that are plain HTML. Everything that a person or a model wrote is escaped here."""

from __future__ import annotations

import inspect
import re
from collections.abc import Sequence
from html import escape

from ui import charts
from vtprune import cost
from vtprune.methods.base import MethodInfo
from vtprune.types import Run, Side, Spread

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
        f'<span class="vt-device" title="What answers, and on what">{escape(model)} · {escape(device)}</span>'
        '<button type="button" class="vt-theme" aria-label="Switch between light and dark">'
        '<span aria-hidden="true">◐</span></button></header>'
    )


def method(info: MethodInfo, card: str, reason: str | None) -> str:
    """A method in a line or two, and the rest a click away. reason: why this model cannot run it."""
    first = re.split(r"[.:;] ", info.summary, maxsplit=1)[0].rstrip(".")
    tags = [" and ".join(ACTS_AT.get(place, place) for place in info.acts_at.split("+"))]
    tags += ["sets the number itself"] * info.adaptive + ["blends tokens"] * info.merges
    paper = (
        f'<a href="{escape(info.paper)}" target="_blank" rel="noopener">paper, {info.year}</a>'
        if info.paper
        else ""
    )
    note = f'<p class="vt-error">{escape(_sentence(reason))}</p>' if reason else ""
    tags_html = "".join(f"<span>{escape(tag)}</span>" for tag in tags) + paper
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


def drawn_only() -> str:
    """The note for uploads to the bundled model."""
    return (
        '<div class="vt-note" role="note">The bundled model is small and knows drawn scenes only, like the '
        "examples: of a photograph it will say little that is true. The map and the timings are real. "
        "For photographs start with another model: "
        "<code>python app.py --model llava-hf/llava-1.5-7b-hf</code> "
        "(or <code>vtprune app --model …</code>).</div>"
    )


def look(title: str, text: str) -> str:
    """What to look for in an example."""
    end = "" if title.endswith("?") else "."
    return f'<p class="vt-look"><strong>{escape(title)}{end}</strong> {escape(text)}</p>'


def streaming(full: str, pruned: str) -> str:
    """Both answers while they are written."""
    return _answer("All tokens", "", escape(full), False) + _answer("Pruned", "", escape(pruned), True)


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
        _answer("All tokens", f"{run.tokens} tokens", _words(run.comparison.words_full), False)
        + _answer("Pruned", kept, _words(run.comparison.words_pruned), True)
        + f'<p class="vt-agreement {"is-same" if same else "is-different"}" role="status">'
        f"{'✓' if same else '≠'} {escape(agreement[0].upper() + agreement[1:])}</p>"
        f'<ul class="vt-facts">{"".join(f"<li>{fact}</li>" for fact in facts)}</ul>'
    )


def savings(run: Run) -> list[tuple[str, str]]:
    """What pruning saved, as (number, rest of the line)."""
    full, pruned = run.full, run.pruned
    lines = [
        (f"{_ratio(run.tokens, mean_tokens(pruned))} fewer", "visual tokens in the language model"),
        (f"{_ratio(full.cost.prefill_flops, pruned.cost.prefill_flops)} fewer", "prefill operations"),
    ]
    if full.timings and pruned.timings:
        a, b = first_token(full), first_token(pruned)
        lines.append((speed(a, b), "to the first token, encoding and selecting included"))
    return lines


def mean_tokens(side: Side) -> float:
    """Visual tokens that a layer of the language model saw, on average."""
    return sum(side.cost.tokens_per_layer) / len(side.cost.tokens_per_layer)


def first_token(side: Side) -> Spread:
    """Time to the first token: everything before it, the selection too."""
    parts = [side.timings[stage] for stage in ("encode", "select", "prefill")]
    return Spread(
        sum(p.median for p in parts), sum(p.low for p in parts), sum(p.high for p in parts), parts[0].n
    )


def speed(full: Spread, pruned: Spread) -> str:
    """Faster or slower, and by how much; said to be about equal when the ranges overlap."""
    if full.low <= pruned.high and pruned.low <= full.high:
        return "about as fast"
    if pruned.median <= full.median:
        return f"{full.median / max(pruned.median, 1e-9):.2g}× faster"
    return f"{pruned.median / max(full.median, 1e-9):.2g}× slower"


def numbers(run: Run | None, recorded: bool = False) -> str:
    """The table of costs, with the formulas a click away."""
    if run is None:
        return '<div class="vt-numbers"><p class="vt-quiet">The numbers come with the answers.</p></div>'
    full, pruned = run.full, run.pruned
    before, after = mean_tokens(full), mean_tokens(pruned)
    rows = [
        ("Visual tokens (mean over layers)", f"{before:.4g}", f"{after:.4g}", _less(before, after, "fewer")),
        (
            "Prefill operations (FLOPs)",
            _si(full.cost.prefill_flops, "FLOP"),
            _si(pruned.cost.prefill_flops, "FLOP"),
            _less(full.cost.prefill_flops, pruned.cost.prefill_flops, "fewer"),
        ),
        (
            "Key/value cache",
            _si(full.cost.kv_bytes, "B"),
            _si(pruned.cost.kv_bytes, "B"),
            _less(full.cost.kv_bytes, pruned.cost.kv_bytes),
        ),
    ]
    if full.cost.peak_bytes:
        rows.append(
            (
                "Peak memory, weights included",
                _si(full.cost.peak_bytes, "B"),
                _si(pruned.cost.peak_bytes, "B"),
                _less(full.cost.peak_bytes, pruned.cost.peak_bytes),
            )
        )
    where = f"{'Recorded' if recorded else 'Measured'} with {run.model} on {run.device}, {run.dtype}"
    if full.timings and pruned.timings:
        a, b = first_token(full), first_token(pruned)
        c, d = full.timings["decode"], pruned.timings["decode"]
        rows.append(("Time to first token", _ms(a), _ms(b), speed(a, b)))
        rows.append(("Time per further token", _ms(c), _ms(d), speed(c, d)))
        where += (
            f": medians of {a.n} runs after a warm-up, with fastest and slowest; the whisker at the end of a "
            "bar is all stages at their fastest and at their slowest. "
            f"Both bars count {charts.steps(run)} decoding step{'s' * (charts.steps(run) > 1)}. "
            "“About as fast” means that the ranges overlap"
        )
    cells = "".join(
        f'<tr><th scope="row">{name}</th><td>{a}</td><td>{b}</td><td>{change}</td></tr>'
        for name, a, b, change in rows
    )
    formulas = "\n\n".join(inspect.getdoc(f) or "" for f in (cost.prefill_flops, cost.kv_bytes))
    return (
        '<div class="vt-numbers"><table><thead><tr><th scope="col"></th><th scope="col">All tokens</th>'
        f'<th scope="col">Pruned</th><th scope="col">Change</th></tr></thead><tbody>{cells}</tbody></table>'
        f'<p class="vt-quiet" style="margin-top:8px">{escape(where)}.</p>'
        "<details><summary>How operations and bytes are counted</summary>"
        f"<pre>{escape(formulas)}</pre></details></div>"
    )


def _answer(title: str, detail: str, body: str, pruned: bool) -> str:
    head = f"{title} · {escape(detail)}" if detail else title
    return f'<section class="vt-answer{" is-pruned" * pruned}"><h3>{head}</h3><p>{body or "…"}</p></section>'


def _words(words: Sequence[tuple[str, bool]]) -> str:
    marked = (f"<mark>{escape(word)}</mark>" if differs else escape(word) for word, differs in words)
    return " ".join(marked) or "(no words)"


def _ratio(full: float, pruned: float) -> str:
    ratio = full / max(pruned, 1e-9)
    return f"{ratio:.2g}×" if ratio < 10 else f"{ratio:.0f}×"


def _less(full: float, pruned: float, word: str = "less") -> str:
    if pruned == full:
        return "the same"
    return f"{_ratio(full, pruned)} {word}" if pruned < full else f"{_ratio(pruned, full)} more"


def _si(value: float, unit: str) -> str:
    for factor, prefix in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= factor:
            return f"{value / factor:.3g} {prefix}{unit}"
    return f"{value:.3g} {unit}"


def _ms(spread: Spread) -> str:
    median, low, high = (charts.milliseconds(value) for value in (spread.median, spread.low, spread.high))
    return f"{median} ms <small>({low}–{high})</small>"


def _sentence(text: str | None) -> str:
    return f"{text[0].upper()}{text[1:]}" if text else ""
