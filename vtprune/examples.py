"""Recorded example runs: what they are, as data; how they are made again; and what they show.

``vtprune examples --rebuild`` draws the pictures, runs every example on the bundled model and writes
everything to assets/examples, with what every method keeps of one of them (vtprune.showcase).
"""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from vtprune.assets import assets_dir
from vtprune.types import Run, Segment

if TYPE_CHECKING:
    from vtprune.engine import Engine
    from vtprune.scenes.phrases import Question
    from vtprune.scenes.world import Scene

SIDE = 672
"""Side of an example picture in pixels."""

Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Definition:
    """One example, before it was run.

    look: one line on what to look for; true whatever the model answers. scenes: places in the held-out
    split. asks: a question type of vtprune.scenes.questions. luck: seed of the question's wording.
    """

    name: str
    title: str
    look: str
    scenes: tuple[int, ...]
    asks: str
    method: str
    keep: float
    params: dict[str, Any] = field(default_factory=dict)
    luck: int = 0


EXAMPLES = (
    Definition(
        "sign",
        "Read the number",
        "Small print lives on few patches: see whether those under the digits were kept.",
        (66,),
        "number",
        "atp",
        0.25,
    ),
    Definition(
        "count",
        "Count them",
        "A count needs every one of them: look for an object whose patches are all gone.",
        (39,),
        "count",
        "fastervlm",
        0.15,
    ),
    Definition(
        "word",
        "A word, by lot",
        "Tokens drawn by lot hit the word or miss it: nothing here knows that there is one.",
        (19,),
        "word",
        "random",
        0.1,
    ),
    Definition(
        "relation",
        "Left or right?",
        "Two things and the way between them: both have to survive.",
        (28,),
        "relation",
        "resprune",
        0.2,
    ),
    Definition(
        "question",
        "Follow the question",
        "Only the similarity to the question counts here: the bright patches should lie where it points.",
        (42,),
        "colour",
        "atp",
        0.1,
        {"alpha": 1.0},
        luck=2,
    ),
    Definition(
        "where",
        "One of each kind",
        "DivPrune keeps what differs: one patch of each thing rather than many of one.",
        (59,),
        "position",
        "divprune",
        0.1,
        luck=2,
    ),
    Definition(
        "which",
        "Which of three?",
        "Three pictures share one budget: look at the count under each. FastV prunes inside the model.",
        (44, 37, 16),
        "which image",
        "fastv",
        0.5,
    ),
    Definition(
        "changed",
        "What changed?",
        "An even grid looks at nothing: the difference may lie between its points.",
        (6,),
        "changed",
        "uniform",
        0.25,
    ),
    Definition(
        "budget",
        "Plain and busy",
        "E-AdaPrune sets the budget itself: compare the counts of the plain and the busy picture.",
        (20, 27),
        "how many images",
        "e_adaprune",
        0.2,
    ),
    Definition(
        "caption",
        "In a sentence",
        "Downsample averages neighbours: nothing is dropped, everything is blurred.",
        (29,),
        "caption",
        "downsample",
        0.1,
    ),
    Definition(
        "lot",
        "Let the lot decide",
        "What the encoder attends to need not be what is asked for: switch to Random and run it again.",
        (28,),
        "colour",
        "fastervlm",
        0.1,
    ),
)


@dataclass(frozen=True)
class Asked:
    """A question about a known picture. evidence: (image, box in fractions of its sides) of what decides."""

    text: str
    answer: str
    evidence: tuple[tuple[int, Box], ...] = ()


@dataclass(frozen=True)
class Example:
    """One example with its recorded run. questions: the one that was asked first, then others to try."""

    name: str
    title: str
    look: str
    pictures: tuple[Path, ...]
    questions: tuple[Asked, ...]
    run: Run


def load(folder: Path | None = None) -> list[Example]:
    """The recorded examples; none where there are none."""
    folder = folder or assets_dir() / "examples"
    index = folder / "index.json"
    if not index.is_file():
        return []
    return [
        Example(
            entry["name"],
            entry["title"],
            entry["look"],
            tuple(folder / name for name in entry["pictures"]),
            tuple(
                Asked(q["text"], q["answer"], tuple((i, tuple(box)) for i, box in q["evidence"]))
                for q in entry["questions"]
            ),
            Run.from_json((folder / f"{entry['name']}.run.json").read_text("utf-8")),
        )
        for entry in json.loads(index.read_text("utf-8"))
    ]


def rebuild(
    engine: Engine, folder: Path | None = None, definitions: Sequence[Definition] = EXAMPLES
) -> list[Example]:
    """Draw, run and write all examples, and remove what an earlier rebuild left there."""
    from vtprune import showcase
    from vtprune.scenes import world

    folder = folder or assets_dir() / "examples"
    folder.mkdir(parents=True, exist_ok=True)
    for old in (*folder.glob("*.png"), *folder.glob("*.json")):
        old.unlink()
    entries = []
    for definition in definitions:
        scenes, questions = ask(definition)
        names = [f"{definition.name}-{i + 1}.png" for i in range(len(scenes))]
        for name, scene in zip(names, scenes, strict=True):
            world.render(scene, SIDE)[0].save(folder / name, optimize=True)
        run = engine.run(
            [folder / name for name in names],
            questions[0].text,
            definition.method,
            definition.keep,
            params=definition.params,
            repeats=5,
        )
        (folder / f"{definition.name}.run.json").write_text(run.to_json(), "utf-8")
        entries.append(
            {
                "name": definition.name,
                "title": definition.title,
                "look": definition.look,
                "pictures": names,
                "questions": [
                    {"text": q.text, "answer": q.answer, "evidence": q.evidence} for q in questions
                ],
            }
        )
    (folder / "index.json").write_text(json.dumps(entries, indent=1, ensure_ascii=False), "utf-8")
    made = load(folder)
    showcase.rebuild(engine, made, folder)
    return made


def ask(definition: Definition) -> tuple[list[Scene], list[Question]]:
    """The scenes of an example, its question, and up to three others to try."""
    from vtprune.scenes import questions, world

    rng = random.Random(f"example-{definition.name}-{definition.luck}")
    scenes = [world.sample(world.split_seed("heldout", index)) for index in definition.scenes]
    if definition.asks == "changed":
        pair = questions.ask_changed(scenes[0], rng, 1)
        while pair is None or not pair[1]:  # not every change can be drawn
            pair = questions.ask_changed(scenes[0], rng, 1)
        return list(pair[0]), pair[1]
    first = questions.ask(scenes, rng, 1, only=definition.asks)
    if not first:
        raise ValueError(f"example {definition.name!r}: its scenes allow no {definition.asks!r} question.")
    others = [q for q in questions.ask(scenes, rng, 4) if q.text != first[0].text]
    return scenes, [*first, *others[:3]]


def evidence_kept(run: Run, evidence: Sequence[tuple[int, Box]]) -> float:
    """Share of the evidence's area that lies on patches kept to the end."""
    kept = run.stages[-1].keep if run.stages else list(range(run.tokens))
    covered = area = 0.0
    for image, box in evidence:
        info = run.images[image]
        x0, y0, x1, y1 = (part * side for part, side in zip(box, (info.width, info.height) * 2, strict=True))
        area += (x1 - x0) * (y1 - y0)
        for segment in run.segments:
            if segment.image == image:
                boxes = _kept_boxes(segment, kept)
                width = boxes[:, 2].clamp(max=x1) - boxes[:, 0].clamp(min=x0)
                height = boxes[:, 3].clamp(max=y1) - boxes[:, 1].clamp(min=y0)
                covered += float((width.clamp(min=0) * height.clamp(min=0)).sum())
    return min(1.0, covered / area) if area else 1.0


def _kept_boxes(segment: Segment, kept: Sequence[int]) -> torch.Tensor:
    inside = [token - segment.start for token in kept if segment.start <= token < segment.stop]
    return segment.boxes[inside].reshape(-1, 4)


def finding(run: Run, asked: Asked) -> str:
    """What happened in a run whose right answer is known, as a sentence. Of methods that merge tokens, which
    drop nothing altogether, no share of the evidence is given."""
    from vtprune.scenes.phrases import same_answer

    full, pruned = (same_answer(side.answer, asked.answer) for side in (run.full, run.pruned))
    if full and pruned:
        outcome = "both answers are right"
    elif full:
        outcome = "pruning broke the answer"
    elif pruned:
        outcome = "only the pruned answer is right"
    else:
        outcome = "neither answer is right, so the model itself is unsure here"
    if run.blended or not asked.evidence:
        return f"{outcome[0].upper()}{outcome[1:]}."
    share = evidence_kept(run, asked.evidence)
    return f"{share:.0%} of what decides the answer was kept; {outcome}."
