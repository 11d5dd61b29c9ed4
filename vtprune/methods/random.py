"""A seeded random choice."""

from dataclasses import dataclass

import torch
from torch import Tensor

from vtprune.methods.base import Method, register
from vtprune.types import Signals


@register("random", title="Random", acts_at="vision", nested=True)
@dataclass(frozen=True)
class Random(Method):
    """Keeps tokens drawn by lot. The honest baseline: it covers the picture evenly on average, knows
    nothing of the question, and studies find it hard to beat. It fails on anything small: one object on two
    tokens is gone as soon as the lot misses both.

    The lot depends only on the `seed` of the request, the place of the image and its number of tokens.
    """

    def score(self, signals: Signals) -> Tensor:
        generator = torch.Generator().manual_seed(signals.seed + 7919 * signals.images[0])
        return torch.rand(signals.count, generator=generator).to(signals.features.device)
