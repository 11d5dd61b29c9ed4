"""How many tokens an image deserves: a fixed share (types.Budget), or as many as hold its spectral energy.

The energy curve of an image says which share of |X|_F^2 its k strongest singular directions hold. A picture
with little in it is summed up by few directions, a busy one needs many, so the smallest k that reaches a
threshold tau is a budget that follows the content.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from numbers import Real
from typing import Literal

import torch
from torch import Tensor

from vtprune.kernels import spectral_energy
from vtprune.types import Budget

DEFAULT_TAU = 0.99
"""The raw threshold where nothing was calibrated."""


@dataclass(frozen=True)
class EnergyBudget:
    """K = clip(min{k : energy(k) >= tau}, low * B, high * B) for a wanted mean of B tokens an image.

    tau in (0, 1]: a raw threshold, or one from :func:`calibrate`. spectrum: "exact", "randomized" or "auto"
    (exact up to 1,024 tokens or feature dimensions).
    """

    tau: float = DEFAULT_TAU
    low: float = 0.25
    high: float = 2.0
    spectrum: Literal["auto", "exact", "randomized"] = "auto"

    def __post_init__(self) -> None:
        if not isinstance(self.tau, Real) or not 0 < self.tau <= 1:
            raise ValueError(f"tau={self.tau!r} must lie in (0, 1]: it is a share of the energy.")
        if not 0 < self.low <= 1 <= self.high:
            raise ValueError(f"low={self.low} and high={self.high} must hold the budget between them.")
        if self.spectrum not in ("auto", "exact", "randomized"):
            raise ValueError(f"spectrum={self.spectrum!r} must be 'auto', 'exact' or 'randomized'.")

    def limits(self, wanted: float, tokens: int) -> tuple[int, int]:
        """K_min and K_max of an image of `tokens` tokens when B = `wanted`; 1 <= K_min <= K_max <= tokens."""
        least = min(tokens, max(1, round(self.low * wanted)))
        return least, max(least, min(tokens, round(self.high * wanted)))

    def curve(self, features: Tensor, most: int) -> Tensor:
        """Energy of the first `most` directions. features: [N, D] float32. -> [<= most] float64."""
        exact = None if self.spectrum == "auto" else self.spectrum == "exact"
        return spectral_energy(features, most, exact)

    def count(self, curve: Tensor, least: int, most: int) -> int:
        """The number of tokens for one energy curve."""
        reached = int((curve < self.tau).sum()) + 1
        return min(max(reached, least), most)


def calibrate(
    features: Iterable[Tensor], mean_keep: float | int, low: float = 0.25, high: float = 2.0
) -> float:
    """The tau with which E-AdaPrune keeps `mean_keep` of the tokens on average over these images.

    The published comparison is at a matched average budget, so tau is not chosen but found: bisection over
    the energy curves of about 256 images, each computed once.

    features: one [N, D] tensor an image. mean_keep: as in types.Budget, per image.
    """
    budget = EnergyBudget(low=low, high=high)
    images = []
    for image in features:
        image = image.float()
        wanted = Budget(mean_keep).count(len(image))
        least, most = budget.limits(wanted, len(image))
        images.append((budget.curve(image, most), least, most, wanted))
    if not images:
        raise ValueError("calibration needs the features of at least one image.")
    target = sum(wanted for *_, wanted in images)

    def excess(tau: float) -> int:
        policy = EnergyBudget(tau, low, high)
        return sum(policy.count(curve, least, most) for curve, least, most, _ in images) - target

    below, above = 1e-12, 1.0
    for _ in range(60):
        middle = (below + above) / 2
        if excess(middle) < 0:
            below = middle
        else:
            above = middle
    return min(below, above, key=lambda tau: abs(excess(tau)))


def interpolate(table: Iterable[tuple[float, float]], keep: float) -> float:
    """tau for a keep share from calibrated (keep, tau) pairs, linear between them and constant outside."""
    pairs = torch.tensor(sorted(table), dtype=torch.float64)
    keeps, taus = pairs[:, 0].contiguous(), pairs[:, 1]
    right = int(torch.searchsorted(keeps, torch.tensor(keep, dtype=torch.float64)))
    if right == 0 or right == len(keeps):
        return float(taus[min(right, len(keeps) - 1)])
    left = right - 1
    part = (keep - float(keeps[left])) / float(keeps[right] - keeps[left])
    return float(taus[left] + part * (taus[right] - taus[left]))
