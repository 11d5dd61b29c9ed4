"""CLIP's joint space beside a model: which patch looks like what the question says, through open_clip."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional

from vtprune.backbones.base import LoadError
from vtprune.backbones.geometry import View, overlap, patch_boxes
from vtprune.types import Segment

FILES = ("open_clip_config.json", "open_clip_model.safetensors")


def find_companion(model: str, clip: str | Path | None, device: torch.device) -> Companion | None:
    """The CLIP of a model: `clip` when it is given, else the folder clip/ inside a local model folder.

    clip: a folder with open_clip_config.json and open_clip_model.safetensors, or an open_clip architecture
    with its weights' tag, as in "ViT-L-14-336:openai" (fetched by open_clip). Raises LoadError.
    """
    if clip is None:
        folder = Path(model) / "clip"
        return Companion.from_folder(folder, device) if folder.is_dir() else None
    if Path(clip).is_dir():
        return Companion.from_folder(Path(clip), device)
    return Companion.from_tag(str(clip), device)


class Companion:
    """An open_clip model used for its joint space only.

    sign: -1 for OpenAI's CLIP, whose relevant patches score *lower* (its patch cosine is inverted), else +1.
    All embeddings are float32 unit rows.
    """

    def __init__(self, model: Any, tokenizer: Any, sign: int, device: torch.device) -> None:
        if not all(hasattr(model.visual, part) for part in ("ln_post", "proj", "conv1", "transformer")):
            raise LoadError(
                "the CLIP companion has no plain vision transformer, so its patches cannot be read."
            )
        self.model = model.to(device).float().eval().requires_grad_(False)
        self.tokenizer, self.sign, self.device = tokenizer, sign, device

    @classmethod
    def from_folder(cls, folder: Path, device: torch.device) -> Companion:
        """Load from local files only. Raises LoadError when one is missing or does not fit."""
        for file in FILES:
            if not (folder / file).is_file():
                raise LoadError(f"the CLIP companion in {folder} has no {file}.")
        import open_clip

        try:
            model = open_clip.create_model(f"local-dir:{folder}", device="cpu")
            tokenizer = open_clip.get_tokenizer(f"local-dir:{folder}")
        except Exception as error:
            raise LoadError(f"open_clip cannot load the CLIP companion in {folder} ({error}).") from error
        return cls(model, tokenizer, 1, device)

    @classmethod
    def from_tag(cls, name: str, device: torch.device) -> Companion:
        """Load by architecture and tag, "ViT-B-32:laion2b_s34b_b79k"; open_clip fetches what it needs."""
        import open_clip

        architecture, _, tag = name.partition(":")
        if not tag:
            raise LoadError(
                f"clip={name!r} is neither a folder nor an open_clip name with a tag "
                "such as ViT-L-14-336:openai."
            )
        try:
            model = open_clip.create_model(
                architecture, pretrained=tag, device="cpu", force_quick_gelu=tag == "openai"
            )
            tokenizer = open_clip.get_tokenizer(architecture)
        except Exception as error:
            raise LoadError(
                f"open_clip cannot load {name!r} (unknown name, or no network); give a folder with "
                f"{' and '.join(FILES)} instead."
            ) from error
        return cls(model, tokenizer, -1 if tag == "openai" else 1, device)

    def adopt(self, tower: nn.Module) -> bool:
        """Whether `tower` (a transformers CLIP vision model) is this CLIP's own vision tower.

        Compared weight by weight, to half precision. If so, the second copy is let go: from then on only
        `project` and `text` are used.
        """
        if not _same_tower(self.model.visual, tower):
            return False
        self.model.visual.transformer = nn.Identity()
        return True

    @torch.inference_mode()
    def text(self, question: str) -> Tensor:
        """[T, C]: the question in the joint space; T > 1 when it is longer than CLIP's context."""
        tokens = self.tokenizer(self._chunks(question)).to(self.device)
        return functional.normalize(self.model.encode_text(tokens).float(), dim=-1)

    def _chunks(self, text: str) -> list[str]:
        words = text.split()
        if len(words) < 2 or self._length(text) <= self.tokenizer.context_length:
            return [text]
        middle = len(words) // 2
        return self._chunks(" ".join(words[:middle])) + self._chunks(" ".join(words[middle:]))

    def _length(self, text: str) -> int:
        if hasattr(self.tokenizer, "encode"):
            return len(self.tokenizer.encode(text)) + 2  # open_clip adds its start and end marks itself
        return len(self.tokenizer.tokenizer(text)["input_ids"])

    @torch.inference_mode()
    def project(self, hidden: Tensor) -> Tensor:
        """[..., Dv] output of the tower's last layer -> [..., C] in the joint space."""
        visual = self.model.visual
        return functional.normalize(visual.ln_post(hidden.float()) @ visual.proj, dim=-1)

    @torch.inference_mode()
    def map_images(self, images: Sequence[Image.Image], segments: Sequence[Segment]) -> Tensor:
        """[N, C]: patches of this CLIP's own tower, brought to the tokens of `segments` by shared area.

        The whole picture is squeezed to CLIP's square, so that no token lies outside of what CLIP saw.
        Tokens with an empty box get zeros.
        """
        visual = self.model.visual
        height, width = visual.image_size
        mean, std = (
            torch.tensor(v, device=self.device).view(3, 1, 1) for v in (visual.image_mean, visual.image_std)
        )
        rows, cols = visual.grid_size
        patches = []
        for image in images:
            pixels = torch.from_numpy(np.array(image.resize((width, height), Image.Resampling.BICUBIC)))
            pixels = (pixels.to(self.device).permute(2, 0, 1).float() / 255 - mean) / std
            hidden = visual.transformer(visual._embeds(pixels[None]))
            patches.append(self.project(hidden[0, 1:]))
        mapped = []
        for segment in segments:
            size = images[segment.image].size
            view = View((width / size[0], height / size[1]), (0.0, 0.0), (width, height))
            cells = patch_boxes(view, (rows, cols), (width / cols, height / rows), size)
            weights = overlap(segment.boxes, cells).to(self.device)
            mapped.append(functional.normalize(weights @ patches[segment.image], dim=-1))
        return torch.cat(mapped)


def _same_tower(visual: Any, tower: Any) -> bool:
    from open_clip.transformer import QuickGELU

    if tower.config.model_type != "clip_vision_model":
        return False
    blocks, ours = list(visual.transformer.resblocks), list(tower.encoder.layers)
    if len(blocks) != len(ours) or visual.conv1.weight.shape != tower.embeddings.patch_embedding.weight.shape:
        return False
    if isinstance(blocks[0].mlp.gelu, QuickGELU) != (tower.config.hidden_act == "quick_gelu"):
        return False
    if blocks[0].attn.num_heads != tower.config.num_attention_heads:
        return False
    pairs = [
        (visual.conv1.weight, tower.embeddings.patch_embedding.weight),
        (visual.class_embedding, tower.embeddings.class_embedding),
        (visual.positional_embedding, tower.embeddings.position_embedding.weight),
        *_both(visual.ln_pre, tower.pre_layrnorm),
    ]
    for theirs, block in zip(blocks, ours, strict=True):
        attention = block.self_attn
        qkv = (attention.q_proj, attention.k_proj, attention.v_proj)
        pairs += [
            (theirs.attn.in_proj_weight, torch.cat([p.weight for p in qkv])),
            (theirs.attn.in_proj_bias, torch.cat([p.bias for p in qkv])),
            *_both(theirs.attn.out_proj, attention.out_proj),
            *_both(theirs.ln_1, block.layer_norm1),
            *_both(theirs.ln_2, block.layer_norm2),
            *_both(theirs.mlp.c_fc, block.mlp.fc1),
            *_both(theirs.mlp.c_proj, block.mlp.fc2),
        ]
    # the two may be stored in different half precisions
    return all(
        a.shape == b.shape and torch.allclose(a.float(), b.float().to(a.device), rtol=1e-2, atol=1e-3)
        for a, b in pairs
    )


def _both(a: Any, b: Any) -> list[tuple[Tensor, Tensor]]:
    return [(a.weight, b.weight), (a.bias, b.bias)]
