"""An even grid of tokens."""

from dataclasses import dataclass

import torch

from vtprune.methods.base import Method, register
from vtprune.methods.geometry import partition
from vtprune.methods.multi import share
from vtprune.types import Selection, Signals


@register("uniform", title="Uniform grid", acts_at="vision")
@dataclass(frozen=True)
class Uniform(Method):
    """Keeps an even grid of tokens: the picture is cut into K cells of almost equal size and the token
    nearest to the centre of each stays. It never leaves a large area empty, but it looks at nothing, so
    detail between the grid points is lost.

    K need not be a square: the grid is cut into raster bands that differ by at most one cell. Tiles of one
    image share its K by their size.
    """

    def select(self, signals: Signals, k: int) -> Selection:
        kept = [
            segment.start + partition(segment, count)[1]
            for segment, count in zip(signals.segments, share(signals, k), strict=True)
            if count
        ]
        return Selection(keep=torch.cat(kept).sort().values.to(signals.features.device))
