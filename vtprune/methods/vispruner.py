"""VisPruner: half important, half diverse."""

from dataclasses import dataclass

import torch

from vtprune.kernels import normalize, rank
from vtprune.methods.base import Method, register, require
from vtprune.types import Selection, Signals


@register(
    "vispruner",
    title="VisPruner",
    paper="https://arxiv.org/abs/2412.01818",
    year=2024,
    acts_at="vision",
    reconstruction="survivors of a round stay in attention order; the paper leaves their order open.",
)
@dataclass(frozen=True)
class VisPruner(Method):
    """Keeps half of the tokens for importance, by CLS attention, and half for variety: of the rest, those
    that have a near-copy are thrown out a few at a time. Blind to the question, and the variety half keeps
    whatever is unusual, meaningful or not.

    Our implementation of VisPruner. The remaining tokens in attention order are split into even and odd
    places; the `batch` even ones i with the largest max_{j odd} cos(x_i, x_j) go; repeat until enough went.
    important: share of the first half.

    Needs the CLS attention of the encoder.
    """

    important: float = 0.5
    batch: int = 8
    needs = ("cls_attention",)

    def __post_init__(self) -> None:
        require(0 <= self.important <= 1, f"vispruner: important={self.important} must lie in [0, 1].")
        require(self.batch >= 1, f"vispruner: batch={self.batch} must be at least 1.")

    def select(self, signals: Signals, k: int) -> Selection:
        assert signals.cls_attention is not None
        order = rank(signals.cls_attention)
        head = round(self.important * k)
        left, wanted = order[head:], k - head
        unit = normalize(signals.features)
        cosine = unit @ unit.T
        while wanted and len(left) > wanted:
            even, odd = left[::2], left[1::2]
            closest = cosine[even[:, None], odd[None]].amax(1)
            gone = rank(closest)[: min(self.batch, len(left) - wanted)]
            stays = torch.ones(len(left), dtype=torch.bool, device=left.device)
            stays[2 * gone] = False
            left = left[stays]
        keep = torch.cat([order[:head], left[:wanted]])
        return Selection(keep=keep.sort().values, scores=signals.cls_attention)
