"""What a network makes of the size of its images."""

import pytest

from xray_lightning.models.layout import traced_sizes
from xray_lightning.models.network import XrayNet


@pytest.mark.parametrize(
    ("backbone", "size", "read", "side"),
    [
        ("vit_tiny_patch16_224", 100, 96, 16),
        ("vit_tiny_patch16_224", 96, 96, 16),
        ("convnext_atto", 100, 96, 32),  # a stem of 4, then 25 -> 12 cells and 6 -> 3
        ("convnext_atto", 64, 64, 32),
        ("resnet10t", 100, 100, 1),
    ],
)
def test_what_patches_read(backbone: str, size: int, read: int, side: int) -> None:
    net = XrayNet(["Mass"], backbone, image_size=size)
    share, divisor, _ = traced_sizes(net, size)
    assert share == pytest.approx((read / size) ** 2)
    assert divisor == side
    assert net.training


@pytest.mark.parametrize(("size", "single"), [(32, True), (64, False)])
def test_a_batch_norm_of_one_value(size: int, single: bool) -> None:
    net = XrayNet(["Mass"], "resnet10t", image_size=size)
    assert traced_sizes(net, size)[2] is single
