"""Qwen3-VL: every block of its vision tower sees the whole picture, and some speak to the language model."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from vtprune.backbones.qwen_vl import QwenVL


class Qwen3VL(QwenVL):
    """Adapter of transformers' Qwen3VLForConditionalGeneration; not of the one with experts.

    Deepstack: some blocks have a merger of their own, whose tokens are added to the hidden states of the
    visual tokens after the first layers of the language model. They share the fate of the features.
    """

    family = "qwen3_vl"
    architecture = "Qwen3VLForConditionalGeneration"

    def _deep(self, output: Any) -> tuple[Tensor, ...]:
        return tuple(output.deepstack_features)
