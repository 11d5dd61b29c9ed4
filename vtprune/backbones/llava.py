"""LLaVA: a CLIP (or SigLIP) vision tower, a projector, a Llama-type decoder. The bundled model is one."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from vtprune.backbones.base import Backbone, Encoded, LoadError, Prompt
from vtprune.backbones.geometry import patch_boxes, view_of
from vtprune.backbones.parts import chat, llama_decoder, load_parts, tokens_of, why_missing
from vtprune.clip import Companion, find_companion
from vtprune.types import Segment

TOWERS = ("clip_vision_model", "siglip_vision_model")
LANGUAGES = ("llama", "mistral", "qwen2")


@dataclass(frozen=True)
class _Tower:
    """How far the tower ran. hidden [B, P, Dv]: the input of layer `depth` (0 .. number of layers)."""

    hidden: Tensor
    depth: int


class Llava(Backbone):
    """Adapter of transformers' LlavaForConditionalGeneration."""

    family = "llava"
    architecture = "LlavaForConditionalGeneration"

    def __init__(
        self,
        path: str,
        config: Any,
        name: str,
        device: torch.device,
        dtype: torch.dtype,
        revision: str | None = None,
        clip: str | Path | None = None,
    ) -> None:
        tower_type = config.vision_config.model_type
        if tower_type not in TOWERS:
            raise LoadError(
                f"{name} has a {tower_type!r} vision tower; vtprune knows {' and '.join(TOWERS)}."
            )
        language_type = config.text_config.model_type
        if language_type not in LANGUAGES:
            raise LoadError(
                f"{name} has a {language_type!r} language model; vtprune knows {', '.join(LANGUAGES)}."
            )
        self.name, self.device, self.dtype = name, device, dtype
        model, self.processor = load_parts(self.architecture, path, name, device, dtype, revision)
        self.model, self.tokenizer = model, self.processor.tokenizer
        self.config: Any = model.config
        tower = model.model.vision_tower
        self._tower: Any = getattr(tower, "vision_model", tower)  # some releases of transformers wrap it
        self._blocks: Sequence[Any] = list(self._tower.encoder.layers)
        self._has_cls = hasattr(self._tower.embeddings, "class_embedding")
        self._drop_cls = self.config.vision_feature_select_strategy == "default"
        wanted = self.config.vision_feature_layer
        wanted = [wanted] if isinstance(wanted, int) else list(wanted)
        # index i of transformers' hidden_states is the input of block i; the last one is the output of all
        self._taps = [i % (len(self._blocks) + 1) for i in wanted]
        # the tower layer whose q and k a signal is made of
        depth = len(self._blocks)
        self._read_at = {
            "cls_attention": depth - 1,
            "received_attention": depth - 1,
            "headless_attention": depth - 1,
            "keys": depth - 1,
            "shallow_attention": round(depth * 5 / 24),
            "middle_attention": round(depth * 9 / 24),
        }
        self.llm = llama_decoder(model.model.language_model, model.lm_head)
        self.companion: Companion | None = find_companion(path, clip, device)
        self._shared = self.companion is not None and self.companion.adopt(self._tower)

    def prepare(self, images: Sequence[Image.Image], question: str) -> Prompt:
        segments, marks = self.segments(images), self._marks(images)
        blocks = [self.processor.image_token * len(mark) for mark in marks]
        ids, instruction = tokens_of(self.processor, self.name, self._template, blocks, question)
        places = (ids == self.config.image_token_id).nonzero().flatten()
        return Prompt(
            ids=ids.to(self.device),
            positions=torch.arange(len(ids), device=self.device),
            next_position=len(ids),
            visual=places[torch.cat(marks)].to(self.device),
            instruction=instruction.to(self.device),
            pixels=self._pixels(images).to(self.device),
            segments=segments,
            images=tuple(images),
            question=question,
        )

    def _pixels(self, images: Sequence[Image.Image]) -> Tensor:
        """[B, 3, H, W]: all that the tower sees."""
        return self.processor.image_processor(images=list(images), return_tensors="pt")["pixel_values"]

    def _marks(self, images: Sequence[Image.Image]) -> list[Tensor]:
        """[n] bool of each image: which of its placeholders in the prompt are visual tokens."""
        return [torch.ones(segment.length, dtype=torch.bool) for segment in self.segments(images)]

    def _arrange(self, rows: Tensor, prompt: Prompt) -> Tensor:
        """Rows of all patches that the tower saw [B * P, ...] -> those of the visual tokens [N, ...]."""
        return rows

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
            if self._has_cls and not self._drop_cls:
                # the CLS token is one of the visual tokens, and shows all of them
                seen = boxes[(boxes[:, 2:] > boxes[:, :2]).all(1)]
                whole = torch.cat([seen[:, :2].amin(0), seen[:, 2:].amax(0)])
                boxes, shape = torch.cat([whole[None], boxes]), (1, len(boxes) + 1)
            elif self._drop_cls and not self._has_cls:
                # transformers drops the first token whatever it is; here that is a patch
                boxes, shape = boxes[1:], (1, len(boxes) - 1)
            start = segments[-1].stop if segments else 0
            segments.append(Segment(index, start, len(boxes), shape, boxes))
        return tuple(segments)

    @torch.inference_mode()
    def encode(self, prompt: Prompt, needs: Collection[str] = ()) -> Encoded:
        blocks, needs = self._blocks, frozenset(needs)
        read = {need: self._read_at[need] for need in needs & self._read_at.keys()}
        stops = {*self._taps, *read.values()}
        hidden = self._tower.embeddings(prompt.pixels.to(self.dtype))
        hidden = getattr(self._tower, "pre_layrnorm", nn.Identity())(hidden)
        depth, states = max(stops), {}
        for i, block in enumerate([*blocks[:depth], None]):
            if i in stops:
                states[i] = hidden
            if block is not None:  # layers behind the features are not run, here or on the full side
                hidden = block(hidden, None)
        features = torch.cat([self._patches(states[i]) for i in self._taps], -1).flatten(0, 1)
        features = self._arrange(features, prompt)
        makers = {"keys": self._keys, "headless_attention": self._headless_row}
        makers |= dict.fromkeys(("cls_attention", "shallow_attention"), self._cls_row)
        makers |= dict.fromkeys(("received_attention", "middle_attention"), self._received)
        signals = {
            need: self._arrange(makers[need](self._blocks[i], states[i]), prompt) for need, i in read.items()
        }
        if "vision_features" in needs:
            signals["vision_features"] = features.float()
        if "text" in needs:
            signals["text"] = self.words(prompt.question)
        return Encoded(features, signals, _Tower(hidden, depth))

    def _patches(self, hidden: Tensor) -> Tensor:
        return hidden[:, 1:] if self._drop_cls else hidden

    # Signals of one tower layer, from its own q and k on its input [B, P, Dv]; all [N] or [N, .] float32.

    def _split(self, projection: Any, x: Tensor) -> Tensor:
        """[B, P, Dv] -> [B, heads, P, h] float32."""
        heads = self._blocks[0].self_attn.num_heads
        return projection(x).unflatten(-1, (heads, -1)).transpose(1, 2).float()

    def _keys(self, block: Any, hidden: Tensor) -> Tensor:
        """[N, h]: mean over heads of the keys."""
        keys = self._split(block.self_attn.k_proj, block.layer_norm1(hidden))
        return self._patches(keys.mean(1)).flatten(0, 1)

    def _cls_row(self, block: Any, hidden: Tensor) -> Tensor:
        """[N]: mean over heads of what the CLS token pays to each token."""
        attention, x = block.self_attn, block.layer_norm1(hidden)
        query, keys = self._split(attention.q_proj, x[:, :1]), self._split(attention.k_proj, x)
        row = (query @ keys.transpose(-1, -2) * attention.scale).softmax(-1).mean(1)[:, 0]
        # column 0 is the CLS token's attention to itself: patch p is column p + 1
        return (row[:, 1:] if self._drop_cls else row).flatten()

    def _headless_row(self, block: Any, hidden: Tensor) -> Tensor:
        """[N]: the same with the heads side by side as one."""
        attention, x = block.self_attn, block.layer_norm1(hidden)
        query, keys = attention.q_proj(x[:, :1]).float(), attention.k_proj(x).float()
        row = (query @ keys.transpose(-1, -2) * keys.shape[-1] ** -0.5).softmax(-1)[:, 0]
        return (row[:, 1:] if self._drop_cls else row).flatten()

    def _received(self, block: Any, hidden: Tensor) -> Tensor:
        """[N]: mean over heads and query tokens of the attention that each token receives."""
        attention, x = block.self_attn, block.layer_norm1(hidden)
        rows = []
        for one in x:  # an image at a time, since [heads, P, P] is large
            query, key = (self._split(p, one[None]) for p in (attention.q_proj, attention.k_proj))
            weights = (query @ key.transpose(-1, -2) * attention.scale).softmax(-1)[0].mean(0)
            rows.append(weights[1:, 1:].mean(0) if self._drop_cls else weights.mean(0))
        return torch.cat(rows)

    @torch.inference_mode()
    def project(self, features: Tensor) -> Tensor:
        return self.model.model.multi_modal_projector(features)

    @torch.inference_mode()
    def embed(self, ids: Tensor) -> Tensor:
        return self.model.get_input_embeddings()(ids)

    @torch.inference_mode()
    def clip(self, prompt: Prompt, encoded: Encoded) -> tuple[Tensor, Tensor, int]:
        companion = self.companion
        if companion is None:
            raise ValueError(self.missing("clip_patches"))
        text = companion.text(prompt.question)
        if not self._shared:
            return companion.map_images(prompt.images, prompt.segments), text, companion.sign
        state: _Tower = encoded.state
        hidden = state.hidden
        for block in self._blocks[state.depth :]:
            hidden = block(hidden, None)
        patches = companion.project(self._patches(hidden)).flatten(0, 1)
        return self._arrange(patches, prompt), text, companion.sign

    def missing(self, need: str) -> str | None:
        return why_missing(need, self.name, cls=self._has_cls, clip=self.companion is not None)
