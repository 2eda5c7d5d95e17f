"""Tiny runs for callbacks that change what is learned."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
from pytorch_lightning.callbacks import ModelCheckpoint
from torch.optim import AdamW
from toy import data_fixture, quiet_trainer, toy_net

from xray_lightning import Cosine, Description, XrayDataModule, XrayTask
from xray_lightning.training.callbacks.epochs import MetricsFile
from xray_lightning.training.run import AtomicCheckpointIO

Fit = Callable[..., tuple[XrayTask, Path]]
data = data_fixture(14, batch_size=6)


@pytest.fixture
def fit(data: XrayDataModule, tmp_path: Path) -> Fit:
    """Trains a new network; its folder holds weights.ckpt, last.ckpt and metrics.csv."""

    def run(
        *callbacks: pl.Callback, name: str = "run", stop: int = 3, **settings: Any
    ) -> tuple[XrayTask, Path]:
        net = toy_net(data.labels)
        optimizer = partial(AdamW, lr=3e-3, weight_decay=0.5)
        task = XrayTask(net, optimizer=optimizer, head_lr=1e-2, schedule=Cosine())
        task.description = Description(net.config, dict(data.preprocessing), {})
        folder = tmp_path / name
        resume = settings.pop("resume", None)
        keep = partial(ModelCheckpoint, folder, enable_version_counter=False)
        weights = keep("weights", monitor="step", mode="max", save_weights_only=True)
        ours = [weights, keep("last"), *callbacks, MetricsFile(folder / "metrics.csv"), Stop(stop)]
        settings |= {"num_sanity_val_steps": 0, "use_distributed_sampler": False}
        plugins = [AtomicCheckpointIO()]
        trainer = quiet_trainer(folder, max_epochs=3, callbacks=ours, plugins=plugins, **settings)
        folder.mkdir(exist_ok=True)
        more = {} if resume is None else {"ckpt_path": resume, "weights_only": True}
        trainer.fit(task, data, **more)
        return task, folder

    return run


class Stop(pl.Callback):
    """Ends a run of three epochs early, as a kill would."""

    def __init__(self, epochs: int) -> None:
        self.epochs = epochs

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        trainer.should_stop = trainer.current_epoch + 1 >= self.epochs
