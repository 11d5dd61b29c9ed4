"""From the model's pixels back to the upload's: one scale and one offset for each axis."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class View:
    """How an upload of width x height was put before the model: model = upload * scale + offset, per axis.

    size: (width, height) of what the model sees, in its pixels.
    """

    scale: tuple[float, float]
    offset: tuple[float, float]
    size: tuple[int, int]


def view_of(processor: Any, width: int, height: int) -> View:
    """What an image processor of the CLIP kind (CLIP, SigLIP, LLaVA) does to an upload of this size.

    Read from its settings, in its order: pad to a square, resize, centre crop (which pads what is smaller).
    Raises ValueError for a resize rule that is not one of those.
    """
    scale, offset, size = [1.0, 1.0], [0.0, 0.0], [width, height]
    # LLaVA's own processor pads to a square first; elsewhere do_pad fills up on the right and below, last
    if getattr(processor, "do_pad", False) and hasattr(processor, "pad_to_square"):
        side = max(size)
        offset = [float((side - size[0]) // 2), float((side - size[1]) // 2)]
        size = [side, side]
    if getattr(processor, "do_resize", False):
        target = _resized(dict(processor.size), size[0], size[1])
        for axis in (0, 1):
            factor = target[axis] / size[axis]
            scale[axis] *= factor
            offset[axis] *= factor
        size = list(target)
    if getattr(processor, "do_center_crop", False):
        crop = dict(processor.crop_size)
        for axis, side in enumerate((crop["width"], crop["height"])):
            if side > size[axis]:
                offset[axis] += (side - size[axis]) // 2
            else:
                offset[axis] -= int((size[axis] - side) / 2.0)
            size[axis] = side
    return View((scale[0], scale[1]), (offset[0], offset[1]), (size[0], size[1]))


def _resized(size: dict[str, int | None], width: int, height: int) -> tuple[int, int]:
    if size.get("shortest_edge") and not size.get("longest_edge"):
        edge = int(size["shortest_edge"] or 0)
        if width <= height:
            return edge, int(edge * height / width)
        return int(edge * width / height), edge
    if size.get("height") and size.get("width"):
        return int(size["width"] or 0), int(size["height"] or 0)
    raise ValueError(f"this image processor resizes by a rule that vtprune does not know: {size}")


def patch_boxes(
    view: View, grid: tuple[int, int], patch: tuple[float, float], upload: tuple[int, int]
) -> Tensor:
    """[rows * cols, 4] float32: x0, y0, x1, y1 of each patch in the upload's pixels, row by row.

    grid: (rows, cols). patch: (width, height) in the model's pixels. upload: (width, height). Boxes are cut
    at the upload's border; a patch that shows nothing of it has an empty box.
    """
    edges = []
    for axis, count in ((0, grid[1]), (1, grid[0])):
        model = torch.arange(count + 1, dtype=torch.float64) * patch[axis]
        edges.append(((model - view.offset[axis]) / view.scale[axis]).clamp(0, upload[axis]))
    x, y = edges
    boxes = torch.zeros(grid[0], grid[1], 4, dtype=torch.float64)
    boxes[..., 0], boxes[..., 2] = x[:-1], x[1:]
    boxes[..., 1], boxes[..., 3] = y[:-1, None], y[1:, None]
    boxes = boxes.reshape(-1, 4)
    empty = (boxes[:, 0] >= boxes[:, 2]) | (boxes[:, 1] >= boxes[:, 3])
    boxes[empty] = 0
    return boxes.float()


def overlap(boxes: Tensor, cells: Tensor) -> Tensor:
    """[N, M] float32: the share of each box [N, 4] in each cell [M, 4]; rows of empty boxes are 0."""
    low = torch.maximum(boxes[:, None, :2], cells[None, :, :2])
    high = torch.minimum(boxes[:, None, 2:], cells[None, :, 2:])
    area = (high - low).clamp(min=0).prod(-1)
    return area / area.sum(1, keepdim=True).clamp(min=1e-12)
