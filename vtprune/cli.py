"""The command line: ``vtprune run``, ``render``, ``methods``, ``app``, ``scenes``, ``evaluate`` and more."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from vtprune import cli_shapes, cli_study

VIEWS = ("kept", "scores", "order", "picture")
"""Of the map; named here too, as drawing takes seconds to load."""
EXAMPLES = """\
examples:
  vtprune run photo.png -q "How many cats are there?" --method atp --keep 0.25
  vtprune run a.png b.png -q "What changed?" --method divprune --keep 64 --json run.json --png run.png
  vtprune compare photo.png -q "How many cats are there?" --methods atp,divprune,random --keep 0.25
  vtprune sweep photo.png -q "How many cats are there?" --methods atp,random
  vtprune render run.json -o map.png    # the map alone; -o report.html for everything in one file
  vtprune methods                # every method in one table
  vtprune methods atp            # what one does, its formula and its paper
  vtprune models                 # models to try beside the bundled one, and what they need
  vtprune app                    # the same, to look at and play with, in the browser
  vtprune scenes sample --seed 7 -o scene.png
  vtprune calibrate photos/*.jpg --model llava-hf/llava-1.5-7b-hf   # E-AdaPrune's thresholds
  vtprune bench selectors --sizes 576 --dims 1024 --json cost.json
"""


def main(argv: list[str] | None = None) -> int:
    """Runs one command; returns the exit status. A request that cannot be served is one line on stderr."""
    arguments = _parser().parse_args(argv)
    try:
        arguments.command(arguments)
    except (ValueError, OSError) as error:
        print(f"vtprune: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    return 0


def keep(text: str) -> float | int:
    """A budget as typed: "64" is a count, "0.25", "1.0" and "25%" are fractions."""
    try:
        if text.endswith("%"):
            return float(text[:-1]) / 100
        return int(text) if text.isdigit() else float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a budget: give a fraction such as 0.25 or a number of tokens such as 64"
        ) from None


def parameter(text: str) -> tuple[str, Any]:
    """A method's option as typed, NAME=VALUE; the value is read as a number or a truth value if it is one."""
    name, equals, value = text.partition("=")
    if not equals:
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form NAME=VALUE, such as alpha=0.5")
    words = {"true": True, "false": False, "none": None}
    if value.lower() in words:
        return name, words[value.lower()]
    for kind in (int, float):
        try:
            return name, kind(value)
        except ValueError:
            continue
    return name, value


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="vtprune",
        description="See what visual token pruning keeps, what it saves, and when it breaks the answer.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    run = commands.add_parser("run", help="answer a question with all visual tokens and with the pruned ones")
    run.add_argument(
        "images", nargs="+", metavar="IMAGE", help="PNG, JPEG or WebP, in the order of the question"
    )
    run.add_argument("-q", "--question", required=True)
    _add_method(run)
    run.add_argument("--max-new-tokens", type=int, default=32, metavar="N")
    run.add_argument("--seed", type=int, default=0)
    run.add_argument(
        "--repeats", type=int, default=3, metavar="N", help="passes to time, after one to warm up"
    )
    run.add_argument("--json", type=Path, metavar="FILE", help="write everything that happened")
    run.add_argument("--png", type=Path, metavar="FILE", help="write a picture of what was kept and dropped")
    _add_model(run)
    run.set_defaults(command=_run)

    cli_study.add(commands, _add_model, _engine, keep)

    render = commands.add_parser("render", help="draw a recorded run: the map, or a report in one file")
    render.add_argument("run", type=Path, metavar="RUN.json", help="written by `vtprune run --json`")
    render.add_argument(
        "-o", "--output", type=Path, required=True, metavar="FILE", help="a name in .png or .html"
    )
    render.add_argument(
        "--images", type=Path, nargs="+", default=[], metavar="FILE", help="(default: beside the run)"
    )
    render.add_argument("--view", choices=VIEWS, default="kept", help="of the map (default kept)")
    render.set_defaults(command=_render)

    methods = commands.add_parser("methods", help="list the pruning methods, or explain one")
    methods.add_argument("name", nargs="?")
    methods.set_defaults(command=_methods)

    models = commands.add_parser("models", help="list models to load, or tell of one what it needs")
    models.add_argument("name", nargs="?", metavar="ID", help="an id of the table, or `bundled`")
    models.set_defaults(command=_models)

    app = commands.add_parser("app", help="open the app in the browser")
    _add_model(app)
    app.add_argument("--host", default="127.0.0.1")
    app.add_argument("--port", type=int, default=7860)
    app.add_argument("--share", action="store_true", help="also serve it under a public address")
    app.add_argument("--mcp", action="store_true", help="also offer the app's endpoints as MCP tools")
    app.set_defaults(command=_app)

    scenes = commands.add_parser("scenes", help="draw pictures whose content is known")
    sample = scenes.add_subparsers(metavar="COMMAND", required=True).add_parser("sample", help="draw one")
    sample.add_argument("--seed", type=int, default=0)
    sample.add_argument("--size", type=int, default=448, help="side in pixels (default 448)")
    sample.add_argument("-o", "--output", type=Path, required=True, metavar="FILE")
    sample.set_defaults(command=_sample)

    evaluate = commands.add_parser("evaluate", help="accuracy on held-out drawn scenes, by question type")
    _add_method(evaluate)
    evaluate.add_argument("--count", type=int, default=2100, help="questions (default 2100)")
    evaluate.add_argument("--split", choices=("validation", "heldout"), default="heldout")
    _add_model(evaluate)
    evaluate.set_defaults(command=_evaluate)

    calibrate = commands.add_parser(
        "calibrate", help="find the thresholds with which E-AdaPrune meets a budget"
    )
    calibrate.add_argument(
        "images", nargs="*", metavar="IMAGE", help="about 256; none: drawn scenes, for the bundled model"
    )
    calibrate.add_argument(
        "-o", "--output", type=Path, metavar="FOLDER", help="of the model: write them there"
    )
    _add_model(calibrate)
    calibrate.set_defaults(command=_calibrate)

    bench = commands.add_parser("bench", help="measure time, memory and accuracy")
    _add_benches(bench.add_subparsers(metavar="WHAT", required=True))
    return parser


def _add_benches(benches: Any) -> None:
    engine = benches.add_parser("engine", help="the pipeline beside transformers' own generate, in one run")
    _add_model(engine)
    engine.set_defaults(command=_bench_engine)

    selectors = benches.add_parser("selectors", help="what choosing costs: time and memory of every method")
    methods = benches.add_parser("methods", help="what choosing is worth: accuracy of every method")
    for parser in (selectors, methods):
        parser.add_argument("--methods", nargs="+", default=[], metavar="NAME", help="(default: all)")
        parser.add_argument("--json", type=Path, metavar="FILE", help="write what is known so far, all along")

    selectors.add_argument("--parts", nargs="+", metavar="PART", help="of: methods kernels budget images")
    selectors.add_argument("--sizes", nargs="+", type=int, metavar="N", help="(default 576 2880)")
    selectors.add_argument("--dims", nargs="+", type=int, metavar="D", help="(default 1024 4096)")
    selectors.add_argument("--keeps", nargs="+", type=keep, metavar="K", help="(default 64 22%%)")
    selectors.add_argument("--dtypes", nargs="+", metavar="DTYPE", help="(default float32 bfloat16)")
    selectors.add_argument("--devices", nargs="+", metavar="DEVICE", help="(default cpu, and cuda if any)")
    selectors.add_argument("--images", type=int, metavar="M", help="of 576 tokens each (default 50)")
    selectors.add_argument("--repeats", type=int, metavar="N", help="after a warm-up (default 7)")
    selectors.set_defaults(command=_bench_selectors)

    methods.add_argument(
        "--keeps", nargs="+", type=keep, default=[0.25, 0.1], metavar="K", help="(default 25%% 10%%)"
    )
    methods.add_argument("--count", type=int, default=208, help="questions, captions left out (default 208)")
    methods.add_argument("--split", choices=("validation", "heldout"), default="heldout")
    _add_model(methods)
    methods.set_defaults(command=_bench_methods)

    cli_shapes.add(benches, keep, _write)


def _add_method(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--method", default="atp", help="one of `vtprune methods` (default atp)")
    parser.add_argument(
        "--keep", type=keep, default=0.25, help="fraction or number of visual tokens to keep (default 0.25)"
    )
    parser.add_argument(
        "--param",
        type=parameter,
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="an option of the method; may be given again",
    )


def _add_model(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", help="hub id or local folder (default: the bundled model)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1 … (default auto)")
    parser.add_argument("--dtype", default="auto", help="auto, float32, bfloat16 or float16 (default auto)")
    parser.add_argument("--clip", help="CLIP companion: a folder, or such as ViT-L-14-336:openai")
    parser.add_argument("--quantize", choices=("8bit", "4bit"), help="shrink the language model (CUDA only)")


def _engine(arguments: argparse.Namespace) -> Any:
    import vtprune

    names = ("device", "dtype", "clip", "quantize")
    return vtprune.load(arguments.model, **{name: getattr(arguments, name) for name in names})


def _run(arguments: argparse.Namespace) -> None:
    run = _engine(arguments).run(
        arguments.images,
        arguments.question,
        arguments.method,
        arguments.keep,
        arguments.max_new_tokens,
        dict(arguments.param),
        seed=arguments.seed,
        repeats=arguments.repeats,
    )
    full, pruned = run.cost["full"], run.cost["pruned"]
    print(f"all {run.tokens} tokens: {run.full.answer}")
    print(f"{arguments.method}, {pruned.mean_tokens:.0f} tokens a layer: {run.answer}")
    print(f"({run.comparison.summary})")
    print(f"prefill FLOPs {full.prefill_flops:.3g} -> {pruned.prefill_flops:.3g}", end=", ")
    print(f"KV cache {full.kv_bytes / 1e6:.2f} -> {pruned.kv_bytes / 1e6:.2f} MB")
    for stage, spread in run.timings["full"].items():
        other = run.timings["pruned"][stage]
        print(f"{stage:>8} {spread.median:9.2f} -> {other.median:9.2f} ms" + " a token" * (stage == "decode"))
    if arguments.json:
        arguments.json.write_text(run.to_json(), encoding="utf-8")
    if arguments.png:
        from vtprune.export import render_png
        from vtprune.images import open_image

        render_png(run, [open_image(image) for image in arguments.images]).save(arguments.png)


def _render(arguments: argparse.Namespace) -> None:
    from vtprune.export import reached, render_map
    from vtprune.report import render_html
    from vtprune.types import Run

    kind = arguments.output.suffix.lower()
    if kind not in (".png", ".html"):
        raise ValueError(f"{arguments.output} is neither .png nor .html, which is what can be drawn.")
    run = Run.from_json(arguments.run.read_text(encoding="utf-8"))
    images = arguments.images or [arguments.run.parent / Path(info.name).name for info in run.images]
    for image in images:
        if not image.is_file():
            raise ValueError(f"the picture {image} of this run is missing: name its pictures with --images.")
    try:
        if kind == ".png":
            render_map(run, images, arguments.view, reached(run)).save(arguments.output)
        else:
            arguments.output.write_text(render_html(run, images), encoding="utf-8")
    except (TypeError, KeyError, IndexError) as error:  # JSON of the right shape with wrong values in it
        raise ValueError(f"{arguments.run} cannot be drawn, something in it is wrong: {error}.") from error


def _methods(arguments: argparse.Namespace) -> None:
    from vtprune import methods

    if arguments.name:
        print(methods.page(arguments.name))
        return
    known = methods.list_methods()
    width = max(map(len, known))
    for name, info in known.items():
        flags = [flag for flag in ("adaptive", "multi_image", "merges") if getattr(info, flag)]
        print(f"{name:<{width}}  {info.acts_at:<10}  {info.year or '':>4}  {info.title}", end="")
        print(f"  ({', '.join(flags).replace('_', '-')})" if flags else "")


def _models(arguments: argparse.Namespace) -> None:
    from vtprune import models

    print(models.page(arguments.name) if arguments.name else models.table())


def _app(arguments: argparse.Namespace) -> None:
    import ui

    ui.launch(
        model=arguments.model,
        device=arguments.device,
        dtype=arguments.dtype,
        clip=arguments.clip,
        quantize=arguments.quantize,
        host=arguments.host,
        port=arguments.port,
        share=arguments.share,
        mcp=arguments.mcp,
    )


def _sample(arguments: argparse.Namespace) -> None:
    from vtprune.scenes.world import render, sample

    if arguments.size < 32 or arguments.size > 4096:
        raise ValueError(f"--size {arguments.size} is not from 32 to 4096 pixels.")
    scene = sample(arguments.seed)
    render(scene, arguments.size)[0].save(arguments.output)
    for thing in scene.things:
        print(thing.describe(size=True) + (f" that says {thing.text}" if thing.text else ""))


def _evaluate(arguments: argparse.Namespace) -> None:
    from vtprune.evaluate import clip_rank, evaluate

    engine = _engine(arguments)
    report = None
    for report in evaluate(
        engine, arguments.method, arguments.keep, arguments.count, arguments.split, **dict(arguments.param)
    ):
        if len(report.asked) % 100 == 0:
            print(f"{len(report.asked)} of {arguments.count} questions", file=sys.stderr)
    if report:
        print(report.table())
        print(
            f"\nsame answer as with all tokens: {report.agreement:.1%}; evidence kept: {report.evidence:.1%}"
        )
    if engine.backbone.missing("clip_patches") is None:
        rank = clip_rank(engine, min(arguments.count, 420), arguments.split)
        print(f"mean rank of the evidence by CLIP similarity (0 best, chance 0.5): {rank:.3f}")


def _calibrate(arguments: argparse.Namespace) -> None:
    from vtprune import calibration
    from vtprune.images import open_image

    engine = _engine(arguments)
    pictures = map(open_image, arguments.images) if arguments.images else calibration.drawn()
    table = calibration.energy_table(engine.backbone, pictures)
    print("keep    tau")
    for share, tau in table:
        print(f"{share:<7g} {tau:.10f}")
    if arguments.output:
        calibration.write(arguments.output, table)


def _bench_engine(arguments: argparse.Namespace) -> None:
    from vtprune.bench.engine import bench_engine, table

    print(table(bench_engine(_engine(arguments))))


def _bench_selectors(arguments: argparse.Namespace) -> None:
    from dataclasses import asdict

    from vtprune.bench.measure import machine
    from vtprune.bench.selectors import Grid, Row, bench_selectors, default_devices, line, report

    options = ("parts", "sizes", "dims", "keeps", "dtypes", "images", "repeats")
    given = {name: value for name in options if (value := getattr(arguments, name)) is not None}
    devices = arguments.devices or default_devices()
    here, rows = machine(), list[Row]()
    for row in bench_selectors(Grid(devices=devices, names=arguments.methods, **given)):
        rows.append(row)
        print(line(row), file=sys.stderr)
        _write(arguments.json, {"machine": here, "rows": [asdict(row) for row in rows]})
    print(report(here, rows))


def _bench_methods(arguments: argparse.Namespace) -> None:
    from vtprune.bench.measure import machine
    from vtprune.bench.methods import bench_methods, summary, table

    engine, here = _engine(arguments), machine()
    rows: list[dict[str, Any]] = []
    asked = bench_methods(engine, arguments.keeps, arguments.methods, arguments.count, arguments.split)
    for done, entries in enumerate(asked, start=1):
        if done % 10 == 0 or done == arguments.count:
            rows = summary(entries)
            print(f"{done} of {arguments.count} questions", file=sys.stderr)
            told = {"model": engine.name, "device": str(engine.backbone.device), "split": arguments.split}
            _write(arguments.json, {"machine": here, **told, "questions": done, "rows": rows})
    print(table(here, engine.name, rows))


def _write(path: Path | None, data: dict[str, Any]) -> None:
    """Writes JSON where it was asked for."""
    if path:
        path.write_text(json.dumps(data, indent=1, allow_nan=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
