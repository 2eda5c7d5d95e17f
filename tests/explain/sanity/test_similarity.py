"""Measures of similarity against SciPy and scikit-image."""

import numpy as np
import pytest
from scipy.stats import spearmanr
from skimage.metrics import structural_similarity

from xray_lightning.explain.sanity.similarity import alike, prepared, rows_of, scaled, ssim


def pair(rng: np.random.Generator, shape: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    first = rng.normal(size=(3, *shape))
    return first, first + rng.normal(size=(3, *shape))


@pytest.mark.parametrize("shape", [(2, 2), (7, 7), (13, 20)])
def test_rank_correlations_equal_scipy(rng: np.random.Generator, shape: tuple[int, int]) -> None:
    first, second = (np.round(each, 1) for each in pair(rng, shape))  # with ties
    found = alike(prepared(first), prepared(second))
    for index in range(3):
        one, two = first[index].ravel(), second[index].ravel()
        assert found["spearman"][index] == pytest.approx(spearmanr(one, two).statistic)
        wanted = spearmanr(np.abs(one), np.abs(two)).statistic
        assert found["absolute"][index] == pytest.approx(wanted)


@pytest.mark.parametrize(
    ("shape", "window"), [((7, 7), 7), ((6, 9), 5), ((3, 4), 3), ((20, 16), 7)]
)
def test_ssim_equals_skimage(rng: np.random.Generator, shape: tuple[int, int], window: int) -> None:
    first, second = (scaled(each) for each in pair(rng, shape))
    found = ssim(first, second)
    for index in range(3):
        wanted = structural_similarity(first[index], second[index], win_size=window, data_range=1)
        assert found[index] == pytest.approx(wanted)


def test_ssim_of_a_map_below_three_is_undefined() -> None:
    assert np.isnan(ssim(np.ones((2, 2, 9)), np.ones((2, 2, 9)))).all()


def test_a_map_is_like_itself_and_its_negative_but_for_the_sign(rng: np.random.Generator) -> None:
    maps = rng.normal(size=(2, 8, 8))
    same = alike(prepared(maps), prepared(5 * maps + 3))
    np.testing.assert_allclose([same["spearman"], same["ssim"]], 1)
    turned = alike(prepared(maps), prepared(-maps))
    np.testing.assert_allclose(turned["spearman"], -1)
    np.testing.assert_allclose(turned["absolute"], 1)


@pytest.mark.parametrize("value", [0.5, np.nan])
def test_a_flat_map_or_one_with_nan_is_undefined(rng: np.random.Generator, value: float) -> None:
    maps = rng.normal(size=(2, 8, 8))
    odd = maps.copy()
    odd[0] = value
    found = alike(prepared(maps), prepared(odd))
    for values in found.values():
        assert np.isnan(values).tolist() == [True, False]


def test_rows(rng: np.random.Generator) -> None:
    maps = rng.normal(size=(4, 5, 5))
    rows = np.array([2, 0, 0, 3])
    picked, direct = rows_of(prepared(maps), rows), prepared(maps[rows])
    for name, values in direct.items():
        np.testing.assert_array_equal(picked[name], values)
