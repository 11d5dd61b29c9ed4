"""What several families share: the text of a prompt, and a decoder of the Llama kind."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from vtprune.backbones.base import LanguageModel

STAND_IN = "QUESTIONSTANDSHERE"


def llama_decoder(language: Any, head: Any, axes: int = 1) -> LanguageModel:
    """A decoder of the Llama kind (also Mistral, Qwen2): `language` is its model without the head.

    axes: 3 when a position is a time, a height and a width; one number then stands for all three.
    """

    def rotary(x: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
        ids = positions[None] if axes == 1 else positions.expand(axes, -1)[:, None]
        return language.rotary_emb(x, position_ids=ids)

    return LanguageModel(
        layers=list(language.layers),
        norm=language.norm,
        head=head,
        rotary=rotary,
        rotate=lambda x, cos, sin: rotate(x, cos[:, None], sin[:, None]),
        config=language.config,
    )


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """x [..., h] turned by its position; cos, sin: as `rotary` gives them, of a shape that fits x."""
    left, right = x.chunk(2, -1)
    return x * cos + torch.cat([-right, left], -1) * sin


def chat(processor: Any, images: int, question: str) -> str:
    """One turn of a user, the images before the question, in the words of the processor's chat template."""
    content: list[dict[str, str]] = [{"type": "image"} for _ in range(images)]
    content.append({"type": "text", "text": question})
    return processor.apply_chat_template(
        [{"role": "user", "content": content}], add_generation_prompt=True, tokenize=False
    )


def tokens_of(
    processor: Any, name: str, template: Callable[[int, str], str], blocks: Sequence[str], question: str
) -> tuple[Tensor, Tensor]:
    """ids [L] int64 of a prompt, and [Q] int64: places of the question's own tokens in it.

    template(images, question): the prompt with one image mark for each image. blocks: what takes the place
    of each of these marks. Raises ValueError on a question or a template that does not fit.
    """
    marker, tokenizer = processor.image_token, processor.tokenizer
    if marker in question:
        raise ValueError(f"the question holds {marker}, the model's own mark for an image: leave it out.")
    # with a stand-in for the question, since its words may be in the template as well
    text = template(len(blocks), STAND_IN)
    if text.count(marker) != len(blocks) or text.count(STAND_IN) != 1:
        raise ValueError(f"the chat template of {name} cannot hold {len(blocks)} images and a question.")
    pieces = text.split(marker)
    text = pieces[0] + "".join(block + piece for block, piece in zip(blocks, pieces[1:], strict=True))
    start = text.index(STAND_IN)
    text = text.replace(STAND_IN, question)
    bos = tokenizer.bos_token
    coded = tokenizer(
        text,
        add_special_tokens=bos is None or not text.startswith(bos),
        return_offsets_mapping=True,
    )
    stop = start + len(question)
    asked = [i for i, (a, b) in enumerate(coded["offset_mapping"]) if a < stop and start < b]
    return torch.tensor(coded["input_ids"]), torch.tensor(asked, dtype=torch.int64)
