"""STS: spread out before the LLM, follow the question inside it."""

from dataclasses import dataclass

import torch
from torch import Tensor

from vtprune.kernels import CHUNK, greedy_energy, normalize
from vtprune.methods.base import Method, by_score, register, require
from vtprune.methods.geometry import positions
from vtprune.methods.schedule import depths, solve
from vtprune.types import Budget, Selection, Shape, Signals, Step


@register(
    "sts",
    title="STS",
    paper="https://arxiv.org/abs/2606.03569",
    year=2026,
    acts_at="projected+llm",
    nested=True,
    reconstruction="the paper gives the idea only: potential, distance, score and schedule are ours.",
)
@dataclass(frozen=True)
class STS(Method):
    """Works in two stages: first it keeps tokens that repel each other, in looks and in place, so that the
    whole picture stays represented; half-way through the LLM it keeps those that the question attends to.
    The first stage knows nothing of the question and can thin out the very object asked about before the
    second can save it.

    Our implementation of STS. D = (|f_i - f_j| + lambda * sqrt(2) |p_i - p_j|) / (1 + lambda) with unit
    features f and positions p in [0, 1]^2; phi(D) = (D + epsilon)^-power. It starts at argmin_i sum_j
    phi(D_ij), then adds argmin_i of the running potential U_i = sum_{j in S} phi(D_ij). At the input of LLM
    layer L/2: top tokens by the mean over heads and question tokens of their attention. It keeps `ratio`
    times as many tokens before the LLM as after layer L/2; with ratio = 3 and a mean of B that is 1.5 B and
    0.5 B. A power of 1 piles tokens up on the border of the picture; with very few tokens any power favours
    it somewhat.

    Needs the LLM's attention rows of the question, at one layer.
    """

    power: float = 4.0
    weight: float = 1.0
    epsilon: float = 1e-3
    ratio: float = 3.0
    needs = ("attention",)

    def __post_init__(self) -> None:
        require(self.power > 0, f"sts: power={self.power} must be positive.")
        require(self.weight >= 0, f"sts: weight={self.weight} must not be negative.")
        require(self.epsilon > 0, f"sts: epsilon={self.epsilon} must be positive.")
        require(self.ratio >= 1, f"sts: ratio={self.ratio} must be at least 1.")

    def plan(self, budget: Budget, shape: Shape) -> list[Step]:
        layers = [0, *depths([0.5], shape.layers)]
        before, inside = solve("sts", budget, shape, layers, lambda c: [min(1.0, self.ratio * c), c])
        return [
            self.step("projected", before, needs=()),
            self.step(("llm", layers[1]), inside, self.by_question, queries="instruction"),
        ]

    def order(self, signals: Signals, k: int) -> Tensor:
        unit, place = normalize(signals.features), positions(signals)

        def rows(index: Tensor) -> Tensor:
            looks = (2 - 2 * unit[index] @ unit.T).clamp(min=0).sqrt()
            # not by products of positions: equal distances have to stay equal to the last digit
            across, down = (place[index, axis, None] - place[None, :, axis] for axis in (0, 1))
            apart = (2 * (across.square() + down.square())).sqrt()
            distance = (looks + self.weight * apart) / (1 + self.weight)
            return (distance + self.epsilon).pow(-self.power)

        every = torch.arange(signals.count, device=unit.device)
        start = []
        for index in every.split(CHUNK):
            potential = rows(index)
            potential[torch.arange(len(index), device=unit.device), index] = 0  # the same for all, and huge
            start.append(potential.sum(1))
        return greedy_energy(torch.cat(start), rows, k)

    def by_question(self, signals: Signals, k: int) -> Selection:
        """The second stage: attention of the question's tokens."""
        assert signals.attention is not None
        return by_score(signals, signals.attention.mean((0, 1)), k)
