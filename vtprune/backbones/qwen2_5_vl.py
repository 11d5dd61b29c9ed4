"""Qwen2.5-VL: most blocks of its vision tower see windows of the picture only."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from vtprune.backbones.qwen_vl import QwenVL
from vtprune.types import Segment


class Qwen25VL(QwenVL):
    """Adapter of transformers' Qwen2_5_VLForConditionalGeneration."""

    family = "qwen2_5_vl"
    architecture = "Qwen2_5_VLForConditionalGeneration"
    system = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"

    def _whole(self) -> Sequence[int]:
        return sorted(self.config.vision_config.fullatt_block_indexes)

    def _places(self, segments: Sequence[Segment]) -> Tensor:
        """[N] int64: the blocks have the tokens window by window."""
        tower = self._tower
        side = tower.window_size // tower.spatial_merge_size // tower.patch_size
        parts = []
        for segment in segments:
            rows, cols = (torch.arange(n) // side for n in segment.grid)
            window = (rows[:, None] * (int(cols[-1]) + 1) + cols).flatten()
            parts.append(segment.start + window.argsort(stable=True))
        return torch.cat(parts).argsort().to(self.device)
