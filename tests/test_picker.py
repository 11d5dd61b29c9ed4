"""Changing the model that the page's visitors share."""

from __future__ import annotations

import shutil
import threading
import weakref
from types import SimpleNamespace

import gradio as gr
import pytest
from conftest import build_companion, build_model, build_tokenizer, picture

import ui
import vtprune
from ui import models as picking
from ui.handlers import Handlers
from ui.models import Models, Picker
from vtprune import LoadError

VISITOR = SimpleNamespace(session_hash="somebody")


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Two tiny models that work, the second without a CLS token, and one whose weights are broken."""
    root = tmp_path_factory.mktemp("models")
    build_model(root / "first", layers=3)
    build_model(root / "second", layers=2, tower="siglip", strategy="full")
    shutil.copytree(root / "first", root / "broken")
    whole = (root / "first" / "model.safetensors").read_bytes()
    (root / "broken" / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    return {name: str(root / name) for name in ("first", "second", "broken")}


@pytest.fixture
def picker(folders):
    models = Models(vtprune.load(folders["first"], device="cpu"), bundled=False, device="cpu")
    handlers = Handlers(models, [], bundled=False)
    names = [*handlers.opening(), "header", "models", "model", "loading", "made", "refusals"]
    names += ["run", "stop"]
    handlers.parts.known = {name: name for name in names}
    return Picker(handlers)


@pytest.fixture
def upload(tmp_path):
    picture(1).save(tmp_path / "one.png")
    return str(tmp_path / "one.png")


def load(picker, name, files=(), clip=""):
    return list(picker.type(name, clip, "fastervlm", [(file, None) for file in files], 40))


def answer(picker, upload):
    page = picker.handlers
    return list(page.run([(upload, None)], "what is it", "random", 40, [], 2, VISITOR))[-1]["status"]


def test_one_model_at_a_time_and_back_after_one_that_fails(picker, folders, upload, monkeypatch):
    used, before = picker.models, weakref.ref(picker.models.engine.backbone.model)
    real = picking.build

    def build(found, **options):
        assert before() is None  # the old one is gone before the new one comes
        return real(found, **options)

    monkeypatch.setattr(picking, "build", build)
    updates = load(picker, folders["second"], [upload])
    assert used.name == folders["second"] in updates[-1]["header"]
    assert "is in use" in updates[-1]["loading"] and "vt-error" not in updates[-1]["loading"]
    assert updates[-1]["budget"]["total"] == 25 and updates[-1]["models"]["used"] == folders["second"]
    assert "Done" in answer(picker, upload)
    before = weakref.ref(used.engine.backbone.model)
    last = load(picker, folders["broken"])[-1]
    assert "vt-error" in last["loading"] and "cannot be loaded" in last["loading"]
    assert used.name == folders["second"] in last["header"] and "as before" in last["loading"]
    assert "Done" in answer(picker, upload)


@pytest.mark.parametrize(
    ("name", "words"),
    [("/no/such/folder", "there is no folder"), ("", "Type a folder"), ("  ", "Type a folder")],
)
def test_what_cannot_be_found_leaves_the_model_alone(picker, name, words):
    engine = picker.models.engine
    last = load(picker, name)[-1]
    assert words in last["loading"] and "vt-error" in last["loading"]
    assert picker.models.engine is engine and engine.backbone.name


def test_a_companion_comes_with_the_model_and_stays_until_the_next(picker, folders, tmp_path):
    build_companion(tmp_path / "clip", build_tokenizer())
    assert "CLIP companion" in picker.models.reasons["trim"]
    last = load(picker, folders["first"], clip=f" {tmp_path / 'clip'} ")[-1]
    assert "is in use" in last["loading"] and picker.models.reasons["trim"] is None
    assert "in use already" in load(picker, folders["first"])[-1]["loading"]
    broken = load(picker, folders["second"], clip=str(tmp_path))[-1]
    assert "vt-error" in broken["loading"] and "open_clip_config.json" in broken["loading"]
    assert picker.models.name == folders["first"] and picker.models.reasons["trim"] is None
    load(picker, folders["second"])
    assert "CLIP companion" in picker.models.reasons["trim"]
    chosen = SimpleNamespace(id=folders["first"])
    list(picker.pick(str(tmp_path / "clip"), "random", [], 25, chosen))
    assert picker.models.name == folders["first"] and picker.models.reasons["trim"] is None


def test_the_model_in_use_is_not_loaded_again(picker, folders):
    engine = picker.models.engine
    assert "in use already" in load(picker, folders["first"])[-1]["loading"]
    assert picker.models.engine is engine


def test_without_the_old_one_another_can_still_be_chosen(folders, tmp_path, upload):
    gone = shutil.copytree(folders["first"], tmp_path / "gone")
    models = Models(vtprune.load(gone, device="cpu"), bundled=False, device="cpu")
    shutil.rmtree(gone)
    with pytest.raises(LoadError, match=r"Nor does .*gone load again"):
        models.switch(folders["broken"], lambda *_: None)
    with pytest.raises(ValueError, match="not loaded any more"):
        models.engine.run([upload], "what", "random")
    models.switch(folders["first"], lambda *_: None)
    assert models.engine.run([upload], "what", "random", max_new_tokens=1, repeats=0).answer is not None


def test_methods_that_the_model_cannot_run_are_marked_with_the_reason(picker, folders):
    assert "FasterVLM" in {name: title for title, name in picker.models.choices()}["fastervlm"]
    before = {name: title for title, name in picker.models.choices()}
    last = load(picker, folders["second"])[-1]
    after = {name: title for title, name in last["method"]["choices"]}
    assert after["fastervlm"] == f"{before['fastervlm']} (not with this model)"
    assert after["divprune"] == before["divprune"]
    assert "no CLS token" in last["card"] and "no CLS token" in last["refusals"]
    assert "no CLS token" not in picker.handlers.card("divprune")


def test_only_the_bundled_model_is_said_to_know_drawn_scenes_only(picker, upload):
    gallery = [(upload, None)]
    assert picker.handlers.pictures(gallery, (), 25, VISITOR)["note"] == ""
    last = list(picker.pick("", "random", gallery, 25, SimpleNamespace(id="")))[-1]
    assert picker.models.name == "the bundled model" and "drawn scenes only" in last["note"]
    assert last["models"]["used"] == ""


def test_a_run_that_goes_on_ends_first_and_nothing_starts_meanwhile(picker, folders, upload):
    used = picker.models
    events = used.engine.stream([upload], "what", "random", max_new_tokens=50, repeats=0)
    next(events)
    errors = []

    def switch(name):
        try:
            used.switch(folders[name], lambda *_: None)
        except LoadError as error:
            errors.append(str(error))

    first = threading.Thread(target=switch, args=["second"])
    first.start()
    first.join(1)
    assert first.is_alive() and used.name == folders["first"]
    switch("second")  # another visitor
    assert errors == ["another model is being loaded just now; wait until it is there."]
    assert list(events)[-1].run.model == folders["first"]
    first.join(60)
    assert used.name == folders["second"] and len(errors) == 1


def test_other_visitors_hear_of_a_change(picker, folders, upload):
    assert picker.arrive("random", [], 25) == gr.skip()
    run = [[(upload, None)], "what", "random", 40, [], 1, VISITOR]
    assert "header" not in next(picker.handlers.run(*run))
    load(picker, folders["second"])
    assert folders["second"] in picker.arrive("random", [], 25)["header"]
    assert folders["second"] in next(picker.handlers.run(*run))["header"]


def test_the_page_builds_with_a_holder_and_health_names_the_model_in_use(picker, folders):
    from fastapi.testclient import TestClient

    used = picker.models
    blocks = ui.build(used, recorded=[])
    app, *_ = ui.serve(blocks, lambda: used.name, port=None, prevent_thread_lock=True, quiet=True)
    try:
        client = TestClient(app)
        assert client.get("/health").json()["model"] == folders["first"]
        used.switch(folders["second"], lambda *_: None)
        assert client.get("/health").json()["model"] == folders["second"]
    finally:
        blocks.close()


def test_nobody_switches_on_a_page_that_is_open_to_others(picker, folders, monkeypatch):
    picker.models._fixed = True
    before = picker.models.engine
    assert "open to other machines" in load(picker, folders["second"])[-1]["loading"]
    assert picker.models.engine is before and not picker.models.empty
    made = []
    monkeypatch.setattr(ui, "serve", lambda *page, **options: None)
    monkeypatch.setattr(ui, "build", lambda models: made.append(models._fixed))
    for options in ({}, {"share": True}, {"host": "0.0.0.0"}):
        ui.launch(folders["first"], device="cpu", **options)
    assert made == [False, True, True]
