"""What EMA and frozen epochs add to a training step of DenseNet-121, or save."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.optim import AdamW

from xray_lightning import EMA, FreezeBackbone, XrayNet, XrayTask
from xray_lightning.records import CHEST_XRAY14

pytestmark = pytest.mark.benchmark

SIZE, BATCH = 64, 16


def test_step_with_average_and_with_a_frozen_backbone(
    rates: Any, over: Any, ratio: Any, remark: Any, one_thread: None
) -> None:
    torch.manual_seed(0)
    task = XrayTask(XrayNet(CHEST_XRAY14, "densenet121", image_size=SIZE)).train()
    optimizer = AdamW(task.parameters(), lr=1e-4)
    images, targets = torch.rand(BATCH, 1, SIZE, SIZE), torch.zeros(BATCH, len(CHEST_XRAY14))
    trainer: Any = SimpleNamespace(current_epoch=0, global_step=0, model=task)
    freeze, ema = FreezeBackbone(epochs=1), EMA(decay=0.999)
    ema.on_fit_start(trainer, task)

    def step() -> int:
        optimizer.zero_grad()
        task.loss(task(images), targets).backward()
        freeze.on_after_backward(trainer, task)
        optimizer.step()
        return 1

    def averaged() -> int:
        trainer.global_step += step()
        ema.on_train_batch_end(trainer, task, None, None, 0)
        return 1

    def in_epoch(epoch: int, work: Callable[[], int]) -> Callable[[], int]:
        def run() -> int:
            trainer.current_epoch = epoch
            freeze.on_train_epoch_start(trainer, task)
            return sum(work() for _ in range(4))

        return run

    found = rates(
        8, plain=in_epoch(1, step), averaged=in_epoch(1, averaged), frozen=in_epoch(0, step)
    )
    assert ema.updates == trainer.global_step > 0
    for name, bound in (("averaged", "<=1.02"), ("frozen", "<=0.6")):
        ratio(f"step_{name}_vs_plain", over(found["plain_cpu"], found[f"{name}_cpu"]), bound)
    remark(f"DenseNet-121, {SIZE} px, batch {BATCH}, 1 thread, CPU seconds")
