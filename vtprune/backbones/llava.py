"""LLaVA: a CLIP (or SigLIP) vision tower, a projector, a Llama-type decoder. The bundled model is one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from vtprune.backbones.base import Encoded, LoadError, Prompt
from vtprune.backbones.geometry import patch_boxes, view_of
from vtprune.backbones.parts import chat, llama_decoder, tokens_of
from vtprune.backbones.pretrained import Checkpoint
from vtprune.backbones.tower import Passed, Tower, TowerBackbone
from vtprune.types import Segment

TOWERS = ("clip_vision_model", "siglip_vision_model")


class Llava(TowerBackbone):
    """Adapter of transformers' LlavaForConditionalGeneration."""

    family = "llava"
    architecture = "LlavaForConditionalGeneration"
    languages = ("llama", "mistral", "qwen2")

    def __init__(self, checkpoint: Checkpoint) -> None:
        super().__init__(checkpoint)
        tower = self.model.model.vision_tower
        self._vision: Any = getattr(tower, "vision_model", tower)  # some releases of transformers wrap it
        layers = self.config.vision_feature_layer
        self.tower = Tower(
            list(self._vision.encoder.layers),
            has_cls=hasattr(self._vision.embeddings, "class_embedding"),
            drops_first=self.config.vision_feature_select_strategy == "default",
            taps=(layers,) if isinstance(layers, int) else tuple(layers),
        )
        self.llm = llama_decoder(self.model.model.language_model, self.model.lm_head)
        self._shared = self.companion is not None and self.companion.adopt(self._vision)

    def check(self, config: Any) -> None:
        super().check(config)
        tower = config.vision_config.model_type
        if tower not in TOWERS:
            known = " and ".join(TOWERS)
            raise LoadError(f"{self.name} has a {tower!r} vision tower; vtprune knows {known}.")

    def prepare(self, images: Sequence[Image.Image], question: str) -> Prompt:
        segments, marks = self.segments(images), self._marks(images)
        blocks = [self.processor.image_token * len(mark) for mark in marks]
        ids, instruction = tokens_of(self.processor, self.name, self._template, blocks, question)
        places = (ids == self.config.image_token_id).nonzero().flatten()
        visual = places[torch.cat(marks)]
        return self.prompt(ids, visual, instruction, self._pixels(images), segments, images, question)

    def _pixels(self, images: Sequence[Image.Image]) -> Tensor:
        """[B, 3, H, W]: all that the tower sees."""
        return self.processor.image_processor(images=list(images), return_tensors="pt")["pixel_values"]

    def _marks(self, images: Sequence[Image.Image]) -> list[Tensor]:
        """[n] bool of each image: which of its placeholders in the prompt are visual tokens."""
        return [torch.ones(segment.length, dtype=torch.bool) for segment in self.segments(images)]

    def _template(self, images: int, question: str) -> str:
        if self.processor.chat_template:
            return chat(self.processor, images, question)
        marks = "\n".join([self.processor.image_token] * images)
        return f"USER: {marks}\n{question} ASSISTANT:"

    def segments(self, images: Sequence[Image.Image]) -> tuple[Segment, ...]:
        patch = self.config.vision_config.patch_size
        segments: list[Segment] = []
        for index, image in enumerate(images):
            view = view_of(self.processor.image_processor, image.width, image.height)
            shape = view.size[1] // patch, view.size[0] // patch
            boxes = patch_boxes(view, shape, (patch, patch), image.size)
            if self.tower.has_cls and not self.tower.drops_first:
                # the CLS token is one of the visual tokens, and shows all of them
                seen = boxes[(boxes[:, 2:] > boxes[:, :2]).all(1)]
                whole = torch.cat([seen[:, :2].amin(0), seen[:, 2:].amax(0)])
                boxes, shape = torch.cat([whole[None], boxes]), (1, len(boxes) + 1)
            elif self.tower.drops_first and not self.tower.has_cls:
                # transformers drops the first token whatever it is; here that is a patch
                boxes, shape = boxes[1:], (1, len(boxes) - 1)
            start = segments[-1].stop if segments else 0
            segments.append(Segment(index, start, len(boxes), shape, boxes))
        return tuple(segments)

    def start(self, pixels: Tensor) -> Tensor:
        hidden = self._vision.embeddings(pixels)
        return self._vision.pre_layrnorm(hidden) if self.tower.has_cls else hidden

    def finish(self, passed: Passed, prompt: Prompt) -> tuple[Tensor, Passed]:
        patches = torch.cat([self.tower.patches(tap) for tap in passed.taps], -1)
        return self.rows(patches, prompt), passed

    @torch.inference_mode()
    def project(self, features: Tensor) -> Tensor:
        return self.model.model.multi_modal_projector(features)

    @torch.inference_mode()
    def clip(self, prompt: Prompt, encoded: Encoded) -> tuple[Tensor, Tensor, int]:
        companion = self.companion
        if companion is None or not self._shared:
            return super().clip(prompt, encoded)
        patches = companion.project(self.tower.patches(self.tower.rest(encoded.state)))
        return self.rows(patches, prompt), companion.text(prompt.question), companion.sign
