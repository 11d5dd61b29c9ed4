"""The report of a run in one file."""

from __future__ import annotations

import base64
import dataclasses
import io
import re
from html.parser import HTMLParser

import pytest
from conftest import picture
from PIL import Image

from vtprune import report
from vtprune.types import Run

BAD = "<script>alert(1)</script>\"'<img src=https://example.org/x>"


@pytest.fixture(scope="module")
def pictures():
    return [picture(1, 90, 50), picture(2, 40, 70)]


@pytest.fixture(scope="module")
def run(engine, pictures):
    return engine.run(pictures, "what is in the picture", "atp", 0.4, 4, repeats=2)


class Reader(HTMLParser):
    """Every element with its attributes, and all text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text += data


def test_it_says_what_the_run_says(run, pictures):
    text = Reader(report.render_html(run, pictures)).text
    for words in (run.question, "ATP", run.comparison.summary, "Prefill operations", "not measured on a CPU"):
        assert words in text
    for side in (run.full, run.pruned):
        for token in side.tokens:
            assert f"{token.prob:.1%}" in text
    assert f"{run.comparison.kl[0]:.4f}" in text and "projections" in text


def test_its_pictures_are_inside_and_it_asks_nobody(run, pictures):
    page = report.render_html(run, pictures)
    elements = Reader(page).elements
    images = [attributes for tag, attributes in elements if tag == "img"]
    assert len(images) == 4 and all(image["alt"] for image in images)
    sizes = set()
    for image in images:
        kind, _, data = image["src"].partition(";base64,")
        assert kind == "data:image/webp"
        sizes.add(Image.open(io.BytesIO(base64.b64decode(data))).size)
    assert sizes == {(90, 50), (40, 70)}
    assert not {"script", "link", "iframe", "object"} & {tag for tag, _ in elements}
    assert not re.search(r"https?://|url\(|@import", page)
    (policy,) = [a["content"] for tag, a in elements if a.get("http-equiv") == "Content-Security-Policy"]
    assert policy.startswith("default-src 'none'")


def test_what_others_wrote_stays_text(run, pictures):
    words = [(BAD, True)]
    comparison = dataclasses.replace(run.comparison, words_full=words, words_pruned=words, summary=BAD)
    token = dataclasses.replace(run.full.tokens[0], text=BAD, top=[(BAD, 0.5)])
    side = dataclasses.replace(run.full, tokens=[token])
    info = dataclasses.replace(run.images[0], name=BAD)
    bad = dataclasses.replace(
        run,
        question=BAD,
        model=BAD,
        params={"alpha": BAD},
        comparison=comparison,
        full=side,
        images=[info, run.images[1]],
    )
    clean, page = Reader(report.render_html(run, pictures)), Reader(report.render_html(bad, pictures))
    tags = [tag for tag, _ in page.elements]
    assert "script" not in tags and tags.count("img") == 4 and BAD in page.text
    assert not any(name.startswith("on") for _, attributes in page.elements for name in attributes)
    assert {tag for tag, _ in clean.elements} == set(tags)


def test_nothing_dropped_nothing_timed_and_an_empty_answer_are_fine(engine, pictures):
    run = engine.run(pictures, "what", "random", 1.0, 4, repeats=0)
    text = Reader(report.render_html(run, pictures)).text
    assert "Nothing is dropped" in text and "Times were not measured" in text
    side = dataclasses.replace(run.pruned, tokens=[], answer="")
    empty = dataclasses.replace(run, pruned=side)
    assert "Token by token" in Reader(report.render_html(empty, pictures)).text


def test_a_method_that_is_not_known_any_more_keeps_its_name(run, pictures):
    text = Reader(report.render_html(dataclasses.replace(run, method="gone"), pictures)).text
    assert "gone" in text


def test_a_run_read_from_its_file_gives_the_same_report(run, pictures):
    again = Run.from_json(run.to_json())
    assert report.render_html(again, pictures) == report.render_html(run, pictures)


def test_other_pictures_are_refused(run, pictures):
    with pytest.raises(ValueError, match="not the pictures of the run"):
        report.render_html(run, pictures[::-1])
