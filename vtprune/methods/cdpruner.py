"""CDPruner: diversity on the condition of the question."""

from dataclasses import dataclass

from torch import Tensor

from vtprune.kernels import greedy_logdet, minmax, normalize
from vtprune.methods.base import Method, register, require
from vtprune.methods.trim import clip_similarity
from vtprune.types import Signals


@register(
    "cdpruner",
    title="CDPruner",
    paper="https://arxiv.org/abs/2506.10967",
    year=2025,
    acts_at="projected",
    nested=True,
)
@dataclass(frozen=True)
class CDPruner(Method):
    """Keeps tokens that differ from one another and are related to the question by CLIP: a determinantal
    point process whose quality is the relevance. The least relevant tokens are as good as excluded, so
    context that the question does not name is lost first.

    Our implementation of CDPruner. q = min-max of sign * cos(CLIP patch, CLIP text), averaged over the
    text's pieces, per image; L = diag(q) cos(V) diag(q); greedy MAP. clip_sign: -1 where relevant patches
    score lower, as in OpenAI's CLIP, +1 where they score higher, 0 to take what the model declares.

    Needs CLIP embeddings of patches and question.
    """

    clip_sign: int = 0
    needs = ("clip_patches", "clip_text")

    def __post_init__(self) -> None:
        require(self.clip_sign in (-1, 0, 1), f"cdpruner: clip_sign={self.clip_sign} must be -1, 0 or 1.")

    def order(self, signals: Signals, k: int) -> Tensor:
        relevance = (
            minmax(clip_similarity(signals, self.clip_sign)) + 1e-6
        )  # constant relevance: diversity alone
        return greedy_logdet(normalize(signals.features), k, quality=relevance)
