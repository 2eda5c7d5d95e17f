"""Measures against SciPy and scikit-image; permuted labels, other seeds and small shifts."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy.ndimage import shift as scipy_shift
from scipy.stats import spearmanr
from skimage.metrics import structural_similarity
from torch import Tensor, nn

from xray_lightning.errors import ConfigError
from xray_lightning.explain.sanity import (
    SHIFTS,
    Explain,
    Sample,
    Study,
    compare,
    compare_permuted,
    compare_seeds,
    compare_shifted,
    prepare,
    scale,
    shift,
    ssim,
)

StudyOf = Callable[[Explain], Study]


def pair(rng: np.random.Generator, shape: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    first = rng.normal(size=(3, *shape))
    return first, first + rng.normal(size=(3, *shape))


def correlation(first: np.ndarray, second: np.ndarray) -> float:
    return float(spearmanr(first.ravel(), second.ravel()).statistic)


@pytest.mark.parametrize("shape", [(2, 2), (7, 7), (13, 20)])
def test_rank_correlations_equal_scipy(rng: np.random.Generator, shape: tuple[int, int]) -> None:
    first, second = (np.round(maps, 1) for maps in pair(rng, shape))  # with ties
    similar = compare(prepare(first), prepare(second))
    for row, (one, two) in enumerate(zip(first, second, strict=True)):
        assert similar["spearman"][row] == pytest.approx(correlation(one, two))
        assert similar["absolute"][row] == pytest.approx(correlation(np.abs(one), np.abs(two)))


@pytest.mark.parametrize(
    ("shape", "window"), [((7, 7), 7), ((6, 9), 5), ((3, 4), 3), ((20, 16), 7)]
)
def test_ssim_equals_skimage(rng: np.random.Generator, shape: tuple[int, int], window: int) -> None:
    first, second = (scale(maps) for maps in pair(rng, shape))
    for one, two, value in zip(first, second, ssim(first, second), strict=True):
        wanted = structural_similarity(one, two, win_size=window, data_range=1)
        assert value == pytest.approx(wanted)


def test_ssim_of_a_map_below_three_is_undefined() -> None:
    assert np.isnan(ssim(np.ones((2, 2, 9)), np.ones((2, 2, 9)))).all()


def test_a_map_is_like_itself_and_its_negative_but_for_the_sign(rng: np.random.Generator) -> None:
    maps = rng.normal(size=(2, 8, 8))
    same = compare(prepare(maps), prepare(5 * maps + 3))
    np.testing.assert_allclose([same["spearman"], same["ssim"]], 1)
    turned = compare(prepare(maps), prepare(-maps))
    np.testing.assert_allclose(turned["spearman"], -1)
    np.testing.assert_allclose(turned["absolute"], 1)


@pytest.mark.parametrize("value", [0.5, np.nan])
def test_a_flat_map_or_one_with_nan_is_undefined(rng: np.random.Generator, value: float) -> None:
    maps = rng.normal(size=(2, 8, 8))
    odd = maps.copy()
    odd[0] = value
    for similar in compare(prepare(maps), prepare(odd)).values():
        assert np.isnan(similar).tolist() == [True, False]


def test_permutation(sample: Sample, rng: np.random.Generator) -> None:
    maps, others = rng.normal(size=(2, 24, 9, 9))
    assert compare_permuted(prepare(others), prepare(maps), sample).verdict == "passes"
    test = compare_permuted(prepare(maps), prepare(maps), sample)
    assert {similar.verdict for similar in test.measures.values()} == {"fails"}
    pairs = enumerate(sample.partners)
    wanted = np.mean([correlation(maps[row], maps[partner]) for row, partner in pairs])
    assert test.measures["spearman"].chance.value == pytest.approx(wanted)


def test_seeds(sample: Sample, rng: np.random.Generator) -> None:
    maps = rng.normal(size=(3, 24, 9, 9))
    assert compare_seeds(maps, sample).verdict == "fails"
    alike = rng.normal(size=(24, 9, 9)) + 0.2 * maps
    test = compare_seeds(alike, sample)
    assert (test.verdict, test.networks) == ("passes", 3)
    pairs = [(one, two, row) for one, two in [(0, 1), (0, 2), (1, 2)] for row in range(24)]
    wanted = np.mean([correlation(alike[one, row], alike[two, row]) for one, two, row in pairs])
    assert test.value == pytest.approx(wanted)


def test_what_all_images_share_is_no_agreement(sample: Sample, rng: np.random.Generator) -> None:
    """Two networks that always point at the same place agree only by chance."""
    prior = 3 * rng.normal(size=(9, 9))
    test = compare_seeds(prior + rng.normal(size=(2, 24, 9, 9)), sample)
    assert test.value == pytest.approx(test.chance.value, abs=0.05)
    assert test.value > 0.8
    assert test.verdict == "fails"


@pytest.mark.parametrize("move", [*SHIFTS, (3, -2)])
def test_shift_equals_scipy(images: Tensor, move: tuple[int, int]) -> None:
    wanted = scipy_shift(images.numpy(), (0, 0, *move), order=0, mode="nearest")
    np.testing.assert_array_equal(shift(images, *move).numpy(), wanted)


def test_a_map_that_moves_along_is_stable(plane, study_of, pixels) -> None:
    study = study_of(pixels)
    test = compare_shifted(plane, study, study.maps(plane))
    assert test.verdict == "passes"
    assert test.value == pytest.approx(1)  # moved back exactly, and no margin enters
    study.images = study.images[:, :, :9, :9]
    with pytest.raises(ConfigError, match="more than 9 pixels a side, got 9"):
        compare_shifted(plane, study, np.zeros((24, 9, 9)))


def test_a_map_that_stays_is_not(plane: nn.Module, study_of: StudyOf) -> None:
    """Each batch gets its maps by position in the sequence, whatever it shows: a lookup."""
    numbers = iter(range(10**6))

    def lookup(net: nn.Module, batch: Tensor) -> Tensor:
        generator = torch.Generator().manual_seed(next(numbers) % 3)  # three batches
        return torch.rand(len(batch), 16, 16, generator=generator)

    study = study_of(lookup)
    test = compare_shifted(plane, study, study.maps(plane))
    assert test.verdict == "fails"
    assert test.shifts == list(SHIFTS)
