"""Augmentation: a function of the image and a seed, each kind as described."""

import os
import random
from collections import Counter
from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
import pytest

import xray_lightning as xl
from xray_lightning.data.transforms import equalise

PHANTOM = xl.Phantom(patients=2, size=96)
IMAGE = PHANTOM.read(PHANTOM.records[0])
KINDS: list[Callable[[], xl.Augmentation]] = [xl.augment_light, xl.augment_xray14, xl.augment_rsna]
STILL = {"rotate": 0.0, "shift": 0.0}


def square() -> np.ndarray:
    """A white square of 64 pixels in the middle of 128."""
    image = np.zeros((128, 128), np.uint8)
    image[32:96, 32:96] = 255
    return image


def extent(image: np.ndarray) -> tuple[int, int]:
    """Height and width of what is white."""
    bright = image > 127
    return int(bright.any(axis=1).sum()), int(bright.any(axis=0).sum())


def test_no_augmentation_is_the_identity_and_albumentations_asks_no_registry() -> None:
    assert xl.augment_none()(IMAGE, 3) is IMAGE
    assert os.environ["NO_ALBUMENTATIONS_UPDATE"] == "1"


@pytest.mark.parametrize("make", KINDS)
def test_result_depends_on_image_and_seed_only(make: Callable[[], xl.Augmentation]) -> None:
    augment, other, before = make(), make(), IMAGE.copy()
    first = [augment(IMAGE, seed) for seed in range(12)]
    backwards = [other(IMAGE, seed) for seed in range(11, -1, -1)][::-1]
    np.testing.assert_array_equal(first, backwards)
    np.testing.assert_array_equal(IMAGE, before)
    assert len({image.tobytes() for image in first}) > 5


@pytest.mark.parametrize("make", KINDS)
def test_global_random_state_is_not_used(make: Callable[[], xl.Augmentation]) -> None:
    random.seed(0)
    np.random.seed(0)
    first = make()(IMAGE, 5)
    drawn = random.random(), np.random.random()
    np.testing.assert_array_equal(make()(IMAGE, 5), first)
    random.seed(0)
    np.random.seed(0)
    assert (random.random(), np.random.random()) == drawn


@pytest.mark.parametrize("make", KINDS)
@pytest.mark.parametrize("shape", [(32, 32), (97, 97), (64, 48)])
def test_shape_and_type_stay(make: Callable[[], xl.Augmentation], shape: tuple[int, int]) -> None:
    image = np.ascontiguousarray(cv2.resize(IMAGE, shape[::-1]))
    for seed in range(8):
        result = make()(image, seed)
        assert result.shape == shape
        assert result.dtype == np.uint8


@pytest.mark.parametrize("make", [xl.augment_light, xl.augment_xray14])
def test_mirror_image(make: Callable[..., xl.Augmentation]) -> None:
    zoom = {"zoom": 0.0} if make is xl.augment_light else {"zoom_min": 1.0, "zoom_max": 1.0}
    still: dict[str, Any] = STILL | zoom
    np.testing.assert_array_equal(make(flip=1.0, **still)(IMAGE, 0), IMAGE[:, ::-1])
    np.testing.assert_array_equal(make(flip=0.0, **still)(IMAGE, 0), IMAGE)
    half = make(flip=0.5, **still)
    flipped = sum(np.array_equal(half(IMAGE, seed), IMAGE[:, ::-1]) for seed in range(200))
    assert 65 < flipped < 135  # 100 +- 5 standard deviations


def test_zoom_of_light_is_the_same_on_both_axes() -> None:
    augment = xl.augment_light(flip=0.0, zoom=0.2, **STILL)
    extents = [extent(augment(square(), seed)) for seed in range(60)]
    assert all(abs(height - width) <= 1 for height, width in extents)
    assert 50 <= min(extents)[0] < 55  # 0.8 * 64 is 51.2
    assert 73 < max(extents)[0] <= 78  # 1.2 * 64 is 76.8


def test_zoom_of_xray14_is_independent() -> None:
    augment = xl.augment_xray14(flip=0.0, **STILL)
    heights, widths = np.array([extent(augment(square(), seed)) for seed in range(200)]).T
    for sides in (heights, widths):
        assert 50 <= sides.min() < 53
        assert 75 < sides.max() <= 78
    assert abs(np.corrcoef(heights, widths)[0, 1]) < 0.35  # 5 / sqrt(200)


@pytest.mark.parametrize("make", [xl.augment_light, xl.augment_xray14])
def test_shift_is_bounded_and_leaves_black(make: Callable[..., xl.Augmentation]) -> None:
    zoom = {"zoom": 0.0} if make is xl.augment_light else {"zoom_min": 1.0, "zoom_max": 1.0}
    augment = make(flip=0.0, rotate=0.0, shift=0.25, **zoom)
    white = np.full((128, 128), 255, np.uint8)
    black = [np.array((128, 128)) - extent(augment(white, seed)) for seed in range(60)]
    assert np.max(black) <= 33
    assert np.max(black, axis=0).min() > 24  # both axes move
    assert {0, 255} <= {int(value) for value in np.unique(augment(white, 1))}


def test_rotation_is_bounded() -> None:
    augment = xl.augment_light(flip=0.0, rotate=20.0, shift=0.0, zoom=0.0)
    line = np.zeros((129, 129), np.uint8)
    line[63:66, 14:115] = 255
    angles = []
    for seed in range(60):
        rows, columns = np.nonzero(augment(line, seed) > 127)
        angles.append(np.degrees(np.arctan(np.polyfit(columns, rows, 1)[0])))
    assert -20.5 < min(angles) < -15
    assert 15 < max(angles) < 20.5


def kind_of(result: np.ndarray) -> str:
    if np.array_equal(result, IMAGE):
        return "same"
    if np.array_equal(result, IMAGE[:, ::-1]):
        return "mirrored"
    return "changed"


@pytest.mark.parametrize(
    ("settings", "same", "changed"),
    [
        ({"rotate": 0, "shear": 0, "shift": 0}, 4, 1),  # blur alone
        ({"rotate": 10, "shear": 0, "shift": 0}, 3, 2),
        ({"rotate": 0, "shear": 16, "shift": 0}, 3, 2),
        ({"rotate": 0, "shear": 0, "shift": 0.1}, 3, 2),
        ({}, 1, 4),
    ],
)
def test_rsna_is_exactly_one_of_six(settings: dict[str, float], same: int, changed: int) -> None:
    """A mirrored image is the mirrored original, bit by bit: nothing else was done to it."""
    augment, count = xl.augment_rsna(**settings), 600
    found = Counter(kind_of(augment(IMAGE, seed)) for seed in range(count))
    for kind, sixths in (("same", same), ("mirrored", 1), ("changed", changed)):
        share = sixths / 6
        deviation = (share * (1 - share) / count) ** 0.5
        assert abs(found[kind] / count - share) < 4 * deviation, kind


def test_rsna_blurs_without_moving() -> None:
    augment = xl.augment_rsna(rotate=0, shear=0, shift=0)
    results = [augment(IMAGE, seed) for seed in range(100)]
    blurred = [result for result in results if kind_of(result) == "changed"]
    sharpness = cv2.Laplacian(IMAGE, cv2.CV_64F).var()
    for result in blurred:
        assert cv2.Laplacian(result, cv2.CV_64F).var() < 0.8 * sharpness
        assert abs(float(result.mean()) - float(IMAGE.mean())) < 1


def test_rsna_shears_along_rows() -> None:
    augment = xl.augment_rsna(rotate=0, shear=16, shift=0)
    for seed in range(40):
        result = augment(square(), seed)
        if not np.array_equal(result, square()):
            assert extent(result)[0] in range(62, 67)  # no row moved up or down
    assert max(extent(augment(square(), seed))[1] for seed in range(40)) > 70


@pytest.mark.parametrize("pixels", [IMAGE, square()])
def test_equalise_is_opencvs_clahe(pixels: np.ndarray) -> None:
    expected = cv2.createCLAHE(clipLimit=2.0, tileGridSize=(8, 8)).apply(pixels)
    result = equalise(pixels)
    np.testing.assert_array_equal(result, expected)
    assert result.dtype == np.uint8
    np.testing.assert_array_equal(equalise(pixels), result)
    stronger = cv2.createCLAHE(clipLimit=4.0, tileGridSize=(4, 4)).apply(IMAGE)
    np.testing.assert_array_equal(equalise(IMAGE, 4.0, 4), stronger)


def test_equalise_raises_the_contrast_of_a_dull_image() -> None:
    dull = (IMAGE // 4 + 90).astype(np.uint8)
    assert equalise(dull).std() > 1.3 * dull.std()


@pytest.mark.parametrize("make", [xl.augment_light, xl.augment_xray14])
@pytest.mark.parametrize("flip", [-0.1, 1.5])
def test_probabilities(make: Callable[..., xl.Augmentation], flip: float) -> None:
    match = rf"augment\.flip is a probability between 0 and 1, got {flip}"
    with pytest.raises(xl.ConfigError, match=match):
        make(flip=flip)


def test_zoom_settings() -> None:
    with pytest.raises(
        xl.ConfigError, match=r"zoom must satisfy 0 < smallest <= largest, got 0\.0"
    ):
        xl.augment_light(zoom=1.0)
    with pytest.raises(xl.ConfigError, match=r"smallest <= largest, got 1\.3 and 1\.2"):
        xl.augment_xray14(zoom_min=1.3)
