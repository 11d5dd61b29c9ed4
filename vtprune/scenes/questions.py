"""Questions about drawn scenes, in varied wording, each with its answer and the boxes of its evidence.

One function per question type: it takes the scenes (one per image) and a random generator, and returns a
:class:`Question`, or None when these scenes do not allow that question.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

from vtprune.scenes import draw
from vtprune.scenes.phrases import (
    Question,
    Subject,
    all_matching,
    boxes_of,
    middle,
    phrase,
    referable,
    say,
    zone,
)
from vtprune.scenes.world import SIZES, Scene, Thing, article, change


def kind(scenes: Sequence[Scene], rng: random.Random) -> Question | None:
    (scene,) = scenes
    things = list(scene.things)
    rng.shuffle(things)
    for thing in things:
        subject: Subject = (None, thing.colour, None)
        if len(all_matching(scene, subject)) != 1:
            subject = (None, thing.colour, thing.size)
        if len(all_matching(scene, subject)) == 1:
            text = say(
                rng,
                (
                    "What is the {it}?",
                    "What kind of object is the {it}?",
                    "Which object is {adjectives}?",
                    "What {adjectives} object do you see?",
                    "Name the {it}.",
                ),
                it=phrase(subject),
                adjectives=phrase(subject).removesuffix(" thing"),
            )
            return Question("kind", text, thing.kind, boxes_of([thing]), (subject,))
    return None


def colour(scenes: Sequence[Scene], rng: random.Random) -> Question | None:
    picked = referable(scenes[0], rng, hide="colour")
    if picked is None:
        return None
    thing, subject = picked
    templates = (
        "What colour is the {it}?",
        "Which colour does the {it} have?",
        "What is the colour of the {it}?",
        "Tell me the colour of the {it}.",
        "The {it} is what colour?",
    )
    return Question(
        "colour", say(rng, templates, it=phrase(subject)), thing.colour, boxes_of([thing]), (subject,)
    )


def size(scenes: Sequence[Scene], rng: random.Random) -> Question | None:
    picked = referable(scenes[0], rng, hide="size")
    if picked is None:
        return None
    thing, subject = picked
    templates = (
        "How big is the {it}?",
        "What size is the {it}?",
        "Is the {it} small, medium or large?",
        "What is the size of the {it}?",
        "How large is the {it}?",
    )
    return Question(
        "size", say(rng, templates, it=phrase(subject)), thing.size, boxes_of([thing]), (subject,)
    )


def _any_subject(scene: Scene, rng: random.Random) -> Subject:
    """What a count or an existence question asks about: mostly something that is there."""
    thing = rng.choice(scene.things) if scene.things else None
    kind_ = thing.kind if thing and rng.random() < 0.8 else rng.choice(draw.KINDS)
    colour_ = thing.colour if thing and rng.random() < 0.8 else rng.choice(list(draw.COLOURS))
    form = rng.random()
    if form < 0.5:
        return (kind_, None, None)
    if form < 0.8:
        return (kind_, colour_, None)
    return (None, colour_, None)


def count(scenes: Sequence[Scene], rng: random.Random) -> Question | None:
    (scene,) = scenes
    everything = rng.random() < 0.12
    subject = (None, None, None) if everything else _any_subject(scene, rng)
    found = all_matching(scene, subject)
    if len(found) > 8 or (len(found) == 1 and rng.random() < 0.5):
        return None
    templates = (
        "How many {them} are there?",
        "How many {them} do you see?",
        "Count the {them}.",
        "What is the number of {them}?",
        "How many {them} are in the picture?",
    )
    words = phrase(subject, many=True)
    if everything:
        words = rng.choice(("things", "objects"))
    return Question("count", say(rng, templates, them=words), str(len(found)), boxes_of(found), (subject,))


def existence(scenes: Sequence[Scene], rng: random.Random) -> Question | None:
    """Half yes; a "no" is mostly hard: the kind and the colour are both there, but not together."""
    (scene,) = scenes
    if not scene.things:
        return None
    thing, other = rng.choice(scene.things), rng.choice(scene.things)
    if rng.random() < 0.5:
        present: list[Subject] = [
            (thing.kind, None, None),
            (thing.kind, thing.colour, None),
            (None, thing.colour, None),
        ]
        subject = rng.choice(present)
    else:
        absent: list[Subject] = [
            (thing.kind, other.colour, None),
            (thing.kind, rng.choice(list(draw.COLOURS)), None),
            (rng.choice(draw.KINDS), thing.colour, None),
            (rng.choice(draw.KINDS), None, None),
            (None, rng.choice(list(draw.COLOURS)), None),
        ]
        absent = [subject for subject in absent if not all_matching(scene, subject)]
        if not absent:
            return None
        subject = absent[0] if rng.random() < 0.4 else rng.choice(absent)
    found = all_matching(scene, subject)
    templates = (
        "Is there {it}?",
        "Do you see {it}?",
        "Is there {it} in the picture?",
        "Can you see {it}?",
        "Does the picture show {it}?",
    )
    text = say(rng, templates, it=article(phrase(subject)))
    return Question("existence", text, "yes" if found else "no", boxes_of(found), (subject,))


def position(scenes: Sequence[Scene], rng: random.Random) -> Question | None:
    picked = referable(scenes[0], rng)
    if picked is None:
        return None
    thing, subject = picked
    where = zone(*middle(thing))
    if where is None:
        return None
    templates = (
        "Where is the {it}?",
        "In which part of the picture is the {it}?",
        "Where do you see the {it}?",
        "What is the position of the {it}?",
        "Where in the picture is the {it}?",
    )
    return Question("position", say(rng, templates, it=phrase(subject)), where, boxes_of([thing]), (subject,))


def relation(scenes: Sequence[Scene], rng: random.Random) -> Question | None:
    (scene,) = scenes
    first, second = referable(scene, rng), referable(scene, rng)
    if first is None or second is None or first[0] == second[0]:
        return None
    (a, subject_a), (b, subject_b) = first, second
    (ax, ay), (bx, by) = middle(a), middle(b)
    dx, dy = ax - bx, ay - by
    if max(abs(dx), abs(dy)) < 0.15 or max(abs(dx), abs(dy)) < 1.4 * min(abs(dx), abs(dy)):
        return None
    horizontal = abs(dx) > abs(dy)
    truth = ("left" if dx < 0 else "right") if horizontal else ("above" if dy < 0 else "below")
    names = {"left": "to the left of", "right": "to the right of", "above": "above", "below": "below"}
    words = {"a": phrase(subject_a), "b": phrase(subject_b)}
    if rng.random() < 0.5:
        templates: tuple[str, ...] = (
            "Where is the {a} relative to the {b}?",
            "Is the {a} left, right, above or below the {b}?",
            "On which side of the {b} is the {a}?",
            "How is the {a} placed relative to the {b}?",
        )
        text, answer = say(rng, templates, **words), truth
    else:
        opposite = {"left": "right", "right": "left", "above": "below", "below": "above"}[truth]
        asked = rng.choice((truth, opposite))
        templates = (
            "Is the {a} {side} the {b}?",
            "Do you see the {a} {side} the {b}?",
            "Is it true that the {a} is {side} the {b}?",
            "Can the {a} be found {side} the {b}?",
        )
        text = say(rng, templates, side=names[asked], **words)
        answer = "yes" if asked == truth else "no"
    return Question("relation", text, answer, boxes_of([a, b]), (subject_a, subject_b))


def _sign(scene: Scene, rng: random.Random, number: bool) -> tuple[Thing, Subject] | None:
    signs = [thing for thing in scene.things if thing.text and thing.is_number == number]
    everything = [thing for thing in scene.things if thing.text]
    if not signs:
        return None
    thing = rng.choice(signs)
    if len(everything) == 1 and rng.random() < 0.7:
        return thing, ("sign", None, None)
    if sum(other.colour == thing.colour for other in everything) == 1:
        return thing, ("sign", thing.colour, None)
    return None


def number(scenes: Sequence[Scene], rng: random.Random) -> Question | None:
    picked = _sign(scenes[0], rng, number=True)
    if picked is None:
        return None
    thing, subject = picked
    templates = (
        "What number is on the {it}?",
        "Which number does the {it} show?",
        "What is the number on the {it}?",
        "Read the number on the {it}.",
    )
    return Question(
        "number", say(rng, templates, it=phrase(subject)), thing.text, boxes_of([thing]), (subject,)
    )


def word(scenes: Sequence[Scene], rng: random.Random) -> Question | None:
    picked = _sign(scenes[0], rng, number=False)
    if picked is None:
        return None
    thing, subject = picked
    templates = (
        "What does the {it} say?",
        "What word is on the {it}?",
        "Which word does the {it} show?",
        "Read the word on the {it}.",
        "What is written on the {it}?",
    )
    return Question(
        "word", say(rng, templates, it=phrase(subject)), thing.text, boxes_of([thing]), (subject,)
    )


def compare(scenes: Sequence[Scene], rng: random.Random) -> Question | None:
    (scene,) = scenes
    if len(scene.things) < 2:
        return None
    by_kind = rng.random() < 0.65
    values = {thing.kind if by_kind else thing.colour for thing in scene.things}
    pool = sorted(values)
    if rng.random() < 0.25 or len(pool) < 2:
        pool.append(rng.choice(draw.KINDS if by_kind else list(draw.COLOURS)))
    first, second = rng.sample(pool, 2)
    subjects: list[Subject] = [(v, None, None) if by_kind else (None, v, None) for v in (first, second)]
    found = [all_matching(scene, subject) for subject in subjects]
    a, b = len(found[0]), len(found[1])
    if first == second or (a == b and rng.random() < 0.75):
        return None
    more = rng.random() < 0.75
    templates = (
        "Are there {m} {a} than {b}?",
        "Do you see {m} {a} than {b}?",
        "Does the picture show {m} {a} than {b}?",
        "Are there {m} {a} in the picture than {b}?",
    )
    text = say(
        rng,
        templates,
        m="more" if more else "fewer",
        a=phrase(subjects[0], many=True),
        b=phrase(subjects[1], many=True),
    )
    truth = a > b if more else a < b
    return Question("compare", text, "yes" if truth else "no", boxes_of(found[0] + found[1]), tuple(subjects))


def which_image(scenes: Sequence[Scene], rng: random.Random) -> Question | None:
    order = list(range(len(scenes)))
    rng.shuffle(order)
    for index in order:
        if not scenes[index].things:
            continue
        thing = rng.choice(scenes[index].things)
        subject = rng.choice([(thing.kind, None, None), (thing.kind, thing.colour, None)])
        if sum(bool(all_matching(scene, subject)) for scene in scenes) == 1:
            templates = (
                "Which image has {it}?",
                "Which picture shows {it}?",
                "In which image is there {it}?",
                "In which picture do you see {it}?",
            )
            text = say(rng, templates, it=article(phrase(subject)))
            evidence = boxes_of(all_matching(scenes[index], subject), index)
            return Question("which image", text, str(index + 1), evidence, (subject,))
    return None


def how_many_images(scenes: Sequence[Scene], rng: random.Random) -> Question | None:
    subject = _any_subject(rng.choice(scenes), rng)
    found = [all_matching(scene, subject) for scene in scenes]
    total = sum(map(bool, found))
    if total == 1 and rng.random() < 0.5:
        return None
    templates = (
        "In how many images is there {it}?",
        "How many images show {it}?",
        "In how many pictures do you see {it}?",
        "How many of the pictures have {it}?",
    )
    text = say(rng, templates, it=article(phrase(subject)))
    evidence = sum((boxes_of(things, image) for image, things in enumerate(found)), ())
    return Question("how many images", text, str(total), evidence, (subject,))


def changed(pair: tuple[Scene, Scene, str, Thing, Thing], rng: random.Random) -> Question | None:
    """About two pictures made by :func:`vtprune.scenes.world.change`."""
    before, after, what, old, new = pair
    subject: Subject = (old.kind, None, None)
    evidence = boxes_of([old], 0) * (what != "added") + boxes_of([new], 1) * (what != "removed")
    if max(len(all_matching(before, subject)), len(all_matching(after, subject))) == 1 and rng.random() < 0.5:
        templates: tuple[str, ...] = (
            "What happened to the {it}?",
            "What changed about the {it}?",
            "How is the {it} different in the second picture?",
            "What is different about the {it}?",
        )
        return Question("changed", say(rng, templates, it=phrase(subject)), what, evidence, (subject,))
    templates = (
        "Which object changed?",
        "What object is different between the two pictures?",
        "Which thing is not the same in both images?",
        "What changed between the two images?",
    )
    return Question("changed", say(rng, templates), old.kind, evidence, (subject,))


def caption(scenes: Sequence[Scene], rng: random.Random) -> Question | None:
    """A sentence that names up to four objects, the largest ones, from left to right."""
    (scene,) = scenes
    largest = sorted(scene.things, key=lambda t: -list(SIZES).index(t.size))[:4]
    named = sorted(largest, key=lambda t: middle(t)[0])
    if not named or len(scene.things) > 4:
        return None
    words = [article(t.describe()) + (f" that says {t.text}" if t.text else "") for t in named]
    text = words[0] if len(words) == 1 else ", ".join(words[:-1]) + " and " + words[-1]
    templates = (
        "Describe the picture.",
        "What is in the picture?",
        "Write a caption.",
        "What do you see from left to right?",
    )
    answer = text[0].upper() + text[1:] + "."
    return Question(
        "caption", say(rng, templates), answer, boxes_of(named), tuple(_subject(t) for t in named)
    )


def _subject(thing: Thing) -> Subject:
    return (thing.kind, thing.colour, None)


SINGLE: dict[str, Callable[[Sequence[Scene], random.Random], Question | None]] = {
    "kind": kind,
    "colour": colour,
    "size": size,
    "count": count,
    "existence": existence,
    "position": position,
    "relation": relation,
    "number": number,
    "word": word,
    "compare": compare,
    "caption": caption,
}
SEVERAL = {"which image": which_image, "how many images": how_many_images}
RARE = {"number": 3.0, "word": 3.0, "relation": 1.5, "count": 1.5, "caption": 0.4}
"""How much more often than the others a type is tried: few scenes hold a sign, and captions are long."""
TYPES = (*SINGLE, *SEVERAL, "changed")


def ask(scenes: Sequence[Scene], rng: random.Random, wanted: int, only: str = "") -> list[Question]:
    """Up to `wanted` different questions about one or several scenes, of types drawn (see RARE) among those
    the scenes allow (or of the type `only`)."""
    table = SINGLE if len(scenes) == 1 else SEVERAL
    types = [only] if only else list(table)
    weights = [RARE.get(name, 1.0) for name in types]
    questions: dict[str, Question] = {}
    for _ in range(wanted * 6):
        question = table[rng.choices(types, weights)[0]](scenes, rng)
        if question is not None:
            questions.setdefault(question.text, question)
        if len(questions) == wanted:
            break
    return list(questions.values())


def ask_changed(
    scene: Scene, rng: random.Random, wanted: int
) -> tuple[tuple[Scene, Scene], list[Question]] | None:
    """A second scene that differs in one thing, and questions about the difference."""
    difference = change(scene, rng)
    if difference is None:
        return None
    other, what, old, new = difference
    asked = [changed((scene, other, what, old, new), rng) for _ in range(wanted)]
    questions = {q.text: q for q in asked if q is not None}
    return (scene, other), list(questions.values())
