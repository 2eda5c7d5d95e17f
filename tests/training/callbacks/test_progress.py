"""The line of an epoch."""

import logging
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from xray_lightning.training.callbacks.progress import EpochLine, epoch_line


def test_line() -> None:
    metrics = {"val/auroc": torch.tensor(0.71239), "train/loss": 0.5, "other": 3.0, "val/loss": 1.0}
    line = "epoch 3/8  train/loss 0.5000  val/loss 1.0000  val/auroc 0.7124"
    assert epoch_line(3, 8, metrics) == line
    assert epoch_line(1, None, {}) == "epoch 1/None"
    assert epoch_line(1, 1, {"val/auroc": float("nan")}) == "epoch 1/1  val/auroc nan"


@pytest.mark.parametrize("first", [True, False])
def test_only_the_first_process_logs(first: bool, caplog: pytest.LogCaptureFixture) -> None:
    trainer: Any = SimpleNamespace(
        is_global_zero=first, current_epoch=0, max_epochs=2, callback_metrics={"train/loss": 0.25}
    )
    with caplog.at_level(logging.INFO):
        EpochLine().on_train_epoch_end(trainer, trainer)
    assert caplog.messages == (["epoch 1/2  train/loss 0.2500"] if first else [])
