"""A seeded random choice."""

from dataclasses import dataclass

import torch
from torch import Tensor

from vtprune.methods.base import Method, register, require
from vtprune.methods.schedule import solve
from vtprune.types import Budget, Shape, Signals, Step


@register("random", title="Random", acts_at="vision", nested=True)
@dataclass(frozen=True)
class Random(Method):
    """Keeps tokens drawn by lot. The honest baseline: it covers the picture evenly on average, knows
    nothing of the question, and studies find it hard to beat. It fails on anything small: one object on two
    tokens is gone as soon as the lot misses both.

    The lot depends only on the `seed` of the request, the place of the image and its number of tokens.
    layer: draw at the input of this LLM layer instead of before the LLM, at the same mean over all layers.
    Beside a method that drops there, it tells what its choice is worth from what its schedule costs.
    """

    layer: int = 0

    def __post_init__(self) -> None:
        require(self.layer >= 0, f"random: layer={self.layer} must not be negative.")

    def plan(self, budget: Budget, shape: Shape) -> list[Step]:
        if not self.layer:
            return super().plan(budget, shape)
        (count,) = solve("random", budget, shape, [self.layer], lambda c: [c])
        return [self.step(("llm", self.layer), count)]

    def score(self, signals: Signals) -> Tensor:
        generator = torch.Generator().manual_seed(signals.seed + 7919 * signals.images[0])
        return torch.rand(signals.count, generator=generator).to(signals.features.device)
