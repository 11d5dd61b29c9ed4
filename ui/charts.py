"""The latency chart."""

from __future__ import annotations

from typing import Any

import plotly.graph_objects as go

from vtprune.summary import milliseconds, steps, times, total
from vtprune.types import Run, Spread

STAGES = {
    "encode": ("Encode picture", "#4f6ea6", ""),
    "select": ("Select tokens", "#a96a12", "/"),
    "prefill": ("Prefill", "#27796f", ""),
    "decode": ("Decode", "#a1567f", "\\"),
}
"""Stage -> what it is called, its colour and its pattern, so that colour is not all that tells them apart."""


def latency(run: Run | None) -> go.Figure:
    """One bar for each side, stacked by stage; without a run, or without timings, an empty chart."""
    figure = go.Figure()
    if run is None or not run.full.timings or not run.pruned.timings:
        figure.add_annotation(text="Not measured yet", showarrow=False, font={"size": 14})
        return _laid_out(figure, shown=False)
    sides = (run.pruned, run.full)
    ends = [total(side, steps(run)) for side in sides]
    for stage, (name, colour, pattern) in STAGES.items():
        count = steps(run) if stage == "decode" else 1
        spreads = [times(side.timings[stage], count) for side in sides]
        label = f"{name}, {count} token{'s' * (count > 1)}" if stage == "decode" else name
        figure.add_bar(
            orientation="h",
            y=["Pruned", "All tokens"],
            x=[spread.median for spread in spreads],
            name=label,
            marker={"color": colour, "pattern": _pattern(pattern)},
            text=[milliseconds(spread.median) for spread in spreads],
            textposition="inside",
            insidetextanchor="middle",
            textangle=0,
            insidetextfont={"color": "#ffffff"},
            error_x=_whisker(ends) if stage == "decode" else None,
            customdata=[(spread.low, spread.high, spread.n) for spread in spreads],
            hovertemplate=f"{label}: %{{x:.3g}} ms (%{{customdata[0]:.3g}} to %{{customdata[1]:.3g}}, "
            "n = %{customdata[2]})<extra>%{y}</extra>",
        )
    return _laid_out(figure, shown=True)


def _whisker(ends: list[Spread]) -> dict[str, Any]:
    return {
        "type": "data",
        "symmetric": False,
        "array": [end.high - end.median for end in ends],
        "arrayminus": [end.median - end.low for end in ends],
        "thickness": 1.5,
        "width": 5,
    }


def _pattern(shape: str) -> dict[str, Any]:
    return {
        "shape": shape,
        "fillmode": "overlay",
        "fgcolor": "#ffffff",
        "fgopacity": 0.35,
        "size": 7,
        "solidity": 0.2,
    }


def _laid_out(figure: go.Figure, shown: bool) -> go.Figure:
    figure.update_layout(
        template="none",
        barmode="stack",
        height=250,
        margin={"l": 84, "r": 20, "t": 44, "b": 44},
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        font={"family": "system-ui, sans-serif", "size": 13},
        legend={"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0, "traceorder": "normal"},
        bargap=0.35,
        dragmode=False,
        uniformtext={"minsize": 10, "mode": "hide"},
    )
    figure.update_xaxes(
        title="milliseconds", rangemode="tozero", visible=shown, zeroline=False, fixedrange=True
    )
    figure.update_yaxes(visible=shown, fixedrange=True)
    return figure
