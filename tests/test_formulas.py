"""What is special about each method: its formula, written out naively, and the identities it has to keep."""

import dataclasses

import pytest
import torch
import torch.nn.functional as F
from method_signals import grid_segment, make_signals

from vtprune.methods import make, select
from vtprune.types import Budget, Shape


class TestBaselines:
    def test_uniform_keeps_cell_centres(self):
        signals = make_signals((9, 9))
        expected = [r * 9 + c for r in (1, 4, 7) for c in (1, 4, 7)]
        assert select("uniform", signals, 9).keep.tolist() == expected

    @pytest.mark.parametrize("k", [2, 5, 16, 33, 64, 100, 143])
    def test_downsample_averages_cells_that_partition_the_grid(self, k):
        signals = make_signals((12, 12))
        selection = select("downsample", signals, k)
        merge = selection.merge.to_dense()
        owner = merge.argmax(0)
        sizes = torch.bincount(owner, minlength=k)
        assert ((merge > 0).sum(0) == 1).all() and sizes.sum() == 144
        assert sizes.max() <= 4 * sizes.min()
        assert (owner[selection.keep] == torch.arange(k)).all()
        means = torch.stack([signals.features[owner == r].mean(0) for r in range(k)])
        torch.testing.assert_close(merge @ signals.features, means)

    def test_downsample_halves_the_grid(self):
        signals = make_signals((4, 4))
        merge = select("downsample", signals, 4).merge.to_dense()
        assert merge[0].nonzero().flatten().tolist() == [0, 1, 4, 5]
        assert merge[3].nonzero().flatten().tolist() == [10, 11, 14, 15]

    def test_uniform_follows_the_boxes_when_padding_is_gone(self):
        segment = grid_segment(0, 0, 6, 6)
        segment.boxes[:18] = 0
        signals = dataclasses.replace(make_signals((6, 6)), segments=(segment,))
        assert select("uniform", signals, 2).keep.tolist() == [25, 28]

    def test_random_follows_the_seed(self):
        signals = make_signals((8, 8))
        other = dataclasses.replace(signals, seed=1)
        assert select("random", signals, 20).keep.tolist() != select("random", other, 20).keep.tolist()

    def test_random_differs_between_images(self):
        first, second = select("random", make_signals((8, 8), (8, 8)), 40).keep.split(20)
        assert first.tolist() != (second - 64).tolist()


def test_fastervlm_and_fastv_keep_the_most_attended():
    signals = make_signals((6, 6))
    best = signals.cls_attention.topk(7).indices.sort().values
    assert torch.equal(select("fastervlm", signals, 7).keep, best)
    last = signals.attention[:, -1].double().mean(0)
    assert torch.equal(select("fastv", signals, 7).keep, last.topk(7).indices.sort().values)


class TestFastV:
    def test_plan(self):
        (step,) = make("fastv", k=3).plan(Budget(0.5), Shape(256, 1, 12))
        assert step.at == ("llm", 3) and step.layer_offset == -1 and step.queries == "last"
        assert step.keep == round((128 * 12 - 3 * 256) / 9)

    def test_out_of_reach(self):
        with pytest.raises(ValueError, match=r"fastv.*2 layers see all of them.*keep=0.17 \(44 tokens\)"):
            make("fastv").plan(Budget(0.1), Shape(256, 1, 12))
        make("fastv").plan(Budget(0.17), Shape(256, 1, 12))
        with pytest.raises(ValueError, match="layers lacks"):
            make("fastv", k=12).plan(Budget(0.5), Shape(256, 1, 12))


class TestATP:
    def test_formula(self):
        signals = make_signals((5, 5), seed=3)
        text = signals.clip_text.mean(0)
        cosine = torch.stack([F.cosine_similarity(p, text, dim=0) for p in signals.clip_patches])

        def norm(x):
            return (x - x.min()) / (x.max() - x.min())

        for sign, attention in ((1, "cls"), (-1, "received")):
            row = signals.cls_attention if attention == "cls" else signals.received_attention
            wanted = 0.3 * norm(sign * cosine) + 0.7 * norm(row)
            got = select("atp", signals, 5, alpha=0.3, clip_sign=sign, attention=attention).scores
            torch.testing.assert_close(got, wanted)

    def test_ends_of_alpha(self):
        signals = make_signals((5, 5))
        attention = select("atp", signals, 6, alpha=0.0)
        assert torch.equal(attention.keep, select("fastervlm", signals, 6).keep)
        flipped = dataclasses.replace(signals, clip_sign=-1)
        kept = select("atp", signals, 6, alpha=1.0).keep.tolist()
        assert not set(kept) & set(select("atp", flipped, 6, alpha=1.0).keep.tolist())
        assert kept == select("atp", flipped, 6, alpha=1.0, clip_sign=1).keep.tolist()

    def test_needs_follow_the_attention(self):
        assert "cls_attention" not in make("atp", attention="received").needs


class TestResPrune:
    def naive(self, x, r, alpha, k):
        """Projection residuals by least squares, every one computed anew."""
        x, chosen = x.double(), []
        for _ in range(k):
            best, arg = -1.0, -1
            for i in range(len(x)):
                if i in chosen:
                    continue
                v = x[i]
                if chosen:
                    basis = torch.linalg.qr(x[chosen].T)[0]
                    v = v - basis @ (basis.T @ v)
                value = float(r[i]) ** alpha * float(v @ v)
                if value > best:
                    best, arg = value, i
            chosen.append(arg)
        return chosen

    @pytest.mark.parametrize(
        ("alpha", "unit"), [(0.0, False), (0.5, False), (1.0, False), (2.0, False), (0.5, True), (1.0, True)]
    )
    def test_is_the_projection_greedy(self, alpha, unit):
        signals = make_signals((6, 6), seed=7)
        x = F.normalize(signals.features, dim=1) if unit else signals.features
        cosine = F.cosine_similarity(signals.features[:, None], signals.text[None], dim=-1).amax(1)
        r = cosine.clamp(min=0) + 1e-2
        order = select("resprune", signals, 20, alpha=alpha, normalize=unit).order
        assert order[:20].tolist() == self.naive(x, r / r.max(), alpha, 20)

    def test_no_content_words_is_alpha_zero(self):
        signals = make_signals((6, 6))
        without = dataclasses.replace(signals, text=signals.text[:0])
        kept = select("resprune", without, 12).keep
        assert torch.equal(kept, select("resprune", signals, 12, alpha=0.0).keep)
        assert not torch.equal(kept, select("resprune", signals, 12).keep)


class TestEAdaPrune:
    def signals(self, decay=(0.3, 0.01)):
        parts = []
        for i, d in enumerate(decay):
            generator = torch.Generator().manual_seed(i)
            u = torch.linalg.qr(torch.randn(64, 40, generator=generator))[0]
            v = torch.linalg.qr(torch.randn(40, 40, generator=generator))[0]
            parts.append(u * torch.exp(-d * torch.arange(40)) @ v)
        return make_signals(*[(8, 8)] * len(decay), features=torch.cat(parts), dim=40)

    def test_busy_images_get_more(self):
        signals = self.signals()
        selection = select("e_adaprune", signals, 0.25, tau=0.9)
        empty, busy = (info["K"] for info in selection.info["images"])
        ids = signals.image_ids()[selection.keep]
        assert [int((ids == i).sum()) for i in (0, 1)] == [empty, busy]
        assert empty < busy <= 32

    def test_keeps_what_the_base_keeps(self):
        signals = self.signals((0.1,))
        for base in ("atp", "fastervlm", "random"):
            selection = select("e_adaprune", signals, 0.25, base=base, tau=0.9)
            assert torch.equal(selection.keep, select(base, signals, selection.info["K"]).keep)

    def test_is_monotone_in_tau_and_stays_in_its_limits(self):
        signals = self.signals((0.08,))
        counts = [len(select("e_adaprune", signals, 16, tau=t).keep) for t in (0.1, 0.5, 0.8, 0.9, 0.99, 1.0)]
        assert counts == sorted(counts)
        assert (counts[0], counts[-1]) == (4, 32)
        assert len(set(counts)) > 3

    def test_calibrated_table_brings_the_mean(self):
        from vtprune.budgets import calibrate

        signals = self.signals((0.02, 0.05, 0.1, 0.2))
        tau = calibrate(signals.features.split(64), 0.25)
        selection = select("e_adaprune", signals, 0.25, table=((0.25, tau),))
        assert abs(len(selection.keep) - 64) <= 4
        assert selection.info["images"][0]["tau"] == pytest.approx(tau)

    def test_spaces(self):
        assert "vision_features" in make("e_adaprune", base="divprune").needs
        assert "vision_features" not in make("e_adaprune", base="divprune", space="projected").needs
        assert "vision_features" not in make("e_adaprune", base="fastervlm").needs
        with pytest.raises(ValueError, match="before the projector"):
            make("e_adaprune", space="projected").needs  # noqa: B018
        with pytest.raises(ValueError, match="before the LLM; fastv"):
            make("e_adaprune", base="fastv").plan(Budget(0.5), Shape(64, 1, 12))


def test_divprune_keeps_distinct_tokens_of_a_blank_image():
    signals = dataclasses.replace(make_signals((8, 8)), features=torch.ones(64, 24))
    assert len(set(select("divprune", signals, 16).keep.tolist())) == 16


def cosines(x: torch.Tensor, y: torch.Tensor | None = None) -> torch.Tensor:
    x, y = x.double(), (x if y is None else y).double()
    return torch.stack([F.cosine_similarity(a[None], y, dim=1) for a in x])


def top(scores: torch.Tensor, k: int) -> list[int]:
    return sorted(range(len(scores)), key=lambda i: (-float(scores[i]), i))[:k]


class TestSTS:
    def naive(self, signals, k, power=4.0, weight=1.0, epsilon=1e-3):
        x, n = signals.features.double(), signals.count
        boxes = signals.segments[0].boxes.double()
        centre = (boxes[:, :2] + boxes[:, 2:]) / 2 / boxes[:, 2:].amax(0)
        phi = torch.zeros(n, n, dtype=torch.float64)
        for i in range(n):
            for j in range(n):
                looks = float((x[i] / x[i].norm() - x[j] / x[j].norm()).norm())
                apart = 2**0.5 * float((centre[i] - centre[j]).norm())
                phi[i, j] = ((looks + weight * apart) / (1 + weight) + epsilon) ** -power
        start = phi.sum(1) - phi.diagonal()
        chosen = [int(start.argmin())]
        while len(chosen) < k:
            left = [i for i in range(n) if i not in chosen]
            chosen.append(min(left, key=lambda i: float(phi[i, chosen].sum())))
        return chosen

    def test_first_stage(self):
        signals = make_signals((6, 7), seed=2)
        assert select("sts", signals, 15).order[:15].tolist() == self.naive(signals, 15)
        order = select("sts", signals, 12, power=2.0, weight=0.5, epsilon=0.1).order
        assert order[:12].tolist() == self.naive(signals, 12, 2.0, 0.5, 0.1)

    def border_share(self, power, k):
        signals = make_signals((24, 24))
        flat = dataclasses.replace(signals, features=torch.ones(576, 8))
        keep = select("sts", flat, k, power=power).keep
        row, col = keep // 24, keep % 24
        return float(((row == 0) | (row == 23) | (col == 0) | (col == 23)).float().mean())

    def test_a_flat_image_is_not_kept_on_its_border(self):
        for k in (96, 128, 192):  # what the first stage keeps for budgets of 64, 85 and 128
            assert self.border_share(4.0, k) < 0.4
        assert self.border_share(1.0, 128) > 0.5  # why the default is not 1

    @pytest.mark.parametrize("keep", [0.02, 0.1, 0.5, 0.66])
    def test_schedule(self, keep):
        first, second = make("sts").plan(Budget(keep), Shape(576, 1, 12))
        wanted = round(keep * 576)
        assert (first.at, second.at) == ("projected", ("llm", 6))
        assert abs(first.keep - 1.5 * wanted) <= 1 and abs(second.keep - 0.5 * wanted) <= 1
        assert second.queries == "instruction" and second.layer_offset == 0

    def test_large_budgets_take_the_rest_inside(self):
        first, second = make("sts").plan(Budget(0.8), Shape(100, 1, 12))
        assert (first.keep, second.keep) == (100, 60)

    def test_second_stage_follows_the_question(self):
        signals = make_signals((6, 6))
        second = make("sts").plan(Budget(0.5), Shape(36, 1, 12))[1]
        wanted = top(signals.attention.double().mean(0).mean(0), 9)
        assert second.select(signals, 9).keep.tolist() == sorted(wanted)


class TestTrimTokenator:
    def repmax(self, x, k):
        cosine = cosines(x)
        chosen = [int(cosine.sum(1).argmin())]
        while len(chosen) < k:
            left = [i for i in range(len(x)) if i not in chosen]
            chosen.append(min(left, key=lambda i: float(cosine[i, chosen].mean())))
        return chosen

    def test_one_image_is_repmax(self):
        signals = make_signals((6, 6), seed=1)
        selection = select("trimtokenator_lc", signals, 13)
        assert selection.keep.tolist() == sorted(self.repmax(signals.features, 13))

    def test_intra_and_inter_image_diversity_set_the_first_budget(self):
        signals = make_signals((5, 5), (4, 4), (3, 5), seed=4)
        k, n = 14, signals.count
        parts = signals.features.split([25, 16, 15])

        def spread(x):
            m = len(x)
            return float((1 - cosines(x)).sum() / (m * (m - 1)))

        intra = [spread(part) for part in parts]
        inter = spread(torch.stack([part.mean(0) for part in parts]))
        mean = sum(intra) / 3
        share = (1 - mean) / ((1 - mean) + (1 - inter))
        first = round(min(max(n * (k / n) ** share, 1.5 * k), n))
        info = select("trimtokenator_lc", signals, k).info
        assert info["first_budget"] == first
        assert sum(info["budgets"]) == first
        assert info["D_intra"] == pytest.approx(intra, abs=1e-5)
        weights = [m * d for m, d in zip((25, 16, 15), intra, strict=True)]
        ideal = [first * w / sum(weights) for w in weights]
        assert all(abs(a - b) <= 1 for a, b in zip(info["budgets"], ideal, strict=True))

    def test_the_whole_choice(self):
        signals = make_signals((5, 5), (4, 4), seed=5)
        k = 12
        selection = select("trimtokenator_lc", signals, k)
        parts, offset, union = signals.features.split([25, 16]), 0, []
        firsts = []
        for part, b in zip(parts, selection.info["budgets"], strict=True):
            picks = [offset + i for i in self.repmax(part, b)]
            firsts += picks[:4]
            union, offset = union + picks, offset + len(part)
        size = min(len(union), round(1.5 * k))
        pool = [union[i] for i in self.repmax(signals.features[union], size)] if size < len(union) else union
        pool = sorted(set(pool) | set(firsts))
        x = signals.features[pool]
        cosine = cosines(x)
        p = len(pool)
        points = torch.stack([1 - (cosine.sum(1) - 1) / (p - 1), cosines(x, signals.text).amax(1)], 1)
        left, fronts = set(range(p)), []
        while left:
            front = [
                i
                for i in left
                if not any((points[j] >= points[i]).all() and (points[j] > points[i]).any() for j in left)
            ]
            fronts.append({pool[i] for i in front})
            left -= set(front)
        # whole fronts are in before any token of the next, but for the four that every image keeps
        kept = set(selection.keep.tolist())
        assert kept <= set(pool) and len(kept) == k
        ids = signals.image_ids()
        assert all(int((ids[selection.keep] == i).sum()) >= 4 for i in (0, 1))
        full = [front <= kept for front in fronts]
        assert full[0]
        cut = full.index(False)
        beyond = kept - set().union(*fronts[: cut + 1])
        assert len(beyond) <= 4

    def test_varied_images_get_more_and_none_falls_under_the_floor(self):
        signals = make_signals((8, 8), (8, 8), (8, 8))
        features = signals.features.clone()
        features[:64] = features[0] + 0.01 * features[:64]  # nearly one colour
        signals = dataclasses.replace(signals, features=features)
        selection = select("trimtokenator_lc", signals, 30)
        flat, *varied = selection.info["budgets"]
        assert 4 <= flat < min(varied)
        counts = torch.bincount(signals.image_ids()[selection.keep])
        assert len(selection.keep) == 30 and counts.min() >= 4

    def test_question_words_pull(self):
        signals = make_signals((8, 8), (8, 8), seed=3)
        target = 77
        pulled = dataclasses.replace(signals, text=signals.features[[target]])
        assert target in select("trimtokenator_lc", pulled, 12).keep.tolist()


def test_visionzip_merges_by_the_formula():
    signals = make_signals((8, 8), seed=3)
    selection = select("visionzip", signals, 16, contextual=0.25)
    dominant = top(signals.cls_attention, 12)
    rest = [i for i in range(64) if i not in dominant]
    targets = rest[:: len(rest) // 4][:4]
    others = [i for i in rest if i not in targets]
    cosine = cosines(signals.keys)
    groups = {t: [] for t in targets}
    for i in others:
        groups[max(targets, key=lambda t: (float(cosine[i, t]), -t))].append(i)
    assert selection.keep.tolist() == sorted(dominant + targets)
    new = torch.sparse.mm(selection.merge, signals.features)
    for row, token in enumerate(selection.keep.tolist()):
        wanted = signals.features[token].clone()
        if groups.get(token):
            wanted += signals.features[groups[token]].mean(0)
        torch.testing.assert_close(new[row], wanted)


def test_vispruner_is_the_iteration_of_the_paper():
    signals = make_signals((9, 9), seed=4)
    order = top(signals.cls_attention, 81)
    head, left, wanted = order[:10], order[10:], 10
    cosine = cosines(signals.features)
    while len(left) > wanted:
        even, odd = left[::2], left[1::2]
        closest = [max(float(cosine[e, o]) for o in odd) for e in even]
        worst = sorted(range(len(even)), key=lambda i: -closest[i])[: min(8, len(left) - wanted)]
        left = [t for t in left if t not in {even[i] for i in worst}]
    assert select("vispruner", signals, 20).keep.tolist() == sorted(head + left)


class TestPruMerge:
    def merged(self, signals, keep, neighbours):
        cosine = cosines(signals.keys)
        new = []
        for i in keep:
            near = sorted((j for j in range(signals.count) if j != i), key=lambda j: -float(cosine[i, j]))
            weights = signals.headless_attention
            absorbed = sum(weights[j] * signals.features[j] for j in near[:neighbours])
            new.append(signals.features[i] + absorbed)
        return torch.stack(new)

    def test_formula(self):
        signals = make_signals((7, 7), seed=5)
        selection = select("prumerge", signals, 9, neighbours=12)
        assert selection.keep.tolist() == sorted(top(signals.headless_attention, 9))
        new = torch.sparse.mm(selection.merge, signals.features)
        torch.testing.assert_close(new, self.merged(signals, selection.keep.tolist(), 12))

    def test_adaptive_keeps_the_outliers(self):
        signals = make_signals((7, 7), seed=5)
        a = signals.headless_attention
        q1, q3 = (float(a.sort().values[i]) for i in (12, 36))
        outliers = [i for i in range(49) if float(a[i]) > q3 + 1.5 * (q3 - q1)]
        selection = select("prumerge", signals, 25, adaptive=True)
        assert selection.keep.tolist() == outliers and selection.info["count"] == len(outliers)
        plus = select("prumerge_plus", signals, 25, adaptive=True)
        assert len(plus.keep) == 4 * len(outliers) and set(outliers) <= set(plus.keep.tolist())

    def test_plus_adds_an_even_stride(self):
        signals = make_signals((8, 8), seed=6)
        best = top(signals.headless_attention, 4)
        rest = [i for i in range(64) if i not in best]
        stride = [rest[i * 60 // 12] for i in range(12)]
        assert select("prumerge_plus", signals, 16).keep.tolist() == sorted(best + stride)


class TestTRIM:
    def test_formula(self):
        signals = make_signals((6, 6), seed=7)
        similarity = cosines(signals.clip_patches, signals.clip_text).mean(1)
        selection = select("trim", signals, 8)
        kept = top(similarity, 7)
        rest = [i for i in range(36) if i not in kept]
        assert set(kept) < set(selection.keep.tolist())
        new = torch.sparse.mm(selection.merge, signals.features)
        for row, token in enumerate(selection.keep.tolist()):
            wanted = signals.features[token] if token in kept else signals.features[rest].mean(0)
            torch.testing.assert_close(new[row], wanted)
        torch.testing.assert_close(selection.scores, similarity.softmax(0).float())

    def test_sign(self):
        signals = make_signals((6, 6), seed=7)
        similarity = cosines(signals.clip_patches, signals.clip_text).mean(1)
        assert set(top(-similarity, 7)) < set(select("trim", signals, 8, clip_sign=-1).keep.tolist())
        declared = dataclasses.replace(signals, clip_sign=-1)
        assert set(top(-similarity, 7)) < set(select("trim", declared, 8).keep.tolist())

    def test_adaptive(self):
        signals = make_signals((6, 6), seed=7)
        patches = signals.clip_patches.clone()
        patches[[3, 20]] = 1.2 * signals.clip_text.sum(0)
        found = dataclasses.replace(signals, clip_patches=patches)
        kept = select("trim", found, 18, adaptive=True).keep.tolist()
        assert {3, 20} < set(kept) and len(kept) < 8


def test_hiprune_keeps_anchors_their_neighbours_and_registers():
    signals = make_signals((6, 6), (3, 4), seed=8)
    one = signals.take(torch.arange(36))
    anchors = top(one.middle_attention, 2)
    beside = set()
    for a in anchors:
        r, c = divmod(a, 6)
        for dr, dc in ((-1, 0), (1, 0), (0, -1), (0, 1)):
            if 0 <= r + dr < 6 and 0 <= c + dc < 6:
                beside.add((r + dr) * 6 + c + dc)
    wanted = set(anchors) | beside
    for i in top(one.received_attention, 36):
        if len(wanted) == 20:
            break
        wanted.add(i)
    assert select("hiprune", one, 20).keep.tolist() == sorted(wanted)


def test_holov_gives_every_chunk_its_quota():
    signals = make_signals((8, 8), seed=9)
    selection = select("holov", signals, 20, chunks=8)
    x, a = signals.features.split(8), signals.cls_attention.split(8)
    attention = torch.stack([part.mean() for part in a]).double()
    variance = torch.stack([cosines(part).var(correction=0) for part in x])
    weight = attention / attention.sum() + 0.09 * variance / variance.sum()
    quota = selection.info["quota"]
    assert sum(quota) == 20
    assert all(abs(q - 20 * float(w)) < 1 for q, w in zip(quota, weight / weight.sum(), strict=True))
    wanted = [8 * c + i for c, part in enumerate(a) for i in top(part, quota[c])]
    assert selection.keep.tolist() == sorted(wanted)


def greedy_determinant(kernel: torch.Tensor, k: int) -> list[int]:
    chosen: list[int] = []
    while len(chosen) < k:
        left = [i for i in range(len(kernel)) if i not in chosen]
        chosen.append(max(left, key=lambda i: float(torch.logdet(kernel[[*chosen, i]][:, [*chosen, i]]))))
    return chosen


def test_cdpruner_is_greedy_map_of_its_kernel():
    signals = make_signals((6, 5), seed=1, dim=40)
    relevance = cosines(signals.clip_patches, signals.clip_text).mean(1)
    for sign in (1, -1):
        q = sign * relevance
        q = (q - q.min()) / (q.max() - q.min()) + 1e-6
        kernel = q[:, None] * cosines(signals.features) * q[None]
        got = select("cdpruner", signals, 12, clip_sign=sign).order[:12].tolist()
        assert got == greedy_determinant(kernel, 12)


def test_otprune_is_greedy_map_of_its_kernel():
    signals = make_signals((6, 5), seed=2)
    z = signals.features.double()
    z = z / z.norm(dim=0)
    s = z @ z.T
    kernel = torch.eye(30, dtype=torch.float64) + 0.01 * s @ s.T
    assert select("otprune", signals, 12).order[:12].tolist() == greedy_determinant(kernel, 12)


def greedy_cover(rows: torch.Tensor, k: int, weight=None) -> list[int]:
    chosen: list[int] = []
    for _ in range(k):
        cover = rows[:, chosen].amax(1).clamp(min=0) if chosen else torch.zeros(len(rows)).double()
        gains = (rows - cover[:, None]).clamp(min=0).sum(0)
        gains = gains if weight is None else gains * weight
        gains[chosen] = -1
        chosen.append(int(gains.argmax()))
    return chosen


@pytest.mark.parametrize("alpha", [0.5, 1.0, 2.0])
def test_scope_is_saliency_times_coverage(alpha):
    signals = make_signals((7, 7), seed=3)
    weight = signals.cls_attention.double() ** alpha
    got = select("scope", signals, 15, alpha=alpha).order[:15].tolist()
    assert got == greedy_cover(cosines(signals.features), 15, weight)


def test_mmtok_covers_words_and_picture():
    signals = make_signals((7, 7), seed=4)
    p = (cosines(signals.text, signals.features) / 0.02).softmax(1) / len(signals.text)
    q = (cosines(signals.features) / 0.2).softmax(1) / 49
    assert select("mmtok", signals, 15).order[:15].tolist() == greedy_cover(torch.cat([p, 0.5 * q]), 15)
    without = dataclasses.replace(signals, text=signals.text[:0])
    assert select("mmtok", without, 15).order[:15].tolist() == greedy_cover(q, 15)


def test_dart_keeps_what_is_least_like_its_pivots():
    signals = make_signals((7, 7), seed=5)
    norms, text_norms = signals.llm_keys.abs().sum(1), signals.query_keys.abs().sum(1)
    pivots = top(norms, 4)
    towards = [signals.features[p] for p in pivots]
    towards += [signals.query_states[t] for t in top(text_norms, 4)]
    kept = list(pivots)
    for pivot in towards:
        cosine = cosines(pivot[None], signals.features)[0]
        left = [i for i in range(49) if i not in kept]
        kept += sorted(left, key=lambda i: float(cosine[i]))[:2]
    selection = select("dart", signals, 20)
    assert selection.keep.tolist() == sorted(kept)
    assert selection.info["pivots"] == pivots


class TestSparseVLM:
    def scores(self, signals):
        looks = (signals.features.double() @ signals.query_states.double().T).softmax(1).mean(0)
        raters = [t for t in range(5) if looks[t] >= looks.mean()]
        assert 0 < len(raters) < 5
        return signals.attention.double()[:, raters].mean(1).mean(0)

    def test_raters_decide(self):
        signals = make_signals((7, 7), seed=6)
        selection = select("sparsevlm", signals, 12, recycle=0.0)
        assert selection.keep.tolist() == sorted(top(self.scores(signals), 12))
        assert selection.merge is None

    def test_recycled_tokens_are_means_of_dropped_ones(self):
        signals = make_signals((10, 10), seed=7)
        selection = select("sparsevlm", signals, 30, recycle=0.2)
        ranked = top(self.scores(signals), 100)
        kept, pool = ranked[:24], ranked[24 : 24 + round(0.3 * 76)]
        assert set(kept) < set(selection.keep.tolist()) < set(kept) | set(pool)
        merge = selection.merge.to_dense()
        torch.testing.assert_close(merge.sum(1), torch.ones(30))
        owners = torch.zeros(100, dtype=torch.int64)
        for row, token in enumerate(selection.keep.tolist()):
            members = merge[row].nonzero().flatten().tolist()
            assert token in members
            assert members == [token] if token in kept else set(members) <= set(pool)
            owners[members] += 1
        assert sorted(owners.nonzero().flatten().tolist()) == sorted(kept + pool)
        assert owners.max() == 1

    def test_clusters_are_found(self):
        from vtprune.methods.sparsevlm import density_peaks

        generator = torch.Generator().manual_seed(0)
        centres = 20 * torch.randn(3, 6, generator=generator)
        x = centres.repeat_interleave(10, 0) + torch.randn(30, 6, generator=generator)
        centre, owner = density_peaks(x, 3)
        assert sorted((centre // 10).tolist()) == [0, 1, 2]
        assert all(len(set(owner[10 * g : 10 * g + 10].tolist())) == 1 for g in range(3))

    def test_plan(self):
        steps = make("sparsevlm").plan(Budget(62), Shape(576, 1, 32))
        assert [step.at[1] for step in steps] == [2, 6, 15]
        assert [step.keep for step in steps] == pytest.approx([66, 30, 17], abs=1)
        assert [step.at[1] for step in make("sparsevlm").plan(Budget(0.5), Shape(256, 1, 12))] == [1, 2, 6]


def test_pyramiddrop_keeps_the_same_share_each_time():
    steps = make("pyramiddrop").plan(Budget(0.46875), Shape(576, 1, 32))
    assert [step.at[1] for step in steps] == [8, 16, 24]
    assert [step.keep for step in steps] == pytest.approx([288, 144, 72], abs=1)
    signals = make_signals((6, 6))
    wanted = top(signals.attention.double()[:, -1].mean(0), 9)
    assert steps[0].select(signals, 9).keep.tolist() == sorted(wanted)
    with pytest.raises(ValueError, match=r"pyramiddrop.*3 layers see all.*keep=0.25"):
        make("pyramiddrop").plan(Budget(0.1), Shape(576, 1, 12))


class TestVScan:
    def test_windows_then_global_then_merging(self):
        signals = make_signals((12, 12), seed=8)
        selection = select("vscan", signals, 24)
        local = []
        for wr in (0, 1):
            for wc in (0, 1):
                block = [r * 12 + c for r in range(6 * wr, 6 * wr + 6) for c in range(6 * wc, 6 * wc + 6)]
                local += sorted(block, key=lambda i: -float(signals.shallow_attention[i]))[:3]
        rest = [i for i in top(signals.cls_attention, 144) if i not in local]
        kept = sorted(local + rest[:12])
        assert selection.keep.tolist() == kept
        cosine = cosines(signals.features)
        groups = {i: [i] for i in kept}
        for i in range(144):
            if i not in groups:
                groups[max(kept, key=lambda j: float(cosine[i, j]))].append(i)
        means = torch.stack([signals.features[groups[i]].mean(0) for i in kept])
        torch.testing.assert_close(torch.sparse.mm(selection.merge, signals.features), means)

    def test_second_stage(self):
        signals = make_signals((6, 6))
        first, second = make("vscan").plan(Budget(12), Shape(36, 1, 12))
        assert (first.at, first.keep, second.at, second.keep) == ("vision", 18, ("llm", 6), 6)
        wanted = top(signals.attention.double()[:, -1].mean(0), 6)
        assert second.select(signals, 6).keep.tolist() == sorted(wanted)


class TestPruneSID:
    def test_every_concept_keeps_its_share(self):
        generator = torch.Generator().manual_seed(0)
        directions = torch.linalg.qr(torch.randn(24, 24, generator=generator))[0]
        concept = torch.arange(60) % 3
        # three orthogonal concepts of different strength: the loadings of each stand alone
        strength = torch.tensor([8.0, 5.0, 3.0])
        sign = torch.where(torch.arange(60) % 2 == 0, 1.0, -1.0)
        x = directions[concept] * (strength[concept] * sign)[:, None]
        signals = dataclasses.replace(
            make_signals((6, 10)), features=x + 0.01 * make_signals((6, 10)).features
        )
        selection = select("prunesid", signals, 12)
        assert selection.info["groups"] == 3
        assert torch.bincount(concept[selection.keep]).tolist() == [4, 4, 4]

    def test_near_copies_wait(self):
        signals = make_signals((6, 6), seed=2)
        x = signals.features.clone()
        best = top(signals.cls_attention, 2)
        x[best[1]] = x[best[0]]
        signals = dataclasses.replace(signals, features=x)
        kept = select("prunesid", signals, 4).keep.tolist()
        assert best[0] in kept and best[1] not in kept


class TestTOPS:
    def naive(self, signals, relevance, k, coverage=0.1, diversity=0.5):
        cosine, n = cosines(signals.features), signals.count
        relevance = (relevance - relevance.min()) / (relevance.max() - relevance.min())
        chosen: list[int] = []
        while len(chosen) < k:
            best, arg = -1.0, -1
            cover = [max([0.0, *(float(cosine[j, s]) for s in chosen)]) for j in range(n)]
            for i in range(n):
                if i in chosen:
                    continue
                gain = sum(max(0.0, float(cosine[j, i]) - cover[j]) for j in range(n)) / n
                nearest = max([-1.0, *(float(cosine[i, s]) for s in chosen)])
                value = float(relevance[i]) + coverage * gain + diversity * (1 - nearest)
                if value > best:
                    best, arg = value, i
            chosen.append(arg)
        return chosen

    def test_before_the_llm(self):
        signals = make_signals((6, 6), seed=9)
        relevance = cosines(signals.features, signals.text).amax(1)
        assert select("tops", signals, 10).order[:10].tolist() == self.naive(signals, relevance, 10)

    def test_inside(self):
        signals = make_signals((6, 6), seed=9)
        steps = make("tops").plan(Budget(0.3), Shape(36, 1, 16))
        assert [step.at for step in steps] == ["projected", ("llm", 6), ("llm", 12)]
        relevance = signals.attention.double().mean(0).mean(0)
        got = steps[1].select(signals, 8).order.tolist()
        assert got == self.naive(signals, relevance, 8)

    def test_schedule(self):
        steps = make("tops").plan(Budget(76), Shape(576, 1, 32))
        assert [step.keep for step in steps] == pytest.approx([128, 64, 16], abs=1)


class TestAgilePruner:
    def naive(self, signals, k):
        sigma = torch.linalg.svdvals(signals.features.double())
        share = sigma / sigma.sum()
        rank = float((-(share * share.log())).sum().exp())
        distance = rank / min(signals.features.shape)
        cosine, kept = cosines(signals.features), []
        for i in top(signals.cls_attention, signals.count):
            if all(1 - float(cosine[i, j]) >= distance for j in kept):
                kept.append(i)
        kept += [i for i in top(signals.cls_attention, signals.count) if i not in kept]
        return kept[:k], rank

    def test_formula(self):
        signals = make_signals((7, 7), seed=1)
        order, rank = self.naive(signals, 30)
        selection = select("agilepruner", signals, 30)
        assert selection.order[:30].tolist() == order
        assert selection.info["effective_rank"] == pytest.approx(rank, rel=1e-3)

    def test_simple_pictures_follow_attention(self):
        signals = make_signals((7, 7), seed=1)
        simple = dataclasses.replace(signals, features=torch.ones(49, 24) + 1e-3 * signals.features)
        attention = set(top(signals.cls_attention, 12))
        spread = len(attention & set(select("agilepruner", signals, 12).keep.tolist()))
        plain = len(attention & set(select("agilepruner", simple, 12, strength=0.0).keep.tolist()))
        assert spread < plain == 12
