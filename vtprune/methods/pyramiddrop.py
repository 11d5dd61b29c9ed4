"""PyramidDrop: the same share again and again."""

from dataclasses import dataclass

from torch import Tensor

from vtprune.methods.base import Method, register
from vtprune.methods.schedule import depths, solve
from vtprune.types import Budget, Shape, Signals, Step


@register(
    "pyramiddrop",
    title="PyramidDrop",
    paper="https://arxiv.org/abs/2410.17247",
    year=2024,
    acts_at="llm",
    multi_image=True,
    nested=True,
)
@dataclass(frozen=True)
class PyramidDrop(Method):
    """Prunes at a quarter, half and three quarters of the LLM's depth, each time to the same share of what
    is left, by the attention of the prompt's last token. Deep layers know best what is needed, but a
    quarter of the stack sees everything, so it cannot save more than three quarters of the tokens.

    Our implementation of PyramidDrop. At the inputs of layers L/4, L/2 and 3L/4: score_i = mean over heads
    of A[last token, i], from that layer's own q and k. The paper keeps 50 % each time; here the share
    follows from the budget, a mean over all layers.

    Needs one row of the LLM's attention at these layers.
    """

    needs = ("attention",)

    def plan(self, budget: Budget, shape: Shape) -> list[Step]:
        layers = depths([0.25, 0.5, 0.75], shape.layers)
        counts = solve("pyramiddrop", budget, shape, layers, lambda c: [c, c**2, c**3])
        return [
            self.step(("llm", layer), count, queries="last")
            for layer, count in zip(layers, counts, strict=True)
        ]

    def score(self, signals: Signals) -> Tensor:
        assert signals.attention is not None
        return signals.attention[:, -1].mean(0)
