"""The baselines and the five methods the project is about: formulas written out naively, and identities."""

import dataclasses

import pytest
import torch
import torch.nn.functional as F
from method_signals import cosines, grid_segment, make_signals, top

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
