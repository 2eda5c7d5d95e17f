import cv2
import numpy as np
import pytest
import torch

from xray_lightning import PatientBootstrap, Phantom
from xray_lightning.audit import occlusion
from xray_lightning.audit.occlusion import find_body, mask_corners, to_grey

SIZE, N = 64, 24
BOOTSTRAP = PatientBootstrap(np.arange(N) // 2, 200)


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    phantom = Phantom(40, seed=1, size=SIZE)
    pixels = np.stack([phantom.read(record) for record in phantom.records[:N]])
    return torch.from_numpy(pixels).unsqueeze(1) / 255


def test_energy_of_a_map() -> None:
    values = np.random.default_rng(0).normal(size=(7, 5)).astype(np.float32)
    found = occlusion.normalise_map(values, (40, 30))
    large = cv2.resize(values, (30, 40), interpolation=cv2.INTER_LINEAR)
    wanted = np.clip(large - np.median(large), 0, None)
    np.testing.assert_allclose(found, wanted / wanted.sum(), atol=1e-8)
    assert found.sum() == pytest.approx(1)
    np.testing.assert_allclose(occlusion.normalise_map(2 * values + 3, (40, 30)), found, atol=1e-8)
    assert np.isnan(occlusion.normalise_map(np.ones((4, 4), np.float32), (8, 8))).all()


def bright(places: np.ndarray, noise: float = 0.0) -> np.ndarray:
    """Maps that are 1 at the places (n, H, W), with noise that makes them differ."""
    return places + noise * np.random.default_rng(0).random(places.shape)


def test_maps_in_the_corners_and_in_the_body(images: torch.Tensor) -> None:
    pixels = to_grey(images)
    bodies = np.stack([find_body(each).inside for each in pixels])
    there = np.broadcast_to(mask_corners((SIZE, SIZE)), bodies.shape)
    found = occlusion.measure_energy(bright(there), images, BOOTSTRAP)
    assert {name: region.verdict for name, region in found.items()} == {
        "outside": occlusion.FLAGGED,
        "border": occlusion.FLAGGED,
        "corners": occlusion.FLAGGED,
    }
    assert found["corners"].share == pytest.approx(1)
    assert found["corners"].area == pytest.approx(there[0].mean())
    assert found["outside"].share == pytest.approx((there & ~bodies).sum() / there.sum())
    inside = np.zeros_like(bodies)
    inside[:, 20:40, 16:48] = True
    found = occlusion.measure_energy(bright(inside), images, BOOTSTRAP)
    assert all(
        region.verdict == occlusion.CLEAR and region.share < 0.01 for region in found.values()
    )


def test_density_is_energy_an_area(images: torch.Tensor) -> None:
    maps = bright(np.zeros((N, SIZE, SIZE)), noise=1.0)
    found = occlusion.measure_energy(maps, images, BOOTSTRAP)["outside"]
    shares, areas = np.zeros((2, N)), np.zeros((2, N))
    for row, image in enumerate(to_grey(images)):
        lit, inside = (
            occlusion.normalise_map(maps[row].astype(np.float32), (SIZE, SIZE)),
            find_body(image).inside,
        )
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
    found = occlusion.measure_energy(maps, images, BOOTSTRAP)
    for name, region in found.items():
        assert region.grid == (side, side)
        assert region.density.verdict == occlusion.FLAGGED
        known = decided == "all" or name in decided
        assert region.verdict == (occlusion.FLAGGED if known else occlusion.UNDECIDED)


def test_even_maps_are_left_out_and_counted(images: torch.Tensor) -> None:
    maps = bright(np.zeros((N, 16, 16)), noise=1.0)
    maps[:4] = 2
    found = occlusion.measure_energy(maps, images, BOOTSTRAP)["border"]
    assert found.undefined == 4
    assert 0 < found.share < 1
    found = occlusion.measure_energy(np.ones((N, 16, 16)), images, BOOTSTRAP)["border"]
    assert found.undefined == N
    assert np.isnan([found.share, found.area, found.density.value]).all()
    assert found.verdict == occlusion.UNDECIDED
