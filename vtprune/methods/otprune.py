"""OTPrune: match the distribution of all tokens."""

from dataclasses import dataclass

from torch import Tensor

from vtprune.kernels import greedy_logdet
from vtprune.methods.base import Method, register, require
from vtprune.types import Signals


@register(
    "otprune",
    title="OTPrune",
    paper="https://arxiv.org/abs/2602.20205",
    year=2026,
    acts_at="projected",
    nested=True,
    reconstruction="scaling each feature dimension to unit length over the tokens is our reading.",
)
@dataclass(frozen=True)
class OTPrune(Method):
    """Keeps the tokens whose distribution is closest to that of all tokens, so that frequent content stays
    frequent and rare content is not forgotten. It neither knows the question nor what matters in the
    picture: a small thing that decides the answer counts for no more than the area it covers.

    Our implementation of OTPrune. Z: tokens with each feature dimension normalised, S = Z Z^T; greedily
    maximises log det(I + scale * S S^T) over the kept rows, a bound on the optimal transport distance of
    Gaussians.
    """

    scale: float = 0.01

    def __post_init__(self) -> None:
        require(self.scale > 0, f"otprune: scale={self.scale} must be positive.")

    def order(self, signals: Signals, k: int) -> Tensor:
        z = signals.features / signals.features.norm(dim=0, keepdim=True).clamp(min=1e-12)
        return greedy_logdet(self.scale**0.5 * (z @ z.T), k, ridge=1.0)
