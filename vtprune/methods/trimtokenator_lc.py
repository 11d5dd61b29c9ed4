"""TrimTokenator-LC: many images, one budget."""

from dataclasses import dataclass

import torch
from torch import Tensor

from vtprune.kernels import nondominated_order, normalize, rank, rank_within, repmax, waterfill
from vtprune.methods.base import Method, by_order, register, require
from vtprune.types import Selection, Signals

EXACT, ROUNDS = 4096, 64
"""The pool follows RepMax exactly up to so many tokens; a larger one is filled in so many rounds."""


@register(
    "trimtokenator_lc",
    title="TrimTokenator-LC",
    paper="https://arxiv.org/abs/2512.22748",
    year=2025,
    acts_at="projected",
    multi_image=True,
    reconstruction="the budget formula, the pool and the two Pareto objectives are ours.",
)
@dataclass(frozen=True)
class TrimTokenatorLC(Method):
    """Made for many images: first every image gets a budget that follows how varied it is and keeps its
    most representative tokens; then all images together are filtered for what repeats across them, and the
    last choice weighs variety against closeness to the question. With a single image only variety counts,
    so the question plays no part there.

    Our implementation of TrimTokenator-LC. D_intra(I) = mean over pairs of 1 - cos, D_inter = the same
    between the images' mean tokens; lambda = (1 - D_intra) / ((1 - D_intra) + (1 - D_inter)); first budget
    B1 = clip(N (B/N)^lambda, 1.5 B, N), shared by water-filling on m_I D_intra(I). RepMax (see
    kernels.repmax) picks in each image, then a pool of 1.5 B of all picks. Of the pool, fronts of
    non-dominated tokens by diversity 1 - mean cos and alignment max_t cos(x, t) stay, the last front cut by
    crowding distance. Every image keeps `floor` tokens, as far as B allows. One image reduces to RepMax.

    Needs the LLM's input embeddings of the content words.
    """

    floor: int = 4
    pool: float = 1.5
    needs = ("text",)

    def __post_init__(self) -> None:
        require(self.floor >= 1, f"trimtokenator_lc: floor={self.floor} must be at least 1.")
        require(self.pool >= 1, f"trimtokenator_lc: pool={self.pool} must be at least 1.")

    def select(self, signals: Signals, k: int) -> Selection:
        if len(signals.images) == 1:
            return by_order(repmax(signals.features, k), k)
        unit, ids = normalize(signals.features), signals.image_ids()
        rows = [(ids == image).nonzero().squeeze(1) for image in signals.images]
        sizes = torch.tensor([len(own) for own in rows])
        diversity = torch.stack([spread(unit[own]) for own in rows]).cpu()
        centres = normalize(torch.stack([signals.features[own].mean(0) for own in rows]))
        first = self.first_budget(k, signals.count, float(diversity.mean()), float(spread(centres)))
        budgets = waterfill(sizes * diversity, sizes, first, self.floor).tolist()
        chosen = [own[repmax(unit[own], b)] for own, b in zip(rows, budgets, strict=True)]

        union = torch.cat(chosen)
        size = min(len(union), round(self.pool * k))
        rounds = None if len(union) <= EXACT else ROUNDS
        pool = union[repmax(unit[union], size, rounds)] if size < len(union) else union
        least = min(self.floor, k // len(rows))
        pool = torch.cat([pool, *[own[:least] for own in chosen]]).unique()

        order = pool[self.pareto(unit[pool], signals.text)]
        # the best `least` of every image lead, whatever the fronts say
        place = rank_within(-torch.arange(len(order), device=order.device).float(), ids[order])
        order = torch.cat([order[place < least], order[place >= least]])
        info = {"first_budget": first, "budgets": budgets, "D_intra": diversity.tolist()}
        return Selection(keep=order[:k].sort().values, info=info)

    def first_budget(self, k: int, n: int, intra: float, inter: float) -> int:
        """B1, the number of tokens that all images together keep in the first stage."""
        alike, alike_between = max(1 - intra, 0.0), max(1 - inter, 0.0)
        share = alike / (alike + alike_between) if alike + alike_between > 1e-6 else 0.5
        return min(n, max(round(n * (k / n) ** share), round(self.pool * k)))

    def pareto(self, unit: Tensor, text: Tensor | None) -> Tensor:
        """Order of a pool of unit vectors [P, D]: fronts of (diversity, alignment) one after another."""
        p = len(unit)
        diversity = 1 - (unit @ unit.sum(0) - 1) / max(p - 1, 1)
        if text is None or not len(text):
            return rank(diversity)
        alignment = (unit @ normalize(text).T).amax(1)
        return nondominated_order(torch.stack([diversity, alignment], 1), p)


def spread(unit: Tensor) -> Tensor:
    """Mean of 1 - cos over all pairs of unit vectors [m, D]; 0 for a single one. -> scalar."""
    m = len(unit)
    if m == 1:
        return unit.new_zeros(())
    return (1 - (unit.sum(0).square().sum() - m) / (m * (m - 1))).clamp(min=0)
