"""BLIP-2: a ViT whose patches a Q-Former sums up in a few query tokens, and an OPT decoder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from vtprune.backbones.base import Encoded, Entry, LanguageModel, Prompt
from vtprune.backbones.parts import tokens_of
from vtprune.backbones.pretrained import Checkpoint
from vtprune.backbones.resampler import ResamplerBackbone, of_each_image
from vtprune.backbones.tower import Passed, Tower


@dataclass(frozen=True)
class _Words:
    """What `tokens_of` reads of a processor; the prompt has no mark of its own for an image."""

    tokenizer: Any
    image_token: str = "<image>"


@dataclass(frozen=True)
class _Layer:
    """An OPT layer, called as the decoder calls one. OPT rotates nothing: it adds a learned vector for its
    place to each token, so those [1, n, D] come in place of (cos, sin), and the first layer adds them."""

    layer: Any
    first: bool

    def __call__(self, hidden: Tensor, position_embeddings: Any, past_key_values: Any) -> Tensor:
        if self.first:
            hidden = hidden + position_embeddings[0]
        return self.layer(hidden, past_key_values=past_key_values)


class Blip2(ResamplerBackbone):
    """Adapter of transformers' Blip2ForConditionalGeneration with an OPT language model.

    Patches are pruned in front of the Q-Former's cross-attention. It was trained on one picture a prompt.
    """

    family = "blip-2"
    architecture = "Blip2ForConditionalGeneration"
    languages = ("opt",)
    max_images = 1

    def __init__(self, checkpoint: Checkpoint) -> None:
        super().__init__(checkpoint)
        model = self.model
        self.tower = Tower(
            list(model.vision_model.encoder.layers),
            has_cls=True,
            drops_first=True,
            step=lambda block, hidden: block(hidden),
            query=lambda attention, x: attention.qkv(x).chunk(3, -1)[0],
            key=lambda attention, x: attention.qkv(x).chunk(3, -1)[1],
        )
        queries = self.config.num_query_tokens
        self.sees = f"sees {queries} query tokens of an image whatever is pruned"
        decoder = model.language_model.model.decoder
        self.llm = LanguageModel(
            layers=[_Layer(layer, first=i == 0) for i, layer in enumerate(decoder.layers)],
            norm=decoder.final_layer_norm or nn.Identity(),
            head=model.language_model.lm_head,
            rotary=lambda x, positions: (decoder.embed_positions(x, position_ids=positions[None]),) * 2,
            rotate=lambda x, cos, sin: x,
            config=decoder.config,
        )

    def ends(self) -> list[Any]:
        """The language model's first, since it is that which generates in transformers as well."""
        return [self.model.language_model.generation_config.eos_token_id, *super().ends()]

    def prepare(self, images: Sequence[Image.Image], question: str) -> Prompt:
        words = _Words(self.tokenizer)
        text, instruction = tokens_of(
            words, self.name, lambda _, asked: f"<image>Question: {asked} Answer:", [""], question
        )
        # the query tokens come before everything, the token for the begin of a text as well
        queries = self.config.num_query_tokens
        mark = self.config.image_token_id or self.tokenizer.convert_tokens_to_ids(words.image_token)
        ids = torch.cat([torch.full((queries,), mark), text])
        segments = self.segments(images)
        pixels = self.processor.image_processor(list(images), return_tensors="pt")["pixel_values"]
        visual, slots = torch.zeros(segments[-1].stop, dtype=torch.int64), torch.arange(queries)
        return self.prompt(
            ids, visual, instruction + queries, pixels, segments, images, question, slots=slots
        )

    def start(self, pixels: Tensor) -> Tensor:
        return self.model.vision_model.embeddings(pixels)

    def finish(self, passed: Passed, prompt: Prompt) -> tuple[Tensor, Tensor]:
        normed = [self.model.vision_model.post_layernorm(tap) for tap in passed.taps]
        return super().finish(replace(passed, taps=normed), prompt)

    @torch.inference_mode()
    def enter(self, prompt: Prompt, encoded: Encoded, features: Tensor, owners: Tensor) -> Entry:
        queries = of_each_image(self._resample, encoded.state, features, owners)
        return Entry(self.model.language_projection(queries).flatten(0, 1), self.llm)

    def _resample(self, rows: Tensor) -> Tensor:
        """[B, n, Dv] -> [B, queries, Dq]."""
        tokens = self.model.query_tokens.expand(len(rows), -1, -1)
        made = self.model.qformer(query_embeds=tokens, encoder_hidden_states=rows).last_hidden_state
        return made.to(rows.dtype)  # the Q-Former may be kept in float32

    @torch.inference_mode()
    def embed(self, ids: Tensor) -> Tensor:
        return self.model.language_model.get_input_embeddings()(ids)
