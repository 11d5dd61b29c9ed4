"""What is written down while a request runs, and what the next one on the same question can use of it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from statistics import median

import torch
from torch import Tensor

from vtprune import cost
from vtprune.backbones.base import Backbone, Encoded, Prompt
from vtprune.compare import compare
from vtprune.pipeline import Pass
from vtprune.request import Request
from vtprune.types import Run, Selection, Side, Signals, Spread, Stage, Step, TokenOut

STAGES = ("encode", "select", "prefill", "decode")


@dataclass
class Answer:
    """One side's tokens while they are made; logits: a [V] row for each token."""

    ids: list[int] = field(default_factory=list)
    tokens: list[TokenOut] = field(default_factory=list)
    logits: list[Tensor] = field(default_factory=list)
    text: str = ""


@dataclass
class Measured:
    """Measuring passes of one side. decoded: tokens after the first; passes: seconds of each stage."""

    decoded: int
    passes: list[dict[str, float]] = field(default_factory=list)
    peak: int = 0

    def spreads(self) -> dict[str, Spread]:
        """Stage -> milliseconds; all parts of the selection are one stage, decode is per token."""
        if not self.passes:
            return {}
        rows: dict[str, list[float]] = {stage: [] for stage in STAGES}
        for seconds in self.passes:
            for stage, row in rows.items():
                total = sum(value for name, value in seconds.items() if name.split(":")[0] == stage)
                row.append(total / self.decoded if stage == "decode" else total)
        return {stage: cost.spread(row) for stage, row in rows.items()}


@dataclass
class Shared:
    """What runs of one question on the same pictures have in common; filled by the first that needs it.

    request: the question; its method and budget stand for nothing. needs: the signals that any of the methods
    to come reads, so that the vision tower runs once. full: that side, complete. orders: of nested methods,
    by method and parameters: one serves every budget from the one on that it was made for.
    """

    request: Request
    needs: frozenset[str] = frozenset()
    prompt: Prompt | None = None
    encoded: Encoded | None = None
    full: tuple[Pass, Answer] | None = None
    orders: dict[str, tuple[int, Tensor, Tensor | None]] = field(default_factory=dict)

    def replayed(self, request: Request, steps: list[Step]) -> list[Step]:
        """The same steps; a single one whose order is known takes a prefix of it, and computes nothing."""
        if len(steps) != 1 or _key(request) not in self.orders:
            return steps
        least, order, scores = self.orders[_key(request)]
        if steps[0].keep is None or steps[0].keep < least:
            return steps
        return [dataclasses.replace(steps[0], select=partial(prefix, order, scores), needs=())]

    def remember(self, request: Request, stages: Sequence[Stage], total: int) -> None:
        """Keep the order of a nested method that selects once, out of all tokens, and blends none."""
        if len(stages) != 1 or _key(request) in self.orders:
            return
        (stage,) = stages
        if stage.order is not None and len(stage.order) == total and not stage.merge_rows:
            scores = torch.tensor(stage.scores) if stage.scores else None
            self.orders[_key(request)] = stage.after, torch.tensor(stage.order), scores


def prefix(order: Tensor, scores: Tensor | None, signals: Signals, k: int, full: bool = False) -> Selection:
    """The first k of a known order [N], as a selector's answer; see Step.select."""
    device = signals.features.device
    order = order.to(device)
    return Selection(order[:k].sort().values, order, None if scores is None else scores.to(device))


def _key(request: Request) -> str:
    return repr((request.method, sorted(request.params.items())))


def with_seconds(stages: Sequence[Stage], passes: Sequence[Mapping[str, float]]) -> list[Stage]:
    """The stages with the median time of each over some passes."""
    return [
        dataclasses.replace(stage, seconds=median(seconds[f"select:{i}"] for seconds in passes))
        for i, stage in enumerate(stages)
    ]


def written(
    backbone: Backbone,
    request: Request,
    prompt: Prompt,
    sides: dict[str, Pass],
    answers: dict[str, Answer],
    measured: dict[str, Measured],
) -> Run:
    """The record of a complete run. sides, answers, measured: of "full" and "pruned"."""
    closed = {}
    for name, answer in answers.items():
        price = cost.cost(
            backbone.llm.config,
            sides[name].visual_per_layer,
            len(prompt.text),
            backbone.dtype,
            measured[name].peak,
            patches=sides[name].patches,
            crossed=sides[name].crossed,
        )
        text = backbone.decode(answer.ids).strip()
        closed[name] = Side(text, answer.tokens, measured[name].spreads(), price)
    full, pruned, passes = answers["full"], answers["pruned"], measured["pruned"].passes
    return Run(
        model=backbone.name,
        device=str(backbone.device),
        dtype=str(backbone.dtype).removeprefix("torch."),
        images=request.infos,
        question=request.question,
        method=request.method,
        params=request.params,
        keep=request.keep,
        max_new_tokens=request.max_new_tokens,
        positions=request.positions,
        seed=request.seed,
        segments=prompt.segments,
        stages=with_seconds(sides["pruned"].stages, passes) if passes else sides["pruned"].stages,
        full=closed["full"],
        pruned=closed["pruned"],
        comparison=compare(
            closed["full"].answer,
            closed["pruned"].answer,
            full.ids,
            pruned.ids,
            full.logits,
            pruned.logits,
        ),
    )
