"""What every family does alike: loading a checkpoint, and CLIP as a model of its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from vtprune.backbones.base import Backbone, Encoded, LoadError, Prompt
from vtprune.backbones.weights import weights
from vtprune.clip import find_companion
from vtprune.types import Segment


@dataclass(frozen=True)
class Checkpoint:
    """A model that was found, and where it is to go.

    folder: on this machine. config: of transformers. name: what a person is told. clip: its CLIP companion,
    None for the one in the folder, if any.
    """

    folder: str
    config: Any
    name: str
    device: torch.device
    dtype: torch.dtype
    clip: str | Path | None = None


class Pretrained(Backbone):
    """A family whose checkpoints transformers loads.

    architecture: the model's class there. processors: what has a `from_pretrained` that gives the processor;
    None is AutoProcessor. languages: model types of the language models that are known; none, no check.
    """

    architecture: str
    processors: Any = None
    languages: tuple[str, ...] = ()

    @property
    def has_cls(self) -> bool:
        """Whether the vision tower has a CLS token."""
        return False

    def __init__(self, checkpoint: Checkpoint) -> None:
        """Loads the weights. LoadError with a sentence on what the adapter does not know."""
        import transformers

        self.name, self.device, self.dtype = checkpoint.name, checkpoint.device, checkpoint.dtype
        self.check(checkpoint.config)
        model_class = getattr(transformers, self.architecture)
        self.model = weights(model_class, checkpoint.folder, self.device, self.dtype)
        processors = self.processors or transformers.AutoProcessor
        self.processor: Any = processors.from_pretrained(checkpoint.folder, trust_remote_code=False)
        self.tokenizer, self.config = self.processor.tokenizer, self.model.config
        if not getattr(self.tokenizer, "is_fast", False):
            raise LoadError(
                f"{self.name} has no tokenizer.json, which vtprune needs to find the question's tokens."
            )
        self.companion = find_companion(checkpoint.folder, checkpoint.clip, self.device)

    def check(self, config: Any) -> None:
        """Raises LoadError when the model is made of parts that the adapter does not know."""
        if not self.languages:
            return
        language = config.text_config
        if language.model_type not in self.languages:
            kind = "an encoder-decoder" if getattr(language, "is_encoder_decoder", False) else "a"
            known = ", ".join(self.languages)
            raise LoadError(
                f"{self.name} has {kind} {language.model_type!r} language model; vtprune knows {known}."
            )

    def prompt(
        self,
        ids: Tensor,
        visual: Tensor,
        instruction: Tensor,
        pixels: Any,
        segments: tuple[Segment, ...],
        images: Sequence[Image.Image],
        question: str,
        positions: Tensor | None = None,
        slots: Tensor | None = None,
    ) -> Prompt:
        """A Prompt of these parts, brought to the device. positions: None counts the tokens."""
        positions = torch.arange(len(ids)) if positions is None else positions
        return Prompt(
            ids=ids.to(self.device),
            positions=positions.to(self.device),
            next_position=int(positions.max()) + 1,
            visual=visual.to(self.device),
            instruction=instruction.to(self.device),
            pixels=pixels.to(self.device),
            segments=segments,
            images=tuple(images),
            question=question,
            slots=None if slots is None else slots.to(self.device),
        )

    @torch.inference_mode()
    def embed(self, ids: Tensor) -> Tensor:
        return self.model.get_input_embeddings()(ids)

    @torch.inference_mode()
    def clip(self, prompt: Prompt, encoded: Encoded) -> tuple[Tensor, Tensor, int]:
        companion = self.companion
        if companion is None:
            raise ValueError(self.missing("clip_patches"))
        patches = companion.map_images(prompt.images, prompt.segments)
        return patches, companion.text(prompt.question), companion.sign

    def missing(self, need: str) -> str | None:
        if need in ("cls_attention", "shallow_attention", "headless_attention") and not self.has_cls:
            return f"{self.name} has no CLS token in its vision tower, so there is no CLS attention to read."
        if need in ("clip_patches", "clip_text") and self.companion is None:
            return (
                f"{self.name} comes without a CLIP companion, so patch-text similarity cannot be had; name "
                "one that open_clip knows, such as ViT-L-14-336:openai, or a folder, beside the model's name "
                "(in Python and on the command line: clip)."
            )
        return None
