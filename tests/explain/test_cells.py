"""Grids against the gradient of a cell, whose middle is where the cell sees the image."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from xray_lightning import XrayNet, cell_grids
from xray_lightning.explain.maps import Grid, grid_of

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
    torch.manual_seed(0)
    net = XrayNet(["Mass"], backbone, image_size=size).eval()
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


CONVOLUTION = nn.Conv2d(1, 1, 5, stride=3, padding=1, dilation=2)


@pytest.mark.parametrize(
    ("layers", "cells", "grid"),
    [
        ([CONVOLUTION], 9, Grid(3.0, 3.0)),
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
    net: Any = network("test_resnet", image_size=64, cbam_after=("layer1", "layer3")).train()
    grids = cell_grids(net, 64)
    assert grids[64] == Grid(0.0, 1.0)
    for cells, grid in grids.items():
        assert grid.step == 64 / cells or cells == 1
    assert net.training
    with torch.inference_mode():
        assert cell_grids(net, 64) == grids
