"""The few algorithms that all selectors are made of: tensors in, indices out.

Every kernel takes one set of N tokens (no batch), runs where its input lives, is deterministic and breaks
ties by the lower index. Loops run over the K picks, never over the N tokens. Inputs are float32.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Rows = Callable[[Tensor], Tensor]
"""Maps indices [M] to rows [M, N] of an N x N matrix that is never held as a whole."""

CHUNK = 512
"""Rows of an N x N matrix that are held at once where a sum or minimum over all pairs is needed."""

BLOCK = 128
"""Tokens that are looked at together where most often the first ones settle it."""

HELD = 1024
"""Up to this many tokens an N x N matrix is held: one large product beats many small ones."""


def rank(scores: Tensor) -> Tensor:
    """All N indices by falling score, ties by the lower index. scores: [N]. -> [N] int64."""
    return torch.argsort(scores, descending=True, stable=True)


def topk(scores: Tensor, k: int) -> Tensor:
    """The k highest scores, best first, ties by the lower index. scores: [N]. -> [k] int64."""
    return rank(scores)[:k]


def rank_within(scores: Tensor, group: Tensor) -> Tensor:
    """The place of every token inside its group, 0 = highest score, ties by the lower index.

    scores: [N]. group: [N] int64 >= 0. -> [N] int64.
    """
    order = rank(scores)
    order = order[torch.argsort(group[order], stable=True)]
    size = torch.bincount(group)
    first = size.cumsum(0) - size
    place = torch.empty_like(order)
    place[order] = torch.arange(len(order), device=order.device) - first[group[order]]
    return place


def normalize(x: Tensor) -> Tensor:
    """Rows of unit length; a zero row stays zero. x: [N, D]. -> [N, D]."""
    return x / x.norm(dim=-1, keepdim=True).clamp(min=1e-12)


def minmax(scores: Tensor) -> Tensor:
    """Scores stretched to [0, 1]; all zero when they are constant. scores: [N]. -> [N]."""
    low, high = scores.min(), scores.max()
    return (scores - low) / (high - low).clamp(min=1e-12)


def cosine_rows(features: Tensor) -> Rows:
    """Rows of the cosine similarity matrix of features [N, D]; held as a whole only when that is small."""
    unit = normalize(features)
    if len(unit) <= HELD:
        whole = unit @ unit.T
        return lambda index: whole[index]
    return lambda index: unit[index] @ unit.T


def greedy_logdet(
    features: Tensor,
    k: int,
    quality: Tensor | None = None,
    ridge: float = 0.0,
    tolerance: float = 1e-6,
    fill: Tensor | None = None,
) -> Tensor:
    """Greedy maximisation of log det L_S for L = diag(q) V V^T diag(q) + ridge * I.

    The next token is the one with the largest residual d_i, the squared distance of q_i v_i to the span of
    what is chosen; d follows from one row of the Cholesky factor a pick. Once every residual is below
    `tolerance` times the largest initial one, nothing is left to tell tokens apart and the rest follows
    `fill`.

    features V: [N, D]. quality q: [N] or None for ones. fill: [N] or None for q. -> [k] int64 in pick order.
    """
    n = features.shape[0]
    scaled = features if quality is None else features * quality[:, None]
    residual = scaled.square().sum(-1) + ridge
    floor = tolerance * residual.max()
    factor = features.new_empty(k, n)
    chosen = torch.zeros(n, dtype=torch.bool, device=features.device)
    picks, left = [], []
    for step in range(k):
        j = residual.masked_fill(chosen, -torch.inf).argmax(0, keepdim=True)
        value = residual[j]
        picks.append(j)
        left.append(value)
        chosen[j] = True
        row = (scaled @ scaled[j].T).squeeze(1)
        row -= factor[:step].T @ factor[:step, j].squeeze(1)
        factor[step] = row / value.clamp(min=1e-30).sqrt()
        residual = (residual - factor[step].square()).clamp(min=0)
    order = torch.cat(picks)
    told = int((torch.cat(left) > floor).int().cumprod(0).sum())
    if told == k:
        return order
    if fill is None:
        fill = residual.new_ones(n) if quality is None else quality
    return complete(order[:told], fill)[:k]


def complete(order: Tensor, fill: Tensor) -> Tensor:
    """A partial order followed by all other indices by falling `fill` [N]. -> [N] int64."""
    rest = torch.ones(len(fill), dtype=torch.bool, device=fill.device)
    rest[order] = False
    tail = rank(fill)
    return torch.cat([order, tail[rest[tail]]])


def greedy_coverage(
    similarity: Tensor,
    k: int,
    weight: Tensor | None = None,
    bonus: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:
    """Greedy facility location: gain_i = sum_r max(0, M_ri - cover_r) with cover_r = max(0, max_{j in S}
    M_rj).

    similarity M: [R, N], what column i does for row r. weight: [N], multiplies the gain. bonus: called with
    the chosen indices so far [t], gives [N] to add to the weighted gain. -> [k] int64 in pick order.
    """
    cover = similarity.new_zeros(len(similarity))
    gain = similarity.clamp(min=0).sum(0, dtype=torch.float64)
    chosen = torch.zeros(similarity.shape[1], dtype=torch.bool, device=similarity.device)
    picks = torch.empty(k, dtype=torch.int64, device=similarity.device)
    for step in range(k):
        value = gain if weight is None else gain * weight
        if bonus is not None:
            value = value + bonus(picks[:step])
        j = value.masked_fill(chosen, -torch.inf).argmax(0, keepdim=True)
        picks[step : step + 1] = j
        chosen[j] = True
        # only rows that j covers better than before change any gain, and soon these are few
        column = similarity[:, j].squeeze(1)
        better = (column > cover).nonzero().squeeze(1)
        rows, old, new = similarity[better], cover[better, None], column[better, None]
        gain -= ((rows - old).clamp_(min=0) - (rows - new).clamp_(min=0)).sum(0, dtype=torch.float64)
        cover[better] = column[better]
    return picks


def greedy_energy(start: Tensor, rows: Rows, k: int, carry: bool = False) -> Tensor:
    """Picks argmin of `start`, then again and again the token with the least energy U_i = sum_{j in S} R_ji.

    carry: energies do not begin at zero but at `start`, as when some tokens were chosen before.
    start: [N]. rows: rows of the energy matrix R. -> [k] int64 in pick order.
    """
    energy = start if carry else torch.zeros_like(start)
    chosen = torch.zeros(len(start), dtype=torch.bool, device=start.device)
    picks = []
    for step in range(k):
        j = (start if step == 0 else energy).masked_fill(chosen, torch.inf).argmin(0, keepdim=True)
        picks.append(j)
        chosen[j] = True
        energy = energy + rows(j).squeeze(0)
    return torch.cat(picks)


def repmax(features: Tensor, k: int, rounds: int | None = None) -> Tensor:
    """First the token least like all others, then always the one least like those chosen (mean cosine).

    rounds: None for the exact order. Otherwise k is reached in about that many rounds over all tokens, each
    of which fills one share of k from the four times as many tokens that were least alike when it began;
    between the rounds only the sum of the chosen unit vectors is needed, so the N x N matrix is never held.
    features: [N, D]. -> [k] int64 in pick order.
    """
    unit = normalize(features)
    start = unit @ unit.sum(0)
    if rounds is None or k <= rounds:
        return greedy_energy(start, cosine_rows(features), k)
    block = -(-k // rounds)
    chosen = torch.zeros(len(unit), dtype=torch.bool, device=unit.device)
    total = torch.zeros_like(unit[0])
    picks: list[Tensor] = []
    for done in range(0, k, block):
        energy = unit @ total if picks else start
        count = min(block, k - done)
        near = topk(-energy.masked_fill(chosen, torch.inf), 4 * count)
        near = near[~chosen[near]]
        among = unit[near] @ unit[near].T
        taken = near[greedy_energy(energy[near], among.__getitem__, count, carry=bool(picks))]
        picks.append(taken)
        chosen[taken] = True
        total = total + unit[taken].sum(0)
    return torch.cat(picks)


def farthest_point(features: Tensor, k: int) -> Tensor:
    """Farthest point sampling under 1 - cos; the first is the token farthest from its nearest neighbour.

    What is chosen is masked, so k distinct tokens come back even if all are equal.
    features: [N, D]. -> [k] int64 in pick order.
    """
    rows = cosine_rows(features)
    every = torch.arange(len(features), device=features.device)
    nearest = []
    for index in every.split(CHUNK):
        cosine = rows(index)
        cosine[torch.arange(len(index), device=index.device), index] = -torch.inf
        nearest.append(1 - cosine.amax(1))
    chosen = torch.zeros(len(features), dtype=torch.bool, device=features.device)
    distance, picks = torch.cat(nearest), []
    for step in range(k):
        j = distance.masked_fill(chosen, -torch.inf).argmax(0, keepdim=True)
        picks.append(j)
        chosen[j] = True
        to_pick = 1 - rows(j).squeeze(0)
        distance = to_pick if step == 0 else torch.minimum(distance, to_pick)
    return torch.cat(picks)


def greedy_suppression(
    scores: Tensor, features: Tensor, k: int, limit: float, group: Tensor, quota: Tensor
) -> Tensor:
    """Non-maximum suppression: by falling score, but tokens too like one chosen in their group come last.

    A group stops at its quota. Who stays is settled in blocks from the front, until all quotas are met:
    inside a block all tokens are looked at together, again and again until nothing changes, which takes as
    many rounds as the longest chain of tokens that suppress one another, mostly a few.

    scores: [N]. features: [N, D], alike above a cosine of `limit`. group: [N] int64. quota: [G] int64 with
    sum k, none above its group's size. -> [k] int64 in pick order.
    """
    n = len(scores)
    order = rank(scores)
    unit, owner = normalize(features)[order], group[order]
    stays = torch.zeros(n, dtype=torch.bool, device=scores.device)
    places = torch.arange(n, device=scores.device)

    def alike(rows: Tensor, columns: Tensor) -> Tensor:
        return (unit[rows] @ unit[columns].T > limit) & (owner[rows, None] == owner[columns])

    for block in places.split(max(BLOCK, k)):
        free = ~alike(block, places[stays]).any(1)
        before = alike(block, block).triu_(1).to(unit.dtype)
        now = free
        while not torch.equal(then := free & (now.to(unit.dtype) @ before == 0), now):
            now = then
        stays[block] = now
        if bool((torch.bincount(owner[stays], minlength=len(quota)) >= quota).all()):
            break
    value = torch.empty(n, dtype=torch.int64, device=scores.device)
    value[order] = n - places + n * stays
    within = rank_within(value, group) < quota[group]
    best = rank(value)
    return best[within[best]]


def iqr_outliers(scores: Tensor, factor: float = 1.5) -> Tensor:
    """Which scores lie above Q3 + factor * (Q3 - Q1). scores: [N]. -> [N] bool."""
    low, high = torch.quantile(scores, torch.tensor([0.25, 0.75], device=scores.device, dtype=scores.dtype))
    return scores > high + factor * (high - low)


def waterfill(weight: Tensor, cap: Tensor, total: int, floor: int) -> Tensor:
    """Shares `total` among G groups in proportion to weight, none below `floor` and none above its cap.

    The level s solves sum_g clip(s * weight_g, floor_g, cap_g) = total (bisection); whole numbers follow by
    largest remainder. A floor that the total cannot pay is lowered to total // G, and never exceeds a cap.

    weight: [G] >= 0 (all zero counts as all equal). cap: [G] int64 >= 1. G <= total <= sum(cap). -> [G]
    int64.
    """
    groups = len(weight)
    if not 0 <= total <= int(cap.sum()):
        raise ValueError(f"cannot share {total} tokens among {groups} groups that hold {int(cap.sum())}.")
    cap = cap.double()
    low = cap.clamp(max=min(floor, total // groups))
    weight = weight.double()
    # a group of weight zero still has to be able to take what the others cannot
    weight = weight / weight.sum().clamp(min=1e-30) + 1e-9
    left, right = 0.0, float(cap.max() / weight.min())
    for _ in range(100):
        middle = (left + right) / 2
        if float((middle * weight).clamp(low, cap).sum()) < total:
            left = middle
        else:
            right = middle
    share = (right * weight).clamp(low, cap)
    whole = (share + 1e-6).floor()
    missing = total - int(whole.sum())
    open_first = torch.where(whole < cap, share - whole, -torch.inf)
    whole[topk(open_first, missing)] += 1
    return whole.long()


def nondominated_order(points: Tensor, k: int) -> Tensor:
    """Non-dominated sorting for two objectives (both: more is better), crowded points last within a front.

    points: [P, 2]. -> [k] int64: fronts one after another, each by falling crowding distance.
    """
    unique, group = torch.unique(points, dim=0, return_inverse=True)
    # rows of `unique` ascend by the first objective, then the second: walked backwards, a point is on the
    # front exactly when its second objective beats all before it
    second = unique[:, 1].flip(0)
    group = len(unique) - 1 - group
    alive = torch.ones_like(second, dtype=torch.bool)
    parts: list[Tensor] = []
    while sum(map(len, parts)) < k:
        best = second.masked_fill(~alive, -torch.inf).cummax(0).values
        before = torch.cat([best.new_full((1,), -torch.inf), best[:-1]])
        front = alive & (second > before)
        alive &= ~front
        members = front[group].nonzero().squeeze(1)
        parts.append(members[rank(crowding(points[members]))])
    return torch.cat(parts)[:k]


def crowding(points: Tensor) -> Tensor:
    """Crowding distance in one front: the sum over objectives of the gap between both neighbours, relative to
    the objective's range; infinite at either end. points: [P, 2]. -> [P]."""
    distance = torch.zeros_like(points[:, 0])
    for column in points.T:
        order = torch.argsort(column, stable=True)
        sorted_ = column[order]
        span = (sorted_[-1] - sorted_[0]).clamp(min=1e-12)
        gap = torch.full_like(column, torch.inf)
        gap[1:-1] = (sorted_[2:] - sorted_[:-2]) / span
        distance[order] += gap
    return distance


def spectral_energy(features: Tensor, rank_limit: int, exact: bool | None = None, seed: int = 0) -> Tensor:
    """Share of |X|_F^2 that the k strongest singular directions hold, k = 1 ... rank_limit (or fewer).

    exact: eigenvalues of the smaller Gram matrix, in float32 (its shares are right to about 1e-6); otherwise
    a randomised SVD (see column_basis), which under-estimates the energy slightly. None: exact when N or D is
    at most 1,024. X is not centred.
    features X: [N, D]. -> [min(N, D, rank_limit)] float64, rising, on the input's device.
    """
    n, d = features.shape
    limit = min(n, d, rank_limit)
    total = features.square().sum(dtype=torch.float64)  # without a float64 copy, which takes milliseconds
    if exact is None:
        exact = min(n, d) <= 1024
    if exact:
        small = features if n <= d else features.T
        values = torch.linalg.eigvalsh(small @ small.T).double().flip(0)[:limit]
    else:
        small = (column_basis(features, limit, seed).T @ features).double()
        values = torch.linalg.eigvalsh(small @ small.T).flip(0)[:limit]
    tiny = 1e-30  # an image of zeros: all of its energy is there from the start
    return ((values.clamp(min=0).cumsum(0) + tiny) / (total + tiny)).clamp(max=1)


def column_basis(features: Tensor, limit: int, seed: int = 0) -> Tensor:
    """Orthonormal columns that nearly hold the `limit` strongest left singular directions of X, by random
    projection with ten extra directions and two power iterations.

    features X: [N, D]. -> [N, min(N, D, limit + 10)].
    """
    n, d = features.shape
    generator = torch.Generator().manual_seed(seed)
    basis = features @ torch.randn(d, min(n, d, limit + 10), generator=generator).to(features)
    for _ in range(2):
        basis = torch.linalg.qr(features @ (features.T @ basis)).Q
    return basis


def assign_to_nearest(sources: Tensor, targets: Tensor) -> Tensor:
    """For every source the target of highest cosine, ties by the lower index.

    sources: [M, D]. targets: [T, D]. -> [M] int64 into targets.
    """
    unit, goal = normalize(sources), normalize(targets)
    parts = [(unit[low : low + CHUNK] @ goal.T).argmax(1) for low in range(0, len(unit), CHUNK)]
    return torch.cat(parts) if parts else torch.empty(0, dtype=torch.int64, device=sources.device)
