"""VScan: local and global attention, then the question."""

from dataclasses import dataclass

import torch

from vtprune.kernels import assign_to_nearest, rank, rank_within
from vtprune.methods.base import Method, by_score, merged, register, require
from vtprune.methods.geometry import windows
from vtprune.methods.multi import apportion
from vtprune.methods.schedule import depths, solve
from vtprune.types import Budget, Selection, Shape, Signals, Step


@register(
    "vscan",
    title="VScan",
    paper="https://arxiv.org/abs/2505.22654",
    year=2025,
    acts_at="vision+llm",
    merges=True,
)
@dataclass(frozen=True)
class VScan(Method):
    """Keeps half of its tokens window by window, by the CLS attention of an early encoder layer (detail
    everywhere), half by that of a deep layer (what matters overall), and merges the rest into them;
    half-way through the LLM it keeps what the prompt attends to. The windows spend tokens on empty areas,
    and merging blurs what it saves.

    Our implementation of VScan. Local: each window x window block of patches gets its share of half the
    tokens; global: top of the others; a kept token j becomes the mean of itself and of all dropped i with
    j = argmax_s cos(x_i, x_s).
    At the input of LLM layer L/2: top by the last token's attention. It keeps `ratio` times as many tokens
    before the LLM as after layer L/2: 1.5 B and 0.5 B for a mean of B.

    Needs the CLS attention of an early and of the last used encoder layer, and one row of the LLM's
    attention.
    """

    window: int = 6
    ratio: float = 3.0
    needs = ("shallow_attention", "cls_attention", "attention")

    def __post_init__(self) -> None:
        require(self.window >= 1, f"vscan: window={self.window} must be at least 1.")
        require(self.ratio >= 1, f"vscan: ratio={self.ratio} must be at least 1.")

    def plan(self, budget: Budget, shape: Shape) -> list[Step]:
        layers = [0, *depths([0.5], shape.layers)]
        before, inside = solve("vscan", budget, shape, layers, lambda c: [min(1.0, self.ratio * c), c])
        return [
            self.step("vision", before, needs=("shallow_attention", "cls_attention")),
            self.step(("llm", layers[1]), inside, self.by_prompt, needs=("attention",), queries="last"),
        ]

    def select(self, signals: Signals, k: int) -> Selection:
        shallow, deep = signals.shallow_attention, signals.cls_attention
        assert shallow is not None and deep is not None
        window = windows(signals, self.window).unique(return_inverse=True)[1]
        quota = torch.tensor(apportion(torch.bincount(window).tolist(), k // 2), device=window.device)
        local = rank_within(shallow, window) < quota[window]
        order = rank(deep)
        order = torch.cat([order[local[order]], order[~local[order]]])
        keep, dropped = order[:k].sort().values, order[k:].sort().values
        owner = torch.empty_like(order)
        owner[keep] = torch.arange(k, device=keep.device)
        owner[dropped] = assign_to_nearest(signals.features[dropped], signals.features[keep])
        everything = torch.arange(signals.count, device=keep.device)
        return merged(keep, owner, everything, 1 / torch.bincount(owner)[owner], signals.count)

    def by_prompt(self, signals: Signals, k: int) -> Selection:
        """The second stage: attention of the prompt's last token."""
        assert signals.attention is not None
        return by_score(signals, signals.attention[:, -1].mean(0), k)
