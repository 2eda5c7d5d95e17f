import numpy as np
import pytest
from scipy.ndimage import distance_transform_edt
from sklearn.metrics import average_precision_score

from xray_lightning import ConfigError, enlarge
from xray_lightning.metrics.localisation import (
    average_precision,
    energy_inside,
    pointing_game,
    region_of,
    widen,
)

RNG = np.random.default_rng(0)


def test_region_by_pixel_centres() -> None:
    for box in RNG.uniform([-3, -3, 1, 1], [12, 12, 16, 16], (50, 4)):
        x, y, width, height = box
        centres = np.arange(20) + 0.5
        rows, columns = (
            (centres >= low) & (centres < low + side) for low, side in ((y, height), (x, width))
        )
        expected = rows[:, None] & columns
        if expected.any():
            assert (region_of([box], 20) == expected).all()


def test_region_of_several_and_tiny_boxes() -> None:
    both = region_of([(0, 0, 2, 1), (5.6, 3.6, 0.2, 0.2), (5.9, 7.9, 9, 9)], 8)
    assert [place.tolist() for place in np.nonzero(both)] == [[0, 0, 3, 7, 7], [0, 1, 5, 6, 7]]


@pytest.mark.parametrize(
    "box", [(0, 0, 0, 5), (0, 0, 5, -1), (8, 0, 3, 3), (0, -4, 3, 4), (np.nan, 0, 1, 1)]
)
def test_boxes_that_are_not_on_the_square(box: tuple[float, ...]) -> None:
    with pytest.raises(ConfigError, match="a box must have area on the square of 8 px"):
        region_of([box], 8)


def test_widened_by_euclidean_distance() -> None:
    region = region_of([(4, 5, 3, 2)], 16)
    away = distance_transform_edt(~region)
    for tolerance in (1, 1.5, 4):
        assert (widen(region, tolerance) == (away <= tolerance)).all()
    assert widen(region, 0) is region
    with pytest.raises(
        ConfigError, match="tolerance must be a number of pixels of at least 0, got -1"
    ):
        widen(region, -1)


def test_pointing_game_by_hand() -> None:
    heat = np.zeros((4, 4), np.float32)
    heat[1, 2] = 1
    assert pointing_game(heat, region_of([(2, 1, 1, 1)], 4)) == 1
    assert pointing_game(heat, region_of([(0, 0, 2, 4)], 4)) == 0
    assert pointing_game(heat, widen(region_of([(0, 0, 2, 4)], 4), 1)) == 1
    heat[0, :3] = 1  # four equal maxima, two of them in the left half
    assert pointing_game(heat, region_of([(0, 0, 2, 4)], 4)) == 0.5


@pytest.mark.parametrize("level", [0.0, -3.7, 0.1, 1e6])
def test_a_flat_map_points_by_chance(level: float) -> None:
    region = region_of([(3, 2, 10, 20)], 50)
    heat = enlarge(np.full((7, 6), level, np.float32), 50)
    assert pointing_game(heat, region) == pytest.approx(200 / 2500)
    assert average_precision(heat, region) == pytest.approx(200 / 2500)


def test_energy_by_hand() -> None:
    heat = np.array([[3, 1], [-5, 4]], np.float32)
    assert energy_inside(heat, region_of([(0, 0, 1, 2)], 2)) == pytest.approx(3 / 8)
    assert np.isnan(energy_inside(-np.ones((2, 2), np.float32), region_of([(0, 0, 1, 2)], 2)))


@pytest.mark.parametrize("side", [4, 7, 64])
def test_average_precision_against_scikit_learn(side: int) -> None:
    for power, error in ((1, 5e-4), (3, 5e-4), (5, 5e-3)):
        heat = enlarge(RNG.standard_normal((side, side)).astype(np.float32) ** power, 64)
        region = region_of([(10, 20, 15, 30), (40, 5, 9, 9)], 64)
        theirs = average_precision_score(region.ravel(), heat.ravel())
        assert average_precision(heat, region) == pytest.approx(theirs, abs=error)


def test_average_precision_is_exact_for_few_levels() -> None:
    heat = RNG.integers(0, 9, (32, 32)).astype(np.float32)
    region = region_of([(3, 4, 11, 12)], 32)
    theirs = average_precision_score(region.ravel(), heat.ravel())
    assert average_precision(heat, region) == pytest.approx(theirs, abs=1e-12)
