"""Trains the bundled model from nothing: ``python -m vtprune.scenes.train --out runs/model --minutes 100``.

Three stages share the given minutes:

vision    the tower learns what every patch shows. Through the projector, a patch must point at the
          decoder's own token embeddings of its object's kind, colour, size and lettering, and tell where the
          object is; beside it, patches and phrases meet in the companion's joint space. Background patches
          are mostly left out, which triples the speed.
language  tower frozen: the decoder answers several questions a picture, packed into one sequence in which
          each question sees the pictures and itself only.
joint     everything together, on whole and on randomly thinned pictures.

It resumes from its last checkpoint in --out, and runs on CUDA or on the CPU (bf16 autocast on both). With
--start it goes on from an exported model: ``--start assets/model --stages language joint``.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader

from vtprune.scenes.dataset import Stream
from vtprune.scenes.model import SIZES
from vtprune.scenes.trainer import Trainer

STAGES = {"vision": 0.25, "language": 0.15, "joint": 0.6}
"""Share of the minutes each stage gets."""
SIGNS = {"vision": 0.4, "language": 0.25, "joint": 0.25}
"""Share of items chosen for holding a sign; letters are the hardest to learn, and few."""
QUESTIONS = 16
"""Questions an item at most: once the pictures are in the sequence, another question costs little."""
DECODER_MIX = {1: 0.62, 2: 0.24, 3: 0.08, 4: 0.06}
"""How often an item has 1, 2, 3 or 4 pictures while the decoder trains."""


TOWER_PACE = 0.2
"""In the joint stage the tower, which has been through its own decay, learns at this share of the rate; at
the full one it forgets in minutes what it took the first stage to learn."""


def _optimizers(parameters: list[nn.Parameter], trainer: Trainer, stage: str) -> list[torch.optim.Optimizer]:
    """Muon for the matrices, AdamW for everything else (embeddings, norms, biases, convolutions)."""
    matrices = [p for p in parameters if p.ndim == 2 and p is not trainer.embedding and min(p.shape) >= 16]
    matrices = [p for p in matrices if p.shape[0] <= 4 * p.shape[1] and p.shape[1] <= 4 * p.shape[0]]
    chosen = {id(p) for p in matrices}
    rest = [p for p in parameters if id(p) not in chosen]
    tower = {id(p) for p in trainer.tower.parameters()}

    def paced(group: list[nn.Parameter]) -> list[dict[str, Any]]:
        parts = (([p for p in group if (id(p) in tower) == inside], inside) for inside in (True, False))
        slow = TOWER_PACE if stage == "joint" else 1.0
        return [{"params": part, "pace": slow if inside else 1.0} for part, inside in parts if part]

    return [
        torch.optim.Muon(paced(matrices), lr=1.0, weight_decay=0.01, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(paced(rest), lr=1.0, betas=(0.9, 0.98), weight_decay=0.0),
    ]


PEAKS = {"vision": (4e-3, 2e-3), "language": (3e-3, 1.5e-3), "joint": (2e-3, 1e-3)}
"""Peak learning rates of (Muon, AdamW)."""


def _schedule(progress: float, step: int) -> float:
    """Warm-up over 50 steps, then a straight line down to a twentieth at the stage's end."""
    return min(1.0, (step + 1) / 50) * (1.0 - 0.95 * min(1.0, progress))


def train(arguments: argparse.Namespace) -> None:
    out: Path = arguments.out
    out.mkdir(parents=True, exist_ok=True)
    device = torch.device(arguments.device)
    state: dict[str, Any] | None = None
    if (out / "state.pt").exists():
        state = torch.load(out / "state.pt", map_location="cpu", weights_only=True)
    trainer = Trainer(out, state["size"] if state else arguments.size, device)
    stages = [stage for stage in STAGES if stage in arguments.stages]
    begin, spent = 0, 0.0
    if state:
        trainer.modules.load_state_dict(state["modules"])
        begin, spent = stages.index(state["stage"]), state["spent"]
    elif arguments.start:
        trainer.load(arguments.start)
    if arguments.export:
        trainer.export(arguments.export)
        return
    with (out / "log.txt").open("a") as log:
        for index in range(begin, len(stages)):
            if index > begin or not state:
                spent = 0.0
            resumed = state["optimizers"] if state and index == begin else None
            _train_stage(trainer, stages[index], spent, resumed, arguments, log)
    trainer.export(out / "export")


def _train_stage(
    trainer: Trainer,
    stage: str,
    spent: float,
    resumed: list[Any] | None,
    arguments: argparse.Namespace,
    log: Any,
) -> None:
    limit = arguments.minutes * 60 * STAGES[stage] / sum(STAGES[other] for other in arguments.stages)
    if spent >= limit:
        return
    trainer.modules.requires_grad_(False)
    parameters = list({id(p): p for p in trainer.trained(stage)}.values())
    for parameter in parameters:
        parameter.requires_grad_(True)
    optimizers = _optimizers(parameters, trainer, stage)
    if resumed:
        for optimizer, saved in zip(optimizers, resumed, strict=True):
            optimizer.load_state_dict(saved)
    mix = {1: 1.0} if stage == "vision" else DECODER_MIX
    size = arguments.batch * (1 if stage == "vision" else 0.5)
    seed = f"{arguments.seed}-{stage}-{spent:.0f}"
    stream = Stream(trainer.tokenizer, int(size), QUESTIONS, mix, seed, signs=SIGNS[stage])
    ahead: dict[str, Any] = {"prefetch_factor": 4, "persistent_workers": True} if arguments.workers else {}
    loader = DataLoader(stream, batch_size=None, num_workers=arguments.workers, **ahead)
    started, saved_at, step, seen = time.monotonic() - spent, time.monotonic(), 0, 0
    running: dict[str, float] = {}
    for batch in loader:
        progress = (time.monotonic() - started) / limit
        rate = _schedule(progress, step + (1000 if resumed else 0))
        for optimizer, peak in zip(optimizers, PEAKS[stage], strict=True):
            for group in optimizer.param_groups:
                group["lr"] = peak * rate * group["pace"]
        with torch.autocast(trainer.device.type, torch.bfloat16):
            loss, parts = trainer.loss(stage, batch, progress)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        step, seen = step + 1, seen + batch.thing.shape[0] * batch.thing.shape[1]
        for name, value in (parts | {"loss": loss.item()}).items():
            running[name] = value if name not in running else 0.97 * running[name] + 0.03 * value
        finished = progress >= 1
        if step % 50 == 0 or finished:
            minutes = (time.monotonic() - started) / 60
            numbers = " ".join(f"{name} {value:.3f}" for name, value in running.items())
            speed = seen / (time.monotonic() - started - spent)
            print(
                f"{stage} {minutes:.1f} min step {step} {speed:.0f} pictures/s {numbers}",
                file=log,
                flush=True,
            )
        if finished or time.monotonic() - saved_at > 300:
            trainer.save(stage, time.monotonic() - started, optimizers)
            saved_at = time.monotonic()
        if finished:
            break


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="folder for checkpoints, log.txt and export/")
    parser.add_argument(
        "--export", type=Path, help="write the last checkpoint's model to this folder, and stop"
    )
    parser.add_argument("--start", type=Path, help="an exported model to go on from; default: nothing")
    parser.add_argument(
        "--stages", nargs="+", choices=STAGES, default=list(STAGES), help="default: all three"
    )
    parser.add_argument("--minutes", type=float, default=100, help="training time in all (default 100)")
    parser.add_argument("--size", choices=SIZES, default="small", help="architecture (default small)")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument(
        "--batch",
        type=int,
        default=40,
        help="pictures a step; half as many once the decoder trains (default 40)",
    )
    parser.add_argument("--workers", type=int, default=1, help="processes that draw pictures (default 1)")
    parser.add_argument("--seed", type=int, default=0)
    train(parser.parse_args())


if __name__ == "__main__":
    main()
