"""VisionZip: dominant tokens, and the rest merged into a few."""

from dataclasses import dataclass

import torch

from vtprune.kernels import assign_to_nearest, rank
from vtprune.methods.base import Method, merged, register, require
from vtprune.types import Selection, Signals


@register(
    "visionzip",
    title="VisionZip",
    paper="https://arxiv.org/abs/2412.04467",
    year=2024,
    acts_at="vision",
    merges=True,
)
@dataclass(frozen=True)
class VisionZip(Method):
    """Keeps the tokens that the encoder's CLS token attends to most, and folds all others into a few more,
    so that the background is not lost altogether. It does not know the question; what matters to it but not
    to the encoder survives only as part of an average.

    Our implementation of VisionZip. Dominant: top by CLS attention. Contextual: of the M remaining tokens,
    every floor(M / c)-th is a target, the others go to the target whose key (mean over heads) has the
    highest cosine; token = target + mean(assigned). contextual: share of the kept tokens, 10 of 64 by
    default.

    Needs CLS attention and keys of the encoder.
    """

    contextual: float = 10 / 64
    needs = ("cls_attention", "keys")

    def __post_init__(self) -> None:
        require(0 <= self.contextual < 1, f"visionzip: contextual={self.contextual} must lie in [0, 1).")

    def select(self, signals: Signals, k: int) -> Selection:
        assert signals.cls_attention is not None and signals.keys is not None
        n, device = signals.count, signals.features.device
        c = min(round(self.contextual * k), k - 1)
        order = rank(signals.cls_attention)
        dominant, rest = order[: k - c], order[k - c :].sort().values
        is_target = torch.zeros(len(rest), dtype=torch.bool, device=device)
        is_target[torch.arange(c, device=device) * (len(rest) // max(c, 1))] = True
        keep = torch.cat([dominant, rest[is_target]])
        rows, cols, weights = torch.arange(k, device=device), keep, torch.ones(k, device=device)
        if c:
            others = rest[~is_target]
            target = assign_to_nearest(signals.keys[others], signals.keys[rest[is_target]])
            share = 1 / torch.bincount(target, minlength=c).clamp(min=1)
            rows, cols = torch.cat([rows, k - c + target]), torch.cat([cols, others])
            weights = torch.cat([weights, share[target]])
        return merged(keep, rows, cols, weights, n, scores=signals.cls_attention)
