"""HoloV: a quota for every part of the picture."""

from dataclasses import dataclass

import torch

from vtprune.kernels import normalize, rank_within, waterfill
from vtprune.methods.base import Method, register, require
from vtprune.types import Selection, Signals


@register(
    "holov",
    title="HoloV",
    paper="https://arxiv.org/abs/2510.02912",
    year=2025,
    acts_at="projected",
    reconstruction="how attention and variance are scaled against each other is ours.",
)
@dataclass(frozen=True)
class HoloV(Method):
    """Cuts the picture into strips and gives each a quota, by how much the encoder attends to it and how
    varied it is; inside a strip the most attended tokens stay. The picture stays represented as a whole, at
    the price of tokens for strips that hold nothing.

    Our implementation of HoloV. `chunks` runs of tokens in raster order; the weight of a chunk is its share
    of the mean CLS attention plus beta times its share of the variance of cosines between its tokens:
    w_c = a_c / sum a + beta v_c / sum v, and K is shared in proportion to w.

    Needs the CLS attention of the encoder.
    """

    chunks: int = 16
    beta: float = 0.09
    needs = ("cls_attention",)

    def __post_init__(self) -> None:
        require(self.chunks >= 1, f"holov: chunks={self.chunks} must be at least 1.")
        require(self.beta >= 0, f"holov: beta={self.beta} must not be negative.")

    def select(self, signals: Signals, k: int) -> Selection:
        attention, unit = signals.cls_attention, normalize(signals.features)
        assert attention is not None
        chunks = min(self.chunks, signals.count)
        chunk = torch.arange(signals.count, device=unit.device) * chunks // signals.count
        size = torch.bincount(chunk)
        variance = torch.stack([(own @ own.T).var(correction=0) for own in unit.split(size.tolist())])
        mean = torch.zeros_like(variance).index_add_(0, chunk, attention.clamp(min=0)) / size
        weight = mean / mean.sum().clamp(min=1e-12) + self.beta * variance / variance.sum().clamp(min=1e-12)
        quota = waterfill(weight.cpu(), size.cpu(), k, floor=0).to(unit.device)
        keep = (rank_within(attention, chunk) < quota[chunk]).nonzero().squeeze(1)
        return Selection(keep=keep, info={"quota": quota.tolist()})
