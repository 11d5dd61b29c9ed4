"""PruneSID: semantic groups, and no near-copies inside a group."""

from dataclasses import dataclass

import torch

from vtprune.kernels import column_basis, greedy_suppression, normalize
from vtprune.methods.base import Method, by_order, register, require
from vtprune.methods.multi import apportion
from vtprune.types import Selection, Signals


@register(
    "prunesid",
    title="PruneSID",
    paper="https://arxiv.org/abs/2603.09480",
    year=2026,
    acts_at="vision",
    reconstruction="the number of groups (K / 4), their quotas and the suppression threshold are ours.",
)
@dataclass(frozen=True)
class PruneSID(Method):
    """Sorts tokens into groups that mean something similar and keeps in each the tokens that the encoder
    attends to, leaving out near-copies. Every concept keeps a voice; it does not know the question, and
    groups of background get their quota too.

    Our implementation of PruneSID. A token belongs to the principal component v_p with its largest absolute
    loading, argmax_p |v_p . (x_i - mean x)|; groups share K by size; inside a group tokens follow the CLS
    attention, and one whose cosine to a kept one exceeds (1 + mean cosine of all pairs) / 2 waits until
    nothing else is left. size: tokens kept per group, on average.

    Needs the CLS attention of the encoder.
    """

    size: float = 4.0
    needs = ("cls_attention",)

    def __post_init__(self) -> None:
        require(self.size >= 1, f"prunesid: size={self.size} must be at least 1.")

    def select(self, signals: Signals, k: int) -> Selection:
        assert signals.cls_attention is not None
        n, x = signals.count, signals.features
        centred = x - x.mean(0, keepdim=True)
        groups = min(max(1, round(k / self.size)), *x.shape)
        basis = column_basis(centred, groups)
        small = basis.T @ centred
        values, vectors = torch.linalg.eigh(small @ small.T)
        loading = (basis @ vectors.flip(1)[:, :groups]) * values.flip(0)[:groups].clamp(min=0).sqrt()
        group = loading.abs().argmax(1).unique(return_inverse=True)[1]
        quota = torch.tensor(apportion(torch.bincount(group).tolist(), k), device=group.device)
        mean_cosine = (normalize(x).sum(0).square().sum() - n) / max(n * (n - 1), 1)
        limit = float((1 + mean_cosine) / 2)
        order = greedy_suppression(signals.cls_attention, x, k, limit, group, quota)
        chosen = by_order(order, k)
        return Selection(chosen.keep, info={"groups": int(group.max()) + 1})
