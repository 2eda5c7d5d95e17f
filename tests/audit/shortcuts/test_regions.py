"""Regions of a film against the phantom that drew it, and what a map puts into them."""

import cv2
import numpy as np
import pytest
import torch
from scipy.ndimage import median_filter

from xray_lightning import PatientBootstrap, Phantom
from xray_lightning.audit import occlusion as regions
from xray_lightning.audit.occlusion import find_body, mask_corners, to_grey
from xray_lightning.data.phantom.anatomy import build_chest, trunk
from xray_lightning.data.phantom.film import Canvas
from xray_lightning.data.phantom.patients import draw_history

SIZE = 64
FLAT = np.full((SIZE, SIZE), 60, np.uint8)


def written(text: str, place: tuple[int, int], size: int = SIZE) -> np.ndarray:
    """A flat film with bright letters."""
    film = np.full((size, size), 60, np.uint8)
    return cv2.putText(film, text, place, cv2.FONT_HERSHEY_SIMPLEX, size / 250, 235.0, 1)


def test_border_and_corners() -> None:
    place = np.arange(40)
    near = np.minimum(place, 39 - place)
    assert np.array_equal(regions.mask_border((40, 40)), np.minimum.outer(near, near) < 4)
    assert np.array_equal(regions.mask_corners((40, 40)), np.maximum.outer(near, near) < 6)
    assert regions.mask_border((40, 20)).sum() == 40 * 20 - 32 * 16
    assert regions.mask_corners((40, 20)).sum() == 4 * 6 * 3


def test_the_body_of_a_phantom() -> None:
    """Against the outlines that were drawn: trunk and arms, and the lungs in it."""
    overlaps, found = [], []
    phantom = Phantom(30, size=SIZE)
    for patient in range(30):
        visit = draw_history(0, patient)[0]
        chest, canvas = build_chest(visit, visit.findings), Canvas(visit, SIZE)
        record = next(r for r in phantom.records if r.image_id == visit.image_id)
        inside, dark = regions.find_body(phantom.read(record))
        true = canvas.fill(trunk(chest)) > 0
        overlaps.append((inside & true).sum() / (inside | true).sum())
        lungs = canvas.fill(chest.lungs) > 0
        found.append((dark & lungs).sum() / dark.sum())
        assert not (dark & ~inside).any()
    assert np.mean(overlaps) > 0.93
    assert min(overlaps) > 0.8
    assert np.mean(found) > 0.85
    inside, dark = regions.find_body(FLAT)
    assert inside.all()
    assert not dark.any()


@pytest.fixture(scope="module")
def lettered() -> list[tuple[np.ndarray, np.ndarray]]:
    """Films and where their plates are."""
    phantom = Phantom(60, size=256, shortcut="marker", shortcut_strength=0.5)
    return [(phantom.read(record), phantom.marker(record)) for record in phantom.records]


@pytest.mark.parametrize("size", [64, 224])
def test_letters_of_a_phantom(size: int, lettered) -> None:
    """The planted plate is found, and little else is taken for letters."""
    shares, areas = [], []
    for film, plate in lettered:
        side = {"dsize": (size, size), "interpolation": cv2.INTER_AREA}
        pixels = cv2.resize(film, **side)
        found = regions.mask_letters(pixels, regions.find_body(pixels)[1])
        areas.append(found.mean())
        if plate.any():
            shares.append(found[cv2.resize(plate.astype(np.uint8), **side) > 0].mean())
    assert np.mean(shares) > 0.9
    assert np.mean(areas) < 0.04


def test_letters_stand_out_near_the_border_and_outside_the_lungs() -> None:
    nowhere = np.zeros((SIZE, SIZE), np.bool_)
    assert not regions.mask_letters(FLAT, nowhere).any()
    corner = written("L", (4, 12))
    found = regions.mask_letters(corner, nowhere)
    assert found[corner > 160].all()
    assert found.mean() < 0.06
    assert not regions.mask_letters(corner, ~nowhere).any(), "in a lung it is a finding"
    assert not regions.mask_letters(written("L", (30, 36)), nowhere).any(), "in the middle too"
    large = FLAT.copy()
    large[2:14, 4:26] = 235  # a shoulder, not a word
    assert not regions.mask_letters(large, nowhere).any()


def test_elsewhere_is_as_large_and_inside() -> None:
    inside = np.zeros((SIZE, SIZE), np.bool_)
    inside[10:, 8:56] = True
    mask = regions.mask_corners(inside.shape)
    found = [regions.mask_elsewhere(mask, inside, np.random.default_rng(k)) for k in (0, 0, 1)]
    for region in found:
        assert region.sum() == mask.sum()
        assert not (region & (mask | ~inside)).any()
    assert np.array_equal(found[0], found[1])
    assert not np.array_equal(found[0], found[2])
    assert not regions.mask_elsewhere(np.zeros_like(mask), inside, np.random.default_rng(0)).any()
    narrow = np.zeros_like(mask)
    narrow[30, 30:35] = True
    assert np.array_equal(regions.mask_elsewhere(mask, narrow, np.random.default_rng(0)), narrow)


def test_covered_by_the_local_median() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (SIZE, SIZE), np.uint8)
    mask = regions.mask_border(pixels.shape)
    found = regions.cover(pixels, mask)
    assert np.array_equal(found[~mask], pixels[~mask])
    wanted = median_filter(pixels, size=17, mode="nearest")  # 0.25 of 64, made odd
    assert np.array_equal(found[mask], wanted[mask])
    plate = written("", (0, 0))
    plate[56:61, 3:8] = 250
    covered = regions.cover(plate, regions.mask_corners(plate.shape))
    assert np.array_equal(covered, FLAT), "no trace of a plate"


N = 24
BOOTSTRAP = PatientBootstrap(np.arange(N) // 2, 200)


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    phantom = Phantom(40, seed=1, size=SIZE)
    pixels = np.stack([phantom.read(record) for record in phantom.records[:N]])
    return torch.from_numpy(pixels).unsqueeze(1) / 255


def test_energy_of_a_map() -> None:
    values = np.random.default_rng(0).normal(size=(7, 5)).astype(np.float32)
    found = regions.normalise_map(values, (40, 30))
    large = cv2.resize(values, (30, 40), interpolation=cv2.INTER_LINEAR)
    wanted = np.clip(large - np.median(large), 0, None)
    np.testing.assert_allclose(found, wanted / wanted.sum(), atol=1e-8)
    assert found.sum() == pytest.approx(1)
    np.testing.assert_allclose(regions.normalise_map(2 * values + 3, (40, 30)), found, atol=1e-8)
    assert np.isnan(regions.normalise_map(np.ones((4, 4), np.float32), (8, 8))).all()


def test_maps_in_the_corners_and_in_the_body(images: torch.Tensor) -> None:
    bodies = np.stack([find_body(each)[0] for each in to_grey(images)])
    there = np.broadcast_to(mask_corners((SIZE, SIZE)), bodies.shape)
    found = regions.measure_energy(1.0 * there, images, BOOTSTRAP)
    verdicts = {name: region.verdict for name, region in found.items()}
    assert verdicts == dict.fromkeys(("outside", "border", "corners"), regions.FLAGGED)
    assert found["corners"].share == pytest.approx(1)
    assert found["corners"].area == pytest.approx(there[0].mean())
    assert found["outside"].share == pytest.approx((there & ~bodies).sum() / there.sum())
    inside = np.zeros_like(bodies)
    inside[:, 20:40, 16:48] = True
    found = regions.measure_energy(1.0 * inside, images, BOOTSTRAP)
    assert all(r.verdict == regions.CLEAR and r.share < 0.01 for r in found.values())


def test_density_is_energy_an_area(images: torch.Tensor) -> None:
    maps = np.random.default_rng(0).random((N, SIZE, SIZE))
    found = regions.measure_energy(maps, images, BOOTSTRAP)["outside"]
    shares, areas = np.zeros((2, N)), np.zeros((2, N))
    for row, image in enumerate(to_grey(images)):
        lit = regions.normalise_map(maps[row].astype(np.float32), (SIZE, SIZE))
        inside, _ = find_body(image)
        shares[:, row] = lit[~inside].sum(), lit[inside].sum()
        areas[:, row] = (~inside).mean(), inside.mean()
    there, body = shares.sum(axis=1) / areas.sum(axis=1)
    assert found.density.value == pytest.approx(there / (there + body))
    assert found.share == pytest.approx(shares[0].mean())
    assert found.density.value == pytest.approx(0.5, abs=0.05)


@pytest.mark.parametrize(("side", "decided"), [(2, []), (7, ["corners"]), (10, "all")])
def test_a_coarse_map_decides_nothing(images, side, decided) -> None:
    maps = np.zeros((N, side, side))
    maps[:, 0, 0] = 1
    for name, region in regions.measure_energy(maps, images, BOOTSTRAP).items():
        assert (region.grid, region.density.verdict) == ((side, side), regions.FLAGGED)
        known = decided == "all" or name in decided
        assert region.verdict == (regions.FLAGGED if known else regions.UNDECIDED)


def test_even_maps_are_left_out_and_counted(images: torch.Tensor) -> None:
    maps = np.random.default_rng(0).random((N, 16, 16))
    maps[:4] = 2
    found = regions.measure_energy(maps, images, BOOTSTRAP)["border"]
    assert found.undefined == 4
    assert 0 < found.share < 1
    found = regions.measure_energy(np.ones((N, 16, 16)), images, BOOTSTRAP)["border"]
    assert found.undefined == N
    assert np.isnan([found.share, found.area, found.density.value]).all()
    assert found.verdict == regions.UNDECIDED
