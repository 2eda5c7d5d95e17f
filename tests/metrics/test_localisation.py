"""Where a map points, what lies inside, its boxes; against SciPy, scikit-learn and by hand."""

from functools import partial

import numpy as np
import pytest
from scipy import ndimage
from sklearn.metrics import average_precision_score

from xray_lightning.errors import ConfigError
from xray_lightning.explain.maps import enlarge, shrink
from xray_lightning.metrics import localisation
from xray_lightning.metrics.localisation import METRICS, OVERLAPS, detect_boxes, region_of, widen

RNG = np.random.default_rng(0)


def by_scipy(heat: np.ndarray, share: float) -> set[tuple[int, ...]]:
    above = heat >= heat.min() + share * (heat.max() - heat.min())
    parts = ndimage.find_objects(ndimage.label(above, np.ones((3, 3)))[0])
    return {(x.start, y.start, x.stop - x.start, y.stop - y.start) for y, x in parts}


@pytest.mark.parametrize("side", [5, 12, 40])
def test_boxes_are_those_of_the_connected_parts(side: int) -> None:
    for share in (0.235, 0.5, 0.7, 0.95):
        heat = enlarge(RNG.standard_normal((side, side), dtype=np.float32), 40)
        assert set(map(tuple, detect_boxes(heat, [share]).tolist())) == by_scipy(heat, share)


def test_islands_in_holes_several_thresholds_and_flat_maps() -> None:
    heat = np.zeros((9, 9), np.float32)
    heat[0:7, 0:7] = 1
    heat[1:6, 1:6] = 0
    heat[3, 3] = 1
    assert sorted(detect_boxes(heat, [0.5]).tolist()) == [[0, 0, 7, 7], [3, 3, 1, 1]]
    heat = np.zeros((6, 6), np.float32)
    heat[1:5, 1:5], heat[2, 2] = 0.5, 1
    assert detect_boxes(heat, localisation.WANG).tolist() == [[1, 1, 4, 4], [2, 2, 1, 1]]
    assert detect_boxes(heat, [1]).tolist() == [[2, 2, 1, 1]]
    for level in (0, -0.1, 7.3):
        flat = enlarge(np.full((3, 3), level, np.float32), 6)
        assert detect_boxes(flat, localisation.WANG).shape == (0, 4)
        found = figures(flat, [(1, 1, 3, 3), (4, 4, 1, 1)], *localisation.WANG)
        sums = [found[name][0] for name in METRICS if name[0] in ("centre", "iou", "iobb", "afp")]
        assert sums == [0] * 12, "it was a box of the whole image for each threshold"
    assert localisation.tune_threshold(np.zeros((2, 6, 6), np.float32), [[(1, 1, 3, 3)]] * 2) == 0.1


@pytest.mark.parametrize(
    ("call", "values", "match"),
    [
        *(
            (partial(detect_boxes, np.eye(3, dtype=np.float32)), shares, "thresholds are shares of")
            for shares in ([0.0], [1.1], [0.5, -1], [float("nan")], [])
        ),
        *(
            (lambda box: region_of([box], 8), box, "a box must have area on the square of 8 px")
            for box in ((0, 0, 0, 5), (0, 0, 5, -1), (8, 0, 3, 3), (0, -4, 3, 4), (np.nan, 0, 1, 1))
        ),
        (partial(widen, np.eye(16) > 0), -1, "tolerance in pixels .* of at least 0, got -1"),
    ],
)
def test_what_is_no_share_box_or_tolerance(call, values, match: str) -> None:
    with pytest.raises(ConfigError, match=match):
        call(values)


def test_overlaps_by_counting_pixels() -> None:
    ours, theirs = (
        np.column_stack([RNG.integers(0, 15, (6, 2)), RNG.integers(1, 15, (6, 2))]) for _ in "12"
    )
    iou, iobb = localisation.overlaps(ours, theirs)
    for row, one in enumerate(ours):
        for column, other in enumerate(theirs):
            first, second = region_of([one], 30), region_of([other], 30)
            both = (first & second).sum()
            assert iou[row, column] == pytest.approx(both / (first | second).sum())
            assert iobb[row, column] == pytest.approx(both / first.sum())


def figures(heat: np.ndarray, annotated: list[tuple[float, ...]], *shares: float) -> dict:
    region = region_of(annotated, len(heat))
    sums, weights = localisation.score_map(heat, region, annotated, shares=shares, near=region)
    return dict(zip(METRICS, zip(sums, weights, strict=True), strict=True))


def test_figures_of_a_map_by_hand() -> None:
    heat = np.zeros((20, 20), np.float32)
    heat[0:10, 0:10] = 1  # detects (0, 0, 10, 10)
    heat[15:17, 15:17] = 0.9  # detects (15, 15, 2, 2)
    found = figures(heat, [(5, 0, 10, 10), (0, 18, 2, 2)], 0.5)
    assert found["pointing_game",] == (0.5, 1)
    assert found["energy",] == (pytest.approx(50 / 103.6), 1)
    assert found["iou",] == (pytest.approx(50 / 150), 2)
    assert found["iobb",] == (pytest.approx(0.5), 2)
    assert found["centre",] == (1, 1), "the centre (5, 5) lies on the box's edge, so inside"
    assert [found["t_iou", str(over)] for over in OVERLAPS] == [(1, 2)] * 3 + [(0, 2)] * 6
    assert [found["t_iobb", str(over)] for over in OVERLAPS] == [(1, 2)] * 4 + [(0, 2)] * 5, (
        "an overlap equal to the threshold is not correct: Wang 2017 asks for more"
    )
    assert [found["afp", str(over)] for over in OVERLAPS] == [(1, 1)] * 4 + [(2, 1)] * 5
    assert figures(heat, [(5.1, 0, 10, 10)], 0.5)["centre",] == (0, 1)
    assert figures(heat, [(15, 15, 2, 2)], 0.5)["centre",] == (0, 1), "not of the maximum's box"
    heat[1, 1] = 2  # a smaller box, about the maximum, at the higher threshold
    assert figures(heat, [(1, 1, 1, 1)], 0.5, 1)["centre",] == (1, 1)
    assert figures(heat, [(1, 1, 1, 1)], 0.4)["centre",] == (0, 1)


def test_tuned_threshold_finds_what_made_the_boxes() -> None:
    ramps = np.stack([enlarge(RNG.random((5, 5), dtype=np.float32), 40) for _ in range(12)])
    for share in (0.3, 0.55, 0.8):
        boxes = [detect_boxes(ramp, [share]) for ramp in ramps]
        assert localisation.tune_threshold(ramps, boxes) == pytest.approx(share)
    assert np.isnan(localisation.tune_threshold([], []))
    maps = shrink(region_of([box := (8, 8, 8, 8)], 32), (32, 32))[None]
    assert localisation.tune_threshold(maps, [[box]]) == localisation.TRIED[0], (
        "the lowest of equally good ones"
    )


def test_region_by_pixel_centres() -> None:
    for box in RNG.uniform([-3, -3, 1, 1], [12, 12, 16, 16], (50, 4)):
        x, y, width, height = box
        centres = np.arange(20) + 0.5
        sides = (y, height), (x, width)
        rows, columns = ((centres >= low) & (centres < low + side) for low, side in sides)
        expected = rows[:, None] & columns
        if expected.any():
            assert (region_of([box], 20) == expected).all()
    both = region_of([(0, 0, 2, 1), (5.6, 3.6, 0.2, 0.2), (5.9, 7.9, 9, 9)], 8)
    assert [place.tolist() for place in np.nonzero(both)] == [[0, 0, 3, 7, 7], [0, 1, 5, 6, 7]]


def test_widened_by_euclidean_distance() -> None:
    region = region_of([(4, 5, 3, 2)], 16)
    away = ndimage.distance_transform_edt(~region)
    for tolerance in (1, 1.5, 4):
        assert (widen(region, tolerance) == (away <= tolerance)).all()
    assert widen(region, 0) is region


def test_pointing_game_by_hand() -> None:
    heat = np.zeros((4, 4), np.float32)
    heat[1, 2] = 1
    assert localisation.pointing_game(heat, region_of([(2, 1, 1, 1)], 4)) == 1
    assert localisation.pointing_game(heat, region_of([(0, 0, 2, 4)], 4)) == 0
    assert localisation.pointing_game(heat, widen(region_of([(0, 0, 2, 4)], 4), 1)) == 1
    heat[0, :3] = 1  # four equal maxima, two of them in the left half
    assert localisation.pointing_game(heat, region_of([(0, 0, 2, 4)], 4)) == 0.5


@pytest.mark.parametrize("level", [0.0, -3.7, 0.1, 1e6])
def test_a_flat_map_points_by_chance(level: float) -> None:
    region = region_of([(3, 2, 10, 20)], 50)
    heat = enlarge(np.full((7, 6), level, np.float32), 50)
    assert localisation.pointing_game(heat, region) == pytest.approx(200 / 2500)
    assert localisation.average_precision(heat, region) == pytest.approx(200 / 2500)


def test_energy_by_hand() -> None:
    heat = np.array([[3, 1], [-5, 4]], np.float32)
    assert localisation.energy_inside(heat, region_of([(0, 0, 1, 2)], 2)) == pytest.approx(3 / 8)
    none = np.linspace(-2, -1, 16, dtype=np.float32).reshape(4, 4)
    assert np.isnan(localisation.energy_inside(none, region_of([(0, 0, 2, 2)], 4)))
    found = figures(none, [(0, 0, 2, 2)], 0.5)
    assert (found["energy",], found["pointing_game",]) == ((0, 0), (0, 1))


@pytest.mark.parametrize("side", [4, 7, 64])
def test_average_precision_against_scikit_learn(side: int) -> None:
    """Nearly, but exactly for few levels."""
    noise = RNG.standard_normal((side, side)).astype(np.float32)
    errors = {1: 5e-4, 3: 5e-4, 5: 5e-3}
    maps = [(enlarge(noise**power, 64), error) for power, error in errors.items()]
    maps.append((RNG.integers(0, 9, (64, 64)).astype(np.float32), 1e-12))
    region = region_of([(10, 20, 15, 30), (40, 5, 9, 9)], 64)
    for heat, error in maps:
        theirs = average_precision_score(region.ravel(), heat.ravel())
        assert localisation.average_precision(heat, region) == pytest.approx(theirs, abs=error)
