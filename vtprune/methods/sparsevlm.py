"""SparseVLM: the words that look at the picture decide."""

from dataclasses import dataclass

import torch
from torch import Tensor

from vtprune.kernels import rank, topk
from vtprune.methods.base import Method, merged, register, require
from vtprune.methods.multi import lead_each_image
from vtprune.methods.schedule import depths, solve
from vtprune.types import Budget, Selection, Shape, Signals, Step

DEPTHS = (2 / 32, 6 / 32, 15 / 32)
COUNTS = (66.0, 30.0, 17.0)
NEAREST = 5
"""Neighbours that make up a token's density."""


@register(
    "sparsevlm",
    title="SparseVLM",
    paper="https://arxiv.org/abs/2410.04417",
    year=2024,
    acts_at="llm",
    multi_image=True,
    merges=True,
    reconstruction="a tenth of what is kept are clusters of the best 30 % of the dropped: our shares.",
)
@dataclass(frozen=True)
class SparseVLM(Method):
    """Prunes at three depths of the LLM by the attention of those question words that look at the picture
    at all, and folds part of what it drops into a few averaged tokens. The first layers see everything, so
    small budgets are out of reach, and early attention is a poor guide.

    Our implementation of SparseVLM. Raters: question tokens t with an above-average mean over visual tokens
    of softmax_t(H_v H_t^T); score_i = mean over heads and raters of A[t, i]. It acts at layers 2, 6 and 15
    of 32, at the same depths elsewhere; the counts 66, 30 and 17 (a mean of 64 of 576) are scaled to the
    budget. recycle: a share of the kept tokens are density-peak clusters (DPC-KNN) of the dropped tokens
    with the highest scores.

    On the bundled model, which has ten layers, a mean of 10 % is spent by the first layer alone, so a single
    token is left for the others, and it falls far below random; on questions with several pictures that
    budget is out of reach. At 15 % nine of 256 tokens are left at the end, and 73 % of 208 questions are
    right.

    Needs attention rows and hidden states of the question's tokens at these layers.
    """

    recycle: float = 0.1
    needs = ("attention", "query_states")

    def __post_init__(self) -> None:
        require(0 <= self.recycle < 1, f"sparsevlm: recycle={self.recycle} must lie in [0, 1).")

    def plan(self, budget: Budget, shape: Shape) -> list[Step]:
        layers = depths(DEPTHS, shape.layers)
        counts = solve(
            "sparsevlm",
            budget,
            shape,
            layers,
            lambda c: [min(1.0, c * share / COUNTS[-1]) for share in COUNTS],
        )
        return [
            self.step(("llm", layer), count, queries="instruction")
            for layer, count in zip(layers, counts, strict=True)
        ]

    def score(self, signals: Signals) -> Tensor:
        attention, states = signals.attention, signals.query_states
        assert attention is not None and states is not None
        looks = (signals.features @ states.T).softmax(1).mean(0)
        raters = looks >= looks.mean()
        return attention[:, raters].mean((0, 1))

    def select(self, signals: Signals, k: int) -> Selection:
        scores = self.score(signals)
        order = lead_each_image(rank(scores), signals)
        clusters = min(round(self.recycle * k), k - len(signals.images))
        top, dropped = order[: k - clusters], order[k - clusters :]
        if not clusters:
            return Selection(keep=top.sort().values, scores=scores)
        pool = dropped[: max(clusters, round(0.3 * len(dropped)))]
        centre, owner = density_peaks(signals.features[pool], clusters)
        rows = torch.cat([torch.arange(k - clusters, device=top.device), k - clusters + owner])
        weights = torch.cat([torch.ones(k - clusters, device=top.device), 1 / torch.bincount(owner)[owner]])
        keep, cols = torch.cat([top, pool[centre]]), torch.cat([top, pool])
        return merged(keep, rows, cols, weights, signals.count, scores=scores)


def density_peaks(features: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """DPC-KNN: centres are dense and far from anything denser; every token joins the nearest centre.

    features: [M, D]. -> centres [count], owner of each token [M] (an index into the centres).
    """
    m = len(features)
    distance = (
        torch.cdist(features, features, compute_mode="donot_use_mm_for_euclid_dist")
        / features.shape[1] ** 0.5
    )
    nearest = distance.sort(1).values[:, 1 : NEAREST + 1]
    density = (-nearest.square().sum(1) / max(nearest.shape[1], 1)).exp()
    place = torch.empty(m, dtype=torch.int64, device=features.device)
    place[rank(density)] = torch.arange(m, device=features.device)
    denser = place[None] < place[:, None]
    gap = torch.where(denser, distance, torch.inf).amin(1)
    gap[place == 0] = distance.max()
    centre = topk(density * gap, count)
    owner = distance[:, centre].argmin(1)
    owner[centre] = torch.arange(count, device=features.device)
    return centre, owner
