"""TOPS: relevance, coverage and diversity, three times over."""

from dataclasses import dataclass

import torch
from torch import Tensor

from vtprune.kernels import complete, greedy_coverage, minmax, normalize
from vtprune.methods.base import Method, by_order, register, require
from vtprune.methods.multi import lead_each_image
from vtprune.methods.schedule import depths, solve
from vtprune.types import Budget, Selection, Shape, Signals, Step

COUNTS = (128.0, 64.0, 16.0)


@register(
    "tops",
    title="TOPS",
    paper="https://arxiv.org/abs/2606.27161",
    year=2026,
    acts_at="projected+llm",
    nested=True,
    reconstruction="relevance is ours: cosine to the words before the LLM, attention of the question inside.",
)
@dataclass(frozen=True)
class TOPS(Method):
    """Chooses three times, before the LLM and twice inside, each time weighing closeness to the question,
    how much of the picture a token stands for, and how different it is from those already kept. The weights
    are fixed, so a question about everything and one about a detail are treated alike.

    Our implementation of TOPS. Greedily adds the token with the largest score_i = relevance_i + coverage *
    gain_i + diversity * (1 - max_{j in S} cos_ij), where gain_i is the mean over tokens of what i adds to
    their highest cosine to S. Relevance, min-max scaled: max over words of the cosine before the LLM, the
    mean attention of the question's tokens at layers 3L/8 and 3L/4. The counts 128, 64 and 16 are scaled to
    the budget, a mean over all layers.

    Needs the LLM's input embeddings of the content words, and attention rows of the question at two layers.
    """

    coverage: float = 0.1
    diversity: float = 0.5
    needs = ("text", "attention")

    def __post_init__(self) -> None:
        require(self.coverage >= 0, f"tops: coverage={self.coverage} must not be negative.")
        require(self.diversity >= 0, f"tops: diversity={self.diversity} must not be negative.")

    def plan(self, budget: Budget, shape: Shape) -> list[Step]:
        layers = [0, *depths([3 / 8, 3 / 4], shape.layers)]
        before, *inside = solve(
            "tops", budget, shape, layers, lambda c: [min(1.0, c * count / COUNTS[-1]) for count in COUNTS]
        )
        return [
            self.step("projected", before, needs=("text",)),
            *(
                self.step(("llm", layer), count, self.by_attention, ("attention",), queries="instruction")
                for layer, count in zip(layers[1:], inside, strict=True)
            ),
        ]

    def order(self, signals: Signals, k: int) -> Tensor:
        assert signals.text is not None
        if not len(signals.text):
            return self.greedy(signals, torch.zeros_like(signals.features[:, 0]), k)
        cosine = normalize(signals.features) @ normalize(signals.text).T
        return self.greedy(signals, cosine.amax(1), k)

    def by_attention(self, signals: Signals, k: int) -> Selection:
        """The choice inside the LLM: relevance is the attention of the question's tokens."""
        assert signals.attention is not None
        relevance = signals.attention.mean((0, 1))
        order = complete(self.greedy(signals, relevance, k), relevance)
        return by_order(lead_each_image(order, signals)[:k], k)

    def greedy(self, signals: Signals, relevance: Tensor, k: int) -> Tensor:
        """[k] in pick order. relevance: [N], any scale."""
        unit = normalize(signals.features)
        cosine = unit @ unit.T
        relevance = minmax(relevance)
        nearest = torch.full_like(relevance, -1.0)

        def bonus(picks: Tensor) -> Tensor:
            nonlocal nearest
            if len(picks):
                nearest = torch.maximum(nearest, cosine[picks[-1:]].squeeze(0))
            return relevance + self.diversity * (1 - nearest)

        return greedy_coverage(self.coverage / signals.count * cosine, k, bonus=bonus)
