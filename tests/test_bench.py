"""The benches measure what they say, on the same work, and print it."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import asdict

import pytest
import torch

from vtprune import cli, methods
from vtprune.bench import methods as worth
from vtprune.bench import synthetic
from vtprune.bench.engine import bench_engine, table
from vtprune.bench.measure import machine, peak_bytes, ratio
from vtprune.bench.references import pairs
from vtprune.bench.selectors import Grid, Row, bench_selectors, line, report
from vtprune.budgets import DEFAULT_TAU
from vtprune.evaluate import Asked, evidence_boxes, evidence_kept
from vtprune.types import SIGNALS

CPU = torch.device("cpu")


def test_bench_engine(engine):
    result = bench_engine(engine, repeats=2, new_tokens=4, keep=0.2)
    text = result["prompt_tokens"] - 25
    assert result["visual_tokens"] == 25 and result["short_tokens"] == 5 + text
    for part in ("generate", "short"):
        assert all(result[part][side]["n"] == 2 for side in ("ours", "transformers", "ratio"))
        assert 0 < result[part]["ratio"]["median"] < 20
    lines = table(result).splitlines()
    assert len(lines) == 4 and "4 new tokens" in lines[2] and "prefill of" in lines[3]


class TestMeasure:
    def test_peak_is_the_high_water_mark_and_not_the_sum(self):
        given = torch.ones(3_000_000)  # is there already, so it does not count

        def work():
            first = torch.empty(1_000_000)
            second = torch.cat([first, given[:500_000]])
            del first
            third = torch.empty(1_200_000)
            del second
            return torch.empty(100_000), third

        megabytes = [4 * 1.0, 4 * 2.5, 4 * 1.5, 4 * 2.7, 4 * 1.2, 4 * 1.3]  # held after every line
        assert peak_bytes(work, CPU) == pytest.approx(1e6 * max(megabytes), rel=1e-3)

    def test_peak_counts_what_is_returned_and_not_what_is_freed(self):
        held = [torch.ones(2_000_000)]
        assert peak_bytes(held.clear, CPU) == 0
        assert peak_bytes(lambda: torch.ones(500_000), CPU) == pytest.approx(2e6, rel=1e-3)
        assert peak_bytes(lambda: [torch.ones(500_000) for _ in range(3)], CPU) == pytest.approx(
            6e6, rel=1e-3
        )

    @pytest.mark.cuda
    @pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
    def test_peak_on_a_gpu(self):
        def work():
            first = torch.empty(1 << 20, device="cuda")
            return first + 1

        work()
        assert peak_bytes(work, torch.device("cuda")) == 2 << 22

    def test_ratio_is_taken_round_by_round(self):
        found = ratio([2.0, 30.0, 9.0], [1.0, 10.0, 1.0])
        assert (found.median, found.low, found.high) == pytest.approx((3, 2, 9))

    def test_machine_names_what_matters(self):
        found = machine()
        assert found["cpu"] and found["cores"] >= 1 and found["torch"] == torch.__version__
        assert found["threads"] == torch.get_num_threads()


class TestSynthetic:
    def test_layouts(self):
        assert synthetic.one_image(576) == [(0, (24, 24))]
        assert synthetic.one_image(2880) == [(0, (24, 24))] * 5
        assert synthetic.one_image(60) == [(0, (6, 10))] and synthetic.one_image(7) == [(0, (1, 7))]

    def test_statistics_are_those_of_pictures(self):
        given = synthetic.signals(synthetic.one_image(576), 256)
        unit = torch.nn.functional.normalize(given.features, dim=1)
        cosine = unit @ unit.T
        grid = unit.reshape(24, 24, -1)
        neighbours = float((grid[:, 1:] * grid[:, :-1]).sum(-1).mean())
        assert 0.15 < float(cosine.mean()) < 0.5 and neighbours > float(cosine.mean()) + 0.2
        norms = given.features.norm(dim=1)
        assert norms.max() > 2 * norms.median()
        for name in ("cls_attention", "received_attention", "attention"):
            attention = getattr(given, name)
            torch.testing.assert_close(attention.sum(-1), torch.ones(attention.shape[:-1]))
            assert float(attention.topk(58, dim=-1)[0].sum(-1).mean()) > 0.5  # a tenth holds most of it

    def test_a_signal_does_not_depend_on_what_else_is_asked_for(self):
        layout = [(0, (4, 4)), (1, (3, 5))]
        everything = synthetic.signals(layout, 32)
        assert everything.count == 31 and everything.images == (0, 1)
        for name in SIGNALS:
            alone = synthetic.signals(layout, 32, (name,))
            assert torch.equal(getattr(alone, name), getattr(everything, name))
            assert all(getattr(alone, other) is None for other in SIGNALS if other != name)
        assert not torch.equal(synthetic.signals(layout, 32, seed=1).features, everything.features)


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("n", [49, 96])
def test_references_pick_what_the_kernels_pick(seed, n):
    given = synthetic.signals(synthetic.one_image(n), 128, ("cls_attention",), seed=seed)
    for name, pair in pairs(given, 13).items():
        assert pair.reference() == pair.kernel().tolist(), name


class TestSelectors:
    def test_every_method_is_measured(self):
        grid = Grid(sizes=(64,), dims=(48,), keeps=(8,), dtypes=("float32",), parts=("methods",), repeats=2)
        rows = list(bench_selectors(grid))
        assert [row.name for row in rows] == list(methods.list_methods())
        for row in rows:
            assert not row.note and row.time.n == 2 and 0 < row.time.low <= row.time.high and row.peak > 0
            assert (row.n, row.d, row.k) == (64, 48, 8)
        text = report(machine(), rows)
        assert all(f"| {row.name} | {row.time.median:.3g} (" in text for row in rows if row.time.median < 100)
        assert "64×48, K = 8" in text and machine()["cpu"] in text

    def test_half_precision_costs_a_float32_copy_of_what_the_method_reads(self):
        options = {"names": ("random",), "parts": ("methods",), "repeats": 1}
        rows = list(bench_selectors(Grid((64,), (512,), (0.25,), ("float32", "bfloat16"), **options)))
        assert [(row.dtype, row.k) for row in rows] == [("float32", 16), ("bfloat16", 16)]
        assert rows[1].peak - rows[0].peak == pytest.approx(4 * 64 * 512, rel=0.02)

    def test_the_other_parts(self):
        grid = Grid(
            (64, 5184), (16,), (8,), ("float32",), parts=("kernels", "budget", "images"), images=2, repeats=1
        )
        rows = list(bench_selectors(grid))
        beside = [row for row in rows if row.part == "kernels"]
        assert len(beside) == 6 and {row.n for row in beside} == {64}  # the loops do not run on the large one
        for row in beside:
            assert row.same == 1 and row.ratio.n == row.reference.n == 3 and row.ratio.median > 0.1
        budgets = [(row.n, row.name) for row in rows if row.part == "budget"]
        assert len(budgets) == 4 and len(set(budgets)) == 4
        (images,) = [row for row in rows if row.part == "images"]
        assert images.n == 1152 and images.name == "trimtokenator_lc" and "2 images" in images.note
        assert images.note in report(machine(), rows) and "100%" in report(machine(), rows)

    def test_what_fails_is_a_row(self, monkeypatch):
        def broken(*_):
            raise RuntimeError("out of paint\nand more")

        monkeypatch.setattr(methods.base.find("uniform"), "select", broken)
        options = {"names": ("uniform", "random"), "parts": ("methods",), "repeats": 1}
        first, second = bench_selectors(Grid((64,), (8,), (4,), ("float32",), **options))
        assert first.note == "uniform: out of paint" and first.time is None and second.time
        assert "out of paint" in line(first) and "- uniform: out of paint" in report(
            machine(), [first, second]
        )

    @pytest.mark.parametrize(
        ("options", "words"),
        [
            ({"parts": ("speed",)}, "speed"),
            ({"names": ("atpp",)}, "Did you mean 'atp'"),
            ({"dtypes": ("float33",)}, "float33"),
            ({"repeats": 0}, "repeats=0"),
        ],
    )
    def test_what_cannot_be_measured_is_refused(self, options, words):
        with pytest.raises(ValueError, match=words):
            Grid(**options)

    def test_needs_neither_a_model_nor_the_app(self):
        """It runs where torch is all there is."""
        script = (
            "import sys, vtprune.cli, vtprune.bench.selectors\n"
            "sys.exit(', '.join({'transformers', 'open_clip', 'gradio', 'PIL'} & sys.modules.keys()) or None)"
        )
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr

    def test_on_the_command_line(self, tmp_path, capsys):
        out = tmp_path / "rows.json"
        arguments = ["bench", "selectors", "--parts", "methods", "--sizes", "64", "--dims", "8"]
        arguments += ["--keeps", "4", "50%", "--dtypes", "float32"]
        arguments += ["--devices", "cpu", "--methods", "uniform", "--repeats", "1", "--json", str(out)]
        assert cli.main(arguments) == 0
        data = json.loads(out.read_text(encoding="utf-8"))
        assert [row["k"] for row in data["rows"]] == [4, 32] and data["machine"]["threads"]
        assert "64×8, K = 32" in capsys.readouterr().out
        assert cli.main(["bench", "selectors", "--parts", "x"]) == 2


def asked(pruned: str, evidence: float | None = None, kind: str = "count") -> Asked:
    return Asked(kind, "How many?", "3", "3", pruned, evidence)


class TestMethods:
    def test_answers_are_those_of_the_engine(self, engine, monkeypatch):
        """Although a question is encoded and answered in full only once."""
        monkeypatch.setattr(worth, "NEW_TOKENS", 5)
        encoded = []
        encode = engine.backbone.encode
        monkeypatch.setattr(engine.backbone, "encode", lambda *a: encoded.append(a) or encode(*a))
        names, keeps = ("atp", "fastv", "visionzip", "sts"), (0.5, 0.1)
        *_, entries = worth.bench_methods(engine, keeps, names, 2)
        assert len(encoded) == 2
        monkeypatch.undo()
        assert [e.label for e in entries[:3]] == ["atp clip_sign=1", "atp clip_sign=-1", "fastv"]
        questions = list(worth.short_questions(2, "heldout"))
        for entry in entries:
            if (entry.label, entry.keep) in (("fastv", 0.1), ("random layer=2", 0.1)):
                assert not entry.asked and "is the least" in entry.reason
                continue
            for number, (pictures, question) in enumerate(questions):
                run = engine.run(
                    pictures, question.text, entry.method, entry.keep, 5, entry.params, seed=number, repeats=0
                )
                got = entry.asked[number]
                assert (got.full, got.pruned) == (run.full.answer, run.answer)
                assert got.evidence == evidence_kept(run, evidence_boxes(question))
                layers = run.cost["pruned"].tokens_per_layer
                assert entry.shares[number] == pytest.approx(sum(layers) / len(layers) / run.tokens)
        assert len({entry.asked[0].pruned for entry in entries if entry.asked}) > 1  # else nothing was tested

    def test_random_draws_anew_for_every_question(self, engine, monkeypatch):
        monkeypatch.setattr(worth, "NEW_TOKENS", 1)
        seeds = []
        choose = methods.base.find("random").score
        monkeypatch.setattr(
            methods.base.find("random"), "score", lambda self, s: seeds.append(s.seed) or choose(self, s)
        )
        list(worth.bench_methods(engine, (0.5,), ("random",), 2))
        assert seeds == [0, 0, 1, 1]  # before the LLM and inside it

    def test_the_matched_threshold_keeps_the_budget(self, engine, monkeypatch):
        monkeypatch.setattr(worth, "NEW_TOKENS", 1)
        monkeypatch.setattr(worth, "CALIBRATION", 8)
        *_, entries = worth.bench_methods(engine, (0.4,), ("e_adaprune",), 3)
        raw, matched, *_ = entries
        assert raw.params["tau"] == DEFAULT_TAU and 0 < matched.params["tau"] < 1
        assert abs(sum(matched.shares) / 3 - 0.4) < 0.1

    def test_there_are_no_captions(self):
        kinds = [question.type for _, question in worth.short_questions(15, "validation")]
        assert len(kinds) == 15 and "caption" not in kinds

    def test_figures_and_order(self):
        chance = worth.Entry("random", 0.1, asked={i: asked("3" if i < 2 else "4") for i in range(4)})
        good = worth.Entry("sts", 0.1, asked={i: asked("3", 0.5) for i in range(4)}, shares=[0.1, 0.2])
        bad = worth.Entry("atp", 0.1, {"clip_sign": -1}, {i: asked("4") for i in range(3)}, reason="some")
        never = worth.Entry("fastv", 0.1, reason="keep=0.2 is the least")
        other = worth.Entry("sts", 0.25, asked={i: asked("4") for i in range(4)})
        rows = worth.summary([never, bad, chance, good, other])
        assert [(row["label"], row["accuracy"]) for row in rows] == [
            ("sts", 1.0),
            ("random", 0.5),
            ("atp clip_sign=-1", 0.0),
            ("sts", 0.0),
            ("fastv", None),
        ]
        # 0, 0, 1, 1 has the mean 1/2 and the standard error sqrt(1/3) / 2
        assert rows[0]["versus_random"] == pytest.approx({"mean": 0.5, "error": 3**-0.5 / 2})
        assert rows[0]["evidence"] == 0.5 and rows[0]["tokens"] == pytest.approx(0.15)
        assert rows[1]["evidence"] is None and rows[3]["versus_random"] is None
        json.dumps(rows, allow_nan=False)
        assert [row["baseline"] for row in rows] == [False, True, False, False, False]
        text = worth.table(machine(), "a model", rows)
        assert text.index("keep = 0.25") < text.index("keep = 0.1")
        assert "| **random** | 50.0% | 50.0% | – | – |  |" in text
        assert "Below random: atp clip_sign=-1 (-66.7 ± 33.3)." in text
        assert "| fastv | – | – | – | – | keep=0.2 is the least |" in text
        assert "Only 3 asked of atp clip_sign=-1: some" in text and "100.0% right" in text

    def test_on_the_command_line(self, tiny_folder, tmp_path, capsys):
        out = tmp_path / "rows.json"
        arguments = ["bench", "methods", "--model", str(tiny_folder), "--device", "cpu", "--count", "1"]
        assert cli.main([*arguments, "--keeps", "9", "--methods", "uniform", "--json", str(out)]) == 0
        data = json.loads(out.read_text(encoding="utf-8"))
        assert {row["method"] for row in data["rows"]} == {"uniform", "random"} and data["questions"] == 1
        assert "### keep = 9" in capsys.readouterr().out
        assert cli.main([*arguments, "--keeps", "1.5"]) == 2
        assert cli.main([*arguments[:-1], "0"]) == 2
        assert "count=0" in capsys.readouterr().err


def test_a_row_is_plain_data():
    json.dumps(asdict(Row("methods", "atp", "cpu", 1, 2, 3)))
