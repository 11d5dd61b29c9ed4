"""The contract that every registered method keeps, and the registry."""

import dataclasses

import pytest
import torch
from method_signals import change, grid_segment, make_signals

import vtprune.methods as methods
from vtprune.methods import list_methods, make, select
from vtprune.methods.multi import interleave
from vtprune.types import SIGNALS, Budget, Selection, Shape, Signals

NAMES = list(list_methods())
NESTED = [name for name, info in list_methods().items() if info.nested]


def check(selection: Selection, signals: Signals, k: int | None) -> None:
    keep, n = selection.keep, signals.count
    assert keep.dtype == torch.int64
    assert keep.tolist() == sorted(set(keep.tolist()))
    assert keep[0] >= 0 and keep[-1] < n
    if k is not None:
        assert len(keep) + selection.extra == k
    kept_images = set(signals.image_ids()[keep].tolist())
    assert kept_images == set(signals.images)
    if selection.merge is not None:
        assert selection.merge.shape == (len(keep) + selection.extra, n)
        assert selection.merge.dtype == torch.float32
        assert torch.isfinite(selection.merge.to_dense()).all()
    if selection.scores is not None:
        assert selection.scores.shape == (n,) and selection.scores.dtype == torch.float32


def expected(name: str, k: int) -> int | None:
    """The count to expect: exact, unless the method decides itself."""
    return None if list_methods()[name].adaptive else k


def first_needs(name: str) -> tuple[str, ...]:
    """What the first step of the method reads."""
    return make(name).plan(Budget(0.5), Shape(64, 1, 32))[0].needs


def same(a: Selection, b: Selection) -> bool:
    merges = (a.merge is None) == (b.merge is None) and (
        a.merge is None or torch.equal(a.merge.to_dense(), b.merge.to_dense())
    )
    return torch.equal(a.keep, b.keep) and merges


@pytest.mark.parametrize("name", NAMES)
class TestContract:
    def test_info(self, name):
        info = list_methods()[name]
        assert info.title and info.summary.endswith(".") and len(info.summary) < 600
        assert set(info.acts_at.split("+")) <= {"vision", "projected", "llm"}
        assert set(info.needs) <= set(SIGNALS)
        assert not info.paper or info.paper.startswith("https://")
        assert methods.card(name).split("\n\n")[0].split() == info.summary.split()
        assert make(name, **info.params) == make(name)

    @pytest.mark.parametrize("k", [1, 2, 7, 13, 40, 63])
    def test_count(self, name, k):
        signals = make_signals((8, 8))
        check(select(name, signals, k), signals, expected(name, k))

    @pytest.mark.parametrize("keep", [0.1, 0.25, 0.9])
    def test_share(self, name, keep):
        signals = make_signals((8, 8), seed=1)
        check(select(name, signals, keep), signals, expected(name, round(64 * keep)))

    @pytest.mark.parametrize("k", [2, 3, 11, 30, 75])
    def test_two_images_of_different_size(self, name, k):
        signals = make_signals((8, 8), (3, 4), seed=2)
        check(select(name, signals, k), signals, expected(name, k))

    def test_four_images_one_of_them_a_single_token(self, name):
        signals = make_signals((6, 6), (1, 1), (2, 3), (5, 4), seed=3)
        for k in (4, 10, 40):
            check(select(name, signals, k), signals, expected(name, k))

    def test_two_tiles_of_one_image(self, name):
        left, right = grid_segment(0, 0, 4, 4), grid_segment(0, 16, 4, 4, x0=56)
        signals = dataclasses.replace(make_signals((4, 8)), segments=(left, right))
        for k in (1, 5, 20):
            check(select(name, signals, k), signals, expected(name, k))

    @pytest.mark.parametrize("keep", [1.0, 20])
    def test_everything_kept_is_the_identity(self, name, keep):
        signals = make_signals((4, 5))
        selection = select(name, signals, keep)
        assert selection.keep.tolist() == list(range(20))
        assert selection.merge is None and selection.extra == 0
        for step in make(name).plan(Budget(keep), Shape(20, 1, 12)):
            assert step.keep == 20
            assert step.select(signals, 20).keep.tolist() == list(range(20))

    def test_one_token(self, name):
        signals = make_signals((1, 1))
        for keep in (1, 0.01, 1.0):
            assert select(name, signals, keep).keep.tolist() == [0]

    @pytest.mark.parametrize("value", [0.0, 1.0, -3.5])
    def test_blank_and_constant(self, name, value):
        signals = make_signals((6, 6))
        flat = change(signals, lambda t: torch.full_like(t, value))
        for k in (1, 9, 35):
            check(select(name, flat, k), flat, expected(name, k))
        only_features = dataclasses.replace(signals, features=torch.full_like(signals.features, value))
        check(select(name, only_features, 9), only_features, expected(name, 9))

    @pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
    def test_broken_numbers_are_one_clear_error(self, name, bad):
        signals = make_signals((4, 4))
        for field in ("features", *first_needs(name)):
            broken = getattr(signals, field).clone()
            broken.view(-1)[3] = bad
            with pytest.raises(ValueError, match=f"{name}.*{field}.*NaN or infinite"):
                select(name, dataclasses.replace(signals, **{field: broken}), 5)

    def test_missing_signal_is_named(self, name):
        signals = make_signals((4, 4))
        for need in first_needs(name):
            with pytest.raises(ValueError, match=f"{name} needs .*{need}"):
                select(name, dataclasses.replace(signals, **{need: None}), 5)

    def test_wrong_length_is_named(self, name):
        signals = make_signals((4, 4))
        for need in set(first_needs(name)) - {"text", "clip_text", "query_states", "query_keys"}:
            short = getattr(signals, need)
            short = short[..., :-1] if need == "attention" else short[:-1]
            with pytest.raises(ValueError, match=f"{name}: {need} cover 15 of 16"):
                select(name, dataclasses.replace(signals, **{need: short}), 5)

    def test_reads_only_what_it_needs(self, name):
        signals = make_signals((6, 6), (3, 3))
        unused = {field: None for field in SIGNALS if field not in list_methods()[name].needs}
        assert same(select(name, signals, 11), select(name, dataclasses.replace(signals, **unused), 11))

    def test_same_seed_same_result(self, name):
        signals, other = make_signals((6, 6), (3, 3)), make_signals((5, 5), seed=9)
        first = select(name, signals, 11)
        torch.manual_seed(1234)
        select(name, other, 4)
        assert same(first, select(name, signals, 11))

    def test_input_is_not_changed(self, name):
        signals = make_signals((6, 6), (3, 3))
        before = change(signals, torch.clone)
        select(name, signals, 11)
        for field in ("features", *SIGNALS):
            assert torch.equal(getattr(signals, field), getattr(before, field))

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
    def test_half_precision_gives_what_float32_gives(self, name, dtype):
        half = change(make_signals((6, 6), (3, 3), seed=4), lambda t: t.to(dtype))
        assert same(select(name, half, 11), select(name, change(half, torch.Tensor.float), 11))

    def test_padding_comes_last(self, name):
        segment = grid_segment(0, 0, 6, 6)
        segment.boxes[:12] = 0  # two rows of padding on top
        signals = dataclasses.replace(make_signals((6, 6)), segments=(segment,))
        for k in (1, 6, 24, 30):
            selection = select(name, signals, k)
            check(selection, signals, expected(name, k))
            if expected(name, k):
                assert int((selection.keep < 12).sum()) == max(0, k - 24)

    def test_too_many_and_too_few(self, name):
        signals = make_signals((3, 3), (3, 3))
        with pytest.raises(ValueError, match="more than the 18 visual tokens"):
            select(name, signals, 19)
        with pytest.raises(ValueError, match="2 images"):
            select(name, signals, 1)

    @pytest.mark.parametrize("keep", [0.3, 0.5, 0.75, 100, 1.0])
    @pytest.mark.parametrize("layers", [8, 12, 32])
    @pytest.mark.parametrize("grids", [((12, 16),), ((10, 10), (9, 8), (4, 5))])
    def test_plan_holds_the_mean_over_the_layers(self, name, keep, layers, grids):
        signals = make_signals(*grids)
        total, images = signals.count, len(grids)
        wanted = Budget(keep).count(total, images)
        try:
            steps = make(name).plan(Budget(keep), Shape(total, images, layers))
        except ValueError as error:
            assert "is the least" in str(error) or "layers lacks" in str(error)
            assert "llm" in list_methods()[name].acts_at
            return
        seen, at = 0, 0
        for step in steps:
            layer = step.at[1] if isinstance(step.at, tuple) else 0
            seen, at = seen + (layer - at) * signals.count, layer
            assert 0 <= layer < layers
            selection = step.select(signals, step.keep)
            check(selection, signals, step.keep)
            if step.keep is None:
                return
            signals = signals.take(selection.keep)
        mean = (seen + (layers - at) * signals.count) / layers
        assert abs(mean - wanted) <= 1

    @pytest.mark.cuda
    @pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
    def test_cuda(self, name):
        signals = make_signals((8, 8), (3, 3))
        on_gpu = change(signals, torch.Tensor.cuda)
        selection = select(name, on_gpu, 20)
        assert selection.keep.is_cuda
        check(selection, on_gpu, expected(name, 20))
        assert torch.equal(selection.keep.cpu(), select(name, signals, 20).keep)


@pytest.mark.parametrize("name", NESTED)
@pytest.mark.parametrize("grids", [((7, 7),), ((6, 5), (2, 3), (4, 4))])
def test_a_prefix_of_the_order_is_the_selection(name, grids):
    signals = make_signals(*grids, seed=5)
    n, images = signals.count, len(grids)
    order = select(name, signals, max(images, n // 3)).order
    assert sorted(order.tolist()) == list(range(n))
    for k in range(images, n):
        assert select(name, signals, k).keep.tolist() == sorted(order[:k].tolist())
    step = make(name).plan(Budget(1.0), Shape(n, images, 32))[0]
    timed = step.select(signals, n // 2).order
    assert torch.equal(timed[: n // 2], order[: n // 2])


@pytest.mark.parametrize("name", NESTED)
def test_scores_are_higher_for_what_is_kept(name):
    signals = make_signals((7, 7), seed=6)
    selection = select(name, signals, 12)
    if selection.scores is not None:
        dropped = torch.ones(49, dtype=torch.bool)
        dropped[selection.keep] = False
        assert selection.scores[selection.keep].min() >= selection.scores[dropped].max()


class TestRegistry:
    def test_unknown_method_names_the_closest(self):
        with pytest.raises(ValueError, match=r"unknown method 'fastvv'. Did you mean 'fastv'\?.*atp.*random"):
            make("fastvv")
        with pytest.raises(ValueError, match="unknown method"):
            methods.card("zzz")

    def test_unknown_parameter_names_the_allowed(self):
        with pytest.raises(ValueError, match="fastv has no parameter 'layer': it has k"):
            make("fastv", layer=3)
        with pytest.raises(ValueError, match="uniform has no parameter 'x': it has none"):
            make("uniform", x=3)

    @pytest.mark.parametrize(
        ("name", "params"),
        [
            ("fastv", {"k": 0}),
            ("fastv", {"k": 2.5}),
            ("fastv", {"k": True}),
            ("atp", {"alpha": 1.5}),
            ("atp", {"alpha": float("nan")}),
            ("atp", {"clip_sign": 2}),
            ("atp", {"attention": "both"}),
            ("atp", {"attention": 3}),
            ("resprune", {"alpha": -1}),
            ("e_adaprune", {"table": ((0.25, 3.0),)}),
            ("dart", {"image_pivots": 0}),
            ("hiprune", {"alpha": 1.5}),
            ("holov", {"chunks": 0}),
            ("mmtok", {"alpha": -0.1}),
            ("otprune", {"scale": 0.0}),
            ("prumerge", {"neighbours": -1}),
            ("prumerge_plus", {"spatial": 1.0}),
            ("prunesid", {"size": 0.5}),
            ("scope", {"alpha": -1.0}),
            ("sparsevlm", {"recycle": 1.0}),
            ("sts", {"ratio": 0.5}),
            ("sts", {"power": 0.0}),
            ("tops", {"coverage": -1.0}),
            ("trim", {"clip_sign": 3}),
            ("trimtokenator_lc", {"floor": 0}),
            ("vispruner", {"batch": 0}),
            ("visionzip", {"contextual": 1.0}),
            ("vscan", {"window": 0}),
            ("agilepruner", {"strength": -1.0}),
            ("resprune", {"normalize": 1}),
            ("e_adaprune", {"tau": 2.0}),
            ("e_adaprune", {"tau": "high"}),
            ("e_adaprune", {"space": "pixels"}),
            ("e_adaprune", {"spectrum": "fast"}),
        ],
    )
    def test_bad_values_name_the_parameter(self, name, params):
        with pytest.raises(ValueError, match=next(iter(params))):
            make(name, **params)

    def test_a_new_method_needs_one_decorator(self):
        from vtprune.methods import base

        @methods.register("longest")
        @dataclasses.dataclass(frozen=True)
        class Longest(methods.Method):
            """Keeps the longest vectors."""

            def score(self, signals):
                return signals.features.norm(dim=1)

        try:
            signals = make_signals((3, 3), (2, 2))
            check(select("longest", signals, 5), signals, 5)
            assert list_methods()["longest"].summary == "Keeps the longest vectors."
            with pytest.raises(ValueError, match="already"):
                methods.register("longest")(type("Other", (methods.Method,), {}))
        finally:
            del base._registry["longest"]

    def test_a_method_that_breaks_the_contract_is_caught(self):
        step = make("random").step("projected", 3, lambda signals, k: Selection(torch.tensor([1, 1])))
        with pytest.raises(RuntimeError, match=r"random returned 2 tokens instead of 3 and .* sorted"):
            step.select(make_signals((3, 3)), 3)


class TestSharing:
    def test_every_group_first_and_all_in_the_end(self):
        turns = interleave([5, 1, 9])
        assert sorted(turns[:3].tolist()) == [0, 1, 2]
        assert torch.bincount(turns).tolist() == [5, 1, 9]

    def test_is_proportional(self):
        counts = [100, 300, 50]
        for k in (9, 45, 90, 200, 449):
            got = torch.bincount(interleave(counts)[:k]).tolist()
            assert all(abs(g - k * c / 450) < 1 for g, c in zip(got, counts, strict=True))

    def test_agrees_with_largest_remainder_for_two_images(self):
        for a, b in ((64, 64), (576, 100), (37, 200)):
            for k in range(4, a + b, 7):
                exact = [k * a / (a + b), k * b / (a + b)]
                whole = [int(x) for x in exact]
                if sum(whole) < k:
                    whole[0 if exact[0] - whole[0] >= exact[1] - whole[1] else 1] += 1
                if min(whole) >= 1:
                    assert torch.bincount(interleave([a, b])[:k]).tolist() == whole
