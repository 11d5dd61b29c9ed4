"""The visual tokens that are alive between two selections, in the numbering of the original ones."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from vtprune.types import Segment, Selection, Signals, Stage

ROWS = (
    "features",
    "cls_attention",
    "received_attention",
    "keys",
    "clip_patches",
    "vision_features",
    "shallow_attention",
    "middle_attention",
    "headless_attention",
)
"""Signals with a row for each visual token."""


@dataclass(frozen=True)
class Alive:
    """Visual tokens in the order of the sequence.

    signals: all that is known of them so far; its `features` are only up to date during a selection.
    ids [M] int64: numbers of the original tokens 0 .. N-1; tokens made by merging go on from N.
    places [M] int64: in the unpruned prompt; a merged token shares the place of its image's last token.
    next_id: number of the next merged token.
    """

    signals: Signals
    ids: Tensor
    places: Tensor
    next_id: int

    @classmethod
    def start(cls, signals: Signals, places: Tensor) -> Alive:
        """All N tokens. places [N] int64 in the prompt."""
        ids = torch.arange(len(places), device=places.device)
        return cls(signals, ids, places, len(places))

    @property
    def count(self) -> int:
        return len(self.ids)

    def apply(
        self, selection: Selection, features: Iterable[Tensor], last: Tensor
    ) -> tuple[Alive, list[Tensor]]:
        """Who is alive after a selection, and their features.

        features: each [M, D] of any dtype; merging is done in float32. last [images] int64: place of each
        image's last original token. Tokens made by merging go behind the kept ones of the image that weighs
        most in them.
        """
        keep = selection.keep.to(self.ids.device)
        kept = Alive(self.signals.take(keep), self.ids[keep], self.places[keep], self.next_id)
        if selection.merge is None:
            return kept, [mine[keep] for mine in features]
        merged = [(selection.merge @ mine.float()).to(mine.dtype) for mine in features]
        if not selection.extra:
            return kept, merged
        alive, rows = self._with_extras(kept, selection, last)
        return alive, [mine[rows] for mine in merged]

    def _with_extras(self, kept: Alive, selection: Selection, last: Tensor) -> tuple[Alive, Tensor]:
        """Who is alive, and [K + extra] int64: their rows of the merge matrix."""
        assert selection.merge is not None
        weights = selection.merge.to_dense()[kept.count :]
        image_ids = self.signals.image_ids()
        images = self.signals.images
        mass = torch.stack([weights[:, image_ids == image].abs().sum(1) for image in images], 1)
        owners = [images[i] for i in mass.argmax(1).tolist()]
        # a merged token has the average of what the method read of its parts
        average = weights / weights.sum(1, keepdim=True).clamp(min=1e-12)

        order: list[int] = []  # per image the kept ones and then its extras
        segments: list[Segment] = []
        ending = {segment.image: i for i, segment in enumerate(kept.signals.segments)}
        for i, segment in enumerate(kept.signals.segments):
            begin = len(order)
            order += range(segment.start, segment.stop)
            extras = [kept.count + e for e, owner in enumerate(owners) if owner == segment.image]
            if extras and ending[segment.image] == i:
                order += extras
                boxes = torch.cat([segment.boxes, segment.boxes.new_zeros(len(extras), 4)])
                segment = dataclasses.replace(segment, grid=(1, len(boxes)), length=len(boxes), boxes=boxes)
            segments.append(dataclasses.replace(segment, start=begin))
        rows = torch.tensor(order, device=self.ids.device)

        def grow(mine: Tensor | None, theirs: Tensor | None) -> Tensor | None:
            return None if mine is None or theirs is None else torch.cat([mine, average @ theirs])[rows]

        def widen(name: str) -> Any:
            return grow(getattr(kept.signals, name), getattr(self.signals, name))

        grown: dict[str, Any] = {name: widen(name) for name in ROWS}
        signals = dataclasses.replace(kept.signals, segments=tuple(segments), **grown)
        new_ids = torch.arange(self.next_id, self.next_id + len(owners), device=rows.device)
        new_places = last[torch.tensor(owners, device=rows.device)]
        alive = Alive(
            signals,
            torch.cat([kept.ids, new_ids])[rows],
            torch.cat([kept.places, new_places])[rows],
            self.next_id + len(owners),
        )
        return alive, rows

    def stage(self, selection: Selection, name: str, layer: int | None, images: int) -> Stage:
        """The record of a selection made from these tokens; `seconds` is filled in later."""
        ids = self.ids.tolist()
        keep = [ids[i] for i in selection.keep.tolist()]
        owners = self.signals.image_ids()[selection.keep.to(self.ids.device)]
        rows: list[int] = []
        cols: list[int] = []
        weights: list[float] = []
        if selection.merge is not None:
            merge = selection.merge.to_sparse_coo().coalesce()
            rows = merge.indices()[0].tolist()
            cols = [ids[i] for i in merge.indices()[1].tolist()]
            weights = merge.values().tolist()
        scores = None if selection.scores is None else torch.nan_to_num(selection.scores.float()).tolist()
        return Stage(
            name=name,
            layer=layer,
            before=len(ids),
            after=len(keep) + selection.extra,
            keep=keep,
            order=None if selection.order is None else [ids[i] for i in selection.order.tolist()],
            scored=[] if scores is None else ids,
            scores=scores or [],
            merge_rows=rows,
            merge_cols=cols,
            merge_weights=weights,
            extra=selection.extra,
            per_image=torch.bincount(owners, minlength=images).tolist(),
            info={key: _plain(value) for key, value in selection.info.items()},
        )


def _plain(value: Any) -> Any:
    """Tensors as numbers and lists, so that a stage can be written as JSON."""
    if isinstance(value, Tensor):
        return value.tolist()
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value


@dataclass(frozen=True)
class Sequence:
    """Text and visual tokens as one sequence. hidden [n, D], places [n] in the unpruned prompt; text_rows,
    visual_rows: which rows are which, both ascending."""

    hidden: Tensor
    places: Tensor
    text_rows: Tensor
    visual_rows: Tensor


def weave(text: Tensor, text_places: Tensor, visual: Tensor, places: Tensor) -> Sequence:
    """Put text tokens [T, D] and visual tokens [M, D] in the order of their places; ties keep their order."""
    everywhere = torch.cat([text_places, places])
    order = torch.argsort(everywhere, stable=True)
    back = torch.empty_like(order)
    back[order] = torch.arange(len(order), device=order.device)
    split = len(text_places)
    return Sequence(torch.cat([text, visual])[order], everywhere[order], back[:split], back[split:])
