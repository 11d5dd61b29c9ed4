"""The peers that act inside the LLM: formulas written out naively, and their schedules."""

import pytest
import torch
from method_signals import cosines, make_signals, top

from vtprune.methods import make, select
from vtprune.types import Budget, Shape


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


class TestRandom:
    def test_inside_the_llm_it_follows_the_same_schedule(self):
        shape = Shape(256, 1, 12)
        (step,), (other,) = (
            make(name, **params).plan(Budget(0.5), shape)
            for name, params in (("random", {"layer": 3}), ("fastv", {"k": 3}))
        )
        assert step.at == ("llm", 3) and step.keep == other.keep and not step.needs
        assert make("random").plan(Budget(0.5), shape)[0].at == "vision"

    def test_a_layer_that_is_not_there(self):
        with pytest.raises(ValueError, match="layer=-1 must not be negative"):
            make("random", layer=-1)
        with pytest.raises(ValueError, match=r"random.*layers lacks"):
            make("random", layer=12).plan(Budget(0.5), Shape(256, 1, 12))


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
