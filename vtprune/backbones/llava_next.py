"""LLaVA-NeXT (LLaVA 1.6): LLaVA on a small view of the whole picture and on tiles of a large one."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from PIL import Image
from torch import Tensor

from vtprune.backbones.base import LoadError, Prompt
from vtprune.backbones.geometry import View, patch_boxes
from vtprune.backbones.llava import Llava
from vtprune.backbones.parts import chat
from vtprune.backbones.pretrained import Checkpoint
from vtprune.types import Segment


class LlavaNext(Llava):
    """Adapter of transformers' LlavaNextForConditionalGeneration.

    An image is two segments: the base view, squeezed to a square, and the grid of all its tiles without
    their padding, row by row. Every row of the latter ends with a newline embedding. It belongs to the
    language model's input and not to the tower, so it has no signals, cannot be merged, and shows nothing:
    it counts as text and is never pruned, as in the published code of methods that act before the language
    model (FasterVLM and those built on it). FastV and PyramidDrop, which act inside, prune it like any
    visual token in their own code; here they do not.
    """

    family = "llava_next"
    architecture = "LlavaNextForConditionalGeneration"

    def __init__(self, checkpoint: Checkpoint) -> None:
        super().__init__(checkpoint)
        config, name = self.config, self.name
        if self.tower.has_cls != self.tower.drops_first:
            strategy, cls = config.vision_feature_select_strategy, "with" if self.tower.has_cls else "without"
            raise LoadError(
                f"{name} takes {strategy!r} features of a tower {cls} a CLS token, so its tiles do not fit "
                "together."
            )
        processor, vision = self.processor.image_processor, config.vision_config
        self._pinpoints = [tuple(point) for point in config.image_grid_pinpoints]
        self._tile, self._side = vision.image_size, vision.image_size // vision.patch_size
        sizes = [*dict(processor.size).values(), *dict(processor.crop_size).values()]
        if {n for n in sizes if n} != {self._tile}:
            raise LoadError(
                f"{name} has an image processor whose tiles are not the tower's {self._tile} pixels."
            )
        if [tuple(point) for point in processor.image_grid_pinpoints] != self._pinpoints:
            raise LoadError(f"{name} has an image processor that knows other resolutions than the model.")

    def _resolution(self, width: int, height: int) -> tuple[int, int]:
        """(width, height) of all tiles together."""
        from transformers.image_processing_utils import select_best_resolution

        best = select_best_resolution((height, width), self._pinpoints)
        return best[1], best[0]

    def _grid(self, image: Image.Image) -> Tensor:
        """[rows, cols] int64: patches of the tiles as the language model reads them, the padding cut off.

        They are numbered as they leave the tower, tile by tile, those of the base view first.
        """
        from transformers.models.llava_next.modeling_llava_next import unpad_image

        side = self._side
        across, down = (n // self._tile for n in self._resolution(*image.size))
        numbers = side * side * (1 + torch.arange(down * across))[:, None] + torch.arange(side * side)
        tiles = numbers.view(down, across, side, side)
        grid = tiles.transpose(1, 2).reshape(1, down * side, across * side)
        return unpad_image(grid, (image.height, image.width))[0]

    def segments(self, images: Sequence[Image.Image]) -> tuple[Segment, ...]:
        segments: list[Segment] = []
        for index, image in enumerate(images):
            grid, boxes = self._grid(image), self._boxes(image)
            base = torch.arange(self._side**2).view(self._side, self._side)
            for part in (base, grid):
                if part.numel():  # nothing but padding is left of an extremely thin picture
                    start = segments[-1].stop if segments else 0
                    shape = part.shape[0], part.shape[1]
                    segments.append(Segment(index, start, part.numel(), shape, boxes[part.flatten()]))
        return tuple(segments)

    def _boxes(self, image: Image.Image) -> Tensor:
        """[P, 4]: of all patches of an upload, in the order in which they leave the tower."""
        (width, height), tile, side = image.size, self._tile, self._side
        patch = float(self.config.vision_config.patch_size)
        wide, high = self._resolution(width, height)
        if wide / width < high / height:
            size = wide, min(math.ceil(height * (wide / width)), high)
        else:
            size = min(math.ceil(width * (high / height)), wide), high
        scale, left, top = (size[0] / width, size[1] / height), (wide - size[0]) // 2, (high - size[1]) // 2
        views = [View((tile / width, tile / height), (0.0, 0.0), (tile, tile))]
        for y in range(0, high, tile):
            views += [View(scale, (left - x, top - y), (tile, tile)) for x in range(0, wide, tile)]
        return torch.cat([patch_boxes(view, (side, side), (patch, patch), image.size) for view in views])

    def _pixels(self, images: Sequence[Image.Image]) -> Tensor:
        coded = self.processor.image_processor(images=list(images), return_tensors="pt", do_pad=True)
        counts = [self._patches_of(image) // self._side**2 for image in images]
        return torch.cat([tiles[:n] for tiles, n in zip(coded["pixel_values"], counts, strict=True)])

    def _patches_of(self, image: Image.Image) -> int:
        wide, high = self._resolution(*image.size)
        return self._side**2 * (1 + wide // self._tile * (high // self._tile))

    def _marks(self, images: Sequence[Image.Image]) -> list[Tensor]:
        marks = []
        for image in images:
            rows, cols = self._grid(image).shape
            lines = torch.ones(rows, cols + 1, dtype=torch.bool)
            lines[:, -1] = False  # the newlines
            marks.append(torch.cat([torch.ones(self._side**2, dtype=torch.bool), lines.flatten()]))
        return marks

    def rows(self, patches: Tensor, prompt: Prompt) -> Tensor:
        parts, offset = [], 0
        for image in prompt.images:
            parts += [torch.arange(self._side**2) + offset, self._grid(image).flatten() + offset]
            offset += self._patches_of(image)
        rows = patches.flatten(0, 1)
        return rows[torch.cat(parts).to(rows.device)]

    @torch.inference_mode()
    def embed_text(self, prompt: Prompt) -> Tensor:
        """[L - N, D]; a placeholder that is no visual token is a newline."""
        ids = prompt.ids[prompt.text]
        embeds = self.embed(ids)
        embeds[ids == self.config.image_token_id] = self.model.model.image_newline.to(embeds)
        return embeds

    def _template(self, images: int, question: str) -> str:
        if self.processor.chat_template:
            return chat(self.processor, images, question)
        marks = "\n".join([self.processor.image_token] * images)
        kind = self.config.text_config.model_type
        if kind == "mistral":
            return f"[INST] {marks}\n{question} [/INST]"
        if kind == "qwen2":
            start, end = "<|im_start|>", "<|im_end|>"
            return f"{start}user\n{marks}\n{question}{end}\n{start}assistant\n"
        return super()._template(images, question)
