import cv2
import numpy as np
import pytest
import torch

from xray_lightning.audit.shortcuts.energy import energy, energy_of
from xray_lightning.audit.shortcuts.regions import body_of, corners
from xray_lightning.audit.shortcuts.verdicts import CLEAR, FLAGGED, UNDECIDED
from xray_lightning.data.phantom import Phantom
from xray_lightning.metrics.bootstrap import patient_draws

SIZE, N = 64, 24
CODES = np.arange(N) // 2
COUNTS = patient_draws(np.arange(N // 2), 200, 0)


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    phantom = Phantom(40, seed=1, size=SIZE)
    pixels = np.stack([phantom.read(record) for record in phantom.records[:N]])
    return torch.from_numpy(pixels).unsqueeze(1) / 255


def test_energy_of_a_map() -> None:
    values = np.random.default_rng(0).normal(size=(7, 5)).astype(np.float32)
    found = energy(values, (40, 30))
    large = cv2.resize(values, (30, 40), interpolation=cv2.INTER_LINEAR)
    wanted = np.clip(large - np.median(large), 0, None)
    np.testing.assert_allclose(found, wanted / wanted.sum(), atol=1e-8)
    assert found.sum() == pytest.approx(1)
    np.testing.assert_allclose(energy(2 * values + 3, (40, 30)), found, atol=1e-8)
    assert np.isnan(energy(np.ones((4, 4), np.float32), (8, 8))).all()


def bright(places: np.ndarray, noise: float = 0.0) -> np.ndarray:
    """Maps that are 1 at the places (n, H, W), with noise that makes them differ."""
    return places + noise * np.random.default_rng(0).random(places.shape)


def test_maps_in_the_corners_and_in_the_body(images: torch.Tensor) -> None:
    pixels = (images[:, 0] * 255).round().byte().numpy()
    bodies = np.stack([body_of(each).inside for each in pixels])
    there = np.broadcast_to(corners((SIZE, SIZE)), bodies.shape)
    found = energy_of(bright(there), images, CODES, COUNTS)
    assert {name: each.verdict for name, each in found.items()} == {
        "outside": FLAGGED,
        "border": FLAGGED,
        "corners": FLAGGED,
    }
    assert found["corners"].share == pytest.approx(1)
    assert found["corners"].area == pytest.approx(there[0].mean())
    assert found["outside"].share == pytest.approx((there & ~bodies).sum() / there.sum())
    inside = np.zeros_like(bodies)
    inside[:, 20:40, 16:48] = True
    found = energy_of(bright(inside), images, CODES, COUNTS)
    assert all(each.verdict == CLEAR and each.share < 0.01 for each in found.values())


def test_density_is_energy_an_area(images: torch.Tensor) -> None:
    maps = bright(np.zeros((N, SIZE, SIZE)), noise=1.0)
    found = energy_of(maps, images, CODES, COUNTS)["outside"]
    shares, areas = np.zeros((2, N)), np.zeros((2, N))
    for row, image in enumerate((images[:, 0] * 255).round().byte().numpy()):
        lit, inside = energy(maps[row].astype(np.float32), (SIZE, SIZE)), body_of(image).inside
        shares[:, row], areas[:, row] = (
            (lit[~inside].sum(), lit[inside].sum()),
            (
                (~inside).mean(),
                inside.mean(),
            ),
        )
    there, body = shares.sum(axis=1) / areas.sum(axis=1)
    assert found.density.value == pytest.approx(there / (there + body))
    assert found.share == pytest.approx(shares[0].mean())
    assert found.density.value == pytest.approx(0.5, abs=0.05)


@pytest.mark.parametrize(("side", "decided"), [(2, []), (7, ["corners"]), (10, "all")])
def test_a_coarse_map_decides_nothing(
    images: torch.Tensor, side: int, decided: list[str] | str
) -> None:
    maps = np.zeros((N, side, side))
    maps[:, 0, 0] = 1
    found = energy_of(maps, images, CODES, COUNTS)
    for name, each in found.items():
        assert each.grid == (side, side)
        assert each.density.verdict == FLAGGED
        known = decided == "all" or name in decided
        assert each.verdict == (FLAGGED if known else UNDECIDED)


def test_even_maps_are_left_out_and_counted(images: torch.Tensor) -> None:
    maps = bright(np.zeros((N, 16, 16)), noise=1.0)
    maps[:4] = 2
    found = energy_of(maps, images, CODES, COUNTS)["border"]
    assert found.undefined == 4
    assert 0 < found.share < 1
    found = energy_of(np.ones((N, 16, 16)), images, CODES, COUNTS)["border"]
    assert found.undefined == N
    assert np.isnan([found.share, found.area, found.density.value]).all()
    assert found.verdict == UNDECIDED
