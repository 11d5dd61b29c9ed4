"""Every kernel against a reference written straight from its formula, in float64 and with loops."""

import pytest
import torch

from vtprune import kernels
from vtprune.kernels import (
    assign_to_nearest,
    crowding,
    farthest_point,
    greedy_coverage,
    greedy_energy,
    greedy_logdet,
    greedy_suppression,
    iqr_outliers,
    minmax,
    nondominated_order,
    rank,
    rank_within,
    repmax,
    spectral_energy,
    topk,
    waterfill,
)


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def cosines(x: torch.Tensor) -> torch.Tensor:
    x = x.double()
    return torch.tensor(
        [[float(a @ b / (a.norm() * b.norm()).clamp(min=1e-12)) for b in x] for a in x], dtype=torch.float64
    )


class TestTopk:
    def test_is_sorted_by_score_then_index(self):
        scores = torch.tensor([1.0, 3.0, 2.0, 3.0, 1.0, 3.0])
        expected = sorted(range(6), key=lambda i: (-float(scores[i]), i))
        assert rank(scores).tolist() == expected
        assert topk(scores, 4).tolist() == expected[:4]

    def test_ties_go_to_the_lower_index_in_long_inputs(self):
        assert topk(torch.zeros(5000), 50).tolist() == list(range(50))

    def test_rank_within(self):
        scores, group = random(40, seed=1).round(), torch.arange(40) % 3
        place = rank_within(scores, group)
        for g in range(3):
            own = [i for i in range(40) if i % 3 == g]
            ordered = sorted(own, key=lambda i: (-float(scores[i]), i))
            assert [int(place[i]) for i in ordered] == list(range(len(own)))

    def test_minmax(self):
        assert minmax(torch.tensor([2.0, 4.0, 3.0])).tolist() == [0.0, 1.0, 0.5]
        assert minmax(torch.full((3,), 7.0)).tolist() == [0.0, 0.0, 0.0]


def naive_logdet(x: torch.Tensor, k: int, q: torch.Tensor | None = None, ridge: float = 0.0) -> list[int]:
    """Greedy log det, every determinant computed anew."""
    x = x.double()
    q = torch.ones(len(x), dtype=torch.float64) if q is None else q.double()
    kernel = (x @ x.T) * q[:, None] * q[None] + ridge * torch.eye(len(x), dtype=torch.float64)
    chosen: list[int] = []
    for _ in range(k):
        left = [i for i in range(len(x)) if i not in chosen]
        gains = [float(torch.logdet(kernel[[*chosen, i]][:, [*chosen, i]])) for i in left]
        chosen.append(left[max(range(len(left)), key=gains.__getitem__)])
    return chosen


def pivoted_gram_schmidt(x: torch.Tensor, k: int) -> list[int]:
    residual, chosen = x.double().clone(), []
    for _ in range(k):
        norms = residual.square().sum(1)
        norms[chosen] = -1
        j = int(norms.argmax())
        chosen.append(j)
        unit = residual[j] / residual[j].norm()
        residual = residual - (residual @ unit)[:, None] * unit[None]
    return chosen


class TestGreedyLogdet:
    @pytest.mark.parametrize("seed", range(3))
    def test_matches_determinants(self, seed):
        x, q = random(30, 24, seed=seed), random(30, seed=seed + 10).abs() + 0.1
        assert greedy_logdet(x, 15).tolist() == naive_logdet(x, 15)
        assert greedy_logdet(x, 15, quality=q).tolist() == naive_logdet(x, 15, q)
        assert greedy_logdet(x, 28, quality=q, ridge=1.0).tolist() == naive_logdet(x, 28, q, ridge=1.0)

    def test_without_quality_is_pivoted_gram_schmidt(self):
        x = random(80, 64, seed=5)
        assert greedy_logdet(x, 60).tolist() == pivoted_gram_schmidt(x, 60)

    def test_prefixes_are_nested(self):
        x = random(40, 48, seed=6)
        assert greedy_logdet(x, 9).tolist() == greedy_logdet(x, 33).tolist()[:9]

    def test_what_is_beyond_the_rank_follows_fill(self):
        x = random(20, 3, seed=1)[:, :2]
        fill = torch.arange(20.0)
        order = greedy_logdet(x, 20, fill=fill).tolist()
        assert order[:2] == naive_logdet(x, 2)
        assert order[2:] == sorted(set(range(20)) - set(order[:2]), reverse=True)

    def test_equal_tokens(self):
        assert greedy_logdet(torch.ones(6, 4), 6).tolist() == [0, 1, 2, 3, 4, 5]
        assert greedy_logdet(torch.zeros(6, 4), 6).tolist() == [0, 1, 2, 3, 4, 5]


class TestGreedyCoverage:
    @pytest.mark.parametrize("weighted", [False, True])
    def test_matches_the_definition(self, weighted):
        matrix = random(25, 30, seed=2)
        weight = random(30, seed=3).abs() if weighted else None

        def value(chosen):
            return sum(max(0.0, *(float(matrix[r, i]) for i in chosen)) for r in range(25)) if chosen else 0.0

        chosen: list[int] = []
        for _ in range(12):
            gains = {i: value([*chosen, i]) - value(chosen) for i in range(30) if i not in chosen}
            if weight is not None:
                gains = {i: gain * float(weight[i]) for i, gain in gains.items()}
            chosen.append(max(gains, key=gains.__getitem__))
        assert greedy_coverage(matrix, 12, weight).tolist() == chosen

    def test_bonus_sees_what_is_chosen(self):
        seen = []

        def bonus(picks):
            seen.append(picks.tolist())
            return torch.arange(5.0)

        assert greedy_coverage(torch.zeros(3, 5), 3, bonus=bonus).tolist() == [4, 3, 2]
        assert seen == [[], [4], [4, 3]]

    def test_nothing_left_to_cover_still_gives_distinct_tokens(self):
        assert greedy_coverage(torch.ones(4, 6), 6).tolist() == [0, 1, 2, 3, 4, 5]


class TestGreedyEnergy:
    def test_matches_the_definition(self):
        matrix, start = random(20, 20, seed=4), random(20, seed=5)
        chosen = [int(start.argmin())]
        while len(chosen) < 15:
            energy = {i: sum(float(matrix[j, i]) for j in chosen) for i in range(20) if i not in chosen}
            chosen.append(min(energy, key=energy.__getitem__))
        assert greedy_energy(start, lambda index: matrix[index], 15).tolist() == chosen

    def test_repmax(self):
        x = random(25, 12, seed=6)
        cosine = cosines(x)
        chosen = [int(cosine.sum(1).argmin())]
        while len(chosen) < 25:
            left = [i for i in range(25) if i not in chosen]
            chosen.append(min(left, key=lambda i: float(cosine[i, chosen].mean())))
        assert repmax(x, 25).tolist() == chosen

    def test_repmax_in_rounds_is_close_to_exact(self):
        x = random(300, 16, seed=7) + 0.5
        exact, fast = repmax(x, 120), repmax(x, 120, rounds=40)
        assert len(set(fast.tolist())) == 120
        assert torch.equal(repmax(x, 120, rounds=120), exact)
        cosine = cosines(x)

        def likeness(picks):
            return float(cosine[picks][:, picks].mean())

        # the set is nearly as spread out as the exact one, and far more than a random one
        assert likeness(fast) - likeness(exact) < 0.05 * (likeness(torch.arange(120)) - likeness(exact))

    def test_repmax_rounds_are_exact_when_all_are_near(self):
        x = random(40, 8, seed=8)
        assert repmax(x, 36, rounds=4).tolist() == repmax(x, 36).tolist()


class TestSuppression:
    @pytest.mark.parametrize("block", [7, 128])
    @pytest.mark.parametrize("quotas", [[30], [12, 3, 10], [3], [2, 1, 2]])
    def test_matches_the_definition(self, monkeypatch, quotas, block):
        monkeypatch.setattr(kernels, "BLOCK", block)
        x, scores = random(50, 4, seed=9), random(50, seed=10)
        group, quota = torch.arange(50) % len(quotas), torch.tensor(quotas)
        cosine, limit = cosines(x), 0.6
        chosen, waiting, left = [], [], quota.tolist()
        for i in rank(scores).tolist():
            close = any(float(cosine[i, j]) > limit for j in chosen if group[i] == group[j])
            if close:
                waiting.append(i)
            elif left[group[i]]:
                chosen.append(i)
                left[group[i]] -= 1
        assert waiting
        for i in waiting:
            if left[group[i]]:
                chosen.append(i)
                left[group[i]] -= 1
        picks = greedy_suppression(scores, x, int(quota.sum()), limit, group, quota)
        assert picks.tolist() == chosen


class TestFarthestPoint:
    @pytest.mark.parametrize(("chunk", "held"), [(7, 0), (7, 1024), (512, 0), (512, 1024)])
    def test_matches_the_definition(self, monkeypatch, chunk, held):
        monkeypatch.setattr(kernels, "CHUNK", chunk)
        monkeypatch.setattr(kernels, "HELD", held)
        x = random(30, 8, seed=7)
        distance = 1 - cosines(x)
        nearest = [min(float(distance[i, j]) for j in range(30) if j != i) for i in range(30)]
        chosen = [max(range(30), key=nearest.__getitem__)]
        while len(chosen) < 30:
            left = [i for i in range(30) if i not in chosen]
            chosen.append(max(left, key=lambda i: min(float(distance[i, j]) for j in chosen)))
        assert farthest_point(x, 30).tolist() == chosen

    def test_one_token(self):
        assert farthest_point(random(1, 4), 1).tolist() == [0]


class TestOutliers:
    def test_matches_the_definition(self):
        scores = random(41, seed=8).exp()
        ordered = sorted(map(float, scores))
        q1, q3 = ordered[10], ordered[30]  # exact quartiles of 41 values
        expected = [float(s) > q3 + 1.5 * (q3 - q1) for s in scores]
        assert iqr_outliers(scores).tolist() == expected
        assert 0 < sum(expected) < 10

    def test_constant_scores_have_none(self):
        assert not iqr_outliers(torch.ones(9)).any()


class TestWaterfill:
    def brute(self, weight, cap, total, floor):
        """The level by a fine scan instead of bisection."""
        low = [min(floor, total // len(cap), c) for c in cap]
        best = None
        for step in range(200_000):
            level = step * 1e-3
            share = [min(max(level * w, lo), c) for w, lo, c in zip(weight, low, cap, strict=True)]
            if sum(share) >= total:
                best = share
                break
        return best

    @pytest.mark.parametrize(("total", "floor"), [(30, 4), (12, 4), (60, 0), (80, 4), (9, 4)])
    def test_is_within_one_of_the_continuous_level(self, total, floor):
        weight, cap = [1.0, 5.0, 2.0], [20, 30, 40]
        share = waterfill(torch.tensor(weight), torch.tensor(cap), total, floor)
        assert int(share.sum()) == total
        ideal = self.brute(weight, cap, total, floor)
        assert all(abs(a - b) <= 1.01 for a, b in zip(share.tolist(), ideal, strict=True))
        assert (share <= torch.tensor(cap)).all()
        assert (share >= min(floor, total // 3)).all()

    def test_sizes_that_can_be_read_off(self):
        def fill(weight, cap, total, floor):
            return waterfill(torch.tensor(weight), torch.tensor(cap), total, floor).tolist()

        assert fill([1.0, 1.0], [10, 10], 10, 4) == [5, 5]
        assert fill([0.0, 0.0, 0.0], [10, 10, 10], 6, 1) == [2, 2, 2]
        assert fill([9.0, 1.0], [10, 10], 10, 4) == [6, 4]
        assert fill([0.0, 1.0], [10, 3], 8, 1) == [5, 3]
        assert fill([1.0, 2.0], [3, 5], 8, 4) == [3, 5]

    def test_impossible_totals_are_refused(self):
        with pytest.raises(ValueError, match="3 groups"):
            waterfill(torch.ones(3), torch.tensor([2, 2, 2]), 7, 0)


class TestNondominated:
    def fronts(self, points):
        rows = [tuple(map(float, p)) for p in points]
        left, fronts = set(range(len(rows))), []
        while left:
            front = {
                i
                for i in left
                if not any(
                    rows[j][0] >= rows[i][0] and rows[j][1] >= rows[i][1] and rows[j] != rows[i] for j in left
                )
            }
            fronts.append(front)
            left -= front
        return fronts

    @pytest.mark.parametrize("levels", [0, 4])
    @pytest.mark.parametrize("seed", range(3))
    def test_fronts_come_in_order(self, seed, levels):
        points = random(60, 2, seed=seed)
        if levels:  # many ties and duplicates
            points = (points * levels / 2).round()
        order = nondominated_order(points, 60).tolist()
        assert sorted(order) == list(range(60))
        at = 0
        for front in self.fronts(points):
            assert set(order[at : at + len(front)]) == front
            at += len(front)
        assert nondominated_order(points, 17).tolist() == order[:17]

    def test_crowding_matches_the_definition(self):
        points = random(12, 2, seed=9)
        expected = [0.0] * 12
        for column in range(2):
            order = sorted(range(12), key=lambda i: float(points[i, column]))
            span = float(points[order[-1], column] - points[order[0], column])
            expected[order[0]] = expected[order[-1]] = float("inf")
            for before, i, after in zip(order, order[1:], order[2:], strict=False):
                expected[i] += float(points[after, column] - points[before, column]) / span
        assert crowding(points).tolist() == pytest.approx(expected, rel=1e-5)

    def test_within_a_front_the_lonely_come_first(self):
        points = torch.tensor([[0.0, 10.0], [1.0, 9.0], [1.1, 8.9], [6.0, 4.0], [10.0, 0.0]])
        assert nondominated_order(points, 5).tolist() == [0, 4, 3, 2, 1]


class TestSpectralEnergy:
    def features(self, n, d, decay=0.05):
        u, v = torch.linalg.qr(random(n, min(n, d)))[0], torch.linalg.qr(random(d, min(n, d), seed=1))[0]
        return u * torch.exp(-decay * torch.arange(min(n, d))) @ v.T

    @pytest.mark.parametrize(("n", "d"), [(40, 64), (64, 40)])
    def test_exact_matches_singular_values(self, n, d):
        x = random(n, d)
        energy = torch.linalg.svdvals(x.double()).square()
        expected = energy.cumsum(0) / energy.sum()
        torch.testing.assert_close(spectral_energy(x, 30, exact=True), expected[:30], rtol=1e-5, atol=1e-6)
        assert len(spectral_energy(x, 1000)) == 40

    def test_randomised_is_close_and_never_above(self):
        x = self.features(300, 200)
        exact, fast = spectral_energy(x, 60, exact=True), spectral_energy(x, 60, exact=False)
        assert ((exact - fast) > -1e-5).all()
        assert ((exact - fast) < 0.01).all()

    def test_is_not_centred(self):
        assert spectral_energy(torch.ones(5, 7), 3)[0] == pytest.approx(1)

    def test_blank(self):
        assert spectral_energy(torch.zeros(5, 7), 3).tolist() == [1, 1, 1]


@pytest.mark.parametrize("chunk", [5, 512])
def test_assign_to_nearest(monkeypatch, chunk):
    monkeypatch.setattr(kernels, "CHUNK", chunk)
    sources, targets = random(23, 6), random(7, 6, seed=1)
    targets[3] = targets[2]  # a tie: the lower index wins
    cosine = cosines(torch.cat([sources, targets]))[:23, 23:]
    expected = [max(range(7), key=lambda t: (round(float(row[t]), 9), -t)) for row in cosine]
    assert assign_to_nearest(sources, targets).tolist() == expected
    assert assign_to_nearest(sources[:0], targets).tolist() == []


def test_kernels_leave_their_input_alone():
    x, q = random(12, 6), random(12, seed=1).abs()
    before = x.clone(), q.clone()
    for run in (
        lambda: greedy_logdet(x, 6, q, 0.5),
        lambda: greedy_coverage(x.T, 6, q),
        lambda: repmax(x, 6),
        lambda: farthest_point(x, 6),
        lambda: spectral_energy(x, 6),
        lambda: nondominated_order(x[:, :2], 6),
        lambda: waterfill(q, torch.full((12,), 3), 20, 1),
    ):
        run()
    assert torch.equal(x, before[0]) and torch.equal(q, before[1])


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
def test_kernels_pick_the_same_on_a_gpu():
    x, q = random(200, 64), random(200, seed=1).abs() + 0.1
    for pick in (
        lambda x, q: greedy_logdet(x, 40, q),
        lambda x, q: greedy_coverage(x @ x.T, 40, q),
        lambda x, q: repmax(x, 40),
        lambda x, q: farthest_point(x, 40),
        lambda x, q: nondominated_order(x[:, :2], 40),
        lambda x, q: iqr_outliers(q),
        lambda x, q: assign_to_nearest(x[:150], x[150:]),
    ):
        assert torch.equal(pick(x, q), pick(x.cuda(), q.cuda()).cpu())
