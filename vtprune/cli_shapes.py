"""The command ``vtprune bench shapes``: what pruning saves on models of published sizes."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

Keep = Callable[[str], float | int]
Write = Callable[[Path | None, dict[str, Any]], None]


def add(benches: Any, keep: Keep, write: Write) -> None:
    """Registers it. keep: reads a budget as typed. write: JSON where it was asked for."""
    shapes = benches.add_parser("shapes", help="what pruning saves on published sizes, with random weights")
    shapes.add_argument(
        "--shapes", nargs="+", metavar="NAME", help="(default llava-1.5-7b llava-next-7b qwen2.5-vl-7b)"
    )
    shapes.add_argument("--keeps", nargs="+", type=keep, metavar="K", help="beside all (default 33%% 11%%)")
    shapes.add_argument("--method", help="one of `vtprune methods` (default divprune)")
    shapes.add_argument("--new-tokens", type=int, metavar="N", help="of an answer (default 16)")
    shapes.add_argument("--repeats", type=int, metavar="N", help="rounds after a warm-up (default 5)")
    shapes.add_argument("--device", help="auto, cpu, cuda, cuda:1 … (default auto)")
    shapes.add_argument("--dtype", help="auto, float32, bfloat16 or float16 (default auto)")
    shapes.add_argument(
        "--scale", choices=("published", "tiny"), default="published", help="tiny: to rehearse, in seconds"
    )
    shapes.add_argument("--json", type=Path, metavar="FILE", help="write what is known so far, all along")
    shapes.set_defaults(command=lambda arguments: _bench(arguments, write))


def _bench(arguments: argparse.Namespace, write: Write) -> None:
    from vtprune.bench.measure import machine
    from vtprune.bench.shapes import Plan, bench_shapes, setting, summary, table

    options = ("shapes", "keeps", "method", "new_tokens", "repeats", "device", "dtype")
    given = {name: value for name in options if (value := getattr(arguments, name)) is not None}
    plan, here = Plan(tiny=arguments.scale == "tiny", **given), machine()
    for rows in bench_shapes(plan):
        print(f"{rows[-1].shape}: {len(rows[-1].seconds)} of {plan.repeats} rounds", file=sys.stderr)
        write(arguments.json, {"machine": here, **setting(plan), "rows": summary(rows)})
    print(table(here, plan, rows))
