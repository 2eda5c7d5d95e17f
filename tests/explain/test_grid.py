import cv2
import numpy as np
import pytest
import torch

from xray_lightning.explain.maps import EVEN, Grid, enlarge, grid_of, shrink

RNG = np.random.default_rng(0)
RESNET = {7: Grid(0.0, 32.0)}


@pytest.mark.parametrize(
    ("shape", "size"), [((7, 7), 224), ((5, 9), 33), ((1, 1), 8), ((4, 3), (40, 30))]
)
def test_even_cells_as_torch_enlarges_them(shape, size) -> None:
    maps = RNG.standard_normal((2, *shape), dtype=np.float32)
    theirs = torch.nn.functional.interpolate(torch.from_numpy(maps)[None], size, mode="bilinear")
    ours = enlarge(maps, size)
    assert ours.dtype == np.float32
    assert np.abs(ours - theirs[0].numpy()).max() < 1e-5


def test_at_its_own_size_a_map_stays_what_it_is() -> None:
    maps = RNG.standard_normal((2, 6, 6))
    np.testing.assert_array_equal(enlarge(maps, 6), maps)


@pytest.mark.parametrize("grid", [Grid(0.0, 32.0), Grid(3.0, 31.5), Grid(40.25, 20.0)])
def test_a_grid_is_numpys_interpolation_between_its_points(grid: Grid) -> None:
    heat = RNG.standard_normal((7, 7))
    points, pixels = grid.first + np.arange(7) * grid.step, np.arange(224)
    across = np.array([np.interp(pixels, points, row) for row in heat])
    both = np.array([np.interp(pixels, points, column) for column in across.T]).T
    np.testing.assert_allclose(enlarge(heat, 224, {7: grid}), both, atol=1e-12)


def test_only_sides_of_that_many_cells_follow_a_grid() -> None:
    assert grid_of(7, 224, RESNET) == Grid(0.0, 32.0)
    assert grid_of(14, 224, RESNET) == grid_of(14, 224) == Grid.even(14, 224) == Grid(7.5, 16.0)
    assert not EVEN


def test_shrunk_is_the_mean_of_the_pixels() -> None:
    region = np.zeros((24, 24), bool)
    region[1:10, 3:10] = True
    cells = region.reshape(6, 4, 6, 4).mean(axis=(1, 3))
    assert np.allclose(shrink(region, (6, 6)), cells)
    theirs = cv2.resize(region.astype(np.float32), (5, 7), interpolation=cv2.INTER_AREA)
    assert np.allclose(shrink(region, (7, 5)), theirs, atol=1e-5)


def test_a_pixel_belongs_to_the_cell_that_sees_it() -> None:
    nearest = np.abs(np.arange(224)[:, None] - 32 * np.arange(7)).argmin(axis=1)
    for row in RNG.integers(0, 224, 30).tolist():
        if row % 32 == 16:  # half of it belongs to either cell
            continue
        region = np.zeros((224, 224), bool)
        region[row, :] = True
        covered = shrink(region, (7, 7), RESNET)
        assert (np.flatnonzero(covered[:, 3]) == nearest[row]).all()
    assert np.allclose(shrink(np.ones((224, 224), bool), (7, 7), RESNET), 1)


def test_a_cell_that_sees_no_pixel_best_is_empty() -> None:
    covered = shrink(np.ones((8, 8), bool), (3, 3), {3: Grid(0.0, 10.0)})
    np.testing.assert_array_equal(covered, [[1, 1, 0], [1, 1, 0], [0, 0, 0]])
