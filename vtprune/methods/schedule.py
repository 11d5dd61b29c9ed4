"""How many tokens to leave at which LLM layer so that their mean over all layers is what was asked."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from vtprune.types import Budget, Shape


def mean_tokens(layers: Sequence[int], counts: Sequence[int], shape: Shape) -> float:
    """Mean number of visual tokens an LLM layer sees when `counts[s]` of them are left at the input of
    `layers[s]` (rising; 0 = before the LLM)."""
    edges = [*layers, shape.layers]
    seen = layers[0] * shape.tokens
    seen += sum(count * (edges[s + 1] - edges[s]) for s, count in enumerate(counts))
    return seen / shape.layers


def solve(
    name: str,
    budget: Budget,
    shape: Shape,
    layers: Sequence[int],
    shares: Callable[[float], Sequence[float]],
) -> list[int]:
    """The counts to leave at each of `layers` whose mean over all layers is within one token of the budget.

    shares(c): share of all tokens to leave at each layer, every one rising with c in [0, 1] from (about) 0
    to 1. Counts are rounded and no less than one token an image. ValueError names the smallest reachable
    budget when the first layers, which see everything, alone cost more than was asked.
    """
    if not all(0 <= a < b for a, b in zip(layers, [*layers[1:], shape.layers], strict=True)):
        raise ValueError(
            f"{name} prunes at layers {list(layers)}, which a model of {shape.layers} layers lacks."
        )
    target = budget.count(shape.tokens, shape.images)

    def counts(c: float) -> list[int]:
        wanted = (round(share * shape.tokens) for share in shares(c))
        return [min(shape.tokens, max(shape.images, count)) for count in wanted]

    least = mean_tokens(layers, counts(0.0), shape)
    if least > target + 0.5:
        share = math.ceil(1000 * least / shape.tokens) / 1000
        raise ValueError(
            f"{name} cannot bring the mean over {shape.layers} layers down to {target} of {shape.tokens} "
            f"visual tokens: {layers[0]} layers see all of them, so keep={share:g} "
            f"({math.ceil(least)} tokens) is the least."
        )
    low, high = 0.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        if mean_tokens(layers, counts(middle), shape) < target:
            low = middle
        else:
            high = middle
    return min((counts(low), counts(high)), key=lambda found: abs(mean_tokens(layers, found, shape) - target))


def depths(fractions: Sequence[float], layers: int) -> list[int]:
    """Layer numbers at the given shares of the depth, each at least one deeper than the last."""
    found: list[int] = []
    for fraction in fractions:
        layer = round(fraction * layers)
        found.append(max(layer, found[-1] + 1) if found else max(layer, 0))
    return found
