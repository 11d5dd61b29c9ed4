"""The CLIP companion: shared tower, own tower mapped by area, long questions, broken folders."""

from __future__ import annotations

import shutil

import pytest
import torch
from conftest import build_model, picture
from torch.nn import functional

import vtprune
from vtprune.clip import Companion, find_companion


@pytest.fixture(scope="module")
def other_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("other")
    build_model(folder, clip="other")
    return folder


def test_shared_tower_gives_the_companions_own_patches(engine, tiny_folder):
    backbone = engine.backbone
    prompt = backbone.prepare([picture(1), picture(2)], "a red fish")
    patches, text, sign = backbone.clip(prompt, backbone.encode(prompt))
    fresh = Companion.from_folder(tiny_folder / "clip", torch.device("cpu"))
    visual = fresh.model.visual
    with torch.inference_mode():
        hidden = visual.transformer(visual._embeds(prompt.pixels))[:, 1:]
    expected = functional.normalize(visual.ln_post(hidden) @ visual.proj, dim=-1).flatten(0, 1)
    assert torch.allclose(patches, expected, atol=1e-4)
    assert torch.equal(text, fresh.text("a red fish")) and text.shape == (1, 24) and sign == 1
    assert not list(backbone.companion.model.visual.transformer.parameters()), "the second tower is let go"


def test_the_encoder_may_have_stopped_anywhere(engine):
    backbone = engine.backbone
    prompt = backbone.prepare([picture(1)], "fish")
    a, _, _ = backbone.clip(prompt, backbone.encode(prompt))
    b, _, _ = backbone.clip(prompt, backbone.encode(prompt, ("cls_attention", "received_attention")))
    assert torch.equal(a, b)


def test_other_tower_is_mapped_by_area(other_folder):
    engine = vtprune.load(other_folder)
    backbone = engine.backbone
    assert list(backbone.companion.model.visual.transformer.parameters()), "not the same tower"
    prompt = backbone.prepare([picture(1), picture(2, 50, 90)], "a red fish")
    patches, _, _ = backbone.clip(prompt, backbone.encode(prompt))
    assert patches.shape == (50, 24)
    assert torch.allclose(patches.norm(dim=1), torch.ones(50), atol=1e-5)
    run = engine.run([picture(1)], "fish?", method="atp", keep=0.2, max_new_tokens=2, repeats=1)
    assert len(run.stages[0].keep) == 5


def test_mapping_follows_the_picture(other_folder):
    """A token of the left half must get patches of the left half only."""
    companion = find_companion(str(other_folder), None, torch.device("cpu"))
    image = picture(1, 64, 64)
    left, right = torch.tensor([[0.0, 0, 16, 16]]), torch.tensor([[0.0, 0, 64, 64]])
    segments = [vtprune.Segment(0, 0, 2, (1, 2), torch.cat([left, right]))]
    mapped = companion.map_images([image], segments)
    cells = companion.map_images(
        [image],
        [
            vtprune.Segment(
                0,
                0,
                16,
                (4, 4),
                torch.tensor(
                    [[16.0 * x, 16.0 * y, 16.0 * x + 16, 16.0 * y + 16] for y in range(4) for x in range(4)]
                ),
            )
        ],
    )
    assert torch.allclose(mapped[0], cells[0], atol=1e-5)
    assert torch.allclose(mapped[1], functional.normalize(cells.mean(0), dim=0), atol=1e-4)


def test_long_questions_are_cut_into_rows(engine):
    companion = engine.backbone.companion
    words = [f"word{i}" for i in range(40)]
    text = companion.text(" ".join(words))
    assert text.shape[0] > 2 and torch.allclose(text.norm(dim=1), torch.ones(len(text)), atol=1e-5)
    chunks = companion._chunks(" ".join(words))
    assert " ".join(chunks).split() == words, "nothing is lost"


def test_incomplete_companions_are_named(tmp_path, tiny_folder):
    folder = tmp_path / "clip"
    shutil.copytree(tiny_folder / "clip", folder)
    (folder / "open_clip_model.safetensors").unlink()
    with pytest.raises(vtprune.LoadError, match=r"open_clip_model\.safetensors"):
        vtprune.load(tiny_folder, clip=folder)
    (folder / "open_clip_model.safetensors").write_bytes(b"nonsense")
    with pytest.raises(vtprune.LoadError, match="cannot load"):
        vtprune.load(tiny_folder, clip=folder)
    for name in ("no-such-model", "no-such-model:tag"):
        with pytest.raises(vtprune.LoadError, match="no-such-model"):
            vtprune.load(tiny_folder, clip=name)


def test_openai_weights_flip_the_sign(tiny_folder, monkeypatch):
    import open_clip

    fresh = Companion.from_folder(tiny_folder / "clip", torch.device("cpu"))
    monkeypatch.setattr(open_clip, "create_model", lambda *_, **__: fresh.model)
    monkeypatch.setattr(open_clip, "get_tokenizer", lambda *_: fresh.tokenizer)
    for name, sign in (("ViT-L-14-336:openai", -1), ("ViT-B-32:laion2b_s34b_b79k", 1)):
        assert Companion.from_tag(name, torch.device("cpu")).sign == sign
