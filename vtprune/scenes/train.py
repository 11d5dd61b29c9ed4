"""Trains the bundled model from nothing: ``python -m vtprune.scenes.train --out runs/model --minutes 100``.

Three stages share the given minutes:

vision    the tower learns what every patch shows. Through the projector, a patch must point at the
          decoder's own token embeddings of its object's kind, colour, size and lettering, and tell where the
          object is; beside it, patches and phrases meet in the companion's joint space. Background patches
          are mostly left out, which triples the speed.
language  tower frozen: the decoder answers several questions a picture, packed into one sequence in which
          each question sees the pictures and itself only.
joint     everything together, on whole and on randomly thinned pictures.

It resumes from its last checkpoint in --out, and runs on CUDA or on the CPU (bf16 autocast on both).
"""

from __future__ import annotations

import argparse
import math
import time
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader

from vtprune.scenes import draw, tokens
from vtprune.scenes.dataset import GRID, IGNORE, Batch, Stream
from vtprune.scenes.heads import DenseHeads, single_tokens, start_local
from vtprune.scenes.model import SIZES, build_llava, build_text_tower, export, tower_layers, tower_of
from vtprune.scenes.world import WORLD_VERSION

STAGES = {"vision": 0.42, "language": 0.33, "joint": 0.25}
"""Share of the minutes each stage gets."""
PATCHES = GRID * GRID
PIXEL_MEAN = (0.48145466, 0.4578275, 0.40821073)
PIXEL_STD = (0.26862954, 0.26130258, 0.27577711)
SIGNS = {"vision": 0.4, "language": 0.25, "joint": 0.25}
"""Share of items chosen for holding a sign; letters are the hardest to learn, and few."""
DECODER_MIX = {1: 0.7, 2: 0.2, 3: 0.07, 4: 0.03}
"""How often an item has 1, 2, 3 or 4 pictures while the decoder trains."""


class Trainer:
    """The modules, their losses and their state on disk."""

    def __init__(self, out: Path, size: str, device: torch.device, seed: int = 0) -> None:
        torch.manual_seed(seed)
        self.out, self.size, self.device = out, size, device
        self.tokenizer = tokens.build()
        self.llava = build_llava(SIZES[size], self.tokenizer)
        self.text = build_text_tower(SIZES[size], self.tokenizer)
        width = SIZES[size]
        self.heads = DenseHeads(width.decoder_width, self.tokenizer)
        self.joint = nn.Linear(width.vision_width, width.joint_width, bias=False)
        self.clip_scale = nn.Parameter(torch.tensor([math.log(10.0), -4.0]))
        self.modules = nn.ModuleDict(
            {"llava": self.llava, "text": self.text, "heads": self.heads, "joint": self.joint}
        )
        self.modules.register_parameter("clip_scale", self.clip_scale)
        start_local(tower_of(self.llava))
        self.modules.to(device)
        self.tower = tower_of(self.llava)
        self.decoder: Any = self.llava.model.language_model
        self.embedding: Tensor = self.decoder.embed_tokens.weight
        one, user, image = (self.tokenizer.convert_tokens_to_ids(t) for t in ("<s>", "<|user|>", "<image>"))
        self.start, self.image_token = [one, user], image
        self.numbers = single_tokens(self.tokenizer, ["1", "2", "3", "4"])
        self.mean = torch.tensor(PIXEL_MEAN, device=device).view(3, 1, 1)
        self.std = torch.tensor(PIXEL_STD, device=device).view(3, 1, 1)

    # --- the tower ---------------------------------------------------------------------------------------

    def encode(self, pictures: Tensor, keep: Tensor | None) -> tuple[Tensor, Tensor]:
        """pictures [P, 3, 224, 224] uint8, keep [P, M] patch indices or None for all. Returns what the
        projector reads [P, M, D] and the last layer's output with CLS first [P, 1 + M, D]."""
        pixels = (pictures.to(self.device).float() / 255 - self.mean) / self.std
        hidden = self.tower.embeddings(pixels)
        if keep is not None:
            rows = torch.cat([torch.zeros_like(keep[:, :1]), keep + 1], 1)
            hidden = hidden.gather(1, rows.unsqueeze(-1).expand(-1, -1, hidden.shape[-1]))
        states = tower_layers(self.tower, self.tower.pre_layrnorm(hidden))
        return states[-2][:, 1:], states[-1]

    def dense_loss(
        self, projected: Tensor, classes: Tensor, measures: Tensor, letters: float
    ) -> tuple[Tensor, dict[str, float]]:
        """projected [P, M, D]; classes [P, M, 6]; measures [P, M, 5]. letters: weight of what signs say, on
        few patches, whose noise would drown the shapes at first."""
        logits, places = self.heads(projected.flatten(0, 1), self.embedding)
        classes = classes.flatten(0, 1)
        weights = (1.0, 0.4, 0.2, letters, letters, letters)
        loss = projected.new_zeros((), dtype=torch.float32)
        log = {}
        for field, (weight, scores) in enumerate(zip(weights, logits, strict=True)):
            known = classes[:, field] != IGNORE
            truth = classes[known, field]
            if not len(truth):
                continue
            loss = loss + weight * F.cross_entropy(scores[known], truth)
            shown = truth < len(draw.KINDS) if field == 0 else torch.ones_like(truth, dtype=torch.bool)
            right = (scores[known].argmax(-1) == truth)[shown]
            log[("kind", "colour", "size", "word", "tens", "ones")[field]] = right.float().mean().item()
        inside = (classes[:, 0] >= 0) & (classes[:, 0] < len(draw.KINDS))
        error = (places - measures.flatten(0, 1))[inside]
        place = F.smooth_l1_loss(error, torch.zeros_like(error), beta=0.05)
        log["place"] = error[:, :2].abs().mean().item()
        return loss + 2.0 * place, log

    def clip_loss(self, last: Tensor, classes: Tensor, batch: Batch) -> tuple[Tensor, dict[str, float]]:
        """Patches, and CLS, against phrases: a pair belongs together if the patch (some patch) shows it."""
        subjects = batch.phrase_subjects.to(self.device)
        ids = batch.phrase_ids.to(self.device)
        words = self.phrases(ids)
        seen = F.normalize(self.joint(self.tower.post_layernorm(last)).float(), dim=-1)
        kinds = classes[..., :3].unsqueeze(-2).unsqueeze(-2)  # [P, M, 1, 1, 3]
        agree = ((subjects == -1) | (subjects == kinds)).all(-1)  # -2 equals nothing
        shows = agree.any(-1) & (classes[..., :1] >= 0) & (classes[..., :1] < len(draw.KINDS))
        truth = torch.cat([shows.any(1, keepdim=True), shows], 1).float()  # [P, 1 + M, phrases]
        logits = self.clip_scale[0].exp() * seen @ words.T + self.clip_scale[1]
        balance = torch.where(truth > 0, 6.0, 1.0)
        each = F.binary_cross_entropy_with_logits(logits, truth, balance, reduction="none")
        known = torch.cat([torch.ones_like(classes[:, :1, 0]), (classes[..., 0] != IGNORE).long()], 1).float()
        patches = (each[:, 1:].mean(-1) * known[:, 1:]).sum() / known[:, 1:].sum()
        return patches + each[:, 0].mean(), {"clip": patches.item(), "cls": each[:, 0].mean().item()}

    def phrases(self, ids: Tensor) -> Tensor:
        """[P, C] padded token ids, each row with its end mark -> [P, joint] unit embeddings."""
        hidden = self.text.text_model(input_ids=ids).last_hidden_state
        # read at the end mark by hand: transformers takes an end mark of id 2 for an old default of its own
        end = (ids == self.tokenizer.eos_token_id).int().argmax(1)
        pooled = hidden[torch.arange(len(ids), device=ids.device), end]
        return F.normalize(self.text.text_projection(pooled).float(), dim=-1)

    # --- the decoder -------------------------------------------------------------------------------------

    def answer_loss(self, visual: Tensor, keep: Tensor, batch: Batch) -> tuple[Tensor, dict[str, float]]:
        """visual [B, n, M, D] projected tokens that stand at patches keep [B, n, M]. Each packed question
        attends to the pictures and to itself, at the positions it would have if it were alone."""
        count, images, kept, _ = visual.shape
        ids, block, target = (part.to(self.device) for part in (batch.ids, batch.block, batch.target))
        pieces, places = (
            [self.embedding[self.start].expand(count, -1, -1)],
            [torch.arange(2, device=self.device)],
        )
        places = [places[0].expand(count, -1)]
        for index in range(images):
            base = 2 + index * (1 + PATCHES)
            pieces += [self.embedding[self.numbers[index]].expand(count, 1, -1), visual[:, index]]
            places += [torch.full((count, 1), base, device=self.device), base + 1 + keep[:, index]]
        pieces.append(self.embedding[ids])
        steps = torch.arange(ids.shape[1], device=self.device).expand_as(ids)
        first = torch.cat([torch.ones_like(block[:, :1], dtype=torch.bool), block[:, 1:] != block[:, :-1]], 1)
        begin = torch.where(first, steps, 0).cummax(1).values
        places.append(2 + images * (1 + PATCHES) + steps - begin)
        prefix = 2 + images * (1 + kept)
        owner = torch.cat([torch.full((count, prefix), -2, device=self.device), block], 1)
        length = owner.shape[1]
        allowed = (owner.unsqueeze(1) == -2) | (owner.unsqueeze(1) == owner.unsqueeze(2))
        allowed &= torch.ones(length, length, dtype=torch.bool, device=self.device).tril()
        hidden = self.decoder(
            inputs_embeds=torch.cat(pieces, 1).to(torch.float32),
            attention_mask=allowed.unsqueeze(1),
            position_ids=torch.cat(places, 1),
            use_cache=False,
        ).last_hidden_state[:, prefix:]
        asked = target != IGNORE
        logits = (hidden[asked] @ self.embedding.T.to(hidden.dtype)).float()
        truth = target[asked]
        answers = torch.zeros(count, int(block.max()) + 1, device=self.device)
        answers.scatter_add_(1, block.clamp(min=0), asked.float())
        weight = answers.gather(1, block.clamp(min=0))[asked].clamp(min=1).rsqrt()
        each = F.cross_entropy(logits, truth, reduction="none")
        wrong = torch.zeros_like(answers)
        wrong.scatter_add_(
            1,
            block.clamp(min=0),
            torch.zeros_like(asked, dtype=torch.float).masked_scatter(
                asked, (logits.argmax(-1) != truth).float()
            ),
        )
        exact = ((wrong == 0) & (answers > 0)).sum() / (answers > 0).sum()
        return (each * weight).sum() / weight.sum(), {"exact": exact.item()}

    # --- one step ----------------------------------------------------------------------------------------

    def loss(self, stage: str, batch: Batch, progress: float) -> tuple[Tensor, dict[str, float]]:
        """The stage's loss on one batch. progress: 0 to 1 within the stage."""
        count, images = batch.thing.shape[:2]
        pictures = batch.pictures.flatten(0, 1)
        thing, classes, measures = (
            part.flatten(0, 1).to(self.device) for part in (batch.thing, batch.classes, batch.measures)
        )
        if stage == "vision":
            keep = _thin(thing, 96 if progress < 0.9 else PATCHES, prefer_objects=True)
            seen, last = self.encode(pictures, keep)
            projected = self.llava.model.multi_modal_projector(seen)
            classes, measures = _rows(classes, keep), _rows(measures, keep)
            letters = min(0.8, max(0.25, 0.25 + 2.2 * (progress - 0.45)))
            dense, log = self.dense_loss(projected, classes, measures, letters)
            contrast, more = self.clip_loss(last, classes, batch)
            return dense + contrast, log | more
        whole = torch.rand(()) < (0.5 if stage == "joint" and progress > 0.4 else 0.08)
        kept = PATCHES if whole else (64, 96, 128)[int(torch.randint(3, ()))]
        objects = bool(torch.rand(()) < 0.65)
        keep = _thin(thing, kept, prefer_objects=objects)
        early = objects and not whole  # leave them out of the tower as well, which is quicker
        with torch.set_grad_enabled(stage == "joint"):
            seen, last = self.encode(pictures, keep if early else None)
        projected = self.llava.model.multi_modal_projector(seen)
        thinned = (projected if early else _rows(projected, keep)).unflatten(0, (count, images))
        loss, log = self.answer_loss(thinned, keep.unflatten(0, (count, images)), batch)
        if stage == "joint":
            if early:
                classes, measures = _rows(classes, keep), _rows(measures, keep)
            dense, more = self.dense_loss(projected, classes, measures, letters=0.8)
            contrast, most = self.clip_loss(last, classes, batch)
            loss, log = loss + 0.3 * dense + 0.3 * contrast, log | more | most
        return loss, log

    def trained(self, stage: str) -> list[nn.Parameter]:
        """What a stage trains. In "language" the token embeddings stay where the patches point."""
        if stage == "vision":
            parts = [self.tower, self.llava.model.multi_modal_projector, self.text, self.heads, self.joint]
            return [p for part in parts for p in part.parameters()] + [self.clip_scale, self.embedding]
        if stage == "language":
            projector = self.llava.model.multi_modal_projector
            return [*self.decoder.parameters(), *projector.parameters()]
        return list(self.modules.parameters())

    # --- on disk -----------------------------------------------------------------------------------------

    def save(self, stage: str, spent: float, optimizers: list[torch.optim.Optimizer]) -> None:
        state = {
            "world": WORLD_VERSION,
            "size": self.size,
            "stage": stage,
            "spent": spent,
            "modules": self.modules.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in optimizers],
        }
        partial = self.out / "state.partial"
        torch.save(state, partial)
        partial.replace(self.out / "state.pt")

    def export(self, folder: Path) -> None:
        scale, bias = self.clip_scale.detach().cpu().tolist()
        modules = self.modules.to("cpu")
        joint = self.joint.weight.detach()
        export(folder, self.llava, self.tokenizer, self.text, joint, math.exp(scale), bias)
        modules.to(self.device)


def _thin(thing: Tensor, kept: int, prefer_objects: bool) -> Tensor:
    """[P, kept] sorted patch indices: a random choice, objects before background if asked."""
    if kept == thing.shape[1]:
        return torch.arange(kept, device=thing.device).expand(thing.shape[0], -1)
    rank = torch.rand(thing.shape, device=thing.device)
    if prefer_objects:
        rank = rank + (thing >= 0).float() + 0.5 * (thing == -2).float()
    return rank.topk(kept, dim=1).indices.sort(1).values


def _rows(values: Tensor, keep: Tensor) -> Tensor:
    """values [P, N, D], keep [P, M] -> [P, M, D]."""
    return values.gather(1, keep.unsqueeze(-1).expand(-1, -1, values.shape[-1]))


def _optimizers(parameters: list[nn.Parameter], embedding: Tensor) -> list[torch.optim.Optimizer]:
    """Muon for the matrices, AdamW for everything else (embeddings, norms, biases, convolutions)."""
    matrices = [p for p in parameters if p.ndim == 2 and p is not embedding and min(p.shape) >= 16]
    matrices = [p for p in matrices if p.shape[0] <= 4 * p.shape[1] and p.shape[1] <= 4 * p.shape[0]]
    chosen = {id(p) for p in matrices}
    rest = [p for p in parameters if id(p) not in chosen]
    return [
        torch.optim.Muon(matrices, lr=1.0, weight_decay=0.01, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(rest, lr=1.0, betas=(0.9, 0.98), weight_decay=0.0),
    ]


PEAKS = {"vision": (4e-3, 2e-3), "language": (3e-3, 1.5e-3), "joint": (1.2e-3, 8e-4)}
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
    stages = list(STAGES)
    begin, spent = 0, 0.0
    if state:
        trainer.modules.load_state_dict(state["modules"])
        begin, spent = stages.index(state["stage"]), state["spent"]
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
    limit = arguments.minutes * 60 * STAGES[stage]
    if spent >= limit:
        return
    trainer.modules.requires_grad_(False)
    parameters = list({id(p): p for p in trainer.trained(stage)}.values())
    for parameter in parameters:
        parameter.requires_grad_(True)
    optimizers = _optimizers(parameters, trainer.embedding)
    if resumed:
        for optimizer, saved in zip(optimizers, resumed, strict=True):
            optimizer.load_state_dict(saved)
    mix = {1: 1.0} if stage == "vision" else DECODER_MIX
    size = arguments.batch * (1 if stage == "vision" else 0.5)
    seed = f"{arguments.seed}-{stage}-{spent:.0f}"
    stream = Stream(trainer.tokenizer, int(size), 10, mix, seed, signs=SIGNS[stage])
    loader = DataLoader(
        stream, batch_size=None, num_workers=arguments.workers, prefetch_factor=4, persistent_workers=True
    )
    started, saved_at, step, seen = time.monotonic() - spent, time.monotonic(), 0, 0
    running: dict[str, float] = {}
    for batch in loader:
        progress = (time.monotonic() - started) / limit
        rate = _schedule(progress, step + (1000 if resumed else 0))
        for optimizer, peak in zip(optimizers, PEAKS[stage], strict=True):
            for group in optimizer.param_groups:
                group["lr"] = peak * rate
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
