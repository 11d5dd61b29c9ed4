"""The commands ``vtprune compare``, ``sweep`` and ``examples``: questions under several methods, in lines."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

COMPARED = "atp,resprune,divprune,fastervlm,random,uniform"
SWEPT = "atp,divprune,fastervlm,random"

AddModel = Callable[[argparse.ArgumentParser], None]
Load = Callable[[argparse.Namespace], Any]


def add(commands: Any, add_model: AddModel, load: Load, keep: Callable[[str], float | int]) -> None:
    """Registers them. add_model, load: the options that name a model, and what loads it. keep: reads a
    budget as typed."""
    compare = commands.add_parser("compare", help="one question and budget under several methods")
    _add_question(compare, COMPARED)
    compare.add_argument(
        "--keep", type=keep, default=0.25, help="fraction or number of tokens (default 0.25)"
    )
    compare.add_argument("--repeats", type=int, default=3, metavar="N", help="passes to time (default 3)")
    compare.add_argument("--json", type=Path, metavar="FILE", help="write all runs, as a list")
    add_model(compare)
    compare.set_defaults(command=lambda arguments: _compare(load(arguments), arguments))

    sweep = commands.add_parser("sweep", help="one question at many budgets, and where its answer changes")
    _add_question(sweep, SWEPT)
    sweep.add_argument(
        "--keeps", type=_names, metavar="K,K,…", help="shares; instead of the three that follow"
    )
    sweep.add_argument("--from", dest="low", type=float, default=0.02, metavar="SHARE", help="(default 0.02)")
    sweep.add_argument("--to", dest="high", type=float, default=1.0, metavar="SHARE", help="(default 1.0)")
    sweep.add_argument("--points", type=int, default=12, metavar="N", help="budgets in between (default 12)")
    sweep.add_argument("--json", type=Path, metavar="FILE", help="write all points, as a list")
    add_model(sweep)
    sweep.set_defaults(command=lambda arguments: _sweep(load(arguments), arguments))

    recorded = commands.add_parser("examples", help="the app's recorded examples, and how they are made")
    recorded.add_argument("--rebuild", action="store_true", help="ask all of them again, and write them down")
    recorded.add_argument(
        "--methods", action="store_true", help="the same for the pictures on the methods' cards alone"
    )
    add_model(recorded)
    recorded.set_defaults(command=lambda arguments: _examples(load, arguments))


def _add_question(parser: argparse.ArgumentParser, methods: str) -> None:
    parser.add_argument("images", nargs="+", metavar="IMAGE", help="PNG, JPEG or WebP")
    parser.add_argument("-q", "--question", required=True)
    parser.add_argument(
        "--methods", type=_names, default=_names(methods), metavar="A,B,…", help=f"(default {methods})"
    )
    parser.add_argument("--max-new-tokens", type=int, default=32, metavar="N")
    parser.add_argument("--seed", type=int, default=0)


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def _question(arguments: argparse.Namespace) -> tuple[list[str], str, list[str]]:
    return arguments.images, arguments.question, arguments.methods


def _compare(engine: Any, arguments: argparse.Namespace) -> None:
    from vtprune import study
    from vtprune.summary import first_token, milliseconds, speed

    rest = {"seed": arguments.seed, "repeats": arguments.repeats}
    runs: list[Any] = []
    width = max(map(len, arguments.methods), default=0)
    for cell in study.compare(
        engine, *_question(arguments), arguments.keep, arguments.max_new_tokens, **rest
    ):
        if cell.run is None:
            print(f"{cell.method:<{width}}  not run: {cell.reason}")
            continue
        run = cell.run
        if not runs:
            print(f"{'':<{width}}  {run.tokens:>6}  {run.full.answer}")
        runs.append(run)
        line = f"{cell.method:<{width}}  {run.pruned.cost.mean_tokens:>6.4g}  {run.answer}"
        line += f"  ({run.comparison.summary}"
        if run.pruned.timings:
            full, pruned = first_token(run.full), first_token(run.pruned)
            line += f"; first token after {milliseconds(pruned.median)} ms, {speed(full, pruned)}"
        print(f"{line})")
    if arguments.json:
        text = ",\n".join(run.to_json() for run in runs)
        arguments.json.write_text(f"[{text}]\n", encoding="utf-8")


def _sweep(engine: Any, arguments: argparse.Namespace) -> None:
    from dataclasses import asdict

    from vtprune import study

    if arguments.keeps:
        budgets = [_share(text) for text in arguments.keeps]
    else:
        budgets = study.spread(arguments.low, arguments.high, arguments.points)
    points = []
    total = len(budgets) * len(arguments.methods)
    for point in study.sweep(
        engine, *_question(arguments), budgets, arguments.max_new_tokens, seed=arguments.seed
    ):
        points.append(point)
        print(f"{len(points)} of {total} points", end="\r", file=sys.stderr)
    for method in dict.fromkeys(point.method for point in points):
        print(method)
        own = [point for point in points if point.method == method]
        for point in own:
            if point.reason:
                print(f"  {point.keep:>5.0%}  not run: {point.reason}")
            else:
                mark = "=" if point.same else "≠"
                print(f"  {point.keep:>5.0%}  {point.tokens:>6.4g}  {mark}  {point.answer}")
        for flip in study.flips(own):
            print(f"  {flip.words}")
    if arguments.json:
        rows = [{**asdict(point), "share": point.share, "same": point.same} for point in points]
        text = json.dumps(rows, indent=1, ensure_ascii=False, allow_nan=False)
        arguments.json.write_text(f"{text}\n", encoding="utf-8")


def _share(text: str) -> float:
    try:
        return float(text[:-1]) / 100 if text.endswith("%") else float(text)
    except ValueError:
        raise ValueError(f"{text!r} is not a share: give such as 0.25 or 25%.") from None


def _examples(load: Load, arguments: argparse.Namespace) -> None:
    from vtprune import examples, showcase

    if arguments.methods:
        for shown in showcase.rebuild(load(arguments), examples.load()):
            print(f"{shown.method:20} {shown.reason or f'{shown.left} -> {shown.answer}'}")
        return
    for example in examples.rebuild(load(arguments)) if arguments.rebuild else examples.load():
        asked = example.questions[0]
        print(f"{example.name:10} {asked.text} -> {examples.finding(example.run, asked)}")
