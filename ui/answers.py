"""The answers token by token: one component; assets/web/answers.js draws the value that is made here."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from vtprune.compare import first_difference
from vtprune.types import Run, TokenOut

EMPTY: dict[str, Any] = {"full": [], "pruned": [], "parts": None, "kl": []}


def value(full: Sequence[TokenOut], pruned: Sequence[TokenOut], kl: Sequence[float] = ()) -> dict[str, Any]:
    """What the component draws. parts: the step at which the two differ for the first time, or None. kl: the
    divergence of each step up to that one; none while it is not known yet."""
    parts = first_difference([token.id for token in full], [token.id for token in pruned])
    return {"full": _side(full), "pruned": _side(pruned), "parts": parts, "kl": list(kl)}


def of_run(run: Run) -> dict[str, Any]:
    """The value for a finished run."""
    return value(run.full.tokens, run.pruned.tokens, run.comparison.kl)


def _side(tokens: Sequence[TokenOut]) -> list[dict[str, Any]]:
    return [
        {
            "text": token.text,
            "prob": round(token.prob, 4),
            "top": [[text, round(p, 4)] for text, p in token.top],
        }
        for token in tokens
    ]
