"""A training step through Trainer and XrayTask against a bare PyTorch loop, on a CPU or a GPU.

Both have the same initial network, optimiser, schedule, gradient clipping and batches (in
memory); Lightning's side has the callbacks and the logger of a real run. They take turns, an
epoch each, so that other load meets both alike. An epoch of Lightning's is timed from its first
callback to its last, so its own costs at either end (means of the logged figures, metrics.csv) are
part of the step. No validation, no checkpoint: those are not steps.
"""

import copy
import math
from dataclasses import dataclass
from functools import partial
from time import perf_counter

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import LambdaCallback
from pytorch_lightning.loggers import TensorBoardLogger
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader

from xray_lightning import BCE, Cosine, XrayDataModule, XrayNet, XrayTask
from xray_lightning.records import CHEST_XRAY14
from xray_lightning.training.callbacks.epochs import EpochSeed, MetricsFile
from xray_lightning.training.optim import parameter_groups
from xray_lightning.training.run import make_trainer

UNVALIDATED = "ignore:.*have no `val_dataloader`"  # validation is no step
pytestmark = [pytest.mark.benchmark, pytest.mark.filterwarnings(UNVALIDATED)]

TURNS = 12  # the first warms up and does not count
THREADS = 1
CLIP = 1.0
OPTIMIZER = partial(AdamW, lr=3e-4, weight_decay=0.05)
HEAD_LR = 1e-3


@dataclass(frozen=True)
class Case:
    """Where and on what a step is timed; ``steps`` a turn."""

    device: str
    size: int
    batch: int
    steps: int = 10
    precision: str = "32-true"
    backbone: str = "densenet121"


CPU = Case("cpu", size=64, batch=16)
GPU = Case("cuda", size=224, batch=64, steps=20, precision="bf16-mixed")


def batches(case: Case):
    generator = torch.Generator().manual_seed(0)
    labels = len(CHEST_XRAY14)
    return [
        {
            "image": torch.rand(case.batch, 1, case.size, case.size, generator=generator),
            "targets": torch.rand(case.batch, labels, generator=generator).gt(0.9).float(),
            "index": torch.arange(case.batch),
            "image_id": [f"{step}_{number}.png" for number in range(case.batch)],
        }
        for step in range(case.steps)
    ]


def bare_loop(net: XrayNet, data, case: Case):
    """An epoch of plain PyTorch; called, it trains and returns the last loss."""
    net.to(case.device).train()
    loss_of, schedule = BCE(), Cosine()
    schedule.start(case.steps * TURNS, case.steps)
    optimizer = OPTIMIZER(parameter_groups(net, HEAD_LR))
    scheduler = LambdaLR(optimizer, schedule)
    mixed = torch.autocast(case.device, torch.bfloat16, enabled=case.precision == "bf16-mixed")

    def epoch() -> float:
        for batch in data:
            optimizer.zero_grad()
            with mixed:
                logits = net(batch["image"].to(case.device))
                loss = loss_of(logits, batch["targets"].to(case.device))
            loss.backward()
            torch.nn.utils.clip_grad_norm_(net.parameters(), CLIP)
            optimizer.step()
            scheduler.step()
        return float(loss.detach())

    return epoch


def measure_step(case: Case, folder, feed: XrayDataModule | None = None):
    """Milliseconds a step of the bare loop and of Lightning, and the median of their ratios.

    ``feed``: where Lightning's batches come from, beside a loop on one that the device has already.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(THREADS)
    torch.manual_seed(0)
    data = batches(case)
    if feed is not None:
        there = {k: data[0][k].to(case.device) for k in ("image", "targets")}
        data = [there] * case.steps
    net = XrayNet(CHEST_XRAY14, case.backbone, image_size=case.size)
    bare_epoch, times, losses = bare_loop(copy.deepcopy(net), data, case), [], []

    def take_turns(*_) -> None:  # before each of Lightning's epochs the bare loop does one
        times.append(perf_counter())
        losses.append(bare_epoch())
        times.append(perf_counter())

    task = XrayTask(net, BCE(), optimizer=OPTIMIZER, head_lr=HEAD_LR, schedule=Cosine())
    metrics = MetricsFile(folder / "metrics.csv")
    first = LambdaCallback(on_train_epoch_start=take_turns)
    last = LambdaCallback(on_train_epoch_end=lambda *_: times.append(perf_counter()))
    place = {"accelerator": case.device, "devices": 1, "precision": case.precision}
    factory = partial(pl.Trainer, **place, max_epochs=TURNS, gradient_clip_val=CLIP)
    factory = partial(factory, limit_train_batches=case.steps, limit_val_batches=0)
    callbacks, logger = [first, EpochSeed(0), metrics, last], TensorBoardLogger(folder, name="")
    trainer = make_trainer(factory, folder, callbacks, loggers=[logger], fit=False)
    try:
        trainer.fit(task, DataLoader(data, batch_size=None) if feed is None else feed)
    finally:
        torch.set_num_threads(before)
    assert (trainer.global_step, len(metrics.rows)) == (case.steps * TURNS, TURNS)
    assert all(map(math.isfinite, losses))
    seconds = np.diff(np.reshape(times, (TURNS, 3)))[1:]  # the bare loop's, Lightning's
    bare, lightning = np.median(seconds, axis=0) / case.steps * 1000
    return bare, lightning, np.median(seconds[:, 1] / seconds[:, 0])


@pytest.mark.parametrize(
    "case", [CPU, pytest.param(GPU, marks=pytest.mark.gpu)], ids=["cpu", "gpu"]
)
def test_trainer_step_vs_bare_loop(case: Case, tmp_path, bench) -> None:
    if case.device == "cuda" and not torch.cuda.is_available():
        pytest.skip("torch sees no GPU")
    bare, lightning, value = measure_step(case, tmp_path)
    bench.remark(
        f"{case.backbone}, {case.size} px, batch {case.batch}, {case.precision} on {case.device}, "
        f"{case.steps} steps a turn: bare loop {bare:.1f} ms a step, Trainer and XrayTask "
        f"{lightning:.1f} ms"
    )
    name = "trainer_step_vs_bare_loop" + ("_gpu" if case.device == "cuda" else "")
    bench.ratio(name, value, "<=1.05")
