"""HiPrune: objects from a middle layer, context from a deep one."""

from dataclasses import dataclass

import torch
from torch import Tensor

from vtprune.kernels import rank
from vtprune.methods.base import Method, by_order, register, require
from vtprune.methods.geometry import neighbours
from vtprune.types import Selection, Signals


@register(
    "hiprune",
    title="HiPrune",
    paper="https://arxiv.org/abs/2508.00553",
    year=2025,
    acts_at="vision",
)
@dataclass(frozen=True)
class HiPrune(Method):
    """Keeps tokens for three reasons: anchors, which a middle encoder layer attends to (objects), their
    direct neighbours, and for the rest tokens that a deep layer attends to (global context). It does not
    know the question, and with small budgets anchors and neighbours leave no room for context.

    Our implementation of HiPrune. g_i = mean over heads and queries of the attention that token i receives.
    Anchors: the alpha * K highest g of the middle layer; buffers: their four neighbours in the grid;
    registers: the highest g of the deep layer, until there are K.

    Needs the received attention of a middle and of the last used encoder layer.
    """

    alpha: float = 0.1
    needs = ("middle_attention", "received_attention")

    def __post_init__(self) -> None:
        require(0 <= self.alpha <= 1, f"hiprune: alpha={self.alpha} must lie in [0, 1].")

    def select(self, signals: Signals, k: int) -> Selection:
        middle, deep = signals.middle_attention, signals.received_attention
        assert middle is not None and deep is not None
        anchors = rank(middle)[: max(1, round(self.alpha * k))]
        beside = neighbours(signals)[anchors].flatten()
        order = first_seen(torch.cat([anchors, beside[beside >= 0], rank(deep)]))
        return by_order(order, k)


def first_seen(indices: Tensor) -> Tensor:
    """The distinct values of [M] in the sequence in which they first occur."""
    values, inverse = indices.unique(return_inverse=True)
    first = torch.full_like(values, len(indices))
    first.scatter_reduce_(0, inverse, torch.arange(len(indices), device=indices.device), "amin")
    return indices[first.sort().values]
