"""SmolVLM and Idefics3: tiles and a global view of each picture, pixel shuffle, a Llama-type decoder."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from vtprune.backbones.base import Prompt
from vtprune.backbones.geometry import View, patch_boxes
from vtprune.backbones.parts import chat, llama_decoder, tokens_of
from vtprune.backbones.pretrained import Checkpoint
from vtprune.backbones.tower import Passed, Tower, TowerBackbone
from vtprune.types import Segment

LARGEST = 4096
"""No side of a picture is made longer than this by the image processor."""


@dataclass(frozen=True)
class Processor:
    """Image processor and tokenizer, without the processor around them, which asks for what only videos
    need."""

    image_processor: Any
    tokenizer: Any

    @classmethod
    def from_pretrained(cls, path: str, **options: Any) -> Processor:
        from transformers import AutoImageProcessor, AutoTokenizer

        images = AutoImageProcessor.from_pretrained(path, **options)
        tokenizer = AutoTokenizer.from_pretrained(path, **options)
        file = Path(path) / "chat_template.json"  # of old, which only the whole processor reads
        if tokenizer.chat_template is None and file.is_file():
            tokenizer.chat_template = json.loads(file.read_text("utf-8"))["chat_template"]
        return cls(images, tokenizer)

    @property
    def image_token(self) -> str:
        return getattr(self.tokenizer, "image_token", "<image>")

    @property
    def chat_template(self) -> str | None:
        return self.tokenizer.chat_template

    def apply_chat_template(self, messages: list[dict[str, Any]], **options: Any) -> str:
        return self.tokenizer.apply_chat_template(messages, **options)


class SmolVLM(TowerBackbone):
    """Adapter of transformers' SmolVLMForConditionalGeneration.

    A visual token is what pixel shuffle makes of a square of patches, and its signals are the mean of
    theirs. The marks of the tiles' rows and columns are text.
    """

    family = "smolvlm"
    architecture = "SmolVLMForConditionalGeneration"
    processors = Processor
    languages = ("llama", "mistral", "qwen2")
    kinds = ("vision", "projected", "llm")

    def __init__(self, checkpoint: Checkpoint) -> None:
        super().__init__(checkpoint)
        self._vision: Any = self.model.model.vision_model
        self.tower = Tower(list(self._vision.encoder.layers), has_cls=False, drops_first=False)
        self._side = int(self.processor.image_processor.max_image_size["longest_edge"])
        self._grid = self._side // self.config.vision_config.patch_size // self.config.scale_factor
        self.llm = llama_decoder(self.model.model.text_model, self.model.lm_head)

    def prepare(self, images: Sequence[Image.Image], question: str) -> Prompt:
        blocks = [self._block(*self._tiles(image)[:2]) for image in images]
        ids, instruction = tokens_of(self.processor, self.name, self._template, blocks, question)
        segments = self.segments(images)
        pixels = self.processor.image_processor([list(images)], return_tensors="pt")["pixel_values"][0]
        if len(pixels) != len(segments):
            raise ValueError(f"the image processor of {self.name} cuts pictures by a rule vtprune lacks.")
        visual = (ids == self.config.image_token_id).nonzero().flatten()
        return self.prompt(ids, visual, instruction, pixels, segments, images, question)

    def _template(self, images: int, question: str) -> str:
        if self.processor.chat_template:
            return chat(self.processor, images, question)
        marks = self.processor.image_token * images
        return f"{self.tokenizer.bos_token or ''}User:{marks}{question}<end_of_utterance>\nAssistant:"

    def _block(self, rows: int, cols: int) -> str:
        """The text that stands for one image: every tile with its row and column, then the global view."""
        fake = getattr(self.tokenizer, "fake_image_token", "<fake_token_around_image>")
        whole = getattr(self.tokenizer, "global_image_token", "<global-img>")
        marks = self.processor.image_token * self._grid**2
        lines = [
            "".join(f"{fake}<row_{row + 1}_col_{col + 1}>{marks}" for col in range(cols)) + "\n"
            for row in range(rows)
        ]
        return "".join(lines) + "\n" * bool(lines) + f"{fake}{whole}{marks}{fake}"

    def _tiles(self, image: Image.Image) -> tuple[int, int, tuple[int, int]]:
        """(rows, cols) of the tiles, (0, 0) when there is the global view only, and the (width, height) in
        pixels that the tiles make up."""
        processor, side = self.processor.image_processor, self._side
        width, height = image.size
        if processor.do_resize:
            width, height = resized(dict(processor.size), width, height)
        if not processor.do_image_splitting:
            return 0, 0, (side, side)
        ratio = width / height
        if width >= height:
            width = math.ceil(width / side) * side
            height = math.ceil(int(width / ratio) / side) * side
        else:
            height = math.ceil(height / side) * side
            width = math.ceil(int(height * ratio) / side) * side
        if max(width, height) <= side:
            return 0, 0, (width, height)
        return height // side, width // side, (width, height)

    def segments(self, images: Sequence[Image.Image]) -> tuple[Segment, ...]:
        side, grid = self._side, (self._grid, self._grid)
        # pixels of a token; none shows what is left of a tile
        unit = self.config.vision_config.patch_size * self.config.scale_factor
        segments: list[Segment] = []
        for index, image in enumerate(images):
            rows, cols, seen = self._tiles(image)
            scale = seen[0] / image.width, seen[1] / image.height
            views = [
                View(scale, (-side * col, -side * row), (side, side))
                for row in range(rows)
                for col in range(cols)
            ]
            views.append(View((side / image.width, side / image.height), (0.0, 0.0), (side, side)))
            for view in views:
                boxes = patch_boxes(view, grid, (unit, unit), image.size)
                start = segments[-1].stop if segments else 0
                segments.append(Segment(index, start, len(boxes), grid, boxes))
        return tuple(segments)

    def start(self, pixels: Tensor) -> Tensor:
        patch = self.config.vision_config.patch_size
        whole = torch.ones(len(pixels), pixels.shape[2] // patch, pixels.shape[3] // patch, dtype=torch.bool)
        return self._vision.embeddings(pixels, whole.to(self.device))

    def finish(self, passed: Passed, prompt: Prompt) -> tuple[Tensor, None]:
        shuffle = self.model.model.connector.pixel_shuffle
        (hidden,) = passed.taps
        return shuffle(self._vision.post_layernorm(hidden), self.config.scale_factor).flatten(0, 1), None

    def rows(self, patches: Tensor, prompt: Prompt) -> Tensor:
        """[B, P, ...] -> [N, ...]: mean over the square of patches that a token is made of."""
        batch, rest, factor = len(patches), patches.shape[2:], self.config.scale_factor
        squares = patches.reshape(batch, self._grid, factor, self._grid, factor, *rest)
        return squares.mean((2, 4)).reshape(batch * self._grid**2, *rest)

    @torch.inference_mode()
    def project(self, features: Tensor) -> Tensor:
        return self.model.model.connector.modality_projection(features)


class Idefics3(SmolVLM):
    """Adapter of transformers' Idefics3ForConditionalGeneration, of which SmolVLM is an heir."""

    architecture = "Idefics3ForConditionalGeneration"


def resized(size: dict[str, int | None], width: int, height: int) -> tuple[int, int]:
    """(width, height) after the image processor's first resize, by its rule and with its rounding."""
    edge = size.get("longest_edge")
    if not edge:
        return int(size["width"] or 0), int(size["height"] or 0)
    ratio = width / height
    if width >= height:
        width, height = edge, int(edge / ratio)
        height = max(1, height + height % 2)
    else:
        width, height = int(edge * ratio), edge
        width = max(1, width + width % 2)
    ratio = width / height
    if width >= height and width > LARGEST:
        width, height = LARGEST, max(1, int(LARGEST / ratio))
    elif height > width and height > LARGEST:
        width, height = max(1, int(LARGEST * ratio)), LARGEST
    return width, height
