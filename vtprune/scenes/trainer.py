"""The modules that are trained together, their losses, and their state on disk."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from vtprune.scenes import draw, tokens
from vtprune.scenes.dataset import FIELDS, GRID, IGNORE, Batch
from vtprune.scenes.heads import DenseHeads, single_tokens, start_local, start_matching
from vtprune.scenes.model import SIZES, build_llava, build_text_tower, export, tower_layers, tower_of
from vtprune.scenes.world import WORLD_VERSION

PATCHES = GRID * GRID
PIXEL_MEAN = (0.48145466, 0.4578275, 0.40821073)
PIXEL_STD = (0.26862954, 0.26130258, 0.27577711)
VISUAL_NORM = 40.0
"""Length of a projected token: about what the decoder's first layers add to the stream, so that they can
still tell a visual token which image it is in."""
HELPERS = "training.safetensors"
"""Beside an exported model: what only training needs, so that it can go on from there."""


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
        self.recall = nn.ModuleList(nn.Linear(width.decoder_width, width.decoder_width) for _ in range(2))
        self.image = nn.Linear(width.decoder_width, 4)
        self.clip_scale = nn.Parameter(torch.tensor([math.log(10.0), -4.0]))
        parts = {"llava": self.llava, "text": self.text, "heads": self.heads, "joint": self.joint}
        self.modules = nn.ModuleDict(parts | {"recall": self.recall, "image": self.image})
        self.modules.register_parameter("clip_scale", self.clip_scale)
        start_local(tower_of(self.llava))
        start_matching(self.llava.model.language_model)
        self.modules.to(device)
        self.tower = tower_of(self.llava)
        self.decoder: Any = self.llava.model.language_model
        self.embedding: Tensor = self.decoder.embed_tokens.weight
        one, user, image = (self.tokenizer.convert_tokens_to_ids(t) for t in ("<s>", "<|user|>", "<image>"))
        self.start, self.image_token = [one, user], image
        self.numbers = single_tokens(self.tokenizer, ["1", "2", "3", "4"])
        self.mean = torch.tensor(PIXEL_MEAN, device=device).view(3, 1, 1)
        self.kinds_known = 0.0
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
        """projected [P, M, D]; classes [P, M, 8]; measures [P, M, 5]. letters: weight of what signs say, on
        few patches, whose noise would drown the shapes at first."""
        logits, places = self.heads(projected.flatten(0, 1), self.embedding)
        classes = classes.flatten(0, 1)
        weights = (1.0, 0.4, 0.2, letters, letters, letters, 0.2, 0.2)
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
            log[FIELDS[field]] = right.float().mean().item()
        inside = (classes[:, 0] >= 0) & (classes[:, 0] < len(draw.KINDS))
        error = (places - measures.flatten(0, 1))[inside]
        place = F.smooth_l1_loss(error, torch.zeros_like(error), beta=0.05)
        log["place"] = error[:, :2].abs().mean().item()
        return loss + 4.0 * place, log

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

    def answer_loss(
        self, visual: Tensor, keep: Tensor, batch: Batch, recall: bool = True
    ) -> tuple[Tensor, dict[str, float]]:
        """visual [B, n, M, D] projected tokens that stand at patches keep [B, n, M]. Each packed question
        attends to the pictures and to itself, at the positions it would have if it were alone. recall: also
        ask the middle layer for the objects that a question means."""
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
        out = self.decoder(
            inputs_embeds=torch.cat(pieces, 1).to(torch.float32),
            attention_mask=allowed.unsqueeze(1),
            position_ids=torch.cat(places, 1),
            use_cache=False,
            output_hidden_states=True,
        )
        hidden = out.last_hidden_state[:, prefix:]
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
        loss, log = (each * weight).sum() / weight.sum(), {"exact": exact.item()}
        if not recall:
            return loss, log
        # where the answer begins, the middle layer already has to know the objects that the question means
        begins = asked & ~torch.cat([torch.zeros_like(asked[:, :1]), asked[:, :-1]], 1)
        middle = out.hidden_states[len(out.hidden_states) // 2][:, prefix:][begins].float()
        known = F.rms_norm(middle, middle.shape[-1:])
        rows, columns = begins.nonzero()[:, 0], block[begins]
        recalled, more = self.dense_loss(
            torch.stack([head(known) for head in self.recall], 1),
            batch.meant_classes.to(self.device)[rows, columns],
            batch.meant_measures.to(self.device)[rows, columns],
            letters=0.5,
        )
        log |= {f"meant_{name}": more[name] for name in ("kind", "colour", "column", "place") if name in more}
        if images == 1:
            return loss + 0.3 * recalled, log
        # and every visual token which image it belongs to
        early = out.hidden_states[len(out.hidden_states) // 3][:, 2:prefix].float()
        told = self.image(F.rms_norm(early, early.shape[-1:])).unflatten(1, (images, 1 + kept))[:, :, 1:]
        number = torch.arange(images, device=self.device).view(1, -1, 1).expand(told.shape[:3])
        placed = F.cross_entropy(told.flatten(0, 2), number.flatten())
        log["image"] = (told.argmax(-1) == number).float().mean().item()
        return loss + 0.3 * recalled + 0.3 * placed, log

    # --- one step ----------------------------------------------------------------------------------------

    def loss(self, stage: str, batch: Batch, progress: float) -> tuple[Tensor, dict[str, float]]:
        """The stage's loss on one batch. progress: 0 to 1 within the stage."""
        count, images = batch.thing.shape[:2]
        pictures = batch.pictures.flatten(0, 1)
        thing, classes, measures = (
            part.flatten(0, 1).to(self.device) for part in (batch.thing, batch.classes, batch.measures)
        )
        if stage == "vision":
            keep = thin(thing, 96 if progress < 0.9 else PATCHES, prefer_objects=True)
            seen, last = self.encode(pictures, keep)
            projected = self.llava.model.multi_modal_projector(seen)
            classes, measures = _rows(classes, keep), _rows(measures, keep)
            letters = 0.25 + 0.75 * min(1.0, max(0.0, (self.kinds_known - 0.6) / 0.2))
            dense, log = self.dense_loss(projected, classes, measures, letters)
            self.kinds_known += 0.02 * (log["kind"] - self.kinds_known)
            contrast, more = self.clip_loss(last, classes, batch)
            return dense + contrast + _length_loss(projected), log | more
        whole = torch.rand(()) < (0.4 if progress > 0.6 else 0.08)
        kept = PATCHES if whole else (64, 96, 128)[int(torch.randint(3, ()))]
        objects = bool(torch.rand(()) < 0.65)
        keep = thin(thing, kept, prefer_objects=objects)
        early = objects and not whole  # leave them out of the tower as well, which is quicker
        with torch.set_grad_enabled(stage == "joint"):
            seen, last = self.encode(pictures, keep if early else None)
        projected = self.llava.model.multi_modal_projector(seen)
        thinned = (projected if early else _rows(projected, keep)).unflatten(0, (count, images))
        loss, log = self.answer_loss(thinned, keep.unflatten(0, (count, images)), batch)
        loss = loss + _length_loss(projected)
        if stage == "joint":
            if early:
                classes, measures = _rows(classes, keep), _rows(measures, keep)
            dense, more = self.dense_loss(projected, classes, measures, letters=1.0)
            contrast, most = self.clip_loss(last, classes, batch)
            loss, log = loss + dense + 0.3 * contrast, log | more | most
        return loss, log

    def trained(self, stage: str) -> list[nn.Parameter]:
        """What a stage trains. In "language" the token embeddings stay where the patches point."""
        if stage == "vision":
            parts = [self.tower, self.llava.model.multi_modal_projector, self.text, self.heads, self.joint]
            return [p for part in parts for p in part.parameters()] + [self.clip_scale, self.embedding]
        if stage == "language":
            projector = self.llava.model.multi_modal_projector
            parts = [self.decoder, projector, self.recall, self.image]
            return [p for part in parts for p in part.parameters()]
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
        helpers = {k: v.bfloat16() for k, v in modules.state_dict().items() if not k.startswith("llava.")}
        save_file(helpers, folder / HELPERS)
        modules.to(self.device)

    def load(self, folder: Path) -> None:
        """Takes the weights of an exported model of the same size and world."""
        model = type(self.llava).from_pretrained(folder, dtype=torch.float32)
        if getattr(model.config, "world_version", None) != WORLD_VERSION:
            raise ValueError(f"{folder} was not trained on world {WORLD_VERSION}: train from the beginning.")
        state = {f"llava.{name}": value for name, value in model.state_dict().items()}
        self.modules.load_state_dict(state | load_file(folder / HELPERS))


def thin(thing: Tensor, kept: int, prefer_objects: bool) -> Tensor:
    """[P, kept] sorted patch indices: a random choice, objects before background if asked."""
    if kept == thing.shape[1]:
        return torch.arange(kept, device=thing.device).expand(thing.shape[0], -1)
    rank = torch.rand(thing.shape, device=thing.device)
    if prefer_objects:
        rank = rank + (thing >= 0).float() + 0.5 * (thing == -2).float()
    return rank.topk(kept, dim=1).indices.sort(1).values


def _length_loss(projected: Tensor) -> Tensor:
    """Keeps the length of projected tokens [P, M, D] near VISUAL_NORM; the losses on angles let it grow."""
    return 0.1 * (projected.float().norm(dim=-1) / VISUAL_NORM).log().square().mean()


def _rows(values: Tensor, keep: Tensor) -> Tensor:
    """values [P, N, D], keep [P, M] -> [P, M, D]."""
    return values.gather(1, keep.unsqueeze(-1).expand(-1, -1, values.shape[-1]))
