"""TRIM: CLIP similarity to the question, and one token for all the rest."""

from dataclasses import dataclass

import torch
from torch import Tensor

from vtprune.kernels import assign_to_nearest, iqr_outliers, normalize, rank
from vtprune.methods.base import Method, merged, register, require
from vtprune.types import Budget, Selection, Shape, Signals, Step


@register(
    "trim",
    title="TRIM",
    paper="https://arxiv.org/abs/2409.10994",
    year=2024,
    acts_at="vision",
    merges=True,
    reconstruction="the summary counts towards K and stands where the dropped token most like it stood.",
)
@dataclass(frozen=True)
class TRIM(Method):
    """Keeps the patches that CLIP finds most related to the question, and sums up everything else in one
    average token. Strong when the question names what to look at; when it does not, or asks about several
    things at once, the choice is close to arbitrary.

    Our implementation of TRIM. score = softmax(sign * cos(CLIP patch, CLIP text)), averaged over the text's
    pieces; top K - 1 stay, one more token is the mean of the rest. adaptive = true keeps the scores above
    Q3 + 1.5 IQR instead, whatever the budget. clip_sign: -1 where relevant patches score lower, as in
    OpenAI's CLIP, +1 where they score higher, 0 to take what the model declares.

    Needs CLIP embeddings of patches and question.
    """

    adaptive: bool = False
    clip_sign: int = 0
    needs = ("clip_patches", "clip_text")

    def __post_init__(self) -> None:
        require(self.clip_sign in (-1, 0, 1), f"trim: clip_sign={self.clip_sign} must be -1, 0 or 1.")

    def plan(self, budget: Budget, shape: Shape) -> list[Step]:
        keep = budget.count(shape.tokens, shape.images)
        if self.adaptive and keep < shape.tokens:
            return [self.step("vision", None, self.select_outliers)]
        return [self.step("vision", keep)]

    def score(self, signals: Signals) -> Tensor:
        return (clip_similarity(signals, self.clip_sign)).softmax(0)

    def select_outliers(self, signals: Signals, k: None) -> Selection:
        """As many tokens as have outstanding scores, and the summary."""
        return self.select(signals, min(signals.count, int(iqr_outliers(self.score(signals)).sum()) + 1))

    def select(self, signals: Signals, k: int) -> Selection:
        scores = self.score(signals)
        order = rank(scores)
        device = order.device
        if k == 1 or k == signals.count:
            return Selection(keep=order[:k].sort().values, scores=scores)
        top, rest = order[: k - 1], order[k - 1 :].sort().values
        mean = signals.features[rest].mean(0, keepdim=True)
        stand_in = rest[assign_to_nearest(mean, signals.features[rest])]
        rows = torch.cat([torch.arange(k - 1, device=device), torch.full_like(rest, k - 1)])
        weights = torch.cat(
            [torch.ones(k - 1, device=device), torch.full((len(rest),), 1 / len(rest)).to(device)]
        )
        keep, cols = torch.cat([top, stand_in]), torch.cat([top, rest])
        return merged(keep, rows, cols, weights, signals.count, scores=scores)


def clip_similarity(signals: Signals, sign: int = 0) -> Tensor:
    """[N]: cosine of patch and question in CLIP's joint space, averaged over the text's pieces; higher =
    relevant.

    sign: -1 or +1, or 0 for what the model declares.
    """
    assert signals.clip_patches is not None and signals.clip_text is not None
    cosine = (normalize(signals.clip_patches) @ normalize(signals.clip_text).T).mean(1)
    return (sign or signals.clip_sign) * cosine
