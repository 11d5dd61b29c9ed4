"""Tokenizers and chat templates of the published forms."""

from __future__ import annotations

import json
from collections.abc import Sequence

from conftest import WORDS, build_tokenizer
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, trainers
from tokenizers.processors import TemplateProcessing

CHATML = (
    "{% for message in messages %}{% if loop.first and message['role'] != 'system' %}<|im_start|>system\nYou "
    "are a helpful assistant.<|im_end|>\n{% endif %}<|im_start|>{{ message['role'] }}\n"
    "{% for part in message['content'] %}{% if part['type'] == 'image' or 'image' in part %}"
    "<|vision_start|><|image_pad|><|vision_end|>{% elif 'text' in part %}{{ part['text'] }}{% endif %}"
    "{% endfor %}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def turn(begin: str, end: str) -> str:
    """A chat template of the LLaVA kind: pictures first, and a tag that only transformers' own Jinja has."""
    parts = "message['content'] | selectattr('type', 'equalto', "
    answer = "{% generation %}{{ message['content'][0]['text'] }}{% endgeneration %}"
    return (
        "{% for message in messages %}{% if message['role'] == 'user' %}{{ '" + begin + "' }}"
        "{% for part in " + parts + "'image') %}{{ '<image>\n' }}{% endfor %}"
        "{% for part in " + parts + "'text') %}{{ part['text'] + '" + end + "' }}{% endfor %}"
        "{% else %}" + answer + "{% endif %}{% endfor %}"
    )


def smol_turn(bos: str) -> str:
    return (
        bos + "{% for message in messages %}{{ message['role'] | capitalize }}"
        "{% if message['content'][0]['type'] == 'image' %}{{ ':' }}{% else %}{{ ': ' }}{% endif %}"
        "{% for part in message['content'] %}{% if part['type'] == 'text' %}{{ part['text'] }}"
        "{% else %}{{ '<image>' }}{% endif %}{% endfor %}<end_of_utterance>\n{% endfor %}"
        "{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}"
    )


def sentences_of(marks: Sequence[str]) -> Tokenizer:
    """Of the Llama kind: words with their space in front, bytes for what is no word; marks at the end."""
    tokenizer = Tokenizer(models.BPE(byte_fallback=True, fuse_unk=True, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    special = ["<unk>", "<s>", "</s>", *(f"<0x{i:02X}>" for i in range(256))]
    trainer = trainers.BpeTrainer(vocab_size=330, special_tokens=special, show_progress=False)
    tokenizer.train_from_iterator([WORDS] * 4, trainer)
    data = json.loads(tokenizer.to_str())
    data["added_tokens"] = data["added_tokens"][:3]  # bytes are no marks
    return _marked(Tokenizer.from_str(json.dumps(data)), marks, "<s>")


def _marked(tokenizer: Tokenizer, marks: Sequence[str], begin: str | None = None) -> Tokenizer:
    if begin:
        known = [(begin, tokenizer.token_to_id(begin))]
        tokenizer.post_processor = TemplateProcessing(single=f"{begin} $A", special_tokens=known)
    tokenizer.add_special_tokens([AddedToken(mark, special=True, normalized=False) for mark in marks])
    return tokenizer


def bytes_of(marks: Sequence[str], begin: str | None = None) -> Tokenizer:
    """Byte-level, without the <image> of the tests' own."""
    data = json.loads(build_tokenizer()._tokenizer.to_str())
    data["added_tokens"] = [token for token in data["added_tokens"] if token["content"] != "<image>"]
    text = json.dumps(data).replace('"<image>"', '"<no image>"')
    return _marked(Tokenizer.from_str(text), marks, begin)
