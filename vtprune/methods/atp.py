"""ATP: saliency inside the image plus similarity to the question."""

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from vtprune.kernels import minmax, normalize
from vtprune.methods.base import Method, register, require
from vtprune.types import Signals


@register(
    "atp",
    title="ATP",
    paper="https://arxiv.org/abs/2512.12701",
    year=2025,
    acts_at="vision",
    nested=True,
    reconstruction="alpha = 0.5 and min-max scaling per image are ours; the paper names neither.",
)
@dataclass(frozen=True)
class ATP(Method):
    """Keeps tokens that are salient in the image, similar to the question, or both: one score mixes the
    encoder's own attention with the CLIP similarity of patch and question. It fails when the question has
    no visible counterpart ("what is missing?"), and with the wrong sign of the similarity it keeps what is
    irrelevant.

    Our implementation of ATP. S_i = alpha * norm(cos(CLIP patch i, CLIP text)) + (1 - alpha) * norm(A_i),
    with norm = min-max over the image. A_i is the mean over heads of the final CLS row A[CLS, i]
    (attention="cls"), or the attention that token i receives (attention="received"); "auto" takes the second
    where the encoder has no CLS token. Prompts longer than CLIP's text window come as several embeddings,
    which are averaged. clip_sign: -1 where relevant patches score lower, as in OpenAI's CLIP, +1 where they
    score higher, 0 to take what the model declares.

    Needs the attention, and CLIP embeddings of patches and question.
    """

    alpha: float = 0.5
    clip_sign: int = 0
    attention: str = "auto"

    def __post_init__(self) -> None:
        require(0 <= self.alpha <= 1, f"atp: alpha={self.alpha} must lie in [0, 1].")
        require(self.clip_sign in (-1, 0, 1), f"atp: clip_sign={self.clip_sign} must be -1, 0 or 1.")
        require(
            self.attention in ("auto", "cls", "received"),
            f"atp: attention={self.attention!r} must be 'auto', 'cls' or 'received'.",
        )

    @property
    def needs(self) -> tuple[str, ...]:
        attention = "received_attention" if self.attention == "received" else "cls_attention"
        return (attention, "clip_patches", "clip_text")

    def without(self, need: str) -> dict[str, Any]:
        return {"attention": "received"} if (need, self.attention) == ("cls_attention", "auto") else {}

    def score(self, signals: Signals) -> Tensor:
        assert signals.clip_patches is not None and signals.clip_text is not None
        intra = signals.received_attention if self.attention == "received" else signals.cls_attention
        assert intra is not None
        text = normalize(signals.clip_text).mean(0, keepdim=True)
        inter = (normalize(signals.clip_patches) @ normalize(text).T).squeeze(1)
        sign = self.clip_sign or signals.clip_sign
        return self.alpha * minmax(sign * inter) + (1 - self.alpha) * minmax(intra)
