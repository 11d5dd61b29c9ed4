"""Energy budgets: raw and calibrated thresholds."""

import pytest
import torch

from vtprune.budgets import EnergyBudget, calibrate, interpolate
from vtprune.kernels import spectral_energy


def picture(n: int, d: int, decay: float, seed: int = 0) -> torch.Tensor:
    """Features whose singular values fall by exp(-decay) each: the higher, the emptier the picture."""
    generator = torch.Generator().manual_seed(seed)
    r = min(n, d)
    u = torch.linalg.qr(torch.randn(n, r, generator=generator))[0]
    v = torch.linalg.qr(torch.randn(d, r, generator=generator))[0]
    return u * torch.exp(-decay * torch.arange(r)) @ v.T


class TestEnergyBudget:
    def test_matches_the_formula(self):
        x = picture(60, 40, 0.1)
        sigma = torch.linalg.svdvals(x.double()).square()
        for tau in (0.3, 0.8, 0.99):
            k = 1
            while float(sigma[:k].sum() / sigma.sum()) < tau:
                k += 1
            policy = EnergyBudget(tau)
            assert policy.count(policy.curve(x, 60), 1, 60) == k

    def test_is_monotone_in_tau(self):
        policy_curve = spectral_energy(picture(80, 64, 0.08), 80)
        taus = [0.1, 0.5, 0.9, 0.95, 0.99, 0.999, 0.9999, 1.0]
        counts = [EnergyBudget(tau).count(policy_curve, 4, 50) for tau in taus]
        assert counts == sorted(counts)
        assert counts[0] < counts[4] < counts[-1]

    def test_limits(self):
        policy = EnergyBudget(0.9)
        assert policy.limits(64, 576) == (16, 128)
        assert policy.limits(400, 576) == (100, 576)
        assert policy.limits(1, 576) == (1, 2)
        flat = torch.ones(100, 8)
        assert policy.count(policy.curve(flat, 50), 10, 50) == 10
        noise = torch.randn(100, 90, generator=torch.Generator().manual_seed(0))
        policy = EnergyBudget(0.95)
        assert policy.count(policy.curve(noise, 50), 10, 50) == 50

    def test_randomised_is_within_three_percent_of_exact(self):
        x = picture(1200, 400, 0.012)
        counts = {}
        for spectrum in ("exact", "randomized"):
            policy = EnergyBudget(0.99, spectrum=spectrum)
            counts[spectrum] = policy.count(policy.curve(x, 300), 1, 300)
        assert 100 < counts["exact"] < 250
        assert abs(counts["randomized"] - counts["exact"]) <= 0.03 * counts["exact"]

    def test_auto_is_exact_for_small_and_randomised_for_large_inputs(self):
        small, large = picture(1100, 150, 0.02), torch.randn(1030, 1030)
        curves = {s: EnergyBudget(spectrum=s).curve for s in ("auto", "exact", "randomized")}
        assert torch.equal(curves["auto"](small, 40), curves["exact"](small, 40))
        assert torch.equal(curves["auto"](large, 40), curves["randomized"](large, 40))

    @pytest.mark.parametrize(
        "bad",
        [{"tau": 0}, {"tau": 1.1}, {"tau": "x"}, {"low": 0}, {"low": 2}, {"high": 0.5}, {"spectrum": "fast"}],
    )
    def test_bad_values(self, bad):
        with pytest.raises(ValueError, match=next(iter(bad))):
            EnergyBudget(**bad)


class TestCalibrate:
    images = [picture(100, 64, decay, seed) for seed, decay in enumerate([0.03, 0.05, 0.08, 0.12, 0.2, 0.3])]  # noqa: RUF012

    @pytest.mark.parametrize("keep", [0.1, 0.25, 0.4])
    def test_hits_the_mean(self, keep):
        tau = calibrate(self.images, keep)
        policy = EnergyBudget(tau)
        counts = []
        for x in self.images:
            least, most = policy.limits(keep * 100, 100)
            counts.append(policy.count(policy.curve(x, most), least, most))
        assert abs(sum(counts) / len(counts) - keep * 100) < 1
        assert counts == sorted(counts, reverse=True)
        assert len(set(counts)) > 2

    def test_half_precision_features(self):
        tau = calibrate([x.half() for x in self.images], 25)
        assert tau == pytest.approx(calibrate([x.half().float() for x in self.images], 25))

    def test_no_images(self):
        with pytest.raises(ValueError, match="at least one image"):
            calibrate([], 0.25)


def test_interpolate():
    table = ((0.5, 0.9), (0.1, 0.5))
    assert interpolate(table, 0.1) == pytest.approx(0.5)
    assert interpolate(table, 0.3) == pytest.approx(0.7)
    assert interpolate(table, 0.05) == pytest.approx(0.5)
    assert interpolate(table, 0.9) == pytest.approx(0.9)
    assert interpolate(((0.25, 0.97),), 0.25) == pytest.approx(0.97)
