"""Finding, weighing and placing a model before its weights are read, and the table of known ones."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from conftest import picture

import vtprune
from vtprune import models
from vtprune.backbones import FAMILIES, build, find, hub, load_backbone, memory, weights
from vtprune.backbones.base import KINDS

NAME = "someone/tiny"
CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)


@pytest.fixture
def copy(tiny_folder, tmp_path):
    """A model folder to spoil."""
    return Path(shutil.copytree(tiny_folder, tmp_path / "model"))


@pytest.fixture
def unread(monkeypatch):
    """From here on the weights must not be read."""
    monkeypatch.setattr(
        "transformers.LlavaForConditionalGeneration.from_pretrained",
        lambda *_, **__: pytest.fail("weights were read"),
    )


def unreachable(*_, **__):
    raise OSError("no route to host")


def change(folder: Path, **entries) -> None:
    file = folder / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **entries}))


# ---- memory ----


def test_the_weights_are_weighed_from_their_headers(tiny_folder, engine):
    tensors = memory.shapes(hub.weight_files(tiny_folder))
    real = sum(weight.nbytes for weight in engine.backbone.model.parameters())
    assert memory.weigh(tensors, torch.float32) == real == 2 * memory.weigh(tensors, torch.bfloat16)
    matrices = [name for name in tensors if "layers" in name and "language" in name and "proj" in name]
    saved = sum(torch.Size(tensors[name]).numel() for name in matrices)
    assert memory.weigh(tensors, torch.bfloat16) - memory.weigh(tensors, torch.bfloat16, "8bit") == saved


def test_too_little_memory_is_said_before_any_weight_is_read(tiny_folder, monkeypatch, unread):
    size = memory.weigh(memory.shapes(hub.weight_files(tiny_folder)), torch.float32)
    monkeypatch.setattr(memory, "free", lambda _: memory.needed(size) - 1)
    with pytest.raises(
        vtprune.LoadError, match=r"needs about 0.1\d GiB .*float32.* cpu has 0.1\d GiB"
    ) as caught:
        vtprune.load(tiny_folder)
    assert "dtype='bfloat16' it fits" in str(caught.value) and "\n" not in str(caught.value)
    monkeypatch.setattr(memory, "free", lambda _: 1000)
    with pytest.raises(vtprune.LoadError, match="smaller model"):
        vtprune.load(tiny_folder)


def test_what_just_fits_and_what_cannot_be_told_is_loaded(tiny_folder, monkeypatch):
    size = memory.weigh(memory.shapes(hub.weight_files(tiny_folder)), torch.float32)
    for there in (memory.needed(size), None):
        monkeypatch.setattr(memory, "free", lambda _, there=there: there)
        assert vtprune.load(tiny_folder).name


def test_a_container_may_have_less_memory_than_the_machine(tmp_path, monkeypatch):
    (tmp_path / "memory.max").write_text("1000000\n")
    (tmp_path / "memory.current").write_text("600000\n")
    (tmp_path / "memory.stat").write_text("anon 500000\ninactive_file 100000\n")
    monkeypatch.setattr(memory, "Path", lambda p: tmp_path if p == "/sys/fs/cgroup" else Path(p))
    assert memory.free(CPU) == 500_000
    (tmp_path / "memory.max").write_text("max\n")
    assert memory.free(CPU) > 500_000


# ---- where the weights go ----


@pytest.fixture
def two_gpus(monkeypatch):
    """Two GPUs of which each has three quarters of what the tiny model needs; nothing runs on them."""

    def make(folder):
        size = memory.weigh(memory.shapes(hub.weight_files(folder)), torch.bfloat16)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
        share = round(0.75 * memory.needed(size))
        monkeypatch.setattr(memory, "free", lambda place: share if place.type == "cuda" else 10**12)

    return make


def test_a_model_too_large_for_one_gpu_is_spread(tiny_folder, two_gpus, monkeypatch):
    two_gpus(tiny_folder)
    asked = ("it", tiny_folder, GPU, torch.bfloat16, None)
    monkeypatch.setattr(weights, "_installed", lambda _: False)
    with pytest.raises(vtprune.LoadError, match=r"accelerate has to be installed: pip install 'vtprune"):
        weights.plan(*asked, True)
    monkeypatch.setattr(weights, "_installed", lambda _: True)
    assert weights.plan(*asked, True) == weights.Placing(spread=True)
    with pytest.raises(vtprune.LoadError, match="cuda:0 has"):  # a device that was named is kept to
        weights.plan(*asked, False)


def test_quantising_needs_a_gpu_and_a_known_kind(tiny_folder, monkeypatch, unread):
    with pytest.raises(vtprune.LoadError, match=r"quantize='4bit' needs a CUDA GPU, and cpu is none"):
        vtprune.load(tiny_folder, device="cpu", quantize="4bit")
    with pytest.raises(vtprune.LoadError, match=r"'3bit' is not one of 8bit, 4bit"):
        vtprune.load(tiny_folder, device="cpu", quantize="3bit")
    monkeypatch.setattr(weights, "_installed", lambda name: name == "accelerate")
    with pytest.raises(vtprune.LoadError, match=r"needs bitsandbytes, not installed here"):
        weights.check_quantize("8bit", GPU)


def test_only_the_language_model_is_quantised(engine):
    from transformers.quantizers.quantizers_utils import should_convert_module

    names = [
        name for name, part in engine.backbone.model.named_modules() if isinstance(part, torch.nn.Linear)
    ]
    shrunk = {name for name in names if should_convert_module(name, weights.WHOLE)}
    assert shrunk == {name for name in names if "language_model.layers" in name} and len(shrunk) == 6 * 7


# ---- folders ----


def test_a_folder_with_pickled_weights_only_is_refused(copy):
    (copy / "model.safetensors").rename(copy / "pytorch_model.bin")
    with pytest.raises(vtprune.LoadError, match=r"no weights in \.safetensors files.*can run code"):
        vtprune.load(copy)


def test_a_folder_that_lacks_one_of_its_files_is_refused(copy, unread):
    index = {"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}
    (copy / hub.INDEX).write_text(json.dumps(index))
    (copy / "model.safetensors").rename(copy / "model-00001-of-00002.safetensors")
    with pytest.raises(
        vtprune.LoadError, match=r"lacks files that its model\.safetensors\.index\.json names"
    ):
        vtprune.load(copy)


def test_code_that_comes_with_a_model_never_runs(copy):
    mark = copy / "it_ran"
    (copy / "configuration_own.py").write_text(f"open({str(mark)!r}, 'w')\nclass Own: ...\n")
    change(copy, auto_map={"AutoConfig": "configuration_own.Own", "AutoModel": "configuration_own.Own"})
    assert vtprune.load(copy).name == str(copy)  # a family that transformers has of its own
    change(copy, model_type="own")
    with pytest.raises(vtprune.LoadError, match=r"'own' model.*code of its own, which vtprune never runs"):
        vtprune.load(copy)
    assert not mark.exists()


# ---- the hub ----


def test_an_unreachable_hub_is_said_at_once(monkeypatch):
    monkeypatch.setattr("huggingface_hub.HfApi.model_info", unreachable)
    with pytest.raises(
        vtprune.LoadError, match=r"hub cannot be reached.*folder.*vtprune\.load\(\)"
    ) as caught:
        vtprune.load(NAME)
    assert "\n" not in str(caught.value)


def test_a_hub_that_never_answers_is_waited_for_but_shortly(monkeypatch):
    monkeypatch.setattr(hub, "TIMEOUT", 0.3)
    monkeypatch.setattr("huggingface_hub.HfApi.model_info", lambda *_, **__: time.sleep(20))
    begin = time.monotonic()
    with pytest.raises(vtprune.LoadError, match="cannot be reached"):
        vtprune.load(NAME)
    assert time.monotonic() - begin < 5


def test_what_was_fetched_before_loads_without_the_hub(tiny_folder, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.HfApi.model_info", unreachable)
    monkeypatch.setattr("socket.create_connection", unreachable)
    repository = tmp_path / "models--someone--tiny"
    snapshot = Path(shutil.copytree(tiny_folder, repository / "snapshots" / ("a" * 40)))
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("a" * 40)
    engine = vtprune.load(NAME)
    assert engine.name == NAME and engine.backbone.missing("clip_patches") is None
    (snapshot / "model.safetensors").unlink()
    with pytest.raises(vtprune.LoadError, match="cannot be reached"):
        vtprune.load(NAME)


class Hub:
    """A hub that has one model, a local folder; `fetched` tells what was asked of it."""

    def __init__(self, folder: Path, parameters: int | None, extra=()):
        self.folder, self.fetched = folder, []
        names = [str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()]
        self.info = SimpleNamespace(
            siblings=[SimpleNamespace(rfilename=name, size=10) for name in [*names, *extra]],
            safetensors=parameters and SimpleNamespace(total=parameters),
        )

    def model_info(self, *_, **__):
        return self.info

    def snapshot_download(self, name, revision, allow_patterns):
        self.fetched += allow_patterns
        return str(self.folder)


@pytest.fixture
def served(monkeypatch):
    def make(*arguments):
        made = Hub(*arguments)
        monkeypatch.setattr("huggingface_hub.HfApi.model_info", made.model_info)
        monkeypatch.setattr("huggingface_hub.snapshot_download", made.snapshot_download)
        return made

    return make


def test_only_what_is_needed_is_fetched(tiny_folder, served):
    extra = ("pytorch_model.bin", "modeling_own.py", "consolidated.safetensors", "original/params.json")
    made = served(tiny_folder, 100_000, extra)
    heard = []
    found = find(NAME, tell=lambda text, share: heard.append((text, share and share())))
    assert found.name == NAME and found.folder == tiny_folder
    assert {"config.json", "model.safetensors", "clip/open_clip_model.safetensors"} <= set(made.fetched)
    assert not set(extra) & set(made.fetched)
    assert heard[0][0].startswith("Fetching someone/tiny") and 0 <= heard[0][1] <= 1
    assert build(found).name == NAME


@pytest.mark.parametrize(
    ("entries", "parameters", "sentence"),
    [({"model_type": "bert"}, 1000, "'bert' model"), ({}, 10**12, r"needs about \d+\.\d GiB")],
)
def test_no_weights_are_fetched_in_vain(copy, served, entries, parameters, sentence):
    change(copy, **entries)
    made = served(copy, parameters)
    with pytest.raises(vtprune.LoadError, match=sentence):
        load_backbone(NAME, device="cpu")
    assert not [name for name in made.fetched if name.endswith(".safetensors")]


def test_a_hub_model_with_pickled_weights_only_is_refused(copy, served):
    (copy / "model.safetensors").rename(copy / "pytorch_model.bin")
    made = served(copy, None)
    with pytest.raises(vtprune.LoadError, match=r"no weights in \.safetensors files"):
        vtprune.load(NAME)
    assert "pytorch_model.bin" not in made.fetched


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("RepositoryNotFoundError", "there is no model someone/tiny"),
        ("GatedRepoError", "terms to be accepted"),
        ("RevisionNotFoundError", "no revision 'then'"),
    ],
)
def test_what_the_hub_refuses_is_told_apart(monkeypatch, kind, words):
    from huggingface_hub import errors

    refusal = getattr(errors, kind)
    made = refusal.__new__(refusal)

    def refuse(*_, **__):
        raise made

    monkeypatch.setattr("huggingface_hub.HfApi.model_info", refuse)
    with pytest.raises(vtprune.LoadError, match=words):
        vtprune.load(NAME, revision="then")


# ---- the table ----


def test_the_table_has_every_family_and_only_those():
    assert {model.kind for model in models.MODELS} <= set(FAMILIES)
    assert {FAMILIES[model.kind] for model in models.MODELS} == set(FAMILIES.values())
    text = models.table()
    for model in models.MODELS:
        assert f"\n{model.name} " in text and set(model.kinds) <= set(KINDS)
        assert model.name in models.page(model.id or "bundled")
    assert len({model.id for model in models.MODELS}) == len(models.MODELS)


def test_the_bundled_models_row_is_true():
    engine, row = vtprune.load(device="cpu"), models.known("bundled")
    assert row.size == sum(weight.numel() for weight in engine.backbone.model.parameters())
    assert row.tokens == str(engine.tokens([picture(1)]))
    assert row.kinds == KINDS
    assert not any(engine.supports(name) for name in vtprune.list_methods())


def test_what_a_family_says_of_itself_is_what_its_models_do(engine):
    backbone = engine.backbone
    places = {kind for kind in ("vision", "projected", "llm") if backbone.refuses(kind) is None}
    places |= {"cls"} if backbone.missing("cls_attention") is None else set()
    assert places == set(backbone.kinds)


def test_an_id_that_is_not_in_the_table_is_named():
    with pytest.raises(ValueError, match=r"'nobody/nothing' is not in the table.*llava-hf/llava-1\.5-7b-hf"):
        models.known("nobody/nothing")
