"""Families whose language model never sees a patch in its sequence: something in front sums them up."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from vtprune.backbones.base import Prompt
from vtprune.backbones.geometry import patch_boxes, view_of
from vtprune.backbones.tower import Passed, TowerBackbone
from vtprune.types import Segment


class ResamplerBackbone(TowerBackbone):
    """A tower's patches go through a resampler, or into cross-attention; `enter` says how.

    Pruning acts on the tower's output, so that the resampler attends to fewer patches; what the language
    model computes hardly changes. The CLS token is always kept, is no visual token, and is not counted.
    The state of `Encoded` is the CLS rows [images, 1, Dv].
    """

    processor: Any
    config: Any
    kinds = ("vision", "cls")
    sees: str
    """The end of a sentence that begins with the language model: what it sees of a picture."""

    def refuses(self, place: str) -> str | None:
        if place == "vision":
            return None
        end = (
            "only methods that act on the vision tower's patches can be used."
            if place == "projected"
            else "methods inside it have nothing to drop."
        )
        return f"the language model of {self.name} {self.sees}, so {end}"

    def segments(self, images: Sequence[Image.Image]) -> tuple[Segment, ...]:
        patch = self.config.vision_config.patch_size
        segments: list[Segment] = []
        for index, image in enumerate(images):
            view = view_of(self.processor.image_processor, image.width, image.height)
            grid = view.size[1] // patch, view.size[0] // patch
            boxes = patch_boxes(view, grid, (patch, patch), image.size)
            start = segments[-1].stop if segments else 0
            segments.append(Segment(index, start, len(boxes), grid, boxes))
        return tuple(segments)

    def finish(self, passed: Passed, prompt: Prompt) -> tuple[Tensor, Tensor]:
        (hidden,) = passed.taps
        return hidden[:, 1:].flatten(0, 1), hidden[:, :1]


def of_each_image(
    resample: Callable[[Tensor], Tensor], cls: Tensor, features: Tensor, owners: Tensor
) -> Tensor:
    """[images, Q, D]: what `resample` ([B, n, Dv] -> [B, Q, D]) makes of each image's own rows.

    cls: [images, 1, Dv], put before them. features: [K, Dv]; owners: [K] int64, the image of each row.
    """
    rows = [torch.cat([one, features[owners == image]]) for image, one in enumerate(cls)]
    if len({len(row) for row in rows}) == 1:
        return resample(torch.stack(rows))
    return torch.cat([resample(row[None]) for row in rows])
