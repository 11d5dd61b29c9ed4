"""The peers that act before the LLM: every formula written out naively."""

import dataclasses

import pytest
import torch
from method_signals import cosines, grid_segment, make_signals, top

from vtprune.methods import list_methods, select


@pytest.mark.parametrize("name", [name for name, info in list_methods().items() if info.merges])
def test_merging_stays_inside_each_image(name):
    signals = make_signals((6, 6), (5, 4), seed=3)
    if list_methods()[name].acts_at == "llm":
        return
    selection = select(name, signals, 14)
    parts = [signals.take(torch.arange(36)), signals.take(torch.arange(36, 56))]
    kept = signals.image_ids()[selection.keep].bincount().tolist()
    alone = [select(name, part, k) for part, k in zip(parts, kept, strict=True)]
    blocks = torch.block_diag(*[part.merge.to_dense() for part in alone])
    torch.testing.assert_close(selection.merge.to_dense(), blocks)
    assert selection.keep.tolist() == [*alone[0].keep.tolist(), *(alone[1].keep + 36).tolist()]


def test_merging_leaves_padding_out():
    segment = grid_segment(0, 0, 6, 6)
    segment.boxes[:12] = 0
    signals = dataclasses.replace(make_signals((6, 6)), segments=(segment,))
    merge = select("visionzip", signals, 10).merge.to_dense()
    assert merge.shape == (10, 36) and not merge[:, :12].any() and (merge[:, 12:].sum(0) > 0).all()
    more = select("visionzip", signals, 30)
    assert more.merge is None  # all real tokens stay as they are, and six of the padding


def test_divprune_keeps_distinct_tokens_of_a_blank_image():
    signals = dataclasses.replace(make_signals((8, 8)), features=torch.ones(64, 24))
    assert len(set(select("divprune", signals, 16).keep.tolist())) == 16


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
    found = []
    for alpha in (0.5, 1000.0):
        found.append(select("mmtok", signals, 15, alpha=alpha).order[:15].tolist())
        assert found[-1] == greedy_cover(torch.cat([p, alpha * q]), 15)
    assert found[0] != found[1]
    assert found[0] == select("mmtok", signals, 15).order[:15].tolist()
    without = dataclasses.replace(signals, text=signals.text[:0])
    assert select("mmtok", without, 15).order[:15].tolist() == greedy_cover(q, 15)


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
