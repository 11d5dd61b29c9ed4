"""How two answers to one question relate."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import SequenceMatcher

import torch
from torch import Tensor

from vtprune.types import Comparison


def compare(
    full: str,
    pruned: str,
    full_ids: Sequence[int],
    pruned_ids: Sequence[int],
    full_logits: Sequence[Tensor],
    pruned_logits: Sequence[Tensor],
) -> Comparison:
    """Compare the two answers.

    full, pruned: the texts. *_ids: the generated tokens. *_logits: one [V] row for each of them.

    kl[i] is KL(full ‖ pruned) of the two distributions that token i was picked from. Both sides are
    teacher-forced on the same prefix only as long as they pick the same tokens: up to where they part each
    has read exactly tokens 0 … i-1 of the other, beyond it they continue different texts and a divergence
    would mix up what pruning did with what was said before. So it is given for each step up to and including
    the first difference, and for no other.
    """
    first = first_difference(full_ids, pruned_ids)
    steps = min(len(full_ids), len(pruned_ids)) if first is None else first + 1
    kl = [divergence(a, b) for a, b in zip(full_logits[:steps], pruned_logits[:steps], strict=False)]
    words_full, words_pruned = diff_words(full, pruned)
    return Comparison(
        same=full == pruned,
        first_difference=first,
        words_full=words_full,
        words_pruned=words_pruned,
        kl=kl,
        summary=_summary(full, pruned, words_full, words_pruned),
    )


def first_difference(a: Sequence[int], b: Sequence[int]) -> int | None:
    """Index of the first token that differs (one answer ending counts), or None when all are equal."""
    for i, (x, y) in enumerate(zip(a, b, strict=False)):
        if x != y:
            return i
    return None if len(a) == len(b) else min(len(a), len(b))


def divergence(full: Tensor, pruned: Tensor) -> float:
    """KL(full ‖ pruned) in nats of two next-token distributions given as logits [V]; computed in float64."""
    p = torch.log_softmax(full.double(), -1)
    q = torch.log_softmax(pruned.double(), -1)
    return max(0.0, float((p.exp() * (p - q)).sum()))


def diff_words(full: str, pruned: str) -> tuple[list[tuple[str, bool]], list[tuple[str, bool]]]:
    """The words of both texts as (word, differs), aligned by longest common runs."""
    a, b = full.split(), pruned.split()
    differs_a, differs_b = [True] * len(a), [True] * len(b)
    for block in SequenceMatcher(None, a, b, autojunk=False).get_matching_blocks():
        differs_a[block.a : block.a + block.size] = [False] * block.size
        differs_b[block.b : block.b + block.size] = [False] * block.size
    return list(zip(a, differs_a, strict=True)), list(zip(b, differs_b, strict=True))


def _summary(
    full: str, pruned: str, words_full: list[tuple[str, bool]], words_pruned: list[tuple[str, bool]]
) -> str:
    if full == pruned:
        return "same answer"
    if not words_pruned:
        return "the pruned answer is empty"
    if not words_full:
        return "the full answer is empty"
    pairs = enumerate(zip(words_full, words_pruned, strict=False), start=1)
    same = min(len(words_full), len(words_pruned))
    word = next((i for i, ((a, _), (b, _)) in pairs if a != b), same + 1)
    if word > same and len(words_full) == len(words_pruned):
        return "same words, spaced differently"
    return f"differs from word {word}"
