"""Damaged pictures."""

import numpy as np
import pytest
from PIL import Image

from vtprune.perturb import KINDS, OCCLUSION, SEVERITIES, perturb
from vtprune.scenes.world import render, sample


def scene(size=300):
    return render(sample(11), size)[0]


def difference(a, b):
    return float(np.abs(np.asarray(a, np.float32) - np.asarray(b, np.float32)).mean())


@pytest.mark.parametrize("kind", KINDS)
def test_each_severity_is_worse_and_repeatable(kind):
    picture = scene()
    before = np.asarray(picture).copy()
    damaged = [perturb(picture, kind, severity, seed=3) for severity in SEVERITIES]
    changes = [difference(picture, other) for other in damaged]
    assert changes == sorted(changes) and changes[0] > 0 and len(set(changes)) == 5
    assert all(other.size == picture.size and other.mode == "RGB" for other in damaged)
    assert difference(damaged[2], perturb(picture, kind, 3, seed=3)) == 0
    assert np.array_equal(np.asarray(picture), before)


@pytest.mark.parametrize("kind", ["noise", "occlusion"])
def test_another_seed_is_another_picture(kind):
    assert difference(perturb(scene(), kind, 3, seed=1), perturb(scene(), kind, 3, seed=2)) > 0


def test_the_covered_share_is_what_is_said():
    white = Image.new("RGB", (400, 300), "white")
    for severity, share in zip(SEVERITIES, OCCLUSION, strict=True):
        covered = np.asarray(perturb(white, "occlusion", severity))
        assert (covered < 200).all(2).mean() == pytest.approx(share, abs=0.02)


@pytest.mark.parametrize("size", [(1, 1), (3, 200), (1000, 8)])
@pytest.mark.parametrize("kind", KINDS)
def test_odd_sizes(kind, size):
    assert perturb(Image.new("L", size, 90), kind, 5).size == size


def test_a_thumbnail_and_a_large_picture_suffer_alike():
    small, large = scene(150), scene(600)
    small, large = perturb(small, "blur", 4), perturb(large, "blur", 4).resize((150, 150))
    assert difference(small, large) < 0.3 * difference(small, scene(150))


@pytest.mark.parametrize(("kind", "severity"), [("rain", 1), ("noise", 0), ("noise", 6), ("noise", 2.5)])
def test_what_there_is_not(kind, severity):
    with pytest.raises(ValueError, match=r"take noise, blur|from 1 to 5"):
        perturb(scene(), kind, severity)
