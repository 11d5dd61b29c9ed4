"""The greedy kernels as one would first write them: float32, a Python loop over the picks and, in it, over
the candidates; what a candidate is worth is one expression over those chosen, straight from the formula.

They pick the same tokens as the kernels up to rounding, and say what the kernels save.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from vtprune import kernels
from vtprune.types import Signals


def best(n: int, k: int, gain: Callable[[int], float], chose: Callable[[int], None]) -> list[int]:
    """k times the candidate that gains most, ties to the lower index; `chose` is told of every pick."""
    left, chosen = list(range(n)), []
    for _ in range(k):
        pick = max(left, key=gain)
        left.remove(pick)
        chosen.append(pick)
        chose(pick)
    return chosen


def logdet(features: Tensor, k: int) -> list[int]:
    """The determinant grows by the squared distance to the span of those chosen."""
    basis = features[:0]

    def gain(i: int) -> float:
        return float(features[i].square().sum() - (basis @ features[i]).square().sum())

    def chose(i: int) -> None:
        nonlocal basis
        new = features[i]
        for _ in range(2):  # Gram-Schmidt, twice for float32's sake
            new = new - basis.T @ (basis @ new)
        basis = torch.cat([basis, (new / new.norm())[None]])

    return best(len(features), k, gain, chose)


def coverage(similarity: Tensor, k: int) -> list[int]:
    """similarity: [R, N], what column i does for row r."""
    columns = similarity.T.contiguous()
    cover = torch.zeros_like(columns[0])

    def gain(i: int) -> float:
        return float((columns[i] - cover).clamp(min=0).sum())

    def chose(i: int) -> None:
        nonlocal cover
        cover = torch.maximum(cover, columns[i])

    return best(len(columns), k, gain, chose)


def energy(start: Tensor, matrix: Tensor, k: int) -> list[int]:
    """matrix: [N, N], row j is what a chosen j adds to everyone."""
    columns, chosen = matrix.T.contiguous(), start.new_empty(0, dtype=torch.int64)

    def gain(i: int) -> float:
        return -float(columns[i][chosen].sum() if len(chosen) else start[i])

    def chose(i: int) -> None:
        nonlocal chosen
        chosen = torch.cat([chosen, chosen.new_tensor([i])])

    return best(len(start), k, gain, chose)


def repmax(features: Tensor, k: int) -> list[int]:
    """Least like all others, then least like those chosen."""
    unit = kernels.normalize(features)
    total, chosen = unit.sum(0), unit[:0]

    def gain(i: int) -> float:
        return -float((chosen @ unit[i]).mean() if len(chosen) else unit[i] @ total)

    def chose(i: int) -> None:
        nonlocal chosen
        chosen = torch.cat([chosen, unit[i : i + 1]])

    return best(len(unit), k, gain, chose)


def farthest_point(features: Tensor, k: int) -> list[int]:
    """Farthest from its nearest neighbour, then from the nearest of those chosen."""
    unit = kernels.normalize(features)
    chosen = unit[:0]

    def gain(i: int) -> float:
        others = chosen if len(chosen) else torch.cat([unit[:i], unit[i + 1 :]])
        return float((1 - others @ unit[i]).min())

    def chose(i: int) -> None:
        nonlocal chosen
        chosen = torch.cat([chosen, unit[i : i + 1]])

    return best(len(unit), k, gain, chose)


def suppression(
    scores: Tensor, features: Tensor, k: int, limit: float, group: Tensor, quota: Tensor
) -> list[int]:
    """By falling score; who is too like one chosen in the same group waits until the end."""
    unit, groups, left = kernels.normalize(features), group.tolist(), quota.tolist()
    same: list[list[int]] = [[] for _ in left]
    order: list[int] = []
    waiting: list[int] = []

    def take(i: int) -> None:
        order.append(i)
        left[groups[i]] -= 1

    for i in kernels.rank(scores).tolist():
        if len(order) == k:
            break
        mine = same[groups[i]]
        if mine and bool((unit[mine] @ unit[i] > limit).any()):
            waiting.append(i)
        elif left[groups[i]]:
            mine.append(i)
            take(i)
    for i in waiting:
        if left[groups[i]]:
            take(i)
    return order


@dataclass(frozen=True)
class Pair:
    """A kernel and its reference on the same input; both give the picks in order."""

    kernel: Callable[[], Tensor]
    reference: Callable[[], list[int]]


def pairs(signals: Signals, k: int) -> dict[str, Pair]:
    """Every greedy kernel on these signals (features and cls_attention), float32."""
    x, scores = signals.features, signals.cls_attention
    assert scores is not None
    n = len(x)
    unit = kernels.normalize(x)
    cosine = unit @ unit.T
    energies, start = cosine + 1, (cosine + 1).sum(1)
    group = torch.arange(n, device=x.device) * 4 // n
    quota = torch.full((4,), k // 4, device=x.device)
    quota[: k % 4] += 1
    limit = 0.8
    return {
        "greedy_logdet": Pair(lambda: kernels.greedy_logdet(x, k), lambda: logdet(x, k)),
        "greedy_coverage": Pair(lambda: kernels.greedy_coverage(cosine, k), lambda: coverage(cosine, k)),
        "greedy_energy": Pair(
            lambda: kernels.greedy_energy(start, energies.__getitem__, k), lambda: energy(start, energies, k)
        ),
        "repmax": Pair(lambda: kernels.repmax(x, k), lambda: repmax(x, k)),
        "farthest_point": Pair(lambda: kernels.farthest_point(x, k), lambda: farthest_point(x, k)),
        "greedy_suppression": Pair(
            lambda: kernels.greedy_suppression(scores, x, k, limit, group, quota),
            lambda: suppression(scores, x, k, limit, group, quota),
        ),
    }
