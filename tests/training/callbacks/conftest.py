"""Tiny runs for callbacks that change what is learned."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import pytorch_lightning as pl
from pytorch_lightning.callbacks import LambdaCallback, ModelCheckpoint
from torch.optim import AdamW
from toy import data_fixture, toy_net

from xray_lightning import Cosine, Description, XrayDataModule, XrayTask
from xray_lightning.training.callbacks.epochs import MetricsFile
from xray_lightning.training.run import make_trainer

Fit = Callable[..., tuple[XrayTask, Path]]
data = data_fixture(14, batch_size=6)


@pytest.fixture
def fit(data: XrayDataModule, tmp_path: Path) -> Fit:
    """Trains a new network; its folder holds weights.ckpt, last.ckpt and metrics.csv."""

    def run(
        *callbacks: pl.Callback,
        name: str = "run",
        stop: int = 3,
        resume: Path | None = None,
        **settings: object,
    ) -> tuple[XrayTask, Path]:
        net = toy_net(data.labels)
        optimizer = partial(AdamW, lr=3e-3, weight_decay=0.5)
        task = XrayTask(net, optimizer=optimizer, head_lr=1e-2, schedule=Cosine())
        task.description = Description(net.config, dict(data.preprocessing), {})
        folder = tmp_path / name

        def stop_early(trainer: pl.Trainer, _) -> None:  # of three epochs, as a kill would
            trainer.should_stop = trainer.current_epoch + 1 >= stop

        early = LambdaCallback(on_train_epoch_end=stop_early)
        keep = partial(ModelCheckpoint, folder, enable_version_counter=False)
        weights = keep("weights", monitor="step", mode="max", save_weights_only=True)
        ours = [weights, keep("last"), *callbacks, MetricsFile(folder / "metrics.csv"), early]
        factory = partial(pl.Trainer, accelerator="cpu", max_epochs=3, **settings)
        folder.mkdir(exist_ok=True)
        trainer = make_trainer(factory, folder, ours)
        trainer.fit(task, data, ckpt_path=resume, weights_only=True)
        return task, folder

    return run
