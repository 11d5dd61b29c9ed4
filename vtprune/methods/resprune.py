"""ResPrune: reconstruct the subspace of the visual tokens, weighted by the question."""

from dataclasses import dataclass

from torch import Tensor

from vtprune.kernels import greedy_logdet, normalize
from vtprune.methods.base import Method, register, require
from vtprune.types import Signals


@register(
    "resprune",
    title="ResPrune",
    paper="https://arxiv.org/abs/2603.21105",
    year=2026,
    acts_at="projected",
    nested=True,
    reconstruction="the scaling of r, alpha = 1 and the choice of content words are ours.",
)
@dataclass(frozen=True)
class ResPrune(Method):
    """Keeps the tokens from which all others can be rebuilt best, with those nearer to the question's words
    counting more. What is a mixture of kept tokens adds nothing and goes. It fails where the text
    embeddings say little about the pixels, and it likes long vectors: a token of large norm looks hard to
    rebuild.

    Our implementation of ResPrune. E_S(v) = |v - P_S v|^2, P_S projecting on the span of the kept tokens;
    r_i = max_j cos(v_i, t_j) over the content words of the question; greedily adds argmax r_i^alpha *
    E_S(v_i). That is greedy MAP of a determinantal point process with q = r^(alpha/2). r = clamp(cos, 0) +
    0.01, divided by its maximum; without a content word, or with alpha = 0, the question plays no part.
    normalize: unit vectors.

    Needs the LLM's input embeddings of the content words.
    """

    alpha: float = 1.0
    normalize: bool = False
    needs = ("text",)

    def __post_init__(self) -> None:
        require(self.alpha >= 0, f"resprune: alpha={self.alpha} must not be negative.")

    def order(self, signals: Signals, k: int) -> Tensor:
        features = normalize(signals.features) if self.normalize else signals.features
        r = relevance(signals)
        return greedy_logdet(features, k, quality=r.pow(self.alpha / 2), fill=r)


def relevance(signals: Signals) -> Tensor:
    """[N] in (0, 1]: the highest cosine to any content word, clamped at 0 and scaled; all 1 without words."""
    text = signals.text
    if text is None or not len(text):
        return signals.features.new_ones(signals.count)
    cosine = (normalize(signals.features) @ normalize(text).T).amax(1)
    r = cosine.clamp(min=0) + 1e-2
    return r / r.max()
