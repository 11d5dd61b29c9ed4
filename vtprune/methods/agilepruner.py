"""AgilePruner: attention for simple pictures, diversity for busy ones."""

from dataclasses import dataclass

import torch
from torch import Tensor

from vtprune.kernels import greedy_suppression
from vtprune.methods.base import Method, by_order, register, require
from vtprune.types import Selection, Signals


@register(
    "agilepruner",
    title="AgilePruner",
    paper="https://arxiv.org/abs/2603.01236",
    year=2026,
    acts_at="vision",
    nested=True,
    reconstruction="the threshold is strength times the effective rank over the largest possible one.",
)
@dataclass(frozen=True)
class AgilePruner(Method):
    """Goes through the tokens by the encoder's attention and skips those too near to one already kept; how
    near is too near follows how busy the picture is. In a simple picture that is nearly plain attention, in
    a busy one the choice spreads out. It does not know the question, and of things that look alike it keeps
    one, so what has to be counted may be lost.

    Our implementation of AgilePruner. Effective rank e = exp(entropy of sigma / sum sigma) over the
    singular values of the tokens; a token is skipped when 1 - cos to a kept one is below strength * e /
    min(N, D). What was skipped follows in the same sequence when nothing else is left.

    Needs the CLS attention of the encoder.
    """

    strength: float = 1.0
    needs = ("cls_attention",)

    def __post_init__(self) -> None:
        require(self.strength >= 0, f"agilepruner: strength={self.strength} must not be negative.")

    def select(self, signals: Signals, k: int) -> Selection:
        assert signals.cls_attention is not None
        x = signals.features
        share = effective_rank(x) / min(x.shape)
        one = torch.zeros(len(x), dtype=torch.int64, device=x.device)
        limit = 1 - self.strength * share
        order = greedy_suppression(
            signals.cls_attention, x, k, limit, one, torch.tensor([k], device=x.device)
        )
        chosen = by_order(order, k)
        return Selection(chosen.keep, chosen.order, info={"effective_rank": share * min(x.shape)})


def effective_rank(features: Tensor) -> float:
    """exp of the entropy of the singular values as shares of their sum: 1 for one direction, min(N, D) at
    most.

    features: [N, D].
    """
    # float64 from the start: the root turns an error of 1e-7 in the Gram matrix into one of 3e-4
    small = (features if len(features) <= features.shape[1] else features.T).double()
    sigma = torch.linalg.eigvalsh(small @ small.T).clamp(min=0).sqrt()
    share = sigma / sigma.sum().clamp(min=1e-30)
    return float(torch.special.entr(share).sum().exp())
