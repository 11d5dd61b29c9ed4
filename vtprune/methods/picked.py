"""The tokens that somebody picked."""

import dataclasses
from dataclasses import dataclass

import torch

from vtprune.kernels import complete
from vtprune.methods.base import Method, by_order, checked, promise, register, require
from vtprune.methods.multi import lead_each_image, real_tokens
from vtprune.types import Budget, Selection, Shape, Signals, Step


@register("picked", title="Picked by hand", acts_at="vision", multi_image=True, nested=True)
@dataclass(frozen=True)
class Picked(Method):
    """Keeps the tokens you name, so that a guess about what the answer hangs on can be tried. It does no
    work of its own: what the budget still holds after the named tokens is filled by lot.

    tokens: numbers of visual tokens over all pictures, the most wanted first; when the budget is smaller,
    the first ones stay.
    """

    tokens: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        whole = all(isinstance(token, int) and not isinstance(token, bool) for token in self.tokens)
        distinct = len(set(self.tokens)) == len(self.tokens)
        require(whole and distinct, "picked: tokens must be different whole numbers, such as (3, 17).")

    def plan(self, budget: Budget, shape: Shape) -> list[Step]:
        (step,) = super().plan(budget, shape)
        # padding may be picked as well, and numbers count all tokens: the shared guards would take it out
        return [dataclasses.replace(step, select=self.pick)]

    def pick(self, signals: Signals, k: int, full: bool = False) -> Selection:
        """The first k of: the named tokens, then all others by lot."""
        signals = checked(signals, self.name, ())
        n, device = signals.count, signals.features.device
        outside = [token for token in self.tokens if not 0 <= token < n]
        require(not outside, f"picked: there is no token {outside[:1]}: they are numbered 0 to {n - 1}.")
        lot = torch.rand(n, generator=torch.Generator().manual_seed(signals.seed)).to(device)
        lot[~real_tokens(signals)] -= 1  # padding comes last, unless it is named
        order = complete(torch.tensor(self.tokens, dtype=torch.int64, device=device), lot)
        if not self.tokens:
            order = lead_each_image(order, signals)
        kept = set(signals.image_ids()[order[:k]].tolist())
        empty = [str(image + 1) for image in signals.images if image not in kept]
        require(not empty, f"picked: nothing of picture {', '.join(empty)} is kept; pick a token of each.")
        chosen = by_order(order, k)
        promise(chosen, signals, k, self.name)
        return chosen if full else dataclasses.replace(chosen, order=order[:k])
