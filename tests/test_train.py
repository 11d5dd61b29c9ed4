"""The training code: what the model learns on is what it is later asked."""

from __future__ import annotations

import argparse
import random

import numpy as np
import pytest
import torch

import vtprune
from vtprune.scenes import dataset, draw, questions
from vtprune.scenes.dataset import GRID, PICTURE, Stream, patch_truth
from vtprune.scenes.train import STAGES, train
from vtprune.scenes.trainer import PATCHES, Trainer, thin
from vtprune.scenes.world import WORDS, Scene, render, sample


@pytest.fixture(scope="module")
def trainer(tmp_path_factory):
    torch.set_num_threads(1)
    made = Trainer(tmp_path_factory.mktemp("train"), "small", torch.device("cpu"))
    with torch.no_grad():  # larger weights than an untrained model's, so that its answers differ
        for parameter in made.decoder.parameters():
            parameter.mul_(2.0)
    return made


@pytest.fixture(scope="module")
def exported(trainer, tmp_path_factory):
    folder = tmp_path_factory.mktemp("exported")
    trainer.export(folder)
    trainer.modules.to(torch.bfloat16).float()  # the same rounding as in the file
    return folder


def test_a_packed_question_sees_what_the_same_question_sees_alone(trainer, exported):
    """The loss of several questions in one sequence over two pictures is that of transformers' own model on
    each question's own prompt."""
    scenes = [sample(5), sample(6)]
    rng = random.Random(0)
    asked = questions.ask(scenes, rng, 4)
    assert len(asked) == 4
    stream = Stream(trainer.tokenizer, 2, 4, {2: 1.0}, 0)
    batch = stream.collate([(scenes, asked)], rng)
    with torch.no_grad():
        seen, _ = trainer.encode(batch.pictures.flatten(0, 1), None)
        visual = trainer.llava.model.multi_modal_projector(seen).unsqueeze(0)
        everything = torch.arange(PATCHES).expand(1, 2, -1)
        packed, _ = trainer.answer_loss(visual, everything, batch, recall=False)

    engine = vtprune.load(exported, device="cpu")
    model, processor = engine.backbone.model, engine.backbone.processor
    pictures = [render(scene, PICTURE)[0] for scene in scenes]
    total = weights = 0.0
    for question in asked:
        content = [{"type": "image"}] * 2 + [{"type": "text", "text": question.text}]
        prompt = processor.apply_chat_template(
            [{"role": "user", "content": content}], add_generation_prompt=True
        )
        inputs = processor(images=pictures, text=prompt, return_tensors="pt", add_special_tokens=False)
        answer = trainer.tokenizer(
            f" {question.answer}</s>", add_special_tokens=False, return_tensors="pt"
        ).input_ids
        ids = torch.cat([inputs["input_ids"], answer], 1)
        with torch.no_grad():
            logits = model(input_ids=ids, pixel_values=inputs["pixel_values"]).logits
        wanted = logits[0, -answer.shape[1] - 1 : -1].log_softmax(-1)
        losses = -wanted.gather(1, answer[0].unsqueeze(1))
        total += float(losses.sum()) * answer.shape[1] ** -0.5
        weights += answer.shape[1] ** 0.5
    assert float(packed) == pytest.approx(total / weights, rel=2e-3)


def test_the_companion_speaks_as_the_training_did(trainer, exported):
    """open_clip's text and patch embeddings are those of the modules that were trained."""
    engine = vtprune.load(exported, device="cpu")
    companion = engine.backbone.companion
    assert companion is not None
    text = "What colour is the small cat?"
    ids = trainer.tokenizer(f"<s>{text}</s>", add_special_tokens=False, return_tensors="pt").input_ids
    with torch.no_grad():
        ours = trainer.phrases(ids)
        _, last = trainer.encode(torch.randint(0, 255, (1, 3, PICTURE, PICTURE), dtype=torch.uint8), None)
        seen = torch.nn.functional.normalize(trainer.joint(trainer.tower.post_layernorm(last)), dim=-1)
    assert torch.allclose(companion.text(text), ours, atol=1e-4)
    assert torch.allclose(companion.project(last), seen, atol=1e-4)


def test_patch_truth_is_that_of_a_loop_over_pixels():
    for seed in range(12):
        scene = sample(seed)
        _, ids = render(scene, PICTURE)
        thing, classes, measures = patch_truth(scene, ids)
        size = PICTURE // GRID
        for patch in range(GRID * GRID):
            row, column = divmod(patch, GRID)
            cell = ids[row * size : (row + 1) * size, column * size : (column + 1) * size]
            shares = [np.count_nonzero(cell == index) / cell.size for index in range(len(scene.things))]
            best = int(np.argmax(shares))
            expected = best if shares[best] >= 0.25 else -1 if shares[best] <= 0.06 else -2
            assert thing[patch] == expected
            if expected >= 0:
                shown = scene.things[best]
                assert draw.KINDS[classes[patch, 0]] == shown.kind
                assert list(draw.COLOURS)[classes[patch, 1]] == shown.colour
                if shown.is_number:
                    tens, ones = classes[patch, 4], classes[patch, 5]
                    assert ("" if tens == 10 else str(tens)) + str(ones) == shown.text
                elif shown.text:
                    assert WORDS[classes[patch, 3]] == shown.text
                count = sum(int(other == best) for other in thing)
                assert measures[patch, 4] == pytest.approx(np.log(count), abs=1e-5)
            elif expected == -1:
                assert classes[patch, 0] == len(draw.KINDS)


def test_an_empty_scene_is_all_background():
    scene = Scene(0, draw.BACKGROUNDS[0], 0, ())
    thing, classes, _ = patch_truth(scene, render(scene, PICTURE)[1])
    assert (thing == -1).all() and (classes[:, 0] == len(draw.KINDS)).all()


def test_thinning_keeps_objects_first():
    thing = torch.full((1, PATCHES), -1)
    thing[0, 10:40] = 3
    keep = thin(thing, 64, prefer_objects=True)[0]
    assert len(set(keep.tolist())) == 64 and set(range(10, 40)) <= set(keep.tolist())
    assert keep.tolist() == sorted(keep.tolist())


def test_streams_of_one_seed_are_equal_and_others_differ(trainer):
    def first(seed: int) -> dataset.Batch:
        return next(iter(Stream(trainer.tokenizer, 3, 4, {1: 1.0}, seed)))

    one, same, other = first(1), first(1), first(2)
    assert torch.equal(one.pictures, same.pictures) and torch.equal(one.ids, same.ids)
    assert not torch.equal(one.pictures, other.pictures)


@pytest.mark.parametrize("stage", ["vision", "language", "joint"])
def test_every_stage_learns(trainer, stage):
    """A few steps on one batch lower its loss."""
    torch.manual_seed(0)
    batch = next(iter(Stream(trainer.tokenizer, 2, 3, {1: 1.0}, 0)))
    trainer.modules.requires_grad_(False)
    parameters = list({id(p): p for p in trainer.trained(stage)}.values())
    before = {name: value.clone() for name, value in trainer.modules.state_dict().items()}
    for parameter in parameters:
        parameter.requires_grad_(True)
    optimizer = torch.optim.AdamW(parameters, lr=1e-3)
    losses = []
    for _ in range(4):
        torch.manual_seed(1)  # the same patches are left out each time
        loss, _ = trainer.loss(stage, batch, 0.0)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    trainer.modules.load_state_dict(before)
    assert losses[-1] < losses[0]


def test_training_goes_on_from_an_exported_model(trainer, exported, tmp_path):
    again = Trainer(tmp_path, "small", torch.device("cpu"), seed=9)
    again.load(exported)
    for (name, ours), theirs in zip(
        trainer.modules.state_dict().items(), again.modules.state_dict().values(), strict=True
    ):
        assert torch.equal(ours.bfloat16().float(), theirs), name


def test_a_run_of_the_script_leaves_a_model_and_resumes(tmp_path, capsys):
    """Seconds of all three stages; the second call finds nothing left to do."""
    arguments = argparse.Namespace(
        out=tmp_path, minutes=0.05, size="small", device="cpu", batch=4, workers=0, seed=0, export=None,
        start=None, stages=list(STAGES),
    )  # fmt: skip
    train(arguments)
    log = (tmp_path / "log.txt").read_text()
    assert all(f"{stage} " in log for stage in STAGES)
    assert vtprune.load(tmp_path / "export", device="cpu").backbone.layers >= 6
    train(arguments)
    assert (tmp_path / "log.txt").read_text() == log
