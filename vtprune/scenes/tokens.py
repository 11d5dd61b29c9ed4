"""The bundled model's tokenizer: byte-level BPE, so that any text has tokens and none is unknown."""

from __future__ import annotations

import random

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from vtprune.scenes import draw, questions
from vtprune.scenes.world import SIZES, WORDS, plural, sample, split_seed

SPECIAL = ("<pad>", "<s>", "</s>", "<image>", "<|user|>", "<|assistant|>")
VOCABULARY = 1024

CHAT_TEMPLATE = """\
{{- bos_token -}}
{%- set images = namespace(seen=0) -%}
{%- for message in messages -%}
{%- if message['role'] == 'user' -%}
{{- '<|user|>' -}}
{%- if message['content'] is string -%}{{- message['content'] -}}
{%- else -%}
{%- for part in message['content'] if part['type'] == 'image' -%}
{%- set images.seen = images.seen + 1 -%}{{- images.seen ~ '<image>' -}}
{%- endfor -%}
{%- for part in message['content'] if part['type'] == 'text' -%}{{- part['text'] -}}{%- endfor -%}
{%- endif -%}
{%- else -%}
{{- '<|assistant|> ' -}}
{%- if message['content'] is string -%}{{- message['content'] -}}
{%- else -%}{%- for part in message['content'] -%}{{- part['text'] -}}{%- endfor -%}{%- endif -%}
{{- eos_token -}}
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|assistant|>' -}}{%- endif -%}
"""


def corpus(scenes: int = 6000) -> list[str]:
    """Questions with their answers, and every word of the world many times, so that each is one token."""
    words = [*draw.KINDS, *map(plural, draw.KINDS), *draw.COLOURS, *SIZES, *WORDS]
    words += [
        "yes",
        "no",
        "top",
        "bottom",
        "left",
        "right",
        "center",
        "above",
        "below",
        "moved",
        "added",
        "removed",
    ]
    lines = [" " + word for word in words] * 400
    for index in range(scenes):
        scene = sample(split_seed("train", index))
        lines += [f"{q.text} {q.answer}" for q in questions.ask([scene], random.Random(index), 8)]
    return lines


def build() -> PreTrainedTokenizerFast:
    """Trains the tokenizer (seconds). Digits stay single tokens, so that numbers are spelled."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=list(SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(corpus(), trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        additional_special_tokens=["<image>", "<|user|>", "<|assistant|>"],
        chat_template=CHAT_TEMPLATE,
        model_max_length=4096,
        clean_up_tokenization_spaces=False,
    )
