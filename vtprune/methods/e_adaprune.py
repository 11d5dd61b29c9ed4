"""E-AdaPrune: as many tokens as hold the image's spectral energy."""

from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, cast

from vtprune.budgets import DEFAULT_TAU, EnergyBudget, interpolate
from vtprune.methods.base import Method, find, make, register, require
from vtprune.types import Budget, Selection, Shape, Signals, Step

CURVE_POINTS = 32
"""Points of the energy curve that `info` carries for the screen."""


@register(
    "e_adaprune",
    title="E-AdaPrune",
    paper="https://arxiv.org/abs/2603.05950",
    year=2026,
    acts_at="vision",
    adaptive=True,
    reconstruction="X = the encoder's output, the limits 0.25 B and 2 B and the calibration of tau are ours.",
)
@dataclass(frozen=True)
class EAdaPrune(Method):
    """Decides how many tokens each image gets, and lets another method decide which: a picture that a few
    directions sum up gets few, a busy one many, at the same mean over many pictures. Texture and noise look
    busy too, so a noisy picture is given tokens that it does not need; and with an uncalibrated threshold
    most pictures end at one of the limits.

    Our implementation of E-AdaPrune. energy(k) = sum_{i<=k} sigma_i^2 / |X|_F^2 over the singular values of
    one image's tokens X, not centred; K = clip(min{k : energy(k) >= tau}, low * B, high * B) with B from
    the budget. base: the selector, any that acts once before the LLM. base_params: its parameters. tau: the
    threshold, or None to look it up for the budget in `table`, calibrated (keep, tau) pairs, and without a
    table to use 0.99. space: "vision" (the encoder's output) or "projected". spectrum: "auto", "exact" or
    "randomized".

    Needs what the selector needs, and the encoder's output where the selector acts after the projector.
    """

    base: str = "atp"
    tau: float | None = None
    table: tuple[tuple[float, float], ...] = ()
    low: float = 0.25
    high: float = 2.0
    space: str = "vision"
    spectrum: str = "auto"
    base_params: dict[str, Any] | None = None

    def __post_init__(self) -> None:
        pairs = all(len(pair) == 2 and 0 < pair[0] <= 1 and 0 < pair[1] <= 1 for pair in self.table)
        require(pairs, f"e_adaprune: table={self.table!r} must hold pairs (keep, tau), each in (0, 1].")
        require(self.space in ("vision", "projected"), f"e_adaprune: unknown space {self.space!r}.")
        self.policy(1.0)  # checks tau and the limits

    def policy(self, share: float) -> EnergyBudget:
        """The budget rule for a wanted share of the tokens."""
        tau = self.tau
        if tau is None:
            tau = interpolate(self.table, share) if self.table else DEFAULT_TAU
        spectrum = cast(Literal["auto", "exact", "randomized"], self.spectrum)
        return EnergyBudget(tau, self.low, self.high, spectrum)

    def selector(self) -> Method:
        """The wrapped method."""
        base = make(self.base, **(self.base_params or {}))
        acts_at = find(self.base).facts["acts_at"]
        require(
            acts_at in ("vision", "projected") and self.base != self.name,
            f"e_adaprune wraps selectors that act once before the LLM; {self.base} acts at {acts_at}.",
        )
        require(
            acts_at == "projected" or self.space == "vision",
            f"e_adaprune: {self.base} acts before the projector, where space='projected' does not exist yet.",
        )
        return base

    @property
    def needs(self) -> tuple[str, ...]:
        base = self.selector()
        after_projector = base.facts["acts_at"] == "projected" and self.space == "vision"
        return (*base.needs, *(["vision_features"] if after_projector else []))

    def without(self, need: str) -> dict[str, Any]:
        options = self.selector().without(need)
        return {"base_params": {**(self.base_params or {}), **options}} if options else {}

    def plan(self, budget: Budget, shape: Shape) -> list[Step]:
        base = self.selector()
        wanted = budget.count(shape.tokens, shape.images)
        choose = partial(self.adapt, base, wanted / shape.tokens)
        keep = None if wanted < shape.tokens else wanted
        return [self.step(base.facts["acts_at"], keep, choose)]

    def adapt(self, base: Method, share: float, signals: Signals, k: int | None) -> Selection:
        """The selection of one image, which gets as many tokens as its energy asks for."""
        policy, n = self.policy(share), signals.count
        after_projector = base.facts["acts_at"] == "projected" and self.space == "vision"
        features = signals.vision_features if after_projector else signals.features
        assert features is not None
        least, most = policy.limits(share * n, n)
        curve = policy.curve(features, most)
        count = policy.count(curve, least, most)
        chosen = base.select(signals, count)
        every = max(1, len(curve) // CURVE_POINTS)
        told = {
            "K": count,
            "K_min": least,
            "K_max": most,
            "tau": policy.tau,
            "energy_k": list(range(1, len(curve) + 1, every)),
            "energy": curve[::every].tolist(),
        }
        return Selection(
            chosen.keep, chosen.order, chosen.scores, chosen.merge, chosen.extra, chosen.info | told
        )
