"""What several families share: loading, the text of a prompt, a decoder of the Llama kind."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from vtprune.backbones.base import LanguageModel, LoadError
from vtprune.backbones.weights import weights

STAND_IN = "QUESTIONSTANDSHERE"


def load_parts(
    architecture: str,
    path: str,
    name: str,
    device: torch.device,
    dtype: torch.dtype,
    revision: str | None,
    loader: Any = None,
) -> tuple[Any, Any]:
    """(model, processor) of a folder or hub id; architecture is the model's class in transformers. loader:
    what has a `from_pretrained` that gives the processor; None is AutoProcessor.

    Raises LoadError without a fast tokenizer, which alone can say where the question's tokens are.
    """
    import transformers

    model: Any = weights(getattr(transformers, architecture), path, device, dtype, revision)
    loader = loader or transformers.AutoProcessor
    processor = loader.from_pretrained(path, revision=revision, trust_remote_code=False)
    if not getattr(processor.tokenizer, "is_fast", False):
        raise LoadError(f"{name} has no tokenizer.json, which vtprune needs to find the question's tokens.")
    return model, processor


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


def why_missing(need: str, name: str, *, cls: bool, clip: bool) -> str | None:
    """Why a signal cannot be had from a model with or without a CLS token and a CLIP companion, or None."""
    if need in ("cls_attention", "shallow_attention", "headless_attention") and not cls:
        return f"{name} has no CLS token in its vision tower, so there is no CLS attention to read."
    if need in ("clip_patches", "clip_text") and not clip:
        return (
            f"{name} comes without a CLIP companion (a folder clip/ for open_clip), "
            "so patch-text similarity cannot be had; give one with load(..., clip=...)."
        )
    return None
