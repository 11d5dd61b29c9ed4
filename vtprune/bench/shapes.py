"""How fast models of published sizes get by pruning: with random weights, as what they know costs no time."""

from __future__ import annotations

import copy
import gc
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from vtprune import cost, methods
from vtprune.backbones import Backbone, memory, pick_device, pick_dtype
from vtprune.backbones.base import Prompt
from vtprune.backbones.parts import chat
from vtprune.backbones.pretrained import Pretrained
from vtprune.bench.engine import QUESTION
from vtprune.bench.measure import machine_line, markdown, ratio, seconds
from vtprune.bench.published import DEFAULT, SIDE, build, config_of, parameters
from vtprune.cost import Timer, spread
from vtprune.engine import Engine
from vtprune.methods.base import find
from vtprune.pipeline import Pass
from vtprune.record import STAGES, Measured
from vtprune.request import check_context
from vtprune.types import Budget, Shape, Spread, Step

GENERATE = "generate"


@dataclass(frozen=True)
class Plan:
    """What to measure: every shape with everything kept, at each budget, and with transformers' `generate`.

    shapes: names in vtprune.bench.published. keeps: fractions or counts, beside 1.0. repeats: rounds after a
    warm-up. tiny: the shapes shrunk, to rehearse. ValueError with one sentence on what cannot be measured.
    """

    shapes: Sequence[str] = DEFAULT
    keeps: Sequence[float | int] = (0.33, 0.11)
    method: str = "divprune"
    new_tokens: int = 16
    repeats: int = 5
    device: str = "auto"
    dtype: str = "auto"
    tiny: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        find(self.method)
        for keep in self.keeps:
            Budget(keep)  # says what is wrong with it
        for name, least in (("new_tokens", 2), ("repeats", 1)):  # the first token is no decoding step
            if getattr(self, name) < least:
                raise ValueError(f"{name}={getattr(self, name)} must be at least {least}.")


@dataclass(frozen=True)
class Agreement:
    """Greedy tokens with everything kept beside those of `generate`, both under the same weights.

    same: how many are the same before the first that is not. difference: the largest one between logits of
    the two up to there. gap: between the logits that `generate` gives the two tokens that part, None where
    none does; one of the size of the difference is a tie, which rounding breaks.
    """

    same: int
    difference: float
    gap: float | None


@dataclass
class Row:
    """One shape on one side: pruned to `keep`, or (None) transformers' `generate`.

    visual: of the prompt's tokens. kept: visual tokens that a layer of the language model sees on average.
    measured: stages, and peak bytes of the device's memory with the weights (0 on a CPU). seconds: of whole
    answers, by the clock on the wall. note: why there are none.
    """

    shape: str
    keep: float | int | None
    parameters: int
    prompt: int
    visual: int
    measured: Measured
    kept: float = 0.0
    seconds: list[float] = field(default_factory=list)
    agreement: Agreement | None = None
    note: str = ""


@dataclass(frozen=True)
class _Said:
    """One answer. ids: [new tokens]; logits: a row [V] of each; passed: our pass, None of `generate`."""

    ids: list[int]
    logits: Sequence[Tensor]
    passed: Pass | None = None


def bench_shapes(plan: Plan) -> Iterator[list[Row]]:
    """Measures one shape after the other, all sides of it taking turns; yields all rows, those of the last
    shape growing, after every round.

    No file is fetched and no weight is written or read. One model is in memory at a time. Raises LoadError
    before the first when one of them does not fit, ValueError when logits are not finite.
    """
    device = pick_device(plan.device)
    dtype = pick_dtype(plan.dtype, device)
    sizes = {name: parameters(config_of(name, plan.tiny)) for name in plan.shapes}
    for name, count in sizes.items():
        hint = "choose a smaller shape, or rehearse with --scale tiny"
        memory.check(name, count * dtype.itemsize, dtype, device, hint)
    done: list[Row] = []
    for name, count in sizes.items():
        rows: list[Row] = []
        for rows in _rounds(plan, name, count, device, dtype):
            yield [*done, *rows]
        done += rows
        gc.collect()  # the model, before the next one is made
        if device.type == "cuda":
            torch.cuda.empty_cache()


def _rounds(
    plan: Plan, name: str, count: int, device: torch.device, dtype: torch.dtype
) -> Iterator[list[Row]]:
    with tempfile.TemporaryDirectory() as folder:
        backbone = build(name, config_of(name, plan.tiny), device, dtype, Path(folder), plan.seed)
    picture = _picture(SIDE // 4 if plan.tiny else SIDE)
    prompt = backbone.prepare([picture], QUESTION)
    check_context(backbone, len(prompt.ids), plan.new_tokens)
    tokens = len(prompt.visual)
    rows, works = list[Row](), list[tuple[Row, Callable[[], _Said]]]()
    for keep in (1.0, *plan.keeps):
        row = Row(name, keep, count, len(prompt.ids), tokens, Measured(plan.new_tokens - 1))
        rows.append(row)
        try:
            steps = _steps(plan.method, keep, backbone, tokens)
        except ValueError as error:  # such as a method that reads what this model does not have
            row.note = f"{name} at keep {_share(keep)}: {error}"
        else:
            works.append((row, partial(_answer, backbone, prompt, steps, plan.new_tokens)))
    rows.append(Row(name, None, count, len(prompt.ids), tokens, Measured(plan.new_tokens - 1), tokens))
    works.append((rows[-1], _generate(backbone, prompt, picture, plan.new_tokens)))

    said = [work() for _, work in works]  # warms up
    for (row, _), answer in zip(works, said, strict=True):
        if not all(logits.isfinite().all() for logits in answer.logits):
            raise ValueError(f"{name} with random weights gives logits that are not finite.")
        if answer.passed:
            row.kept = fmean(answer.passed.visual_per_layer)
    rows[0].agreement = agreement(said[0], said[-1])
    del said, answer  # hidden states of all sides, which are no part of one side's peak
    for i in range(plan.repeats):
        for row, work in works[:: 1 if i % 2 == 0 else -1]:
            _measure(row, work, device)
        yield rows


def _measure(row: Row, work: Callable[[], _Said], device: torch.device) -> None:
    """One answer more, written down in its row."""
    said: list[_Said] = []
    cost.reset_peak(device)
    row.seconds.append(seconds(lambda: said.append(work()), device))
    row.measured.peak = max(row.measured.peak, cost.peak(device))
    if said[0].passed:
        row.measured.passes.append(said[0].passed.timer.seconds())


def _steps(method: str, keep: float | int, backbone: Backbone, tokens: int) -> list[Step]:
    """What the method does. ValueError when it or the budget does not suit the model."""
    budget = Budget(keep)
    if budget.count(tokens, 1) == tokens:
        return []
    reason = Engine(backbone).supports(method)
    if reason:
        raise ValueError(reason)
    return list(methods.make(method).plan(budget, Shape(tokens, 1, backbone.layers)))


def _answer(backbone: Backbone, prompt: Prompt, steps: Sequence[Step], new_tokens: int) -> _Said:
    """From the pixels to the last token, as the engine measures it."""
    timer = Timer(backbone.device)
    side = Pass(backbone, prompt, steps, timer)
    decoding = side.prefill(new_tokens - 1)
    timer.switch("decode")
    ids, logits = [int(decoding.logits.argmax())], [decoding.logits]
    while len(ids) < new_tokens:
        logits.append(decoding.step(backbone.embed(torch.tensor(ids[-1:], device=backbone.device))[0]))
        ids.append(int(decoding.logits.argmax()))
    timer.switch(None)
    return _Said(ids, logits, side)


def _generate(
    backbone: Pretrained, prompt: Prompt, picture: Image.Image, new_tokens: int
) -> Callable[[], _Said]:
    """transformers' own way to the same answer, on what the family's own processor makes of the prompt."""
    processor, model = backbone.processor, backbone.model
    given = processor(images=[picture], text=[chat(processor, 1, QUESTION)], return_tensors="pt")
    inputs = dict(given.to(backbone.device))
    inputs["pixel_values"] = inputs["pixel_values"].to(backbone.dtype)
    if not torch.equal(inputs["input_ids"][0], prompt.ids):
        raise ValueError("transformers' processor makes another prompt, so this would not be the same work.")
    config = copy.deepcopy(model.generation_config)
    nowhere = backbone.llm.config.vocab_size  # an end mark that no token is
    config.update(do_sample=False, num_beams=1, max_new_tokens=new_tokens, eos_token_id=nowhere)
    config.update(pad_token_id=0, return_dict_in_generate=True, output_logits=True)

    def work() -> _Said:
        out = model.generate(**inputs, generation_config=config)
        return _Said(out.sequences[0, len(prompt.ids) :].tolist(), [logits[0] for logits in out.logits])

    return work


def agreement(ours: _Said, theirs: _Said) -> Agreement:
    """How far two greedy answers are the same."""
    pairs = zip(ours.ids, theirs.ids, strict=True)
    same = next((i for i, (a, b) in enumerate(pairs) if a != b), len(ours.ids))
    until = slice(0, same + 1)  # where they part they have still read the same
    both = zip(ours.logits[until], theirs.logits[until], strict=True)
    difference = max(float((a.float() - b.float()).abs().max()) for a, b in both)
    if same == len(ours.ids):
        return Agreement(same, difference, None)
    last = theirs.logits[same].float()
    return Agreement(same, difference, float(last[theirs.ids[same]] - last[ours.ids[same]]))


def _picture(side: int) -> Image.Image:
    """A smooth gradient; what it shows does not matter to the time it takes."""
    ramp = Image.linear_gradient("L").resize((side, side))
    return Image.merge("RGB", (ramp, ramp.rotate(90), ramp.rotate(180)))


def summary(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """A plain dict for each row. whole: milliseconds of an answer; over_full, over_generate: the same over
    those of the shape with everything kept and of its `generate`, round by round."""
    found = []
    for row in rows:
        full, *_, generate = (other.seconds for other in rows if other.shape == row.shape)

        def over(base: list[float], row: Row = row) -> dict[str, Any] | None:
            return asdict(ratio(row.seconds, base)) if row.seconds else None

        found.append(
            {
                "shape": row.shape,
                "parameters": row.parameters,
                "side": GENERATE if row.keep is None else "vtprune",
                "keep": row.keep,
                "prompt_tokens": row.prompt,
                "visual_tokens": row.visual,
                "kept": row.kept,
                "stages": {stage: asdict(time) for stage, time in row.measured.spreads().items()},
                "whole": asdict(spread(row.seconds)) if row.seconds else None,
                "over_full": over(full),
                "over_generate": over(generate),
                "peak_bytes": row.measured.peak,
                "new_tokens": row.measured.decoded + 1,
                "agreement": row.agreement and asdict(row.agreement),
                "note": row.note,
            }
        )
    return found


def setting(plan: Plan) -> dict[str, Any]:
    """What the rows have in common."""
    import transformers

    device = pick_device(plan.device)
    dtype = str(pick_dtype(plan.dtype, device)).removeprefix("torch.")
    where = {"device": str(device), "dtype": dtype, "transformers": transformers.__version__}
    return {**where, "scale": "tiny" if plan.tiny else "published", "method": plan.method, "seed": plan.seed}


def table(machine: dict[str, Any], plan: Plan, rows: Sequence[Row]) -> str:
    """Markdown: where, a row a side, and how far the tokens are those of `generate`."""
    told, kind = setting(plan), "Tiny stand-ins for the" if plan.tiny else "The"
    head = (
        f"{kind} published shapes with random weights, {told['dtype']}, on {told['device']}: "
        f"{machine_line(machine)}, transformers {told['transformers']}. {plan.method}, one picture, "
        f"{plan.new_tokens} new tokens; median milliseconds (lowest to highest) of {plan.repeats}; "
        "peak of memory with the weights."
    )
    columns = ["visual tokens", *STAGES[:3], "decode, a token", "whole answer", "÷ keep 100%", "÷ `generate`"]
    lines = [_cells(row, found) for row, found in zip(rows, summary(rows), strict=True)]
    notes = [f"- {row.note}" for row in rows if row.note]
    notes += [f"- {row.shape}: {_told(row)}" for row in rows if row.agreement]
    return "\n".join([head, "", markdown(["model", *columns, "peak"], lines), "", *notes])


def _cells(row: Row, found: dict[str, Any]) -> list[str]:
    name = f"{row.shape}, " + ("`generate`" if row.keep is None else f"keep {_share(row.keep)}")
    if not row.seconds:
        return [name, *["–"] * 9]
    stages, peak = row.measured.spreads(), row.measured.peak
    times = [_ms(time) for time in (*map(stages.get, STAGES), spread(row.seconds))]
    ratios = [f"{found[key]['median']:.2f}" for key in ("over_full", "over_generate")]
    return [name, f"{row.kept:.0f}", *times, *ratios, memory.gib(peak) if peak else "–"]


def _told(row: Row) -> str:
    """A sentence on the row with everything kept; its logits, like all others, were checked."""
    found, asked = row.agreement, row.measured.decoded + 1
    assert found is not None
    parted = f", then the two tokens that part are {found.gap:.2g} apart" if found.gap is not None else ""
    return (
        f"{row.parameters:,} parameters, {row.visual} of {row.prompt} prompt tokens visual; with everything "
        f"kept the first {found.same} of {asked} greedy tokens are those of `generate`{parted} "
        f"(the logits differ by {found.difference:.2g} at most); no NaN or infinity in any logits."
    )


def _share(keep: float | int) -> str:
    return str(keep) if isinstance(keep, int) else f"{keep:.0%}"


def _ms(value: Spread | None) -> str:
    if value is None:
        return "–"
    low, median, high = (f"{x:.3g}" if x < 100 else f"{x:.0f}" for x in (value.low, value.median, value.high))
    return f"{median} ({low}–{high})"
