"""FasterVLM: CLS attention of the vision encoder."""

from dataclasses import dataclass

from torch import Tensor

from vtprune.methods.base import Method, register
from vtprune.types import Signals


@register(
    "fastervlm",
    title="FasterVLM",
    paper="https://arxiv.org/abs/2412.01818",
    year=2024,
    acts_at="vision",
    nested=True,
)
@dataclass(frozen=True)
class FasterVLM(Method):
    """Keeps the tokens that the vision encoder's CLS token attends to most: what the encoder itself found
    worth summarising. Cheap and steady, but it does not know the question, and it keeps many near-copies of
    a salient object while the quiet background vanishes.

    Our implementation of FasterVLM. score_i = mean over heads of A[CLS, i].

    Needs the CLS attention of the encoder.
    """

    needs = ("cls_attention",)

    def score(self, signals: Signals) -> Tensor:
        assert signals.cls_attention is not None
        return signals.cls_attention
