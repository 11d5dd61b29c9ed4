"""What Qwen2.5-VL and Qwen3-VL share: pictures in their own resolution, four patches a token, three axes."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from vtprune.backbones.base import Encoded, Prompt
from vtprune.backbones.geometry import View, patch_boxes
from vtprune.backbones.parts import chat, llama_decoder, rotate, tokens_of
from vtprune.backbones.pretrained import Checkpoint, Pretrained
from vtprune.types import Segment

THINNEST = 200
"""The processor takes no picture that is longer than wide, or wider than long, by more than this."""
AT_ONCE = 2**26
"""Numbers of an attention map that are held in memory together."""


class QwenVL(Pretrained):
    """A family of Qwen vision-language models with positions on three axes.

    features at "vision" are the merged tokens: the tower's last layer is a merger that puts 2 x 2 patches
    into one token of the language model, so `project` changes nothing and "vision" and "projected" are the
    same place. Signals come from the patches below the merger, each token having the mean of its four.
    received_attention and middle_attention are read at the blocks with attention over the whole picture that
    come last and next to 9/24 of the depth, for in any other a patch sees its window only; keys are those of
    the last block before their rotation, so that two of them compare by content and not by place. There is
    no CLS token.

    system: what a prompt begins with where the checkpoint has no chat template.
    """

    kinds = ("vision", "projected", "llm")
    system = ""

    def __init__(self, checkpoint: Checkpoint) -> None:
        super().__init__(checkpoint)
        self._tower: Any = self.model.model.visual
        depth = self.config.vision_config.depth
        whole = self._whole()
        # the block whose q and k a signal is made of
        self._read_at = {
            "received_attention": whole[-1],
            "middle_attention": min(whole, key=lambda i: abs(i - depth * 9 / 24)),
            "keys": depth - 1,
        }
        self.llm = llama_decoder(self.model.model.language_model, self.model.lm_head, axes=3)

    def _whole(self) -> Sequence[int]:
        """The blocks, in order, in which a patch sees all others of its picture."""
        return range(self.config.vision_config.depth)

    def _places(self, segments: Sequence[Segment]) -> Tensor | slice:
        """[N] int64, or a slice of all where the order is the same: where the blocks have each token."""
        return slice(None)

    def _deep(self, output: Any) -> tuple[Tensor, ...]:
        """`Encoded.deep` of what the tower gave."""
        return ()

    def prepare(self, images: Sequence[Image.Image], question: str) -> Prompt:
        video = self.processor.video_token
        if video in question:
            raise ValueError(f"the question holds {video}, the model's own mark for a video: leave it out.")
        segments = self.segments(images)
        blocks = [self.processor.image_token * segment.length for segment in segments]
        ids, instruction = tokens_of(self.processor, self.name, self._template, blocks, question)
        visual = (ids == self.config.image_token_id).nonzero().flatten()
        positions = _positions(len(ids), visual, segments)
        pixels = self.processor.image_processor(images=list(images), return_tensors="pt")["pixel_values"]
        return self.prompt(ids, visual, instruction, pixels, segments, images, question, positions)

    def _template(self, images: int, question: str) -> str:
        if self.processor.chat_template:
            return chat(self.processor, images, question)
        marks = f"<|vision_start|>{self.processor.image_token}<|vision_end|>" * images
        return f"{self.system}<|im_start|>user\n{marks}{question}<|im_end|>\n<|im_start|>assistant\n"

    def segments(self, images: Sequence[Image.Image]) -> tuple[Segment, ...]:
        from transformers.models.qwen2_vl.image_processing_qwen2_vl import smart_resize

        processor = self.processor.image_processor
        limits, unit = dict(processor.size), processor.patch_size * processor.merge_size
        segments: list[Segment] = []
        for index, image in enumerate(images):
            if max(image.size) > THINNEST * min(image.size):
                raise ValueError(
                    f"a picture of {image.width} x {image.height} pixels is too thin for {self.name}, whose "
                    f"limit is {THINNEST} to 1."
                )
            height, width = smart_resize(
                image.height, image.width, unit, limits["shortest_edge"], limits["longest_edge"]
            )
            view = View((width / image.width, height / image.height), (0.0, 0.0), (width, height))
            grid = height // unit, width // unit
            boxes = patch_boxes(view, grid, (unit, unit), image.size)
            start = segments[-1].stop if segments else 0
            segments.append(Segment(index, start, len(boxes), grid, boxes))
        return tuple(segments)

    @torch.inference_mode()
    def encode(self, prompt: Prompt, needs: Collection[str] = ()) -> Encoded:
        needs = frozenset(needs)
        merge = self._tower.spatial_merge_size
        grids = torch.tensor([[1, *(merge * n for n in segment.grid)] for segment in prompt.segments])
        read = {need: self._read_at[need] for need in needs & self._read_at.keys()}
        with self._inputs_of(frozenset(read.values())) as seen:
            output = self._tower(prompt.pixels.to(self.dtype), grid_thw=grids.to(self.device))
        features = output.pooler_output
        signals: dict[str, Tensor] = {}
        for need, i in read.items():
            maker = self._keys if need == "keys" else self._received
            patches = maker(self._tower.blocks[i], *seen[i], prompt.segments).to(self.device)
            signals[need] = patches.unflatten(0, (-1, merge**2)).mean(1)[self._places(prompt.segments)]
        if "vision_features" in needs:
            signals["vision_features"] = features.float()
        if "text" in needs:
            signals["text"] = self.words(prompt.question)
        return Encoded(features, signals, deep=self._deep(output))

    @contextmanager
    def _inputs_of(self, blocks: Collection[int]) -> Iterator[Mapping[int, tuple[Tensor, Any]]]:
        """What goes into these blocks while the tower runs: hidden [P, Dv] and its rotation (cos, sin)."""
        seen: dict[int, tuple[Tensor, Any]] = {}

        def watch(i: int) -> Any:
            def note(_: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
                seen[i] = args[0], kwargs["position_embeddings"]

            return self._tower.blocks[i].register_forward_pre_hook(note, with_kwargs=True)

        hooks = [watch(i) for i in blocks]
        try:
            yield seen
        finally:
            for hook in hooks:
                hook.remove()

    # Signals of one block, from its own q and k on its input [P, Dv]; all [P] or [P, .] float32.

    def _split(self, block: Any, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """[P, Dv] -> q and k [P, heads, h], before their rotation."""
        query, key, _ = block.attn.qkv(block.norm1(hidden)).chunk(3, -1)
        heads = block.attn.num_heads
        return query.unflatten(-1, (heads, -1)), key.unflatten(-1, (heads, -1))

    def _keys(self, block: Any, hidden: Tensor, _: Any, __: Sequence[Segment]) -> Tensor:
        """[P, h]: mean over heads of the keys."""
        return self._split(block, hidden)[1].float().mean(1)

    def _received(
        self, block: Any, hidden: Tensor, rotation: tuple[Tensor, Tensor], segments: Sequence[Segment]
    ) -> Tensor:
        """[P]: mean over heads and the image's patches of the attention that each patch receives."""
        cos, sin = (part[:, None].float() for part in rotation)
        query, key = (rotate(x.float(), cos, sin).transpose(0, 1) for x in self._split(block, hidden))
        merge = self._tower.spatial_merge_size**2
        received = []
        for segment in segments:
            mine = slice(segment.start * merge, segment.stop * merge)
            columns = key[:, mine].transpose(-1, -2) * block.attn.scaling
            count = segment.length * merge
            pieces = query[:, mine].split(max(1, AT_ONCE // (len(query) * count)), 1)
            total = sum((rows @ columns).softmax(-1).mean(0).sum(0) for rows in pieces)
            received.append(total / count)
        return torch.cat(received)

    def project(self, features: Tensor) -> Tensor:
        return features


def _positions(length: int, visual: Tensor, segments: Sequence[Segment]) -> Tensor:
    """[3, L] int64: time, height and width of every token of a prompt; visual [N] as in Prompt.

    A text token has the same number on all three. Those of a picture count its rows and columns from where
    the text stopped, and the text behind it goes on from the larger of the two.
    """
    positions = torch.zeros(3, length, dtype=torch.int64)
    done = following = 0
    for segment in segments:
        place, (rows, cols) = int(visual[segment.start]), segment.grid
        following += place - done
        positions[:, done:place] = torch.arange(following - (place - done), following)
        done = place + segment.length
        down, across = torch.arange(segment.length) // cols, torch.arange(segment.length) % cols
        positions[:, place:done] = following + torch.stack([torch.zeros_like(down), down, across])
        following += max(rows, cols)
    positions[:, done:] = torch.arange(following, following + length - done)
    return positions
