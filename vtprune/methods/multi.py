"""Several images in one sequence of visual tokens: sharing the budget and putting selections together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from vtprune.types import Selection, Signals


def interleave(counts: Sequence[int]) -> Tensor:
    """Whose turn it is: a sequence of group numbers whose first K entries share K among the groups.

    Every group gets one first; the rest is shared in proportion to `counts` by the highest-averages rule with
    odd divisors (Sainte-Lague). Unlike largest remainder, with which it agrees but for rare cases, a larger K
    never takes a token away from a group: that makes one combined order exact for every K. After sum(counts)
    turns each group had exactly its count. -> [sum(counts)] int64.
    """
    groups, claims = [], []
    for group, count in enumerate(counts):
        claim = count / (torch.arange(count, dtype=torch.float64) + 0.5)
        claim[:1] = torch.inf
        claims.append(claim)
        groups.append(torch.full((count,), group, dtype=torch.int64))
    return torch.cat(groups)[torch.argsort(torch.cat(claims), descending=True, stable=True)]


def lead_each_image(order: Tensor, signals: Signals) -> Tensor:
    """The same order [N] with the first token of each image moved to the front."""
    images = signals.images
    if len(images) == 1:
        return order
    ids = signals.image_ids()[order]
    first = torch.stack([(ids == image).int().argmax() for image in images]).sort().values
    rest = torch.ones(len(order), dtype=torch.bool, device=order.device)
    rest[first] = False
    return torch.cat([order[first], order[rest]])


def real_tokens(signals: Signals) -> Tensor:
    """[N] bool: false for padding (an empty box), except in an image that has nothing else."""
    boxes = torch.cat([segment.boxes for segment in signals.segments]).to(signals.features.device)
    real = (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])
    ids = signals.image_ids()
    for image in signals.images:
        inside = ids == image
        if not bool(real[inside].any()):
            real = real | inside
    return real


def combine(
    parts: Sequence[Selection], rows: Sequence[Tensor], turns: Tensor, n: int, k: int | None, padding: Tensor
) -> Selection:
    """One selection over all N tokens from one for each group.

    parts[g] refers to the tokens rows[g]; turns: see `interleave`; padding tokens fill up what is missing
    to k.
    """
    if len(parts) == 1 and not len(padding):
        return parts[0]
    kept = torch.cat([own[part.keep] for part, own in zip(parts, rows, strict=True)])
    spare = padding[: 0 if k is None else max(0, k - len(kept) - sum(part.extra for part in parts))]
    keep = torch.cat([kept, spare]).sort().values
    info: dict[str, Any] = parts[0].info
    if len(parts) > 1:
        info = {"images": [part.info for part in parts]} if any(part.info for part in parts) else {}
    return Selection(
        keep=keep,
        order=_order(parts, rows, turns, padding, k),
        scores=_scores(parts, rows, n),
        merge=_merge(parts, rows, n, keep, spare),
        extra=sum(part.extra for part in parts),
        info=info,
    )


def _order(
    parts: Sequence[Selection], rows: Sequence[Tensor], turns: Tensor, padding: Tensor, k: int | None
) -> Tensor | None:
    orders = [own[part.order] for part, own in zip(parts, rows, strict=True) if part.order is not None]
    if len(orders) < len(parts) or (k is None and len(parts) > 1):
        return None
    if len(parts) == 1:
        order = orders[0]
    else:
        whole = all(len(order) == len(own) for order, own in zip(orders, rows, strict=True))
        turns = (turns if whole else turns[:k]).to(orders[0].device)
        order = torch.empty(len(turns), dtype=torch.int64, device=turns.device)
        for group, own_order in enumerate(orders):
            mine = turns == group
            order[mine] = own_order[: int(mine.sum())]
    return torch.cat([order, padding]) if len(order) == len(turns) else order


def _scores(parts: Sequence[Selection], rows: Sequence[Tensor], n: int) -> Tensor | None:
    if any(part.scores is None for part in parts):
        return None
    values = [part.scores for part in parts if part.scores is not None]
    # padding is never kept before a real token, so it may not look better than any
    scores = values[0].new_full((n,), float(torch.cat(values).min()))
    for value, own in zip(values, rows, strict=True):
        scores[own] = value
    return scores


def _merge(
    parts: Sequence[Selection], rows: Sequence[Tensor], n: int, keep: Tensor, spare: Tensor
) -> Tensor | None:
    if all(part.merge is None for part in parts):
        return None
    row, col, weight = (
        [torch.searchsorted(keep, spare)],
        [spare],
        [torch.ones(len(spare), device=keep.device)],
    )
    extras = len(keep)
    for part, own in zip(parts, rows, strict=True):
        place = torch.searchsorted(keep, own[part.keep])
        place = torch.cat([place, extras + torch.arange(part.extra, device=keep.device)])
        extras += part.extra
        if part.merge is None:
            row, col, weight = (
                [*row, place],
                [*col, own[part.keep]],
                [*weight, weight[0].new_ones(len(place))],
            )
            continue
        matrix = part.merge.coalesce()
        row.append(place[matrix.indices()[0]])
        col.append(own[matrix.indices()[1]])
        weight.append(matrix.values())
    indices = torch.stack([torch.cat(row), torch.cat(col)])
    return torch.sparse_coo_tensor(indices, torch.cat(weight), (extras, n), check_invariants=False).coalesce()


def share(signals: Signals, k: int) -> list[int]:
    """k shared among the segments (tiles) of one image by their size; a small one may get none."""
    return apportion([segment.length for segment in signals.segments], k)


def apportion(counts: Sequence[int], k: int) -> list[int]:
    """k shared among groups in proportion to `counts`, as in :func:`interleave` but without a first turn
    each."""
    claims = [count / (torch.arange(count, dtype=torch.float64) + 0.5) for count in counts]
    owner = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    turns = owner[torch.argsort(torch.cat(claims), descending=True, stable=True)]
    return [*torch.bincount(turns[:k], minlength=len(counts)).tolist()]
