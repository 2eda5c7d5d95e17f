"""The order of an epoch is a function of (seed, epoch); a balanced one holds what it promises.

Augmentation is a function of the image and a seed, each kind as described.
"""

import os
import random
from collections import Counter
from collections.abc import Callable
from functools import partial
from itertools import combinations

import cv2
import numpy as np
import pytest
import torch
from scipy.stats import chisquare

import xray_lightning as xl
from xray_lightning.data.samplers import EpochSampler, Plan
from xray_lightning.data.transforms import equalise
from xray_lightning.records import prevalence

NAN = np.nan
# 200 images of 60 patients: half of them normal, two common findings, a rare one, one never seen.
DRAW = np.random.default_rng(3)
TARGETS = np.zeros((200, 4), np.float32)
TARGETS[:70, 0] = 1
TARGETS[50:100, 1] = 1
TARGETS[[7, 99], 2] = 1
TARGETS[150:, 0] = NAN  # neither normal nor a finding
PATIENTS = [f"p{number}" for number in DRAW.permutation(np.arange(200) % 60)]
NORMAL = set(range(100, 150))
PLANS: list[Plan] = [xl.uniform_sampler, xl.disease_balanced_sampler, xl.patient_balanced_sampler]


def sampler(
    length: int, batch_size: int = 4, plan: Plan = xl.uniform_sampler, **settings: int
) -> EpochSampler:
    bound = partial(plan, TARGETS[:length], PATIENTS[:length])
    return EpochSampler(bound, length, batch_size=batch_size, **({"seed": 0} | settings))


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


@pytest.mark.parametrize("share", [0, 0.1, 0.25, 0.5, 0.9])
def test_share_of_normal_images_is_exact(share: float) -> None:
    order = xl.disease_balanced_sampler(TARGETS, PATIENTS, rng(), normal_share=share).tolist()
    assert len(order) == 200
    counts = Counter(index for index in order if index in NORMAL)
    assert sum(counts.values()) == round(200 * share)
    assert not set(order) & set(range(150, 200)), "not known to be normal, and no finding"
    if counts:
        turns = [counts[index] for index in NORMAL]
        assert max(turns) - min(turns) <= 1, "they take turns"


def test_findings_are_drawn_uniformly_then_their_images() -> None:
    """Against the expectation of the naive description, by a chi-square test of 200 epochs."""
    draw = partial(xl.disease_balanced_sampler, TARGETS, PATIENTS, normal_share=0.5)
    counts = np.bincount(np.concatenate([draw(rng(seed)) for seed in range(200)]), minlength=200)
    positive = TARGETS[:, :3] == 1
    ill, chance = positive.any(axis=1), (positive / positive.sum(axis=0)).mean(axis=1)
    assert chisquare(counts[ill], chance[ill] * counts[ill].sum()).pvalue > 0.001
    assert counts[7] > 20 * counts[8], "the rare finding comes as often as a common one"


def test_the_order_of_a_balanced_epoch_is_mixed() -> None:
    order = xl.disease_balanced_sampler(TARGETS, PATIENTS, rng())
    places = np.flatnonzero([index in NORMAL for index in order])
    assert abs(places.mean() - 99.5) < 20
    assert not np.array_equal(np.diff(places), np.ones(len(places) - 1))


def test_one_image_of_each_patient() -> None:
    chosen = Counter[int]()
    for seed in range(300):
        order = xl.patient_balanced_sampler(TARGETS, PATIENTS, rng(seed))
        assert len(order) == 60
        assert len({PATIENTS[index] for index in order}) == 60
        chosen.update(order.tolist())
    assert set(chosen) == set(range(200))
    for patient in ("p0", "p41"):
        counts = [chosen[index] for index, name in enumerate(PATIENTS) if name == patient]
        assert chisquare(counts).pvalue > 0.001


def test_nothing_to_balance() -> None:
    with pytest.raises(xl.DataError, match="no training image has a positive; use sampler=unif"):
        xl.disease_balanced_sampler(TARGETS[100:], PATIENTS[100:], rng())
    with pytest.raises(xl.DataError, match=r"no training image has all targets 0; .*normal_"):
        xl.disease_balanced_sampler(TARGETS[:100], PATIENTS[:100], rng())
    order = xl.disease_balanced_sampler(TARGETS[:100], PATIENTS[:100], rng(), normal_share=0)
    assert len(order) == 100


def test_prevalence() -> None:
    expected = [np.nanmean(column) for column in TARGETS.T]
    np.testing.assert_allclose(prevalence(TARGETS), expected, rtol=1e-6)
    assert np.isnan(prevalence(np.full((3, 1), NAN, np.float32))).all()


def test_uniform_order_and_seeds() -> None:
    """The order of the first release, to the bit: its runs can be repeated."""
    order = sampler(21, batch_size=7, seed=5)
    order.set_epoch(3)
    generator = np.random.default_rng((5, 3))
    positions, seeds = generator.permutation(21), generator.integers(2**31, size=21)
    assert list(order) == [(index, seeds[index]) for index in positions]
    assert sorted(positions) == list(range(21))


def test_repeated_draws_are_augmented_differently() -> None:
    keys = list(sampler(200, plan=xl.disease_balanced_sampler))
    assert max(Counter(index for index, _ in keys).values()) > 10
    assert len(set(keys)) == len(keys)


@pytest.mark.parametrize("plan", PLANS)
def test_seed_and_epoch_alone_decide(plan: Plan) -> None:
    first, other = (sampler(199, 7, plan, seed=seed) for seed in (1, 2))
    orders = []
    for epoch in range(5):
        first.set_epoch(epoch)
        other.set_epoch(epoch)
        torch.manual_seed(epoch)
        np.random.seed(epoch)
        keys = list(first)
        assert len(keys) == len(first)
        assert all(0 <= seed < 2**31 for _, seed in keys)
        assert keys != list(other)
        orders.append(keys)
    assert all(one != another for one, another in combinations(orders, 2))
    for epoch in (2, 2, 0):
        first.set_epoch(epoch)
        assert list(first) == orders[epoch]
    other.set_epoch(1)
    assert list(other) != orders[2]
    assert list(sampler(199, 7, plan, seed=1)) == orders[0]


@pytest.mark.parametrize("batch_size", [2, 3, 8, 100])
@pytest.mark.parametrize("length", [1, 2, 3, 9, 16, 17, 25, 100])
def test_no_batch_of_one_image(length: int, batch_size: int) -> None:
    order = sampler(length, batch_size=batch_size)
    keys = list(order)
    assert len(keys) == len(order)
    lonely = length % batch_size == 1 and length > 1
    assert len(keys) == length - lonely
    assert len(keys) % batch_size != 1 or length == 1


def test_no_batch_of_one_patient_and_batches_of_one_image_where_they_are_asked_for() -> None:
    assert len(list(sampler(200, batch_size=59, plan=xl.patient_balanced_sampler))) == 59
    assert len(sampler(9, batch_size=1)) == len(list(sampler(9, batch_size=1))) == 9


def test_another_image_is_left_out_each_time() -> None:
    order, missing = sampler(9, batch_size=4), set()
    for epoch in range(12):
        order.set_epoch(epoch)
        missing |= set(range(9)) - {index for index, _ in order}
    assert len(missing) > 4


@pytest.mark.parametrize("plan", PLANS)
@pytest.mark.parametrize(("length", "world"), [(140, 2), (141, 2), (143, 3), (164, 8), (134, 2)])
def test_processes_share_the_order_of_one(length: int, world: int, plan: Plan) -> None:
    alone = sampler(length, batch_size=1, plan=plan)
    order = [sampler(length, 8, plan, rank=rank, world=world) for rank in range(world)]
    for epoch in range(3):
        alone.set_epoch(epoch)
        for each in order:
            each.set_epoch(epoch)
        shards = [list(each) for each in order]
        assert {len(shard) for shard in shards} == {len(order[0])}
        assert len(shards[0]) % 8 != 1
        dealt = [key for turn in zip(*shards, strict=True) for key in turn]
        assert dealt == list(alone)[: len(dealt)]
        assert len(set(dealt)) == len(dealt) >= len(alone) - 2 * world


PHANTOM = xl.Phantom(patients=2, size=96)
IMAGE = PHANTOM.read(PHANTOM.records[0])
KINDS: list[Callable[[], xl.Augmentation]] = [xl.augment_light, xl.augment_xray14, xl.augment_rsna]
SQUARE = np.pad(np.full((64, 64), 255, np.uint8), 32)  # white, in the middle of 128 pixels
STILL = {"rotate": 0.0, "shift": 0.0}
WITHOUT_ZOOM = [
    partial(xl.augment_light, zoom=0.0),
    partial(xl.augment_xray14, zoom_min=1.0, zoom_max=1.0),
]


def extent(image: np.ndarray) -> tuple[int, int]:
    """Height and width of what is white."""
    bright = image > 127
    return int(bright.any(axis=1).sum()), int(bright.any(axis=0).sum())


def test_no_augmentation_is_the_identity_and_albumentations_asks_no_registry() -> None:
    assert xl.augment_none()(IMAGE, 3) is IMAGE
    assert os.environ["NO_ALBUMENTATIONS_UPDATE"] == "1"


@pytest.mark.parametrize("make", KINDS)
def test_result_depends_on_image_and_seed_only(make: Callable[[], xl.Augmentation]) -> None:
    """And global random state is not used."""
    augment, other, before = make(), make(), IMAGE.copy()
    states = random.getstate(), repr(np.random.get_state())
    first = [augment(IMAGE, seed) for seed in range(12)]
    assert (random.getstate(), repr(np.random.get_state())) == states
    random.seed(0)
    np.random.seed(0)
    np.testing.assert_array_equal(first, [other(IMAGE, seed) for seed in range(11, -1, -1)][::-1])
    np.testing.assert_array_equal(IMAGE, before)
    assert len({image.tobytes() for image in first}) > 5


@pytest.mark.parametrize("make", KINDS)
@pytest.mark.parametrize("shape", [(32, 32), (97, 97), (64, 48)])
def test_shape_and_type_stay(make: Callable[[], xl.Augmentation], shape: tuple[int, int]) -> None:
    image = np.ascontiguousarray(cv2.resize(IMAGE, shape[::-1]))
    results = [make()(image, seed) for seed in range(8)]
    assert {(result.shape, result.dtype) for result in results} == {(shape, image.dtype)}


@pytest.mark.parametrize("make", WITHOUT_ZOOM)
def test_mirror_image(make: Callable[..., xl.Augmentation]) -> None:
    np.testing.assert_array_equal(make(flip=1.0, **STILL)(IMAGE, 0), IMAGE[:, ::-1])
    np.testing.assert_array_equal(make(flip=0.0, **STILL)(IMAGE, 0), IMAGE)
    half = make(flip=0.5, **STILL)
    flipped = sum(np.array_equal(half(IMAGE, seed), IMAGE[:, ::-1]) for seed in range(200))
    assert 65 < flipped < 135  # 100 +- 5 standard deviations


def test_zoom_of_light_is_the_same_on_both_axes() -> None:
    augment = xl.augment_light(flip=0.0, zoom=0.2, **STILL)
    extents = [extent(augment(SQUARE, seed)) for seed in range(60)]
    assert all(abs(height - width) <= 1 for height, width in extents)
    assert 50 <= min(extents)[0] < 55  # 0.8 * 64 is 51.2
    assert 73 < max(extents)[0] <= 78  # 1.2 * 64 is 76.8


def test_zoom_of_xray14_is_independent() -> None:
    augment = xl.augment_xray14(flip=0.0, **STILL)
    heights, widths = np.array([extent(augment(SQUARE, seed)) for seed in range(200)]).T
    for sides in (heights, widths):
        assert 50 <= sides.min() < 53
        assert 75 < sides.max() <= 78
    assert abs(np.corrcoef(heights, widths)[0, 1]) < 0.35  # 5 / sqrt(200)


@pytest.mark.parametrize("make", WITHOUT_ZOOM)
def test_shift_is_bounded_and_leaves_black(make: Callable[..., xl.Augmentation]) -> None:
    augment = make(flip=0.0, rotate=0.0, shift=0.25)
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
    sharpness = cv2.Laplacian(IMAGE, cv2.CV_64F).var()
    for blurred in (result for result in results if kind_of(result) == "changed"):
        assert cv2.Laplacian(blurred, cv2.CV_64F).var() < 0.8 * sharpness
        assert abs(float(blurred.mean()) - float(IMAGE.mean())) < 1


def test_rsna_shears_along_rows() -> None:
    augment = xl.augment_rsna(rotate=0, shear=16, shift=0)
    for seed in range(40):
        result = augment(SQUARE, seed)
        if not np.array_equal(result, SQUARE):
            assert extent(result)[0] in range(62, 67)  # no row moved up or down
    assert max(extent(augment(SQUARE, seed))[1] for seed in range(40)) > 70


@pytest.mark.parametrize("pixels", [IMAGE, SQUARE])
def test_equalise_is_opencvs_clahe(pixels: np.ndarray) -> None:
    expected = cv2.createCLAHE(clipLimit=2.0, tileGridSize=(8, 8)).apply(pixels)
    for _ in range(2):
        np.testing.assert_array_equal(equalise(pixels), expected, strict=True)
    stronger = cv2.createCLAHE(clipLimit=4.0, tileGridSize=(4, 4)).apply(IMAGE)
    np.testing.assert_array_equal(equalise(IMAGE, 4.0, 4), stronger)


BALANCED = partial(xl.disease_balanced_sampler, TARGETS, PATIENTS, rng())


@pytest.mark.parametrize(
    ("make", "settings", "match"),
    [
        *((BALANCED, {"normal_share": x}, f"share must .* {x}") for x in (-0.1, 1, 1.5, NAN)),
        *((xl.augment_light, {"flip": x}, rf"augment\.flip .* 1, got {x}") for x in (-0.1, 1.5)),
        *((xl.augment_xray14, {"flip": x}, rf"augment\.flip .* 1, got {x}") for x in (-0.1, 1.5)),
        (xl.augment_light, {"zoom": 1.0}, "zoom must satisfy 0 < smallest <= largest, got 0"),
        (xl.augment_xray14, {"zoom_min": 1.3}, r"smallest <= largest, got 1\.3 and 1\.2"),
    ],
)
def test_settings_that_cannot_work(make, settings: dict[str, float], match: str) -> None:
    with pytest.raises(xl.ConfigError, match=match):
        make(**settings)
