"""Batches of drawn scenes for training: pictures, a truth for every patch, and questions packed into one
sequence a picture."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import IterableDataset
from transformers import PreTrainedTokenizerFast

from vtprune.scenes import draw, questions
from vtprune.scenes.phrases import Question, Subject, middle, phrase
from vtprune.scenes.world import SIZES, WORDS, Scene, Thing, render, sample, sample_signs, split_seed

PICTURE = 224
GRID = 16
PATCH = PICTURE // GRID
IGNORE = -100

FIELDS = ("kind", "colour", "size", "word", "tens", "ones", "column", "row")
"""Classes a patch is asked for; the value IGNORE where the question has no answer."""
POSITIONS = ("cx", "cy", "width", "height", "log_patches")
"""What a foreground patch tells of its object, in fractions of the picture; log of its number of patches."""


@dataclass
class Batch:
    """pictures: [B, n, 3, 224, 224] uint8. thing: [B, n, 256] int16, index of the object in a patch, -1 for
    background, -2 where it is neither clearly. classes: [B, n, 256, 8] int64 (FIELDS; kind = number of kinds
    for background). measures: [B, n, 256, 5] float32 (POSITIONS). ids, block, target: [B, L] int64, the
    packed questions: token ids, the question each belongs to (-1: padding), the id to predict next or IGNORE.
    phrase_ids: [P, C] int64 texts for the contrastive loss; phrase_subjects: [P, 2, 3] int64 (kind, colour,
    size) of up to two noun phrases, -1 where silent, -2 for no second phrase. meant_classes [B, Q, 2, 8]
    int64, meant_measures [B, Q, 2, 5] float32: the one or two objects that a question is about, IGNORE where
    it is about none or many."""

    pictures: Tensor
    thing: Tensor
    classes: Tensor
    measures: Tensor
    ids: Tensor
    block: Tensor
    target: Tensor
    phrase_ids: Tensor
    phrase_subjects: Tensor
    meant_classes: Tensor
    meant_measures: Tensor


def patch_truth(scene: Scene, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(thing [256] int16, classes [256, 8] int64, measures [256, 5] float32) from an id map [224, 224]."""
    cells = ids.reshape(GRID, PATCH, GRID, PATCH).transpose(0, 2, 1, 3).reshape(GRID * GRID, -1)
    count = len(scene.things)
    shares = (
        np.stack([(cells == index).mean(1) for index in range(count)], 1) if count else np.zeros((256, 1))
    )
    best, share = shares.argmax(1), shares.max(1)
    thing = np.where(share >= 0.25, best, np.where(share <= 0.06, -1, -2)).astype(np.int16)
    table = np.array(
        [_classes(t) for t in scene.things]
        + [[len(draw.KINDS)] + [IGNORE] * (len(FIELDS) - 1), [IGNORE] * len(FIELDS)]
    )
    rows = np.where(thing >= 0, thing, count + (-1 - thing))
    sizes = np.array([max(1, int((thing == index).sum())) for index in range(count)])
    measured = np.array([_measures(t, n) for t, n in zip(scene.things, sizes, strict=True)] + [[0.0] * 5] * 2)
    return thing, table[rows].astype(np.int64), measured[rows].astype(np.float32)


def _measures(thing: Thing, patches: int) -> list[float]:
    x0, y0, x1, y1 = thing.box
    return [(x0 + x1) / 2, (y0 + y1) / 2, x1 - x0, y1 - y0, math.log(patches)]


def _classes(thing: Thing) -> list[int]:
    word = WORDS.index(thing.text) if thing.text and not thing.is_number else IGNORE
    tens = ones = IGNORE
    if thing.is_number:
        ones = int(thing.text[-1])
        tens = int(thing.text[0]) if len(thing.text) == 2 else 10
    colour, size = list(draw.COLOURS).index(thing.colour), list(SIZES).index(thing.size)
    column, row = (min(2, int(3 * place)) for place in middle(thing))
    return [draw.KINDS.index(thing.kind), colour, size, word, tens, ones, column, row]


def subject_codes(subject: Subject) -> list[int]:
    """(kind, colour, size) as indices, -1 where the phrase is silent."""
    names: tuple[list[str], ...] = (list(draw.KINDS), list(draw.COLOURS), list(SIZES))
    return [-1 if value is None else known.index(value) for value, known in zip(subject, names, strict=True)]


def items(
    rng: random.Random, split: str, images: int, wanted: int, signs: float = 0.0
) -> tuple[list[Scene], list[Question]]:
    """One training item: `images` scenes of a split and up to `wanted` questions about them.

    signs: share of the items whose pictures are chosen for holding a sign; half of the single ones are
    crowded with signs.
    """
    lettered = rng.random() < signs
    crowded = lettered and images == 1 and rng.random() < 0.5
    while True:
        scenes = [_scene(rng, split, lettered, crowded) for _ in range(images)]
        if images == 1:
            asked = questions.ask(scenes, rng, wanted)
        elif images == 2 and rng.random() < 0.6:
            pair = questions.ask_changed(scenes[0], rng, 3)
            if pair is None:
                continue
            scenes = list(pair[0])
            asked = pair[1] + questions.ask(scenes, rng, 2)
        else:
            asked = questions.ask(scenes, rng, wanted)
        if asked:
            return scenes, asked


def _scene(rng: random.Random, split: str, lettered: bool, crowded: bool) -> Scene:
    while True:
        scene = (sample_signs if crowded else sample)(split_seed(split, rng.randrange(10**6)))
        if not lettered or any(thing.text for thing in scene.things):
            return scene


class Stream(IterableDataset[Batch]):
    """Endless batches. mix: {images an item: weight}; a batch with n images an item has batch_size / n items.
    signs: see :func:`items`.
    Worker w of epoch `seed` draws its own scenes; two streams with one seed and worker count are equal."""

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerFast,
        batch_size: int,
        wanted: int,
        mix: dict[int, float],
        seed: int | str,
        signs: float = 0.0,
        phrases: int = 64,
        split: str = "train",
    ) -> None:
        self.tokenizer, self.batch_size, self.wanted, self.mix = tokenizer, batch_size, wanted, mix
        self.seed, self.signs, self.phrases, self.split = seed, signs, phrases, split

    def __iter__(self) -> Iterator[Batch]:
        worker = torch.utils.data.get_worker_info()
        rng = random.Random(f"{self.seed}-{worker.id if worker else 0}")
        while True:
            images = rng.choices(list(self.mix), list(self.mix.values()))[0]
            count = max(1, self.batch_size // images)
            yield self.collate(
                [items(rng, self.split, images, self.wanted, self.signs) for _ in range(count)], rng
            )

    def collate(self, batch: list[tuple[list[Scene], list[Question]]], rng: random.Random) -> Batch:
        pictures: list[np.ndarray] = []
        truths = []
        for scenes, _ in batch:
            for scene in scenes:
                picture, shown = render(scene, PICTURE)
                pictures.append(np.asarray(picture))
                truths.append(patch_truth(scene, shown))
        shape = (len(batch), len(batch[0][0]))
        stacked = (
            torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).reshape(*shape, 3, PICTURE, PICTURE)
        )
        thing, classes, measures = (
            torch.from_numpy(np.stack(part)).unflatten(0, shape) for part in zip(*truths, strict=True)
        )
        ids, block, target = self._pack([asked for _, asked in batch])
        phrase_ids, phrase_subjects = self._phrases(batch, rng)
        meant = self._meant(batch, thing)
        return Batch(
            stacked, thing, classes, measures, ids, block, target, phrase_ids, phrase_subjects, *meant
        )

    def _meant(self, batch: list[tuple[list[Scene], list[Question]]], thing: Tensor) -> tuple[Tensor, Tensor]:
        most = max(len(asked) for _, asked in batch)
        classes = torch.full((len(batch), most, 2, len(FIELDS)), IGNORE)
        measures = torch.zeros(len(batch), most, 2, len(POSITIONS))
        for row, (scenes, asked) in enumerate(batch):
            for column, question in enumerate(asked):
                if len(question.evidence) > 2:
                    continue
                for place, (image, box) in enumerate(question.evidence):
                    index = [t.box for t in scenes[image].things].index(box)
                    patches = max(1, int((thing[row, image] == index).sum()))
                    shown = scenes[image].things[index]
                    classes[row, column, place] = torch.tensor(_classes(shown))
                    measures[row, column, place] = torch.tensor(_measures(shown, patches))
        return classes, measures

    def _pack(self, asked: list[list[Question]]) -> tuple[Tensor, Tensor, Tensor]:
        rows = []
        for group in asked:
            ids: list[int] = []
            block: list[int] = []
            target: list[int] = []
            for index, question in enumerate(group):
                prompt = self.tokenizer.encode(question.text + "<|assistant|>", add_special_tokens=False)
                answer = self.tokenizer.encode(f" {question.answer}</s>", add_special_tokens=False)
                ids += prompt + answer[:-1]
                target += [IGNORE] * (len(prompt) - 1) + answer
                block += [index] * (len(prompt) + len(answer) - 1)
            rows.append((ids, block, target))
        length = max(len(row[0]) for row in rows)
        packed = []
        for part, fill in enumerate((0, -1, IGNORE)):
            packed.append(torch.tensor([row[part] + [fill] * (length - len(row[part])) for row in rows]))
        return packed[0], packed[1], packed[2]

    def _phrases(
        self, batch: list[tuple[list[Scene], list[Question]]], rng: random.Random
    ) -> tuple[Tensor, Tensor]:
        texts, subjects = [], []
        things = [thing for scenes, _ in batch for scene in scenes for thing in scene.things]
        asked = [
            q for _, group in batch for q in group if 0 < len(q.subjects) <= 2 and any(map(any, q.subjects))
        ]
        for index in range(self.phrases):
            if index % 2 and asked:
                question = rng.choice(asked)
                text, named = question.text, question.subjects
            else:
                thing = rng.choice(things)
                subject = rng.choice(((thing.kind, thing.colour, None), (thing.kind, None, None)))
                text, named = (
                    rng.choice(("a {}", "a photo of a {}", "{}")).format(phrase(subject)),
                    (subject,),
                )
            texts.append(text)
            codes = [subject_codes(s) for s in named]
            subjects.append(codes if len(codes) == 2 else [*codes, [-2] * 3])
        encoded = [
            self.tokenizer.encode(f"<s>{text}</s>", add_special_tokens=False)[:CLIP_CONTEXT] for text in texts
        ]
        pad = self.tokenizer.pad_token_id
        ids = torch.tensor([row + [pad] * (CLIP_CONTEXT - len(row)) for row in encoded])
        return ids, torch.tensor(subjects)


CLIP_CONTEXT = 32
