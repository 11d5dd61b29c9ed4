"""What the page says and does, without a browser."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
import threading
import time
from collections import defaultdict
from pathlib import Path
from types import SimpleNamespace

import gradio as gr
import pytest
from conftest import picture
from PIL import Image

import ui
from ui import charts, panels, patchmap, screen, uploads
from ui.handlers import IDLE, Handlers
from ui.running import Request, follow
from vtprune import examples, list_methods, methods, summary
from vtprune.types import Done, Encoded, Selected, Spread, Stage, Timing, Token

ROOT = Path(__file__).resolve().parents[1]
VISITOR = SimpleNamespace(session_hash="somebody")


@pytest.fixture
def upload(tmp_path):
    path = tmp_path / "some picture.png"
    picture(1).save(path)
    return str(path)


@pytest.fixture
def broken(tmp_path):
    path = tmp_path / "broken.png"
    path.write_bytes(b"\x89PNG\r\n\x1a\nnothing more")
    return str(path)


@pytest.fixture(scope="module")
def run(engine):
    return engine.run([picture(1)], "what is in the picture", "atp", 0.4, 4, repeats=2)


@pytest.fixture
def page(engine):
    """The handlers of a page without examples, each part named by its own name."""
    handlers = Handlers(engine, [], bundled=True)
    names = [
        *handlers.opening(),
        "map",
        "run",
        "stop",
        "status",
        "look",
        "note",
        "answers",
        "chart",
        "numbers",
    ]
    handlers.parts.known = {name: name for name in names}
    return handlers


def ask(page, files, question="what is in the picture", method="random", percent=40, options=(), longest=3):
    gallery = [(path, None) for path in files]
    return page.run(gallery, question, method, percent, list(options), longest, VISITOR)


# ---- panels ----


def test_everything_written_by_others_is_escaped(run):
    bad = "<script>alert(1)</script>${alert(2)}"
    words = [(bad, True), ("fine", False)]
    comparison = dataclasses.replace(run.comparison, words_full=words, words_pruned=words)
    page = panels.answers(dataclasses.replace(run, comparison=comparison), finding=bad, truth=bad)
    page += panels.streaming(bad, bad) + panels.status(bad) + panels.status(bad, error=True)
    page += panels.header(bad, bad) + panels.look(bad, bad)
    page += panels.numbers(dataclasses.replace(run, model=bad), recorded=True)
    assert "<script" not in page and page.count("&lt;script&gt;") >= 10


def test_differing_words_are_marked_and_agreement_is_in_words(run):
    words = [("red", False), ("cat", True)]
    comparison = dataclasses.replace(
        run.comparison, same=False, words_full=words, words_pruned=words, summary="differs from word 2"
    )
    text = panels.answers(dataclasses.replace(run, comparison=comparison))
    assert "red <mark>cat</mark>" in text and "≠ Differs from word 2" in text
    same = dataclasses.replace(comparison, same=True, summary="same answer")
    assert "✓ Same answer" in panels.answers(dataclasses.replace(run, comparison=same))


@pytest.mark.parametrize(
    ("full", "pruned", "words"),
    [
        (Spread(10, 9, 11, 3), Spread(5, 4, 6, 3), "2× faster"),
        (Spread(5, 4, 6, 3), Spread(10, 9, 11, 3), "2× slower"),
        (Spread(5, 4, 6, 3), Spread(5.5, 5, 7, 3), "about as fast"),
    ],
)
def test_speed_is_told_honestly(full, pruned, words):
    assert summary.speed(full, pruned) == words


def test_numbers_name_the_device_and_the_formula(run):
    text = panels.numbers(run)
    assert "Measured with" in text and run.device in text and "FLOP" in text
    assert "projections" in text and "Both bars count" in text
    assert "Recorded with" in panels.numbers(run, recorded=True)
    assert panels.numbers(None)


def test_a_method_card_is_short_and_says_why_a_model_cannot_run_it():
    for name, info in list_methods().items():
        text = panels.method(info, methods.card(name), None)
        first = text.split("<p>")[1].split("</p>")[0]
        assert 10 < len(first) < 200 and first.endswith("."), name
        assert "alert" not in text
    assert 'class="vt-error">This model has no CLS' in panels.method(info, "", "this model has no CLS token.")


def test_the_chart_has_four_stages_for_two_sides_and_the_spread(run):
    figure = charts.latency(run)
    assert [len(bar.x) for bar in figure.data] == [2, 2, 2, 2]
    assert figure.data[1].x[1] == 0  # without pruning nothing is selected
    assert all(low >= -1e-9 for low in figure.data[3].error_x.arrayminus)
    assert "tokens" in figure.data[3].name
    assert not charts.latency(None).data


# ---- the map's value ----


def test_map_values_are_fractions_of_the_upload_and_complete(run):
    value = patchmap.value([{"path": "x"}], run.images, run.segments, run.stages, nested=True)
    json.dumps(value, allow_nan=False)
    (segment,) = value["segments"]
    assert value["total"] == run.tokens == segment["rows"] * segment["cols"] == len(segment["boxes"]) / 4
    assert min(segment["boxes"]) >= 0 and max(segment["boxes"]) <= 1
    (stage,) = value["stages"]
    assert stage["keep"] == run.stages[0].keep and len(stage["scores"]) == run.tokens
    assert sorted(stage["order"]) == list(range(run.tokens))


def test_map_values_tell_who_was_blended_into_whom(engine):
    run = engine.run([picture(1)], "what", "downsample", 0.2, 3, repeats=0)
    (stage,) = patchmap.value([{}], run.images, run.segments, run.stages)["stages"]
    targets, sources = stage["merges"][::2], stage["merges"][1::2]
    assert set(targets) <= set(run.stages[0].keep)
    assert sorted({*sources, *stage["keep"]}) == list(range(run.tokens))
    extra = Stage("vision", None, 9, 3, [2, 5], None, [], [], [0, 0, 1, 2], [2, 3, 5, 4], [0.4, 0.6, 1, 1], 1)
    assert patchmap.merges(extra) == [-1, 4, 2, 3]  # into a new token; the heaviest first


# ---- following a run ----


def test_pictures_are_sent_once_and_text_about_ten_times_a_second(run):
    events = [Encoded(run.segments, run.images), Selected(run.stages[0])]
    events += [
        Token(side, dataclasses.replace(run.full.tokens[0], id=-1)) for side in ("full", "pruned")
    ] * 50
    events += [Timing(1, 2), Timing(2, 2), Done(run)]
    upload = uploads.Upload("x", "d", "x", 60, 50)
    request = Request([upload], run.question, "atp", {}, 0.4, 1000)
    ticks = iter(range(10**6))
    sent = list(follow(events, request, ends=(), clock=lambda: next(ticks) / 100))
    assert sum("map" in values for values in sent) == 2  # after the selection, and complete at the end
    streamed = [values for values in sent if set(values) == {"answers"}]
    assert 5 < len(streamed) < 20
    assert sent[-1]["done"] and "Measuring, 2 of 2" in sent[-2]["status"]


# ---- events ----


def test_a_run_ends_with_everything_filled_and_the_button_free(page, upload):
    updates = list(ask(page, [upload]))
    assert updates[0]["run"]["interactive"] is False and updates[0]["stop"]["interactive"] is True
    last = updates[-1]
    assert {"map", "answers", "chart", "numbers"} <= set(last) and last["run"] == IDLE["run"]
    assert "Done" in last["status"] and last["map"]["images"][0]["name"] == "some picture.png"


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"question": "  "}, "Not run: the question is empty"),
        ({"question": None}, "Not run: the question is empty"),
        ({"files": []}, "Not run: there is no picture"),
        ({"method": "fastv", "percent": 1}, "Not run: fastv cannot bring"),
        ({"percent": None}, "Not run: the budget is empty"),
        ({"longest": None}, "Not run: max_new_tokens=0"),
        (
            {"options": [{"name": "alpha", "value": 7, "kind": "float"}], "method": "atp"},
            "Not run: atp: alpha=7",
        ),
        (
            {"options": [{"name": "alpha", "value": None, "kind": "float"}], "method": "atp"},
            "Not run: atp: alpha=None",
        ),
    ],
)
def test_a_bad_request_is_one_sentence_and_the_next_one_works(page, upload, changes, sentence):
    last = list(ask(page, **{"files": [upload], **changes}))[-1]
    assert sentence in last["status"] and "vt-error" in last["status"]
    assert last["run"] == IDLE["run"] and "answers" not in last
    assert "Done" in list(ask(page, [upload]))[-1]["status"]


def test_a_bad_file_is_named_and_the_rest_is_run(page, upload, broken):
    updates = list(ask(page, [broken, upload]))
    assert any(update.get("gallery") == [upload] and "broken.png" in update["refused"] for update in updates)
    assert "Done" in updates[-1]["status"]


def test_an_unexpected_error_is_one_sentence_and_the_next_request_works(page, upload, monkeypatch, capsys):
    with monkeypatch.context() as patched:
        patched.setattr(page.engine.backbone, "encode", lambda *_: 1 / 0)
        last = list(ask(page, [upload]))[-1]
    assert "Something went wrong" in last["status"] and "ZeroDivisionError" in last["status"]
    assert "Traceback" in capsys.readouterr().err
    assert "Done" in list(ask(page, [upload]))[-1]["status"]


def test_stop_ends_a_run_and_frees_the_model(page, upload):
    updates = ask(page, [upload], longest=200)
    for update in updates:
        if "answers" in update:
            break
    page.halt(VISITOR)
    last = list(updates)[-1]
    assert "Stopped" in last["status"] and last["run"] == IDLE["run"]
    assert "Done" in list(ask(page, [upload]))[-1]["status"]


def test_a_generator_that_is_dropped_frees_the_model(page, upload):
    updates = ask(page, [upload], longest=200)
    for update in updates:
        if "answers" in update:
            break
    updates.close()
    assert "Done" in list(ask(page, [upload]))[-1]["status"]
    assert not page._running["somebody"]


def test_leaving_ends_what_waits_for_the_model_too(page, upload):
    first = ask(page, [upload], longest=200)
    for update in first:
        if "answers" in update:
            break
    second = []
    thread = threading.Thread(target=lambda: second.extend(ask(page, [upload])))
    thread.start()
    time.sleep(0.3)
    page.leave(VISITOR)
    thread.join(10)
    assert not thread.is_alive() and "Stopped" in second[-1]["status"]
    first.close()
    assert not page._running


def test_new_pictures_are_shown_at_once_with_a_note(page, upload, broken):
    update = page.pictures([(upload, None)], (), 25, VISITOR)
    assert update["map"]["images"][0]["width"] == 60 and not update["map"]["stages"]
    assert update["budget"] == {"total": 25, "images": 1, "keep": 25}
    assert "drawn scenes only" in update["note"]
    again = page.pictures([(upload, None)], update["shown"], 25, VISITOR)
    assert again == gr.skip()
    both = [(upload, None), (broken, None)]
    assert page.pictures(both, update["shown"], 25, VISITOR) == gr.skip()
    update = page.uploaded(both)
    assert update["gallery"] == [upload] and "broken.png" in update["refused"]
    assert page.uploaded([(upload, None)])["refused"] == ""


def test_options_go_with_their_method(page):
    own = screen.fields("atp", {"alpha": 1.0})
    update = page.pick_method("atp", own)  # as an example or a link sets both
    assert "options" not in update and "CLS" in update["card"]
    for before in (own, screen.fields("divprune"), []):
        assert page.pick_method("fastv", before)["options"] == screen.fields("fastv")
    assert page.pick_method("divprune", own)["options"] == []


def test_too_many_pictures_are_named(page, tmp_path):
    files = []
    for index in range(18):
        path = tmp_path / f"{index}.png"
        picture(index).save(path)
        files.append((str(path), None))
    assert len(page.pictures(files, (), 25, VISITOR)["map"]["images"]) == 16
    update = page.uploaded(files)
    assert len(update["gallery"]) == 16 and "16.png, 17.png" in update["refused"]


def test_own_pictures_take_the_place_of_an_examples(engine, upload, tmp_path):
    (example,) = examples.rebuild(engine, tmp_path / "examples", examples.EXAMPLES[2:3])
    handlers = Handlers(engine, [example], bundled=True)
    handlers.parts.known = {name: name for name in handlers.opening()}
    mixed = [(str(example.pictures[0]), None), (upload, None)]
    assert handlers.uploaded(mixed)["gallery"] == [upload]
    update = handlers.pictures(mixed, handlers.opening()["shown"], 25, VISITOR)
    assert update["shown"] == (uploads.digest(upload),) and "drawn scenes only" in update["note"]


def test_listeners_of_one_change_do_not_set_each_other_off(engine):
    listeners = defaultdict(list)
    for listener in ui.build(engine, recorded=[]).fns.values():
        for target in listener.targets:
            listeners[target].append(listener.trigger_mode)
    shared = [modes for modes in listeners.values() if len(modes) > 1]
    assert shared and not any("always_last" in modes for modes in shared)


def test_previews_are_upright_and_small(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    path = tmp_path / "large.jpg"
    Image.new("RGB", (3000, 2000), "red").save(path, exif=exif)
    upload = uploads.opened(str(path))
    assert (upload.width, upload.height) == (2000, 3000)
    assert Image.open(upload.shown).size == (800, 1200)


def test_an_upload_is_decoded_once_and_again_when_its_preview_is_gone(tmp_path, monkeypatch):
    path = tmp_path / "again.jpg"
    picture(3).save(path)
    first = uploads.opened(str(path))
    with monkeypatch.context() as patched:
        patched.setattr(uploads, "open_image", None)
        assert uploads.opened(str(path)) == first
    Path(first.shown).unlink()
    assert Path(uploads.opened(str(path)).shown).is_file()


# ---- the page ----


def test_the_page_builds_without_examples_and_answers_health(engine):
    from fastapi.testclient import TestClient

    blocks = ui.build(engine, bundled=False, recorded=[])
    app, *_ = ui.serve(blocks, "tiny", port=None, prevent_thread_lock=True, quiet=True)
    try:
        client = TestClient(app)
        assert client.get("/health").json()["ok"] is True
        assert client.get("/").status_code == 200
    finally:
        blocks.close()


def test_options_go_to_the_form_and_back():
    form = screen.fields("atp", {"alpha": 1.0})
    assert {field["name"] for field in form} == {"alpha", "clip_sign", "attention"}
    form[0]["value"] = 1  # what a browser makes of 1.0
    assert screen.params(form) == {"alpha": 1.0, "clip_sign": 0, "attention": "auto"}
    assert isinstance(screen.params(form)["alpha"], float)


def test_the_launcher_tells_of_a_missing_model_in_one_line():
    done = subprocess.run(
        [sys.executable, "app.py", "--model", "./nowhere"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 2 and done.stderr.strip().splitlines()[-1].startswith("app.py: ")
    assert "Traceback" not in done.stderr


# ---- the examples ----


def test_every_example_can_be_asked_and_has_a_line():
    names = [definition.name for definition in examples.EXAMPLES]
    assert len(names) == len(set(names)) >= 8
    for definition in examples.EXAMPLES:
        scenes, questions = examples.ask(definition)
        assert len(scenes) <= 4 and questions[0].answer and definition.look.endswith(".")
        assert definition.method in list_methods()


def test_recorded_examples_are_whole_and_small():
    recorded = examples.load()
    assert [example.name for example in recorded] == [definition.name for definition in examples.EXAMPLES]
    for example in recorded:
        run = example.run
        assert len(example.pictures) == len(run.images) and run.full.timings
        assert all(path.stat().st_size <= 60 * 1024 for path in example.pictures)
        assert run.question == example.questions[0].text
        assert 0 <= examples.evidence_kept(run, example.questions[0].evidence) <= 1
        assert examples.finding(run, example.questions[0]).endswith(".")


def test_rebuilding_writes_what_is_loaded(engine, tmp_path):
    made = examples.rebuild(engine, tmp_path, examples.EXAMPLES[2:3])
    (again,) = examples.load(tmp_path)
    assert again.run.to_json() == made[0].run.to_json()
    assert again.questions == made[0].questions
    examples.rebuild(engine, tmp_path, [])
    assert not list(tmp_path.glob("*.png")) and examples.load(tmp_path) == []


def test_evidence_is_a_share_of_area(run):
    whole = ((0, (0.0, 0.0, 1.0, 1.0)),)
    share = examples.evidence_kept(run, whole)
    segment = run.segments[0]
    areas = (segment.boxes[:, 2:] - segment.boxes[:, :2]).prod(-1)
    info = run.images[0]
    assert share == pytest.approx(
        float(areas[run.stages[-1].keep].sum()) / (info.width * info.height), abs=1e-4
    )
    assert examples.evidence_kept(dataclasses.replace(run, stages=[]), whole) == pytest.approx(
        float(areas.sum()) / (info.width * info.height), abs=1e-4
    )
