"""A run as one HTML file: the pictures are inside, and nothing is asked of anybody when it is opened."""

from __future__ import annotations

import base64
import io
import os
from collections.abc import Sequence
from html import escape

from PIL import Image

from vtprune import __version__, export, summary
from vtprune.assets import assets_dir
from vtprune.methods import list_methods
from vtprune.sheets import sheets
from vtprune.types import Run, TokenOut

SIDE = 1000
"""Longest side in pixels of a picture in the report."""
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
STAGES = {"encode": "Encode picture", "select": "Select tokens", "prefill": "Prefill", "decode": "Decode"}
COLOURS = {"encode": "#4f6ea6", "select": "#a96a12", "prefill": "#27796f", "decode": "#a1567f"}


def render_html(
    run: Run,
    images: Sequence[str | os.PathLike[str] | Image.Image],
    evidence: Sequence[tuple[int, Sequence[float]]] = (),
) -> str:
    """The report of a run as the text of an HTML file. Raises ValueError when these are not its pictures.

    evidence: (image, box in shares of its sides) of what decides the answer, where that is known.
    """
    body = "".join(
        f"<section><h2>{title}</h2>{content}</section>"
        for title, content in (
            ("What was kept", _maps(run, images, evidence)),
            ("Answers", _answers(run)),
            ("Token by token", _tokens(run)),
            ("Visual tokens in each layer", _layers(run)),
            ("Cost", _costs(run)),
            ("Settings", _settings(run)),
        )
        if content
    )
    title = f"{run.question} · {method_title(run)}"
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{_style()}</style></head><body><main>"
        f'<h1>{escape(run.question)}</h1><p class="quiet">{escape(method_title(run))} on '
        f"{escape(run.model)}: {escape(run.comparison.summary)}. Written by vtprune {__version__}.</p>"
        f"{body}</main></body></html>\n"
    )


def _style() -> str:
    return (assets_dir() / "web" / "report.css").read_text("utf-8")


def method_title(run: Run) -> str:
    """What the run's method is called; its plain name where this version does not know it."""
    info = list_methods().get(run.method)
    return info.title if info else run.method


def _maps(
    run: Run,
    images: Sequence[str | os.PathLike[str] | Image.Image],
    evidence: Sequence[tuple[int, Sequence[float]]],
) -> str:
    stage = export.reached(run)
    figures = []
    drawn = export.maps(run, images, stage, ("kept", "scores"), evidence, SIDE)
    for number, view, picture in drawn:
        shown, sheet = export.patches(run, number, stage), sheets(run.segments)[number]
        words = (
            f"{int(shown.kept.sum())} of {len(shown.kept)} patches kept"
            if view == "kept"
            else f"scores, dark {min(stage.scores):.3g} to bright {max(stage.scores):.3g}"
            if stage and stage.scores
            else ""
        )
        caption = escape(f"{sheet.title(run.images[sheet.image].name)}: {words}")
        figures.append(
            f'<figure><img alt="{caption}" src="{_inline(picture)}">'
            f"<figcaption>{caption}</figcaption></figure>"
        )
    return f'<div class="maps">{"".join(figures)}</div>'


def _inline(picture: Image.Image) -> str:
    buffer = io.BytesIO()
    picture.save(buffer, "WEBP", quality=88)
    return "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode()


def _answers(run: Run) -> str:
    def words(marked: Sequence[tuple[str, bool]]) -> str:
        parts = (f"<mark>{escape(word)}</mark>" if differs else escape(word) for word, differs in marked)
        return " ".join(parts) or "(no words)"

    kept = f"{summary.mean_tokens(run.pruned):.4g} of {run.tokens} tokens, mean over the layers"
    boxes = "".join(
        f'<div class="answer"><h3>{title}</h3><p>{words(marked)}</p></div>'
        for title, marked in (
            (f"All tokens · {run.tokens} tokens", run.comparison.words_full),
            (f"Pruned · {kept}", run.comparison.words_pruned),
        )
    )
    facts = "".join(f"<li><b>{escape(a)}</b> {escape(b)}</li>" for a, b in summary.savings(run))
    agreement = escape(run.comparison.summary)
    return f'<div class="two">{boxes}</div><p><b>{agreement.capitalize()}</b></p><ul>{facts}</ul>'


def _tokens(run: Run) -> str:
    full, pruned, parts = run.full.tokens, run.pruned.tokens, run.comparison.first_difference
    lines = []
    for step in range(max(len(full), len(pruned))):
        cells = "".join(_token(side[step] if step < len(side) else None) for side in (full, pruned))
        kl = f"{run.comparison.kl[step]:.4f}" if step < len(run.comparison.kl) else "–"
        here = ' class="parts"' if step == parts else ""
        note = " · parts here" if step == parts else ""
        lines.append(f"<tr{here}><th>{step + 1}{note}</th>{cells}<td>{kl}</td></tr>")
    return (
        '<div class="scroll"><table><thead><tr><th>Step</th><th colspan="2">All tokens</th>'
        f'<th colspan="2">Pruned</th><th>KL, nats</th></tr></thead><tbody>{"".join(lines)}</tbody></table>'
        '</div><p class="quiet">Each token with its probability, then KL(full ‖ pruned) of the next-token '
        "distributions. It is given up to the first token that differs; after that the two continue "
        "different texts.</p>"
    )


def _token(token: TokenOut | None) -> str:
    if token is None:
        return '<td class="text">–</td><td></td>'
    name = token.text.strip() or (token.top[0][0].strip() if token.top else "") or "␣"
    likeliest = ", ".join(f"{text.strip() or '␣'} {p:.1%}" for text, p in token.top)
    return f'<td class="text" title="{escape(likeliest)}">{escape(name)}</td><td>{token.prob:.1%}</td>'


def _layers(run: Run) -> str:
    counts = run.pruned.cost.tokens_per_layer
    most = max(1, *run.full.cost.tokens_per_layer, *counts)
    bars = "".join(
        f'<i title="layer {k}: {n}" style="height:{max(2, 100 * n / most):.0f}%"></i>'
        for k, n in enumerate(counts)
    )
    stages = (
        "".join(f"<li>{escape(stage.name)}: {stage.before} → {stage.after}</li>" for stage in run.stages)
        or f"<li>Nothing is dropped: all {run.tokens} tokens pass every layer.</li>"
    )
    words = ", ".join(str(count) for count in counts)
    return (
        f'<div class="layers">{bars}</div><p class="quiet">Layer 0 to {len(counts) - 1}: {words}</p>'
        f"<ul>{stages}</ul>"
    )


def _costs(run: Run) -> str:
    rows = "".join(
        f"<tr><th>{escape(name)}</th>{''.join(f'<td>{escape(cell)}</td>' for cell in cells)}</tr>"
        for name, *cells in summary.rows(run)
    )
    return (
        f"{_bars(run)}"
        '<div class="scroll"><table><thead><tr><th></th><th>All tokens</th><th>Pruned</th><th>Change</th>'
        f"</tr></thead><tbody>{rows}</tbody></table></div>"
        f'<p class="quiet">{escape(summary.measured(run, True))}</p>'
        "<details><summary>How operations and bytes are counted</summary>"
        f"<pre>{escape(summary.formulas())}</pre></details>"
    )


def _bars(run: Run) -> str:
    """The two stacked bars of time, by stage."""
    sides = {"All tokens": run.full, "Pruned": run.pruned}
    if not all(side.timings for side in sides.values()):
        return '<p class="quiet">Times were not measured.</p>'
    count = summary.steps(run)
    longest = max(summary.total(side, count).median for side in sides.values())
    keys = "".join(
        f'<span class="key" style="background:{COLOURS[stage]}"></span>{name}'
        for stage, name in STAGES.items()
    )
    out = [f"<p><small>{keys}, {count} token{'s' * (count > 1)}</small></p>"]
    for name, side in sides.items():
        whole = summary.total(side, count)
        parts = []
        for stage in STAGES:
            time = summary.times(side.timings[stage], count if stage == "decode" else 1)
            width = 100 * time.median / max(longest, 1e-9)
            tip = f"{STAGES[stage]}: {summary.spread(time)}"
            label = summary.milliseconds(time.median) if width > 5 else ""
            parts.append(
                f'<span title="{tip}" style="width:{width:.2f}%;background:{COLOURS[stage]}">{label}</span>'
            )
        out.append(f'<small>{name}: {summary.spread(whole)}</small><div class="bar">{"".join(parts)}</div>')
    out.append("<p><small>The range is all stages at their fastest and at their slowest.</small></p>")
    return "".join(out)


def _settings(run: Run) -> str:
    params = ", ".join(f"{name}={value}" for name, value in run.params.items()) or "the method's own defaults"
    keep = f"{run.keep:.4g} of the tokens" if isinstance(run.keep, float) else f"{run.keep} tokens"
    rows = {
        "Method": f"{method_title(run)} ({run.method})",
        "Options": params,
        "Budget": keep,
        "Model": f"{run.model}, on {run.device}, {run.dtype}",
        "Longest answer": f"{run.max_new_tokens} tokens",
        "Positions": run.positions,
        "Seed": str(run.seed),
        "Pictures": ", ".join(f"{info.name} ({info.width}×{info.height})" for info in run.images),
    }
    lines = "".join(f'<tr><th>{k}</th><td class="text">{escape(v)}</td></tr>' for k, v in rows.items())
    return f"<table>{lines}</table>"
