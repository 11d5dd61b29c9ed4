"""DivPrune: max-min diversity."""

from dataclasses import dataclass

from torch import Tensor

from vtprune.kernels import farthest_point
from vtprune.methods.base import Method, register
from vtprune.types import Signals


@register(
    "divprune",
    title="DivPrune",
    paper="https://arxiv.org/abs/2503.02175",
    year=2025,
    acts_at="projected",
    nested=True,
)
@dataclass(frozen=True)
class DivPrune(Method):
    """Keeps tokens that are as different from one another as possible, so that every kind of content has a
    representative. It is blind to the question and to importance: odd but meaningless tokens get in early,
    and a large object that looks alike all over is left with very few.

    Our implementation of DivPrune. D_ij = 1 - cos(v_i, v_j). First the token farthest from its nearest
    neighbour, then always the token farthest from the set chosen so far. What is chosen is masked, so a
    blank picture still keeps K distinct tokens.
    """

    def order(self, signals: Signals, k: int) -> Tensor:
        return farthest_point(signals.features, k)
