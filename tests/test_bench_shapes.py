"""Models of published sizes: they have as many parameters, and both sides are measured on the same work."""

from __future__ import annotations

import json
import subprocess
import sys
import weakref
from dataclasses import replace

import pytest
import torch
from PIL import Image

import vtprune
from vtprune import cli, models
from vtprune.backbones import memory, weights
from vtprune.bench import shapes
from vtprune.bench.measure import machine
from vtprune.bench.published import DEFAULT, SHAPES, SIDE, build, config_of, merged, parameters
from vtprune.bench.shapes import GENERATE, Plan, agreement, bench_shapes, summary, table

TINY = Plan(tiny=True, device="cpu", new_tokens=12, repeats=2)


def idefics3(vision: dict, hidden: int, width: int, layers: int, heads: int, groups: int, **more) -> dict:
    """The config of a SmolVLM, whose picture tokens are put together `scale_factor` squared at a time."""
    text = {"model_type": "llama", "hidden_size": hidden, "intermediate_size": width}
    text |= {"num_attention_heads": heads, "num_key_value_heads": groups, "num_hidden_layers": layers}
    text["vocab_size"] = more.pop("vocab_size", 49280)
    return {"model_type": "idefics3", "vision_config": vision, "text_config": text, **more}


SIGLIP_BASE = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12}
SIGLIP_BASE |= {"num_attention_heads": 12, "image_size": 512, "patch_size": 16}
SIGLIP_SO = {"hidden_size": 1152, "intermediate_size": 4304, "num_hidden_layers": 27}
SIGLIP_SO |= {"num_attention_heads": 16, "image_size": 384, "patch_size": 14}
OTHERS = {
    "HuggingFaceTB/SmolVLM-256M-Instruct": idefics3(SIGLIP_BASE, 576, 1536, 30, 9, 3, scale_factor=4),
    "HuggingFaceTB/SmolVLM-500M-Instruct": idefics3(SIGLIP_BASE, 960, 2560, 32, 15, 5, scale_factor=4),
    "HuggingFaceTB/SmolVLM-Instruct": idefics3(
        SIGLIP_SO, 2048, 8192, 24, 32, 32, scale_factor=3, vocab_size=49155
    ),
    "HuggingFaceTB/SmolVLM2-2.2B-Instruct": {
        **idefics3(SIGLIP_SO, 2048, 8192, 24, 32, 32, scale_factor=3),
        "model_type": "smolvlm",
    },
    "Salesforce/blip2-opt-2.7b": {
        "model_type": "blip-2",
        "vision_config": {
            "hidden_size": 1408,
            "intermediate_size": 6144,
            "num_hidden_layers": 39,
            "num_attention_heads": 16,
        },
        "text_config": {
            "model_type": "opt",
            "hidden_size": 2560,
            "word_embed_proj_dim": 2560,
            "ffn_dim": 10240,
            "num_hidden_layers": 32,
            "num_attention_heads": 32,
            "vocab_size": 50304,
        },
    },
}
"""Dimensions of the table's other models; what is not here of BLIP-2 is as transformers has it."""


class TestPublished:
    @pytest.mark.parametrize("name", SHAPES)
    def test_parameters(self, name):
        assert parameters(config_of(name)) == models.known(SHAPES[name].id).size

    @pytest.mark.parametrize("name", OTHERS)
    def test_parameters_of_the_others_in_the_table(self, name):
        from transformers import AutoConfig

        assert parameters(AutoConfig.for_model(**OTHERS[name])) == models.known(name).size

    @pytest.mark.parametrize(
        ("name", "tokens"), list(zip((*DEFAULT, "qwen3-vl-2b"), (576, 2880, 1296, 1024), strict=True))
    )
    def test_every_adapter_takes_the_whole_shape(self, name, tokens, tmp_path):
        backbone = build(name, config_of(name), torch.device("meta"), torch.bfloat16, tmp_path)
        assert [parameter.device.type for parameter in backbone.model.parameters()].count("meta") > 100
        prompt = backbone.prepare([Image.new("RGB", (SIDE, SIDE))], "What is this?")
        assert len(prompt.visual) == tokens
        assert not list(tmp_path.glob("*.safetensors")) and (tmp_path / "config.json").is_file()

    def test_merging_reaches_into_dictionaries_and_changes_neither(self):
        config = {"a": {"x": 1, "y": 2}, "b": 3}
        assert merged(config, {"a": {"y": 5}, "b": 4, "c": 6}) == {"a": {"x": 1, "y": 5}, "b": 4, "c": 6}
        assert config == {"a": {"x": 1, "y": 2}, "b": 3}


class TestDrawnWeights:
    def made(self, folder, seed=0):
        return build(
            "it", config_of("llava-next-7b", True), torch.device("cpu"), torch.bfloat16, folder, seed
        )

    def test_they_are_those_of_the_seed(self, tmp_path):
        torch.manual_seed(5)
        state = torch.get_rng_state()
        one, two, other = (self.made(tmp_path, seed).model.state_dict() for seed in (3, 3, 4))
        assert torch.equal(torch.get_rng_state(), state) and torch.get_default_dtype() == torch.float32
        assert all(torch.equal(one[key], two[key]) for key in one)
        assert not torch.equal(one["lm_head.weight"], other["lm_head.weight"])

    def test_the_model_is_as_one_that_was_read(self, tmp_path):
        model = self.made(tmp_path).model
        assert {(p.dtype, p.requires_grad) for p in model.parameters()} == {(torch.bfloat16, False)}
        assert not model.training and model.config.text_config._attn_implementation == "sdpa"
        assert all(p.isfinite().all() for p in model.parameters())

    def test_without_being_asked_for_they_are_read(self, tmp_path):
        from transformers import LlavaNextForConditionalGeneration

        self.made(tmp_path)
        with pytest.raises(OSError, match="model"):
            weights.weights(
                LlavaNextForConditionalGeneration, str(tmp_path), torch.device("cpu"), torch.float32
            )


@pytest.fixture(scope="module")
def rounds():
    return [list(rows) for rows in bench_shapes(TINY)]


class TestBench:
    def test_everything_kept_is_what_generate_does(self, rounds):
        found = [row.agreement for row in rounds[-1] if row.agreement]
        assert [(a.same, a.gap) for a in found] == [(12, None)] * 3
        assert all(a.difference < 1e-4 for a in found)

    @pytest.mark.parametrize("name", (*DEFAULT, "qwen3-vl-2b"))
    def test_that_says_something_as_answers_vary_and_depend_on_the_picture(self, name, tmp_path):
        backbone = build(name, config_of(name, True), torch.device("cpu"), torch.float32, tmp_path)
        prompt = backbone.prepare([shapes._picture(SIDE // 4)], "What is this?")
        whole, pruned = (
            shapes._answer(backbone, prompt, shapes._steps("uniform", keep, backbone, len(prompt.visual)), 12)
            for keep in (1.0, 0.11)
        )
        assert len(set(whole.ids)) > 3 and not torch.equal(whole.logits[0], pruned.logits[0])

    def test_rows_grow_round_by_round_and_shape_by_shape(self, rounds):
        assert [len(rows) for rows in rounds] == [4, 4, 8, 8, 12, 12]
        assert [(row.shape, row.keep) for row in rounds[-1]] == [
            (name, keep) for name in DEFAULT for keep in (1.0, 0.33, 0.11, None)
        ]
        assert {len(row.seconds) for row in rounds[-1]} == {2} and not any(row.note for row in rounds[-1])

    def test_what_is_kept_and_how_long_it_took(self, rounds):
        found = summary(rounds[-1])
        assert [row["kept"] for row in found] == [36, 12, 4, 36, 180, 59, 20, 180, 81, 27, 9, 81]
        for row in found:
            theirs = row["side"] == GENERATE
            assert set(row["stages"]) == (set() if theirs else {"encode", "select", "prefill", "decode"})
            assert row["whole"]["n"] == 2 and 0 < row["whole"]["low"] <= row["whole"]["high"]
            if not theirs:
                assert (row["stages"]["select"]["low"] > 0) == (row["keep"] < 1)
                stages = [row["stages"][name]["low"] for name in ("encode", "select", "prefill")]
                assert sum(stages) + 11 * row["stages"]["decode"]["low"] <= row["whole"]["high"]
            over = row["over_generate"] if theirs else row["over_full"]
            if theirs or row["keep"] == 1.0:
                assert (over["low"], over["high"]) == (1, 1)
        json.dumps(found, allow_nan=False)

    def test_the_table(self, rounds):
        text = table(machine(), TINY, rounds[-1])
        assert "| llava-next-7b, keep 33% | 59 |" in text and "| qwen2.5-vl-7b, `generate` | 81 | – |" in text
        assert "Tiny stand-ins for the published shapes" in text and machine()["cpu"] in text
        assert text.count("the first 12 of 12 greedy tokens are those of `generate`") == 3
        assert len({line.count("|") for line in text.splitlines() if line.startswith("|")}) == 1

    def test_a_method_that_a_model_cannot_run_is_told_and_the_rest_measured(self):
        *_, rows = bench_shapes(replace(TINY, shapes=("qwen2.5-vl-3b",), method="fastervlm", repeats=1))
        assert [bool(row.seconds) for row in rows] == [True, False, False, True]
        assert "keep 33%: qwen2.5-vl-3b has no CLS token" in rows[1].note
        text = table(machine(), TINY, rows)
        assert f"- {rows[1].note}" in text and "| qwen2.5-vl-3b, keep 33% | – | – |" in text
        json.dumps(summary(rows), allow_nan=False)

    def test_a_count_of_one_is_not_everything(self):
        *_, rows = bench_shapes(replace(TINY, shapes=DEFAULT[:1], keeps=(1, 9), repeats=1))
        assert [row.kept for row in rows] == [36, 1, 9, 36]
        assert [row["over_full"]["median"] for row in summary(rows)].count(1.0) == 1

    def test_one_model_is_in_memory_at_a_time(self, monkeypatch):
        made, drawn = [], weights.drawn

        def watched(*given):
            assert not any(model() for model in made)
            model = drawn(*given)
            made.append(weakref.ref(model))
            return model

        monkeypatch.setattr(weights, "drawn", watched)
        list(bench_shapes(replace(TINY, repeats=1, new_tokens=2)))
        assert len(made) == 3 and not any(model() for model in made)

    def test_what_is_not_finite_is_not_measured(self, monkeypatch):
        drawn = weights.drawn

        def broken(*given):
            model = drawn(*given)
            model.model.language_model.layers[1].mlp.up_proj.weight[0, 0] = float("nan")
            return model

        monkeypatch.setattr(weights, "drawn", broken)
        with pytest.raises(ValueError, match=r"llava-1\.5-7b with random weights gives logits that are not"):
            next(bench_shapes(TINY))

    def test_what_does_not_fit_is_refused_before_anything_is_made(self, monkeypatch):
        monkeypatch.setattr(memory, "free", lambda device: 20 * 2**30)
        monkeypatch.setattr(shapes, "build", lambda *given: pytest.fail("a model was made"))
        with pytest.raises(vtprune.LoadError, match=r"qwen2.5-vl-7b needs about 34.* 20.*--scale tiny\.$"):
            next(bench_shapes(Plan(("qwen2.5-vl-7b",), device="cpu", dtype="float32")))

    @pytest.mark.parametrize(
        ("options", "words"),
        [
            ({"method": "atpp"}, "Did you mean 'atp'"),
            ({"keeps": (1.5,)}, "1.5"),
            ({"new_tokens": 1}, "new_tokens=1 must be at least 2"),
            ({"repeats": 0}, "repeats=0"),
            ({"shapes": ("llava",)}, "there is no shape 'llava'"),
            ({"dtype": "float33"}, "float33"),
        ],
    )
    def test_what_cannot_be_measured_is_refused(self, options, words):
        with pytest.raises(ValueError, match=words):
            next(bench_shapes(Plan(**{"tiny": True, "device": "cpu", **options})))


def test_agreement_says_where_answers_part_and_by_how_much():
    def said(*rows):
        return shapes._Said([max(range(3), key=row.__getitem__) for row in rows], [*map(torch.tensor, rows)])

    first, tied = [3.0, 0.0, 0.0], [0.0, 2.0, 1.9]
    ours, theirs = said(first, [0.0, 2.0, 2.1], [9.0, 0, 0]), said([3.05, 0, 0], tied, [0.0, 9.0, 0])
    found = agreement(ours, theirs)
    assert (found.same, found.difference, found.gap) == (1, pytest.approx(0.2), pytest.approx(0.1))
    found = agreement(said(first, tied), said(first, tied))
    assert (found.same, found.difference, found.gap) == (2, 0, None)


def test_generate_has_to_answer_the_same_prompt(tmp_path):
    backbone = build("it", config_of(DEFAULT[0], True), torch.device("cpu"), torch.float32, tmp_path)
    picture = Image.new("RGB", (84, 84))
    with pytest.raises(ValueError, match="another prompt"):
        shapes._generate(backbone, backbone.prepare([picture], "Another?"), picture, 2)


def test_on_the_command_line_without_the_app_and_open_clip(tmp_path):
    """It runs on a machine that has neither."""
    out = tmp_path / "rows.json"
    script = (
        "import sys\n"
        "sys.modules.update(gradio=None, open_clip=None, plotly=None)\n"  # importing them fails
        "from vtprune import cli\n"
        "sys.exit(cli.main(sys.argv[1:]))"
    )
    arguments = ["bench", "shapes", "--scale", "tiny", "--shapes", "llava-1.5-7b", "qwen2.5-vl-7b"]
    arguments += ["--keeps", "25%", "--method", "random", "--new-tokens", "3", "--repeats", "1"]
    arguments += ["--device", "cpu", "--dtype", "bf16", "--json", str(out)]
    done = subprocess.run([sys.executable, "-c", script, *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "llava-1.5-7b: 1 of 1 rounds" in done.stderr and "| llava-1.5-7b, keep 25% | 9 |" in done.stdout
    data = json.loads(out.read_text(encoding="utf-8"))
    assert (data["dtype"], data["scale"], data["method"]) == ("bfloat16", "tiny", "random")
    assert [row["keep"] for row in data["rows"]] == [1.0, 0.25, None] * 2 and data["machine"]["torch"]


def test_a_wrong_name_is_one_line(capsys):
    assert cli.main(["bench", "shapes", "--shapes", "llava"]) == 2
    assert capsys.readouterr().err.count("\n") == 1
