"""SCOPE: saliency times coverage."""

from dataclasses import dataclass

from torch import Tensor

from vtprune.kernels import greedy_coverage, normalize
from vtprune.methods.base import Method, register, require
from vtprune.types import Signals


@register(
    "scope",
    title="SCOPE",
    paper="https://arxiv.org/abs/2510.24214",
    year=2025,
    acts_at="vision",
    nested=True,
)
@dataclass(frozen=True)
class SCOPE(Method):
    """Keeps tokens that are salient to the encoder and stand for many others not yet stood for: each step
    takes the largest product of new coverage and CLS attention. It does not know the question, and large
    uniform areas, which are many tokens to cover, draw picks.

    Our implementation of SCOPE. gain_i = A[CLS, i]^alpha * sum_j max(0, cos_ij - cover_j), where cover_j is
    the highest cosine of j to any kept token.

    Needs the CLS attention of the encoder.
    """

    alpha: float = 1.0
    needs = ("cls_attention",)

    def __post_init__(self) -> None:
        require(self.alpha >= 0, f"scope: alpha={self.alpha} must not be negative.")

    def order(self, signals: Signals, k: int) -> Tensor:
        assert signals.cls_attention is not None
        unit = normalize(signals.features)
        return greedy_coverage(unit @ unit.T, k, weight=signals.cls_attention.clamp(min=0).pow(self.alpha))
