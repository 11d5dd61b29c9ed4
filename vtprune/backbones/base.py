"""What every model family offers to the engine. One family a file; see llava.py for the first."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from vtprune.types import Segment


class LoadError(ValueError):
    """A model that cannot be loaded; the message is one sentence for a person."""


@dataclass(frozen=True)
class Prompt:
    """One request as the model sees it, nothing computed yet.

    ids [L] int64: the prompt with a placeholder at every visual token. positions [L] int64: position ids, or
    [3, L] in a model that counts time, height and width apart.
    next_position: of the first generated token. visual [N] int64: places of the visual tokens in `ids`.
    instruction [Q] int64: places of the question's own tokens. pixels: what the vision tower takes.
    segments: the images in the sequence of visual tokens. images: the uploads, upright RGB.

    slots: None where the visual tokens themselves stand in the sequence. Otherwise [M] int64, the places of
    what a resampler makes of them, or none with cross-attention; `visual` then repeats the place of each
    token's image.
    """

    ids: Tensor
    positions: Tensor
    next_position: int
    visual: Tensor
    instruction: Tensor
    pixels: Tensor
    segments: tuple[Segment, ...]
    images: tuple[Image.Image, ...]
    question: str
    slots: Tensor | None = None

    @property
    def text(self) -> Tensor:
        """[L - N] int64: places of the tokens that are never pruned."""
        mask = torch.ones(len(self.ids), dtype=torch.bool, device=self.ids.device)
        mask[self.visual if self.slots is None else self.slots] = False
        return mask.nonzero().flatten()

    @property
    def last_places(self) -> Tensor:
        """[images] int64: place of each image's last visual token."""
        stops = {segment.image: segment.stop for segment in self.segments}
        return self.visual[torch.tensor([stops[i] - 1 for i in sorted(stops)], device=self.visual.device)]


@dataclass(frozen=True)
class Encoded:
    """Output of the vision tower. features [N, Dv] in the model's dtype, what `project` takes.

    signals: name -> tensor, those asked for and nothing else. state: the backbone's own. deep: each [N, D],
    what is added to the hidden states of the visual tokens after language model layer 0, 1, and so on.
    """

    features: Tensor
    signals: dict[str, Tensor] = field(default_factory=dict)
    state: Any = None
    deep: tuple[Tensor, ...] = ()


@dataclass(frozen=True)
class LanguageModel:
    """The parts of the decoder-only language model that vtprune.decoder drives itself.

    layers: called as in transformers, each with a `self_attn` holding q_proj, k_proj, head_dim, scaling,
    num_key_value_groups, and where it norms every head before its rotation, q_norm and k_norm. norm, head:
    final norm and language head. rotary(x, positions [n]) -> (cos, sin), and for a model with positions on
    three axes also positions [3, n]. rotate(x [1, H, n, h], cos, sin) -> x with its positions. config: the
    text config of the model.
    """

    layers: Sequence[Any]
    norm: nn.Module
    head: nn.Module
    rotary: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
    rotate: Callable[[Tensor, Tensor, Tensor], Tensor]
    config: Any


@dataclass(frozen=True)
class Entry:
    """What a language model gets of the pictures. tokens [M, D]: those in its sequence. llm: the decoder to
    run. crossed: how many image states its cross-attention layers see."""

    tokens: Tensor
    llm: LanguageModel
    crossed: int = 0


KINDS = ("vision", "projected", "llm", "cls")
"""Kinds of methods: by where they act (as in their MethodInfo), and those that read CLS attention."""


class Backbone(ABC):
    """A loaded model. It is stateless between calls; the engine makes sure that only one runs at a time."""

    family: str
    kinds: tuple[str, ...] = KINDS
    """Kinds of methods that the family's usual checkpoints run; of a loaded one Engine.supports tells it."""
    name: str
    device: torch.device
    dtype: torch.dtype
    max_images: int = 16
    """Pictures of one prompt; fewer where the context is too short for them."""
    defaults: Mapping[str, Mapping[str, Any]] = {}
    """Parameters that were found for this model: method -> parameter -> value."""
    tokenizer: Any
    model: Any
    llm: LanguageModel

    @abstractmethod
    def prepare(self, images: Sequence[Image.Image], question: str) -> Prompt:
        """Prompt of upright RGB images and a question. Raises ValueError on a question it cannot take."""

    @abstractmethod
    def segments(self, images: Sequence[Image.Image]) -> tuple[Segment, ...]:
        """How upright images become visual tokens, and where each is; touches no tokenizer or weight."""

    @abstractmethod
    def encode(self, prompt: Prompt, needs: Collection[str] = ()) -> Encoded:
        """Run the vision tower once, as far as needed, with those of `needs` that come from it."""

    def project(self, features: Tensor) -> Tensor:
        """[M, Dv] -> [M, D]: vision tokens to the language model's input space, each for itself."""
        raise NotImplementedError

    def enter(self, prompt: Prompt, encoded: Encoded, features: Tensor, owners: Tensor) -> Entry:
        """What becomes of the vision tokens [M, Dv] that are left; owners [M] int64: the image of each.

        By default every one is projected. A resampler makes a fixed number of tokens of each image instead.
        """
        return Entry(self.project(features), self.llm)

    @abstractmethod
    def embed(self, ids: Tensor) -> Tensor:
        """[n] int64 -> [n, D]: the language model's input embeddings."""

    def embed_text(self, prompt: Prompt) -> Tensor:
        """[L - N, D]: input embeddings of a prompt's tokens that are never pruned."""
        return self.embed(prompt.ids[prompt.text])

    @abstractmethod
    def clip(self, prompt: Prompt, encoded: Encoded) -> tuple[Tensor, Tensor, int]:
        """Patch and text embeddings in CLIP's joint space: [N, C], [T, C] (unit rows), and their sign."""

    @abstractmethod
    def missing(self, need: str) -> str | None:
        """Why a signal cannot be had from this model, as a sentence, or None when it can."""

    def refuses(self, place: str) -> str | None:
        """Why no method can act at "vision", "projected" or "llm" of this model, as a sentence, or None."""
        return None

    @property
    def layers(self) -> int:
        """Number of language model layers."""
        return len(self.llm.layers)

    def words(self, question: str) -> Tensor:
        """[T, D] float32: input embeddings of the tokens of the question's content words.

        Content words are those that are not stop words; T = 0 when there are none.
        """
        spans = [m.span() for m in _WORD.finditer(question) if m.group().lower() not in STOP_WORDS]
        coded = self.tokenizer(question, add_special_tokens=False, return_offsets_mapping=True)
        chosen = [
            token
            for token, (start, stop) in zip(coded["input_ids"], coded["offset_mapping"], strict=True)
            if any(start < b and a < stop for a, b in spans)
        ]
        return self.embed(torch.tensor(chosen, dtype=torch.int64, device=self.device)).float()

    def decode(self, ids: Sequence[int]) -> str:
        """Text of generated tokens, special tokens left out."""
        return self.tokenizer.decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False)

    @property
    def eos(self) -> frozenset[int]:
        """Tokens that end an answer."""
        ends = next((end for end in self.ends() if end is not None), ())
        return frozenset(ends) if isinstance(ends, list | tuple) else frozenset((ends,))

    def ends(self) -> list[Any]:
        """Where such tokens are named: one, several, or None; the first that are count."""
        return [self.model.generation_config.eos_token_id, self.tokenizer.eos_token_id]


_WORD = re.compile(r"\w+(?:['’]\w+)*")

STOP_WORDS = frozenset(
    re.split(
        r"\s+",
        "a about an and answer any are as at be been being but by can could describe did do does doing for "
        "from give had has have having he her here his how i if image images in into is it its let may me "
        "might more most my no not of on or our out photo photos picture pictures please question say see "
        "shall she should show so some tell than that the their them then there these they this those to us "
        "was we were what what's when where which while who whom whose why will with word would yes you your",
    )
)
"""Function words of English questions, and words about the act of asking."""
