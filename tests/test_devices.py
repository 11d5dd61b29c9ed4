"""Every family, every method and the studies on another device than the CPU; see elsewhere.py."""

from __future__ import annotations

import functools
from collections.abc import Iterator

import elsewhere
import pytest
import qwen_rigs
import test_backbones_blip2
import test_backbones_idefics
import test_backbones_llava_next
import test_backbones_smolvlm
import torch
from conftest import build_model, picture
from torch.nn.attention import SDPBackend, sdpa_kernel

import vtprune
from vtprune import cost, methods, study
from vtprune.backbones import weights
from vtprune.calibration import drawn, energy_table
from vtprune.robustness import robustness
from vtprune.smallest import smallest

QUESTION = "Which colour has the fish?"
FAST = {"max_new_tokens": 3, "repeats": 0}
EVERY = sorted(methods.list_methods())
OF_EVERY_SIGNAL = ("random", "trim", "hiprune", "vscan", "resprune", "sparsevlm", "fastv", "dart", "tops")
FAMILIES = {
    "llava": lambda folder: build_model(folder, clip="same"),
    "llava_next": lambda folder: test_backbones_llava_next.build_next(folder, clip="same"),
    "qwen2_5_vl": lambda folder: qwen_rigs.build_qwen(folder, clip=True),
    "qwen3_vl": lambda folder: qwen_rigs.build_qwen(folder, "qwen3_vl", clip=True),
    "smolvlm": lambda folder: test_backbones_smolvlm.build(folder, clip=True),
    "blip2": lambda folder: test_backbones_blip2.build(folder, clip=True),
    "idefics": lambda folder: test_backbones_idefics.build(folder, clip=True),
    "idefics without a resampler": lambda folder: test_backbones_idefics.build(
        folder, resampler=False, clip=True
    ),
}


@pytest.fixture
def device(monkeypatch) -> Iterator[str]:
    with elsewhere.pretended(monkeypatch) as there, sdpa_kernel(SDPBackend.MATH):
        yield str(there)


@pytest.fixture(scope="module", params=FAMILIES)
def folder(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    FAMILIES[request.param](folder)
    return folder


class TestThePretence:
    def test_devices_do_not_mix(self, device):
        there, here = torch.arange(3, device=device), torch.arange(3)
        assert there.device.type != "cpu" and (there + 1).device == there.device
        for mixed in (
            lambda: there + here,
            lambda: here[there],
            lambda: torch.cat([here, there]),
            lambda: here.copy_(there) @ there,
            lambda: there.float() @ here.float(),
        ):
            with pytest.raises(RuntimeError, match="two devices"):
                mixed()
        with pytest.raises(TypeError, match="numpy"):
            there.numpy()
        assert (there[here] + torch.tensor(1)).tolist() == [1, 2, 3]
        assert there.cpu().device.type == "cpu" and here.to(device).device == there.device

    def test_numbers_are_the_cpus(self, device):
        here = torch.randn(4, 5)
        there = here.to(device)
        there[1:3] *= 2
        assert torch.equal(there.cpu()[1:3], 2 * here[1:3]) and torch.equal(there.cpu()[3], here[3])
        assert there.argmax().item() == there.cpu().argmax().item()


def told(run):
    """What a run says about tokens and answers."""
    stages = [(s.name, s.keep, s.order, s.merge_rows, s.merge_cols) for s in run.stages]
    return stages, run.full.answer, run.pruned.answer


def ask(engine, method):
    images = [picture(i, 40, 30) for i in range(min(2, engine.backbone.max_images))]
    return engine.run(images, QUESTION, method, 0.7, **FAST)


@functools.cache
def expected(folder):
    """What runs on the CPU say, by method: found when they are asked for."""
    engine = vtprune.load(folder, device="cpu")
    return functools.cache(lambda method: ask(engine, method))


def test_every_method_gives_what_the_cpu_gives(folder, device):
    there = vtprune.load(folder, device=device, dtype="float32")
    tensors = [*there.backbone.model.parameters(), *there.backbone.model.buffers()]
    assert {str(tensor.device) for tensor in tensors} == {device}
    asked = EVERY if there.backbone.family == "llava" else OF_EVERY_SIGNAL
    served = [name for name in asked if there.supports(name) is None]
    assert {"random", "trim"} <= set(served)
    for method in served:
        a, b = expected(folder)(method), ask(there, method)
        assert b.device == device and told(a) == told(b), method
        assert a.comparison.kl == pytest.approx(b.comparison.kl, abs=1e-4), method


PARTS = {
    "heads": ("norm", "embed_tokens", "head", "projector", "connector"),
    "towers": ("visual", "vision_tower", "vision_model", "qformer"),
}


def parts_of(model, parts):
    """Every other block of every stack, or what lies around them, or all that sees."""
    for name, module in model.named_modules():
        if parts == "blocks" and isinstance(module, torch.nn.ModuleList):
            yield from module[1::2]
        elif parts != "blocks" and name.endswith(PARTS[parts]):
            yield module


@pytest.mark.parametrize("parts", ["blocks", *PARTS])
def test_a_spread_model_gives_what_the_cpu_gives(folder, device, parts):
    spread = vtprune.load(folder, device="cpu")
    model = spread.backbone.model
    for module in list(parts_of(model, parts)):
        module.to(device)
    weights.bridge(model, torch.device("cpu"))
    assert len({weight.device for weight in model.parameters()}) == 2
    for method in (name for name in OF_EVERY_SIGNAL if spread.supports(name) is None):
        assert told(expected(folder)(method)) == told(ask(spread, method)), method


def test_the_studies_run_there(device, tiny_folder):
    engine, images = vtprune.load(tiny_folder, device=device, dtype="float32"), [picture(1)]
    evidence = ((0, (0.1, 0.2, 0.6, 0.7)),)
    given = {"max_new_tokens": 3, "evidence": evidence}
    cells = list(study.compare(engine, images, QUESTION, ["atp", "fastv"], 0.5, repeats=0, **given))
    assert all(cell.run is not None and cell.evidence is not None for cell in cells)
    assert len(list(study.sweep(engine, images, QUESTION, ["atp"], [0.3, 1.0], **given))) == 2
    assert len(list(robustness(engine, images, QUESTION, severities=[3], **given))) == 2
    assert list(smallest(engine, images, QUESTION, max_new_tokens=3, limit=8))[-1].over
    assert len(energy_table(engine.backbone, drawn(2))) > 2


class FakeGPUs:
    """Stands for torch.cuda with two GPUs whose clocks differ: each counts its own steps."""

    def __init__(self) -> None:
        self.clocks, self.used, self.waited = {0: 5.0, 1: 0.0}, {0: 30, 1: 70}, []

    class Event:
        at = 0.0

        def __init__(self, enable_timing: bool) -> None:
            assert enable_timing

        def record(self, clock):
            self.at = clock()

        def elapsed_time(self, other) -> float:
            return 1000 * (other.at - self.at)

    def current_stream(self, device):
        return lambda: self.clocks[device.index]

    def synchronize(self, device):
        self.waited.append(device)

    def device_count(self):
        return 2

    def reset_peak_memory_stats(self, i):
        self.used[i] = 0

    def max_memory_allocated(self, i):
        return self.used[i]


def test_the_clock_is_the_models_own_gpus_and_memory_is_that_of_all(monkeypatch):
    gpus, second = FakeGPUs(), torch.device("cuda", 1)
    for name in (name for name in dir(gpus) if name[0] != "_" and hasattr(torch.cuda, name)):
        monkeypatch.setattr(torch.cuda, name, getattr(gpus, name))
    timer = cost.Timer(second)
    timer.switch("prefill")
    gpus.clocks[1] += 3
    timer.switch(None)
    gpus.clocks[1] += 7
    timer.switch("prefill")
    gpus.clocks[1] += 1
    timer.switch(None)
    assert timer.seconds() == {"prefill": 4.0} and gpus.waited == [second]
    assert cost.peak(second) == 100 and cost.peak(torch.device("cpu")) == 0
    cost.reset_peak(torch.device("cpu"))
    assert cost.peak(second) == 100
    cost.reset_peak(second)
    assert cost.peak(second) == 0
