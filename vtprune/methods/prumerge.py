"""PruMerge: attention outliers that absorb their neighbours."""

from dataclasses import dataclass

import torch
from torch import Tensor

from vtprune.kernels import iqr_outliers, normalize, rank
from vtprune.methods.base import Method, merged, register, require
from vtprune.types import Budget, Selection, Shape, Signals, Step


class Merging(Method):
    """What PruMerge and PruMerge+ share: choosing by attention, and merging by key."""

    adaptive: bool
    neighbours: int
    spatial = 0.0
    needs = ("headless_attention", "keys")

    def plan(self, budget: Budget, shape: Shape) -> list[Step]:
        keep = budget.count(shape.tokens, shape.images)
        if self.adaptive and keep < shape.tokens:
            return [self.step("vision", None, self.select_outliers)]
        return [self.step("vision", keep)]

    def select_outliers(self, signals: Signals, k: None) -> Selection:
        """As many tokens as there are attention outliers (and their share of spatial ones)."""
        assert signals.headless_attention is not None
        outliers = max(1, int(iqr_outliers(signals.headless_attention).sum()))
        count = min(signals.count, round(outliers / (1 - self.spatial)))
        return self.select(signals, count)

    def select(self, signals: Signals, k: int) -> Selection:
        attention, keys = signals.headless_attention, signals.keys
        assert attention is not None and keys is not None
        keep = self.choose(attention, k)
        unit = normalize(keys)
        cosine = unit[keep] @ unit.T
        cosine[torch.arange(k, device=keep.device), keep] = -torch.inf
        near = min(self.neighbours, signals.count - 1)
        cols = torch.argsort(cosine, dim=1, descending=True, stable=True)[:, :near]
        rows = torch.arange(k, device=keep.device)[:, None].expand_as(cols)
        return merged(
            keep,
            torch.cat([torch.arange(k, device=keep.device), rows.flatten()]),
            torch.cat([keep, cols.flatten()]),
            torch.cat([torch.ones(k, device=keep.device), attention[cols].flatten()]),
            signals.count,
            scores=attention,
            info={"count": k},
        )

    def choose(self, attention: Tensor, k: int) -> Tensor:
        """[k] distinct tokens: the most attended, then an even stride over the others."""
        spread = round(self.spatial * k)
        order = rank(attention)
        top, rest = order[: k - spread], order[k - spread :].sort().values
        stride = torch.arange(spread, device=order.device) * len(rest) // max(spread, 1)
        return torch.cat([top, rest[stride]])


@register(
    "prumerge",
    title="PruMerge",
    paper="https://arxiv.org/abs/2403.15388",
    year=2024,
    acts_at="vision",
    merges=True,
    reconstruction="neighbours are found by keys averaged over the heads.",
)
@dataclass(frozen=True)
class PruMerge(Merging):
    """Keeps the few tokens that stand out in the encoder's CLS attention and lets each absorb what is like
    it. On pictures with one clear subject very few tokens say most; where attention is spread over many
    things, the outliers miss most of them.

    Our implementation of PruMerge. a = softmax(q_CLS k^T / sqrt(C)) of the last layer, heads side by side;
    each kept token i becomes v_i + sum a_j v_j over its `neighbours` nearest tokens by key. By default the
    top K by a stay; adaptive = true keeps those above Q3 + 1.5 IQR instead, whatever the budget.

    On the bundled model its choice is as good as FasterVLM's; it is the merging that brings it below random,
    for that model never saw tokens with others added to them: of 208 questions 73 % are right at 25 %, 79 %
    without merging (neighbours = 0), and 64 against 70 % at 10 %.

    Needs that attention, and the encoder's keys.
    """

    adaptive: bool = False
    neighbours: int = 32

    def __post_init__(self) -> None:
        require(self.neighbours >= 0, f"prumerge: neighbours={self.neighbours} must not be negative.")
