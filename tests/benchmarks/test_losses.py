"""What each loss adds to a training step of DenseNet-121, in time and in memory.

A step is forward and backward of network and loss, without the optimiser. A loss costs a thousandth
of it, far less than two steps differ under other load. So the losses are timed without the network,
in turns with the step, and the ratio is (step with BCE - BCE + loss) / (step with BCE).
"""

from collections.abc import Callable
from statistics import median
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from xray_lightning import BCE, Asymmetric, ClassBalanced, Focal, PairwiseAUC, WeightedBCE, XrayNet
from xray_lightning.records import CHEST_XRAY14

pytestmark = [pytest.mark.benchmark, pytest.mark.usefixtures("one_thread")]

BACKBONE, SIZE, BATCH = "densenet121", 64, 16
LABELS = len(CHEST_XRAY14)
TURNS = 8
COUNTS = torch.tensor([[86_000] * LABELS, [500] * LABELS])

LOSSES: dict[str, nn.Module] = {
    "bce": BCE(),
    "weighted_bce": WeightedBCE(COUNTS[0] / COUNTS[1]),
    "focal": Focal(alpha=0.25),
    "asymmetric": Asymmetric(),
    "class_balanced": ClassBalanced(COUNTS),
    "auc": PairwiseAUC(),
}

Rates = Callable[..., dict[str, list[float]]]


def examples(rows: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(rows, LABELS, generator=generator)
    targets = torch.rand(rows, LABELS, generator=generator).lt(0.1).float()
    return logits.requires_grad_(), targets


def alone(loss: nn.Module, rows: int, times: int) -> Callable[[], int]:
    """Forward and backward of a loss without a network."""
    logits, targets = examples(rows)

    def work() -> int:
        for _ in range(times):
            loss(logits, targets).backward()
        return times

    return work


def saved_bytes(loss: nn.Module, rows: int) -> int:
    """Bytes that a loss keeps for its backward pass, a shared storage counted once."""
    found: dict[int, int] = {}
    kept = []  # storages stay alive, so that no address is used twice

    def note(tensor: Tensor) -> Tensor:
        kept.append(tensor)
        storage = tensor.untyped_storage()
        found[storage.data_ptr()] = storage.nbytes()
        return tensor

    logits, targets = examples(rows)
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        loss(logits, targets)
    return sum(found.values())


def step_of(net: XrayNet, loss: nn.Module) -> Callable[[], int]:
    """Forward and backward of a batch; returns its images."""
    images = torch.rand(BATCH, 1, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    _, targets = examples(BATCH)

    def work() -> int:
        net.zero_grad()
        loss(net(images), targets).backward()
        return BATCH

    return work


def network() -> XrayNet:
    torch.manual_seed(0)
    return XrayNet(CHEST_XRAY14, BACKBONE, image_size=SIZE).train()


def test_cost_of_each_loss(rates: Rates, remark: Any, ratio: Any) -> None:
    works = {name: alone(loss, BATCH, 20) for name, loss in LOSSES.items()}
    found = rates(TURNS, step=step_of(network(), BCE()), **works)
    step = 1000 * BATCH / median(found["step"])
    remark(f"{BACKBONE}, {SIZE} px, batch {BATCH}, 1 thread: {step:.0f} ms a step with BCE")
    for name, loss in LOSSES.items():
        remark(
            f"{name}: {1000 / median(found[name]):.3f} ms alone, "
            f"{saved_bytes(loss, BATCH) / 1024:.1f} KiB kept for backward"
        )
        turns = zip(found["step"], found["bce"], found[name], strict=True)
        cost = median(1 + (1 / ours - 1 / bce) * images / BATCH for images, bce, ours in turns)
        if name != "bce":
            ratio(f"step_with_{name}_vs_bce", cost, "<=1.05")
