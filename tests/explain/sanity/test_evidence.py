"""Deletion and insertion against a loop over pixels; true evidence beats what looks at nothing."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy.integrate import trapezoid
from scipy.ndimage import gaussian_filter
from torch import Tensor, nn

from xray_lightning.errors import ConfigError
from xray_lightning.explain.sanity import Study, blur, compare_curves, mix, perturb, rank_pixels

StudyOf = Callable[[Callable[..., Tensor]], Study]
STEPS = 8


@pytest.fixture
def bright(images: Tensor) -> Tensor:
    """The region that the network looks at is bright; a blur takes its light away."""
    images = images * 0.2
    images[:, :, :6, :6] += 0.7
    return images


@pytest.fixture
def study(study_of: StudyOf, evidence: Callable[..., Tensor], bright: Tensor) -> Study:
    made = study_of(evidence)
    made.images = bright
    return made


def test_curves_equal_a_loop(plane: nn.Module, study: Study) -> None:
    maps = study.maps(plane)
    found = perturb(plane, study, maps, 1, STEPS)
    blurred = np.stack(
        [gaussian_filter(each[0].numpy(), 1.0, mode="nearest") for each in study.images]
    )[:, None]
    np.testing.assert_allclose(blur(study.images).numpy(), blurred, atol=1e-6)
    originals = study.images.numpy()
    weight, bias = plane.head.weight[1].detach().numpy(), plane.head.bias[1].item()
    for name, first, last in (("deletion", originals, blurred), ("insertion", blurred, originals)):
        curves = np.zeros((24, STEPS + 1))
        for row in range(24):
            order = np.argsort(-maps[row].ravel(), kind="stable")
            pixels = first[row].ravel().copy()
            for step in range(STEPS + 1):
                for place in order[: round(step / STEPS * 256)]:
                    pixels[place] = last[row].ravel()[place]
                curves[row, step] = 1 / (1 + np.exp(-(pixels @ weight + bias)))
        areas = [trapezoid(curve, dx=1 / STEPS) for curve in curves]
        # beyond the evidence all weights are 0, so that the order of ties does not matter
        np.testing.assert_allclose(found[name].curves["map"], curves.mean(axis=0), atol=1e-6)
        assert found[name].area.value == pytest.approx(np.mean(areas), abs=1e-6)


def test_true_evidence_beats_the_controls(plane: nn.Module, study: Study) -> None:
    found = perturb(plane, study, study.maps(plane), 1, STEPS)
    for name in ("deletion", "insertion"):
        assert found[name].verdict == "passes"
        assert found[name].controls["random"].advantage.low > 0.02
    curves = found["insertion"].curves
    assert curves["map"][0] == curves["random"][0] == curves["centre"][0]
    assert curves["map"][-1] == curves["random"][-1] == curves["centre"][-1]


def test_inverted_evidence_fails(plane: nn.Module, study: Study) -> None:
    found = perturb(plane, study, -study.maps(plane), 1, STEPS)
    assert [found[name].verdict for name in ("deletion", "insertion")] == ["fails", "fails"]


@pytest.mark.parametrize("size", [4, 16])
def test_a_flat_map_is_the_random_order(plane: nn.Module, study: Study, size: int) -> None:
    found = perturb(plane, study, np.zeros((24, size, size)), 1, STEPS)
    for name in ("deletion", "insertion"):
        assert found[name].curves["map"] == found[name].curves["random"]
        assert found[name].verdict == "undecided"


@pytest.mark.parametrize(
    ("order", "verdict"), [("centre", "undecided"), ("random", "fails"), ("both", "fails")]
)
def test_worse_than_the_centre_alone_does_not_fail(study, rng, order, verdict) -> None:
    """The grain of a map can make it worse than an order without grain."""
    curves = {name: np.full((STEPS + 1, 24), 0.5) for name in ("map", "random", "centre")}
    for name in ("random", "centre"):
        curves[name] += 0.1 if order in (name, "both") else -0.1
    assert compare_curves(curves, study, 1).verdict == verdict


def test_a_map_with_nan_has_no_area(plane: nn.Module, study: Study) -> None:
    maps = study.maps(plane)
    maps[:20, 0, 0] = np.nan
    found = perturb(plane, study, maps, 1, STEPS)["insertion"]
    assert found.verdict == "undecided"
    assert found.area.undefined == pytest.approx(20 / 24)
    assert np.isfinite(found.area.value)


def test_ranks_begin_with_the_greatest(rng: np.random.Generator) -> None:
    maps = rng.permutation(np.arange(32.0)).reshape(2, 4, 4)
    ranks = rank_pixels(maps, np.zeros_like(maps))
    for values, places in zip(maps.reshape(2, -1), ranks, strict=True):
        assert values[np.argsort(places)].tolist() == sorted(values, reverse=True)


def test_ties_follow_the_noise(rng: np.random.Generator) -> None:
    """A map that is 0 but for one pixel does not read the image like a page."""
    maps, ties = np.zeros((2, 3, 3)), rng.random((2, 3, 3))
    maps[:, 1, 1] = 1
    for found, noise in zip(rank_pixels(maps, ties), ties.reshape(2, -1), strict=True):
        wanted = [4, *(place for place in np.argsort(-noise) if place != 4)]
        assert np.argsort(found).tolist() == wanted


@pytest.mark.parametrize("share", [0, 0.25, 1])
def test_mix(images: Tensor, share: float) -> None:
    ranks = np.tile(np.arange(256), (24, 1))
    found = mix(images, torch.full_like(images, -1), ranks, share)
    assert (found < 0).flatten(1).sum(dim=1).tolist() == [256 * share] * 24
    assert not (found[:, 0] < 0).flatten(1)[:, round(256 * share) :].any()


def test_too_few_steps(plane: nn.Module, study: Study) -> None:
    with pytest.raises(ConfigError, match=r"steps .* 2, got 1"):
        perturb(plane, study, np.zeros((24, 16, 16)), 1, 1)
