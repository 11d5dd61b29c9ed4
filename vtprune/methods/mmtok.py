"""MMTok: cover the words and the picture."""

from dataclasses import dataclass

import torch
from torch import Tensor

from vtprune.kernels import greedy_coverage, normalize
from vtprune.methods.base import Method, register, require
from vtprune.types import Signals


@register(
    "mmtok",
    title="MMTok",
    paper="https://arxiv.org/abs/2508.18264",
    year=2025,
    acts_at="projected",
    nested=True,
)
@dataclass(frozen=True)
class MMTok(Method):
    """Keeps the tokens that cover both the words of the question and the picture as a whole: every word and
    every patch wants a kept token like itself. Words whose embeddings lie far from all visual tokens are
    covered by chance, and a long question outweighs the picture no more than a short one.

    Our implementation of MMTok. P = softmax over tokens of cos(t, v) / 0.02, divided by the number of
    words; Q = softmax of cos(v, v) / 0.2, divided by the number of tokens; greedily maximises the coverage
    of [P; alpha Q].

    Needs the LLM's input embeddings of the content words.
    """

    alpha: float = 0.5
    needs = ("text",)

    def __post_init__(self) -> None:
        require(self.alpha >= 0, f"mmtok: alpha={self.alpha} must not be negative.")

    def order(self, signals: Signals, k: int) -> Tensor:
        assert signals.text is not None
        unit, words = normalize(signals.features), normalize(signals.text)
        picture = (unit @ unit.T / 0.2).softmax(1) / signals.count
        if not len(words):
            return greedy_coverage(picture, k)
        question = (words @ unit.T / 0.02).softmax(1) / len(words)
        return greedy_coverage(torch.cat([question, self.alpha * picture]), k)
