"""The data that flows through vtprune: frozen dataclasses, no behaviour beyond guards and serialisation.

Everything that happens between a question and its two answers is recorded in a :class:`Run`, and every
front end (app, command line, notebook) reads that one object.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from numbers import Integral, Real
from typing import Any, Literal

import torch
from torch import Tensor

At = Literal["vision", "projected"] | tuple[Literal["llm"], int]
"""Where a selection acts: on the encoder's output, on the projected tokens, or at the input of LLM layer
k."""

SIGNALS = (
    "cls_attention",
    "received_attention",
    "keys",
    "clip_patches",
    "clip_text",
    "text",
    "attention",
    "vision_features",
    "shallow_attention",
    "middle_attention",
    "headless_attention",
    "query_states",
    "query_keys",
    "llm_keys",
)
"""The optional fields of :class:`Signals`; a method's ``needs`` names those it reads."""


@dataclass(frozen=True)
class Segment:
    """One image (or one tile of one) inside the sequence of visual tokens.

    image: index of the upload it shows. start, length: its slice of the visual tokens.
    grid: (rows, cols). boxes: [length, 4] float32, x0, y0, x1, y1 in the original upload's pixels
    (after EXIF rotation); a padding token has an empty box (zero area).
    """

    image: int
    start: int
    length: int
    grid: tuple[int, int]
    boxes: Tensor

    @property
    def stop(self) -> int:
        return self.start + self.length


@dataclass(frozen=True)
class Signals:
    """What a selector may read. Float32; rows follow the current visual tokens.

    features [N, D]; segments: tuple of :class:`Segment` covering the N rows in order; every other field is
    None unless the method's ``needs`` names it:
    cls_attention [N], received_attention [N], keys [N, Dk] (the encoder's, mean over heads),
    clip_patches [N, C], clip_text [T, C],
    text [T, D] (LLM input embeddings of the question's content words), attention [H, Q, N] (rows of query
    tokens over visual tokens), vision_features [N, Dv] (the encoder's output, before the projector),
    shallow_attention [N] (CLS attention of an early encoder layer, about 5/24 of its depth),
    middle_attention [N] (attention received in a middle encoder layer, about 9/24 of its depth),
    headless_attention [N] (softmax of q_CLS k^T / sqrt(C), the heads of q and k side by side as one vector),
    query_states [Q, D], query_keys [Q, Dk] (inside the LLM: hidden states at the step's layer, and keys at
    the layer its `layer_offset` names, all heads side by side, of the text tokens that its `queries` names),
    llm_keys [N, Dk] (those keys of the visual tokens).
    clip_sign: +1 or -1, whether relevant patches score higher or lower in this CLIP's joint space.
    """

    features: Tensor
    segments: tuple[Segment, ...]
    cls_attention: Tensor | None = None
    received_attention: Tensor | None = None
    keys: Tensor | None = None
    clip_patches: Tensor | None = None
    clip_text: Tensor | None = None
    text: Tensor | None = None
    attention: Tensor | None = None
    vision_features: Tensor | None = None
    shallow_attention: Tensor | None = None
    middle_attention: Tensor | None = None
    headless_attention: Tensor | None = None
    query_states: Tensor | None = None
    query_keys: Tensor | None = None
    llm_keys: Tensor | None = None
    seed: int = 0
    clip_sign: int = 1

    @property
    def count(self) -> int:
        """Number of visual tokens N."""
        return self.features.shape[0]

    @property
    def images(self) -> tuple[int, ...]:
        """The distinct image indices, in order of appearance."""
        return tuple(dict.fromkeys(segment.image for segment in self.segments))

    def image_ids(self) -> Tensor:
        """[N] int64: which image each token belongs to."""
        ids = [torch.full((s.length,), s.image, dtype=torch.int64) for s in self.segments]
        return torch.cat(ids).to(self.features.device)

    def take(self, rows: Tensor) -> Signals:
        """The same signals for a sorted subset of the tokens, e.g. those of one image."""
        segments, start = [], 0
        for segment in self.segments:
            inside = rows[(rows >= segment.start) & (rows < segment.stop)].cpu() - segment.start
            if len(inside):
                whole = len(inside) == segment.length
                grid = segment.grid if whole else (1, len(inside))
                boxes = segment.boxes[inside]
                segments.append(Segment(segment.image, start, len(inside), grid, boxes))
                start += len(inside)

        def cut(value: Tensor | None) -> Tensor | None:
            return None if value is None else value[rows]

        return dataclasses.replace(
            self,
            features=self.features[rows],
            segments=tuple(segments),
            cls_attention=cut(self.cls_attention),
            received_attention=cut(self.received_attention),
            keys=cut(self.keys),
            clip_patches=cut(self.clip_patches),
            attention=None if self.attention is None else self.attention[..., rows],
            vision_features=cut(self.vision_features),
            shallow_attention=cut(self.shallow_attention),
            middle_attention=cut(self.middle_attention),
            headless_attention=cut(self.headless_attention),
            llm_keys=cut(self.llm_keys),
        )


@dataclass(frozen=True)
class Budget:
    """How many visual tokens may stay.

    keep: a fraction in (0, 1] (float) or a count >= 1 (int). Anything else raises ValueError; nothing is
    clamped in silence.
    """

    keep: float | int

    def __post_init__(self) -> None:
        keep = self.keep
        is_count = isinstance(keep, Integral) and not isinstance(keep, bool) and keep >= 1
        is_share = isinstance(keep, Real) and not isinstance(keep, Integral) and 0 < keep <= 1
        if not (is_count or is_share):
            raise ValueError(
                f"keep={keep!r} is not a budget: give a fraction in (0, 1], such as 0.25, "
                "or a whole number of tokens >= 1, such as 64."
            )

    def count(self, total: int, images: int = 1) -> int:
        """Tokens to keep out of `total`. A fraction is rounded, to no less than one token an image.

        Raises ValueError when a count is larger than `total` or smaller than `images`.
        """
        if isinstance(self.keep, Integral):
            if self.keep > total:
                raise ValueError(f"keep={self.keep} asks for more than the {total} visual tokens there are.")
            if self.keep < images:
                raise ValueError(
                    f"keep={self.keep} leaves an image without a token: {images} images need >= {images}."
                )
            return int(self.keep)
        return max(images, round(float(self.keep) * total))


@dataclass(frozen=True)
class Selection:
    """Which tokens stay. Indices refer to the rows of the :class:`Signals` it was made from.

    keep: [K] sorted unique int64. order: [K] or [N] int64 or None: the sequence in which a nested method
    picks tokens, so that a prefix of length k is the selection for k. scores: [N] float32 or None, higher is
    kept first. merge: None or a sparse [K + extra, N] float32 matrix, new = merge @ features.
    extra: tokens made by merging and put after the kept ones. info: what the method wants to tell.
    """

    keep: Tensor
    order: Tensor | None = None
    scores: Tensor | None = None
    merge: Tensor | None = None
    extra: int = 0
    info: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Shape:
    """What a plan may know before anything ran: visual tokens, their images, and LLM layers."""

    tokens: int
    images: int
    layers: int


@dataclass(frozen=True)
class Step:
    """One selection in a plan: at `at`, cut the current visual tokens down to `keep` of them.

    keep: a count, or None when the selector itself decides (adaptive). select: called with (signals, count).
    needs: the signals it reads. queries / layer_offset only matter inside the LLM: whose attention rows over
    the visual tokens go into `Signals.attention` ("last" text token, "instruction" tokens of the question),
    and from which layer's q and k: 0 = the layer whose input is being pruned, -1 = the layer before.
    """

    at: At
    keep: int | None
    select: Any
    needs: tuple[str, ...] = ()
    queries: Literal["last", "instruction"] = "last"
    layer_offset: Literal[0, -1] = 0


@dataclass(frozen=True)
class Stage:
    """What one selection did, in the numbering of the *original* visual tokens (0 .. N-1).

    name: "vision", "projected" or "llm:k". layer: k or None. before / after: tokens alive (after counts
    merged extras). keep: kept ids. order: pick order or None. scores: {token id: score} as two equal-length
    lists (scored, scores) or empty. merge_rows / merge_cols / merge_weights: the merge matrix, rows index
    the new tokens (kept first, then extras), cols are original ids. per_image: tokens kept of each image.
    seconds: time of the selection itself.
    """

    name: str
    layer: int | None
    before: int
    after: int
    keep: list[int]
    order: list[int] | None = None
    scored: list[int] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)
    merge_rows: list[int] = field(default_factory=list)
    merge_cols: list[int] = field(default_factory=list)
    merge_weights: list[float] = field(default_factory=list)
    extra: int = 0
    per_image: list[int] = field(default_factory=list)
    info: dict[str, Any] = field(default_factory=dict)
    seconds: float = 0.0


@dataclass(frozen=True)
class TokenOut:
    """One generated token: id, text, probability, and the five likeliest as (text, probability)."""

    id: int
    text: str
    prob: float
    top: list[tuple[str, float]] = field(default_factory=list)


@dataclass(frozen=True)
class Spread:
    """A timing in milliseconds: median, minimum and maximum of n measurements."""

    median: float
    low: float
    high: float
    n: int


@dataclass(frozen=True)
class Cost:
    """What one side costs. Formulas: see vtprune.cost.

    visual_tokens: tokens that entered the LLM. prompt_tokens: all tokens that entered it.
    tokens_per_layer: visual tokens each LLM layer saw. prefill_flops: of the LLM.
    kv_bytes: key/value cache after prefill. peak_bytes: peak memory of the device (0 where unknown).

    indirect: the LLM sees the visual tokens through a resampler or cross-attention only. Then visual_tokens
    are those that were left for that, and tokens_per_layer what came of them: a resampler's fixed number, or
    the image states (CLS tokens included) before the cross-attention layers.
    """

    visual_tokens: int
    prompt_tokens: int
    tokens_per_layer: list[int]
    prefill_flops: float
    kv_bytes: int
    peak_bytes: int = 0
    indirect: bool = False

    @property
    def mean_tokens(self) -> float:
        """Visual tokens that were left, on average over the layers of the LLM."""
        if self.indirect:
            return self.visual_tokens
        return sum(self.tokens_per_layer) / len(self.tokens_per_layer)


@dataclass(frozen=True)
class Side:
    """One of the two answers. timings: stage ("encode", "select", "prefill", "decode" per token) ->
    Spread."""

    answer: str
    tokens: list[TokenOut]
    timings: dict[str, Spread]
    cost: Cost


@dataclass(frozen=True)
class Comparison:
    """How the two answers relate.

    same: equal text. first_difference: index of the first differing *token*, or None. words: the pruned
    answer's words as (word, differs). kl: KL(full || pruned) in nats of the next-token distribution, for each
    step up to and including the first difference. summary: in words.
    """

    same: bool
    first_difference: int | None
    words_full: list[tuple[str, bool]]
    words_pruned: list[tuple[str, bool]]
    kl: list[float]
    summary: str


@dataclass(frozen=True)
class ImageInfo:
    """An upload: its name and size in pixels (after EXIF rotation)."""

    name: str
    width: int
    height: int


@dataclass(frozen=True)
class Run:
    """Everything that happened for one request. Lossless through to_json / from_json."""

    model: str
    device: str
    dtype: str
    images: list[ImageInfo]
    question: str
    method: str
    params: dict[str, Any]
    keep: float | int
    max_new_tokens: int
    positions: str
    seed: int
    segments: tuple[Segment, ...]
    stages: list[Stage]
    full: Side
    pruned: Side
    comparison: Comparison
    version: int = 1

    @property
    def blended(self) -> bool:
        """Whether tokens were merged into others instead of dropped, at any selection."""
        return any(stage.merge_cols for stage in self.stages)

    @property
    def answer(self) -> str:
        """The pruned answer."""
        return self.pruned.answer

    @property
    def timings(self) -> dict[str, dict[str, Spread]]:
        """{"full": …, "pruned": …}, stage -> Spread in milliseconds."""
        return {"full": self.full.timings, "pruned": self.pruned.timings}

    @property
    def cost(self) -> dict[str, Cost]:
        """{"full": …, "pruned": …}."""
        return {"full": self.full.cost, "pruned": self.pruned.cost}

    @property
    def tokens(self) -> int:
        """Visual tokens before any pruning."""
        return sum(segment.length for segment in self.segments)

    def to_json(self) -> str:
        """The whole run as JSON text."""
        data = {
            f.name: getattr(self, f.name)
            for f in dataclasses.fields(self)
            if f.name not in ("segments", "comparison")
        }
        data["segments"] = [
            {
                "image": s.image,
                "start": s.start,
                "length": s.length,
                "grid": s.grid,
                "boxes": s.boxes.tolist(),
            }
            for s in self.segments
        ]
        data["comparison"] = self.comparison
        return json.dumps(data, default=_plain, ensure_ascii=False, allow_nan=False)

    @classmethod
    def from_json(cls, text: str) -> Run:
        """The inverse of :meth:`to_json`. Raises ValueError on anything else."""
        try:
            data = json.loads(text)
            data["images"] = [ImageInfo(**i) for i in data["images"]]
            data["segments"] = tuple(
                Segment(
                    s["image"],
                    s["start"],
                    s["length"],
                    (s["grid"][0], s["grid"][1]),
                    torch.tensor(s["boxes"], dtype=torch.float32).reshape(-1, 4),
                )
                for s in data["segments"]
            )
            data["stages"] = [Stage(**s) for s in data["stages"]]
            for side in ("full", "pruned"):
                data[side] = _side(data[side])
            comparison = data["comparison"]
            for words in ("words_full", "words_pruned"):
                comparison[words] = [(w, d) for w, d in comparison[words]]
            data["comparison"] = Comparison(**comparison)
            return cls(**data)
        except (KeyError, TypeError, json.JSONDecodeError) as error:
            raise ValueError(f"this is not a recorded vtprune run: {error}") from error


def _side(data: dict[str, Any]) -> Side:
    tokens = [TokenOut(t["id"], t["text"], t["prob"], [(w, p) for w, p in t["top"]]) for t in data["tokens"]]
    timings = {name: Spread(**spread) for name, spread in data["timings"].items()}
    return Side(data["answer"], tokens, timings, Cost(**data["cost"]))


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
    raise TypeError(f"{type(value).__name__} cannot be written as JSON")


@dataclass(frozen=True)
class Encoded:
    """Event: the images went through the encoder."""

    segments: tuple[Segment, ...]
    images: list[ImageInfo]


@dataclass(frozen=True)
class Selected:
    """Event: one selection is done."""

    stage: Stage


@dataclass(frozen=True)
class Token:
    """Event: one more token on one side."""

    side: Literal["full", "pruned"]
    token: TokenOut


@dataclass(frozen=True)
class Timing:
    """Event: a measuring pass is done (done of total)."""

    done: int
    total: int


@dataclass(frozen=True)
class Done:
    """Event: the run is complete."""

    run: Run


Event = Encoded | Selected | Token | Timing | Done
