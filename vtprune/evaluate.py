"""Accuracy on drawn scenes that no training picture shares: whole, and pruned."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from vtprune.engine import Engine
from vtprune.scenes import questions
from vtprune.scenes.phrases import Question, same_answer
from vtprune.scenes.world import render, sample, split_seed
from vtprune.types import Run, Segment

PICTURE_SIDE = 448
"""Pixels; the model's processor scales them down, as it would an upload."""


@dataclass(frozen=True)
class Asked:
    """One held-out question and how it was answered. evidence: share of the evidence's area that kept tokens
    cover, None where the evidence is empty (a "no")."""

    type: str
    question: str
    truth: str
    full: str
    pruned: str
    evidence: float | None

    @property
    def full_right(self) -> bool:
        return same_answer(self.full, self.truth)

    @property
    def pruned_right(self) -> bool:
        return same_answer(self.pruned, self.truth)


@dataclass
class Report:
    """What a method did with `asked` at one budget."""

    method: str
    keep: float | int
    asked: list[Asked] = field(default_factory=list)

    def of(self, kind: str) -> Report:
        return Report(self.method, self.keep, [a for a in self.asked if a.type == kind])

    @property
    def short(self) -> Report:
        """Everything but captions, whose exact match is another matter than that of a word."""
        return Report(self.method, self.keep, [a for a in self.asked if a.type != "caption"])

    @property
    def full_accuracy(self) -> float:
        return _mean([a.full_right for a in self.asked])

    @property
    def accuracy(self) -> float:
        return _mean([a.pruned_right for a in self.asked])

    @property
    def agreement(self) -> float:
        """Share of questions on which the pruned answer is the full answer, right or wrong."""
        return _mean([same_answer(a.full, a.pruned) for a in self.asked])

    @property
    def evidence(self) -> float:
        return _mean([a.evidence for a in self.asked if a.evidence is not None])

    def table(self) -> str:
        """Markdown: a row a question type."""
        lines = ["| question type | n | all tokens | pruned |", "| --- | ---: | ---: | ---: |"]
        for kind in questions.TYPES:
            part = self.of(kind)
            if part.asked:
                lines.append(
                    f"| {kind} | {len(part.asked)} | {part.full_accuracy:.1%} | {part.accuracy:.1%} |"
                )
        short = self.short
        lines.append(
            f"| **all but captions** | {len(short.asked)} | **{short.full_accuracy:.1%}** "
            f"| **{short.accuracy:.1%}** |"
        )
        return "\n".join(lines)


def _mean(values: list[Any]) -> float:
    return sum(values) / len(values) if values else float("nan")


def heldout(
    count: int, split: str = "heldout", seed: int = 0
) -> Iterator[tuple[list[Image.Image], Question]]:
    """`count` questions, the types taking turns, each about pictures of its own."""
    rng = random.Random(f"evaluate-{seed}")
    index = seed * 10**5
    for turn in range(count):
        kind = questions.TYPES[turn % len(questions.TYPES)]
        while True:
            images = rng.randint(2, 4) if kind in questions.SEVERAL else 1
            scenes = [sample(split_seed(split, index + offset)) for offset in range(images)]
            index += images
            if kind == "changed":
                pair = questions.ask_changed(scenes[0], rng, 1)
                scenes, asked = (list(pair[0]), pair[1]) if pair else (scenes, [])
            else:
                asked = questions.ask(scenes, rng, 1, only=kind)
            if asked:
                yield [render(scene, PICTURE_SIDE)[0] for scene in scenes], asked[0]
                break


Boxes = list[tuple[int, tuple[float, float, float, float]]]
"""Evidence as (image, (x0, y0, x1, y1) in that image's pixels)."""


def evidence_boxes(question: Question) -> Boxes:
    """Where a held-out question's evidence is in the pictures as they are drawn here."""
    side = PICTURE_SIDE
    return [(i, (b[0] * side, b[1] * side, b[2] * side, b[3] * side)) for i, b in question.evidence]


def evidence_kept(run: Run, boxes: Boxes) -> float | None:
    """Share (0 to 1) of the evidence's area that tokens alive after the last stage cover; None without any.

    A merged token counts as where it stands, not as everything it was made from.
    """
    return covered(run.segments, run.stages[-1].keep if run.stages else None, boxes)


def covered(segments: Sequence[Segment], keep: Sequence[int] | None, boxes: Boxes) -> float | None:
    """Share (0 to 1) of the boxes' area that the tokens `keep` (None: all) cover; None without any boxes."""
    if not boxes:
        return None
    alive = torch.zeros(sum(segment.length for segment in segments), dtype=torch.bool)
    alive[slice(None) if keep is None else torch.tensor(keep)] = True
    inside = total = 0.0
    for segment in segments:
        mine = [torch.tensor(box) for image, box in boxes if image == segment.image]
        for box in mine:
            overlap = _overlap(segment.boxes, box)
            inside += float(overlap[alive[segment.start : segment.stop]].sum())
            total += float(overlap.sum())
    return inside / total if total else None


def _overlap(boxes: Tensor, box: Tensor) -> Tensor:
    """[N, 4] and [4] -> [N] area they share."""
    low, high = torch.maximum(boxes[:, :2], box[:2]), torch.minimum(boxes[:, 2:], box[2:])
    return (high - low).clamp(min=0).prod(1)


def clip_rank(engine: Engine, count: int, split: str = "heldout") -> float:
    """Mean rank of the evidence's patches by their CLIP similarity to the question: 0 is the most similar
    patch of the picture, 1 the least, 0.5 what chance gives.

    Over those of `count` held-out questions that are about one picture and have evidence; a patch is the
    evidence's when at least half of it lies in one of its boxes.
    """
    ranks = []
    for pictures, question in heldout(count, split):
        if len(pictures) > 1 or not question.evidence:
            continue
        prompt = engine.backbone.prepare(pictures, question.text)
        patches, text, sign = engine.backbone.clip(prompt, engine.backbone.encode(prompt, {"clip_patches"}))
        similarity = sign * (patches @ text.mean(0))
        rank = similarity.argsort(descending=True).argsort().float() / (len(similarity) - 1)
        boxes = prompt.segments[0].boxes
        area = (boxes[:, 2:] - boxes[:, :2]).prod(1)
        inside = [
            _overlap(boxes, torch.tensor(box) * PICTURE_SIDE) >= area / 2 for _, box in question.evidence
        ]
        mine = torch.stack(inside).any(0)
        if mine.any():
            ranks.append(float(rank[mine.to(rank.device)].mean()))
    return _mean(ranks)


def evaluate(
    engine: Engine,
    method: str = "random",
    keep: float | int = 0.1,
    count: int = 2100,
    split: str = "heldout",
    **params: Any,
) -> Iterator[Report]:
    """Asks `count` questions with all tokens and pruned; yields the growing report after every answer."""
    report = Report(method, keep)
    for pictures, question in heldout(count, split):
        run = engine.run(pictures, question.text, method, keep, params=params, repeats=0)
        kept = evidence_kept(run, evidence_boxes(question))
        report.asked.append(
            Asked(question.type, question.text, question.answer, run.full.answer, run.answer, kept)
        )
        yield report
