"""Average pooling of the token grid."""

from dataclasses import dataclass

import torch

from vtprune.methods.base import Method, merged, register
from vtprune.methods.geometry import partition
from vtprune.methods.multi import share
from vtprune.types import Selection, Signals


@register("downsample", title="Downsample", acts_at="projected", merges=True)
@dataclass(frozen=True)
class Downsample(Method):
    """Averages neighbouring tokens, as if the picture had been made smaller: it is cut into K cells of
    almost equal size and each becomes one token. Nothing is lost altogether, but everything small gets
    blurred.

    new_c = mean of the tokens in cell c, standing where the token nearest to the centre of the cell stood.
    K need not be a square: the grid is cut into raster bands that differ by at most one cell. A tile that
    gets no token of its image's K is dropped.
    """

    def select(self, signals: Signals, k: int) -> Selection:
        device = signals.features.device
        keep, rows, cols, weights, made = [], [], [], [], 0
        for segment, count in zip(signals.segments, share(signals, k), strict=True):
            if not count:
                continue
            cell, centre = partition(segment, count)
            keep.append(segment.start + centre)
            rows.append(made + cell)
            cols.append(segment.start + torch.arange(segment.length))
            weights.append(1 / torch.bincount(cell)[cell])
            made += count
        whole = [torch.cat(part).to(device) for part in (keep, rows, cols, weights)]
        return merged(whole[0], whole[1], whole[2], whole[3], signals.count)
