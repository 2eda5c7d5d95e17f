"""What each head and each attention block costs in a training step, relative to average pool.

One thread, DenseNet-121, random images in memory; a step is forward, BCE and backward, without
optimiser. Each variant takes turns with the average pool, and CPU seconds are compared. Memory is
what a step holds apart from temporary buffers: parameters, their gradients and the tensors that
autograd saves, each storage once.
"""

from collections.abc import Callable
from statistics import median
from typing import Any

import pytest
import torch
from torch import Tensor

from xray_lightning import BCE, XrayNet
from xray_lightning.models.heads import HEADS
from xray_lightning.records import CHEST_XRAY14

pytestmark = [pytest.mark.benchmark, pytest.mark.usefixtures("one_thread")]

BACKBONE, SIZE, BATCH, TURNS = "densenet121", 64, 16, 7
BLOCKS = ("features.denseblock3", "features.denseblock4")
VARIANTS: dict[str, dict[str, Any]] = {
    **{f"head_{name}": {"head": name} for name in HEADS if name != "average"},
    "head_csra_4_temperatures": {"head": "csra", "head_options": {"temperatures": [1, 2, 4, 99]}},
    **{f"cbam_{subset}": {"cbam_after": BLOCKS, "cbam": subset} for subset in ("both", "channel")},
    "cbam_spatial": {"cbam_after": BLOCKS, "cbam": "spatial"},
}


def new_net(**settings: Any) -> XrayNet:
    torch.manual_seed(0)
    return XrayNet(CHEST_XRAY14, BACKBONE, image_size=SIZE, **settings).train()


@pytest.fixture(scope="module")
def plain() -> XrayNet:
    """Average pool, no blocks."""
    return new_net()


@pytest.fixture(scope="module")
def batch() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(BATCH, 1, SIZE, SIZE, generator=generator)
    targets = torch.rand(BATCH, len(CHEST_XRAY14), generator=generator).gt(0.9).float()
    return images, targets


def step_of(net: XrayNet, batch: tuple[Tensor, Tensor]) -> Callable[[], int]:
    loss_of = BCE()

    def step() -> int:
        net.zero_grad(set_to_none=True)
        loss_of(net(batch[0]), batch[1]).backward()
        return 1

    return step


def held_bytes(net: XrayNet, batch: tuple[Tensor, Tensor]) -> int:
    """Saved tensors, parameters and gradients of one step."""
    parameters = {p.untyped_storage().data_ptr(): p.untyped_storage() for p in net.parameters()}
    saved: dict[int, Any] = {}

    def pack(tensor: Tensor) -> Tensor:
        saved[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        BCE()(net(batch[0]), batch[1])  # the dictionary keeps the storages, so no address recurs
    activations = sum(s.nbytes() for key, s in saved.items() if key not in parameters)
    return activations + 2 * sum(storage.nbytes() for storage in parameters.values())


@pytest.mark.parametrize("name", VARIANTS)
def test_cost(name, plain, batch, rates, over, remark, ratio) -> None:
    net = new_net(**VARIANTS[name])
    found = rates(TURNS, average=step_of(plain, batch), other=step_of(net, batch))
    base, ours = held_bytes(plain, batch), held_bytes(net, batch)
    extra = sum(p.numel() for p in net.parameters()) - sum(p.numel() for p in plain.parameters())
    remark(
        f"{name}: {BACKBONE}, {SIZE} px, batch {BATCH}, 1 thread, {TURNS} turns: "
        f"{1000 / median(found['average']):.0f} ms a step with average pool, "
        f"{1000 / median(found['other']):.0f} ms; {base / 2**20:.1f} and {ours / 2**20:.1f} MiB; "
        f"{extra:+,} parameters"
    )
    bound = "<=1.5" if name == "head_query" else "<=1.1"  # a decoder nearly as large as DenseNet
    ratio(f"{name}_step_vs_average", over(found["average_cpu"], found["other_cpu"]), bound)
    ratio(f"{name}_memory_vs_average", ours / base, bound)
