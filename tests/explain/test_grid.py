"""Grids against the gradient of a cell; a box from a file to the square, found again."""

from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor, nn
from toy import toy_net

from xray_lightning import Box, Record, XrayNet, cell_grids, enlarge, open_cache
from xray_lightning.data.datamodule import XrayDataset
from xray_lightning.data.geometry import box_to_square
from xray_lightning.data.images import read_record
from xray_lightning.explain.localisation import AnnotatedMaps, evaluate_localisation
from xray_lightning.explain.maps import EVEN, Grid, grid_of, shrink
from xray_lightning.metrics.localisation import detect_boxes, overlaps, region_of

RNG = np.random.default_rng(0)
RESNET = {7: Grid(0.0, 32.0)}


@pytest.mark.parametrize(
    ("shape", "size"), [((7, 7), 224), ((5, 9), 33), ((1, 1), 8), ((4, 3), (40, 30))]
)
def test_even_cells_as_torch_enlarges_them_and_at_its_own_size_a_map_stays(shape, size) -> None:
    maps = RNG.standard_normal((2, *shape), dtype=np.float32)
    theirs = torch.nn.functional.interpolate(torch.from_numpy(maps)[None], size, mode="bilinear")
    ours = enlarge(torch.from_numpy(maps), size)
    assert ours.dtype == np.float32
    assert np.abs(ours - theirs[0].numpy()).max() < 1e-5
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
    assert grid_of(14, 224, RESNET) == grid_of(14, 224) == Grid(7.5, 16.0)
    assert not EVEN


def test_shrunk_is_the_mean_of_the_pixels() -> None:
    region = np.zeros((24, 24), bool)
    region[1:10, 3:10] = True
    assert np.allclose(shrink(region, (6, 6)), region.reshape(6, 4, 6, 4).mean(axis=(1, 3)))
    theirs = cv2.resize(region.astype(np.float32), (5, 7), interpolation=cv2.INTER_AREA)
    assert np.allclose(shrink(region, (7, 5)), theirs, atol=1e-5)


def test_a_pixel_belongs_to_the_cell_that_sees_it_best_and_a_cell_may_be_empty() -> None:
    nearest = np.abs(np.arange(224)[:, None] - 32 * np.arange(7)).argmin(axis=1)
    for row in RNG.integers(0, 224, 30).tolist():
        if row % 32 == 16:  # half of it belongs to either cell
            continue
        region = np.zeros((224, 224), bool)
        region[row, :] = True
        covered = shrink(region, (7, 7), RESNET)
        assert (np.flatnonzero(covered[:, 3]) == nearest[row]).all()
    assert np.allclose(shrink(np.ones((224, 224), bool), (7, 7), RESNET), 1)
    covered = shrink(np.ones((8, 8), bool), (3, 3), {3: Grid(0.0, 10.0)})
    np.testing.assert_array_equal(covered, [[1, 1, 0], [1, 1, 0], [0, 0, 0]])


# backbone, side of the image, where the first cell of the last map sees, pixels from cell to cell
BACKBONES = [
    ("resnet18", 192, 0.0, 32.0),
    ("resnet18", 100, 0.0, 32.0),  # 4 cells, whose even grid would have steps of 25
    ("legacy_xception", 192, 3.0, 32.0),  # two convolutions without padding
    ("xception41", 192, 0.0, 32.0),
    ("densenet121", 192, 14.0, 32.0),  # two layers off, three average pools even
    ("efficientnet_b0", 192, 0.0, 32.0),
    ("tf_efficientnet_b0", 224, 31.0, 32.0),  # TensorFlow's padding: right and below alone
    ("convnext_nano", 192, 15.5, 32.0),
    ("swin_tiny_patch4_window7_224", 224, 15.5, 32.0),  # patches merged by reshaping
    ("vit_tiny_patch16_224", 224, 7.5, 16.0),
]


def middle(net: XrayNet, size: int) -> tuple[int, int, float]:
    """Cells along a side, one in the middle, and the centre of its squared gradient, in rows."""
    generator = torch.Generator().manual_seed(1)
    images = torch.rand(2, 1, size, size, generator=generator).requires_grad_()
    features = net.forward_features(images)
    cells = features.shape[2]
    cell = cells // 2
    profile = torch.zeros(size)
    for _ in range(6):
        weights = torch.randn(features.shape[1], generator=generator)
        value = (features[:, :, cell, cell] * weights).sum()
        profile += torch.autograd.grad(value, images, retain_graph=True)[0].pow(2).sum((0, 1, 3))
    return cells, cell, float((profile * torch.arange(size)).sum() / profile.sum())


@pytest.mark.parametrize(("backbone", "size", "first", "step"), BACKBONES)
def test_grid_is_where_the_gradient_lies(backbone, size, first, step) -> None:
    net = toy_net(["Mass"], backbone, size).eval()
    cells, cell, measured = middle(net, size)
    grid = grid_of(cells, size, cell_grids(net, size))
    assert grid == Grid(first, step)
    assert grid.first + cell * grid.step == pytest.approx(measured, abs=0.12 * step)


class Layers(nn.Module):
    """A network of nothing but some layers."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.layers = nn.Sequential(*layers)

    def forward_features(self, images: Tensor) -> Tensor:
        features: Tensor = self.layers(images)
        return features


@pytest.mark.parametrize(
    ("layers", "cells", "grid"),
    [
        ([nn.Conv2d(1, 1, 5, stride=3, padding=1, dilation=2)], 9, Grid(3.0, 3.0)),
        ([nn.MaxPool2d(3, 2, padding=1)], 17, Grid(0.0, 2.0)),
        ([nn.MaxPool2d(2, dilation=3, stride=4)], 8, Grid(1.5, 4.0)),
        ([nn.AvgPool2d(4)], 8, Grid(1.5, 4.0)),
        ([nn.ZeroPad2d((0, 0, 3, 1)), nn.AvgPool2d(2)], 18, Grid(-2.5, 2.0)),
        ([nn.ReflectionPad2d(2)], 37, Grid(-2.0, 1.0)),
        ([nn.ReplicationPad2d(1), nn.AvgPool2d(2, 2)], 17, Grid(-0.5, 2.0)),
    ],
)
def test_one_layer_by_hand(layers: list[nn.Module], cells: int, grid: Grid) -> None:
    net = Layers(nn.Conv2d(1, 1, 1), *layers)
    assert net.forward_features(torch.zeros(1, 1, 33, 33)).shape[2] == cells
    assert cell_grids(net, 33)[cells] == grid


def test_of_two_ways_the_mean_and_of_a_transposed_convolution_nothing() -> None:
    class Both(Layers):
        def forward_features(self, images: Tensor) -> Tensor:
            return sum((layer(images) for layer in self.layers), torch.zeros(()))

    both = Both(nn.Conv2d(1, 1, 3, 2, padding=1), nn.AvgPool2d(2))
    assert cell_grids(both, 16)[8] == Grid(0.25, 2.0)
    normed = nn.Sequential(nn.AvgPool2d(2), nn.BatchNorm2d(1), nn.ReLU(inplace=True))
    assert cell_grids(Both(nn.Conv2d(1, 1, 3, 2, padding=1), normed), 16)[8] == Grid(0.25, 2.0)
    assert set(cell_grids(Layers(nn.ConvTranspose2d(1, 1, 2, 2)), 16)) == {16}


def test_a_side_branch_of_another_way_does_not_count() -> None:
    class Attended(Layers):
        """Keys of a coarser map beside a stream of tokens, as in PVT."""

        def forward_features(self, images: Tensor) -> Tensor:
            down, keys, again = self.layers
            features = down(images)  # 16
            shorter = keys(features)  # 8
            tokens = features.flatten(2) + shorter.mean()
            return torch.relu(again(tokens.unflatten(2, (16, 16)))).flatten(2).unflatten(2, (8, 8))

    net = Attended(
        nn.Conv2d(1, 1, 3, 2, padding=1), nn.Conv2d(1, 1, 2, 2), nn.Conv2d(1, 1, 3, 2, padding=1)
    )
    assert cell_grids(net, 32)[8] == Grid(0.0, 4.0)


def test_each_resolution_on_the_way_and_nothing_left_behind(network) -> None:
    net = network("test_resnet", image_size=64, cbam_after=("layer1", "layer3")).train()
    grids = cell_grids(net, 64)
    assert grids[64] == Grid(0.0, 1.0)
    for cells, grid in grids.items():
        assert grid.step == 64 / cells or cells == 1
    assert net.training
    with torch.inference_mode():
        assert cell_grids(net, 64) == grids


# (height, width) of the file, and (width, height) of the image the box was drawn on
FILES = [
    ((200, 200), None),
    ((300, 220), None),  # taller than wide
    ((220, 300), None),  # wider than tall
    ((60, 80), None),  # smaller than the square
    ((120, 80), (640, 960)),  # the file was made smaller after the box was drawn
    ((240, 480), (240, 120)),  # or larger
]
BOX = (0.2, 0.35, 0.3, 0.25)  # x, y, width, height as shares of the frame: whole pixels


def record_of(folder, number: int) -> Record:
    (height, width), frame = FILES[number]
    x, y, across, down = BOX
    pixels = np.zeros((height, width), np.uint8)
    rows = slice(round(y * height), round((y + down) * height))
    pixels[rows, round(x * width) : round((x + across) * width)] = 255
    path = folder / f"{number}.png"
    cv2.imwrite(str(path), pixels)
    sides = frame or (width, height)
    box = Box("Mass", x * sides[0], y * sides[1], across * sides[0], down * sides[1])
    return Record(path.name, f"p{number}", (1.0,), path, boxes=(box,), box_frame=frame)


@pytest.mark.parametrize("size", [64, 224, 320])
def test_a_box_is_found_again_to_one_pixel(tmp_path, size: int) -> None:
    records = [record_of(tmp_path, number) for number in range(len(FILES))]
    source = SimpleNamespace(name="drawn", read=read_record, identity=dict)
    cache = open_cache(source, records, size=size, root=tmp_path / "cache", progress=False)
    rows = np.arange(len(records))
    data = XrayDataset([*map(str, rows)], torch.ones(len(rows), 1), cache, rows)
    images, boxes = [], []
    for row, record in enumerate(records):
        height, width = cache.sizes[row].tolist()
        [box] = record.boxes
        frame = record.box_frame or (width, height)
        boxes.append([box_to_square((box.x, box.y, box.width, box.height), frame, size)])
        images.append(data[row]["image"][0].numpy())
        [found] = detect_boxes(images[-1], [0.5])
        ends = np.array([found[:2], found[:2] + found[2:]])
        x, y, across, down = boxes[-1][0]
        assert ends == pytest.approx(np.array([[x, y], [x + across, y + down]]), abs=1)
    # The picture itself, taken as a map, must score as a map that is right.
    annotated = AnnotatedMaps({"image": np.stack(images)}, boxes, [r.patient_id for r in records])
    facts = evaluate_localisation({"Mass": annotated}, size=size, threshold=[0.5], draws=9)
    found = facts.labels["Mass"].methods["image"]
    assert found.pointing_game.value > 0.97
    assert found.centre.value == found.t_iou["0.8"].value == 1
    assert found.energy.value > 0.9


@pytest.mark.parametrize("cells", [(14, 14), (7, 9), (28, 28)])
def test_a_box_in_cells_is_found_again_to_one_cell(cells: tuple[int, int]) -> None:
    for seed in range(20):
        rng = np.random.default_rng(seed)
        box = [*rng.uniform(0, 120, 2), *rng.uniform(60, 100, 2)]
        heat = enlarge(shrink(region_of([box], 224), cells), 224)
        found = max(detect_boxes(heat, [0.5]), key=lambda each: overlaps(each, box)[0][0, 0])
        side = 224 / np.array([cells[1], cells[0]])
        assert (np.abs(found[:2] - box[:2]) <= side).all()
        assert (np.abs(found[:2] + found[2:] - np.add(box[:2], box[2:])) <= side).all()
