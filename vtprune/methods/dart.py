"""DART: drop what duplicates a pivot."""

from dataclasses import dataclass

import torch

from vtprune.kernels import complete, normalize, topk
from vtprune.methods.base import Method, register, require
from vtprune.methods.multi import lead_each_image
from vtprune.methods.schedule import solve
from vtprune.types import Budget, Selection, Shape, Signals, Step


@register(
    "dart",
    title="DART",
    paper="https://arxiv.org/abs/2502.11494",
    year=2025,
    acts_at="llm",
    multi_image=True,
)
@dataclass(frozen=True)
class DART(Method):
    """Early in the LLM, picks a few pivots among image and text tokens and keeps for each the tokens least
    like it: duplication is what gets dropped, not unimportance. It needs no attention, but the question
    enters only through the text pivots, and "least like" favours oddities.

    Our implementation of DART. At the input of layer k: pivots are the image_pivots and text_pivots tokens
    with the largest L1 norm |k_i|_1 of their keys in layer k - 1; each pivot p in turn keeps an equal share
    of the rest, those with the smallest cos(h_i, h_p) of hidden states h. The budget is a mean over all
    layers.

    On the bundled model, which has ten layers, a mean of 25 % leaves 16 of 256 tokens after layer 2. That is
    why it falls below random there, which keeps 64 from the start: at the same layer and number of tokens
    random is right on 59 % of 208 questions, DART on 64 %. Its maps hold pieces of some objects beside
    patches of bare background, which are unlike every pivot.

    Needs keys and hidden states of visual and question tokens at one LLM layer.
    """

    k: int = 2
    image_pivots: int = 4
    text_pivots: int = 4
    needs = ("llm_keys", "query_keys", "query_states")

    def __post_init__(self) -> None:
        require(self.k >= 1, f"dart: k={self.k} must be at least 1, it reads the layer before.")
        require(self.image_pivots >= 1, f"dart: image_pivots={self.image_pivots} must be at least 1.")
        require(self.text_pivots >= 0, f"dart: text_pivots={self.text_pivots} must not be negative.")

    def plan(self, budget: Budget, shape: Shape) -> list[Step]:
        (count,) = solve("dart", budget, shape, [self.k], lambda c: [c])
        return [self.step(("llm", self.k), count, queries="instruction", layer_offset=-1)]

    def select(self, signals: Signals, k: int) -> Selection:
        keys, query_keys, states = signals.llm_keys, signals.query_keys, signals.query_states
        assert keys is not None and query_keys is not None and states is not None
        norms = keys.abs().sum(1)
        pivots = topk(norms, min(self.image_pivots, k))
        text = topk(query_keys.abs().sum(1), self.text_pivots)
        unit = normalize(signals.features)
        towards = torch.cat([unit[pivots], normalize(states)[text]])
        free = torch.ones(signals.count, dtype=torch.bool, device=unit.device)
        free[pivots] = False
        order = [pivots]
        wanted = k - len(pivots)
        for turn, pivot in enumerate(towards):
            quota = (turn + 1) * wanted // len(towards) - turn * wanted // len(towards)
            picks = topk((-(unit @ pivot)).masked_fill(~free, -torch.inf), quota)
            free[picks] = False
            order.append(picks)
        keep = lead_each_image(complete(torch.cat(order), norms), signals)[:k]
        return Selection(keep=keep.sort().values, info={"pivots": pivots.tolist()})
