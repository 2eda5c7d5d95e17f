"""One line an epoch in the log, for the file and for terminals without a progress bar."""

import logging
from collections.abc import Mapping

import pytorch_lightning as pl
from torch import Tensor

LOG = logging.getLogger(__name__)


class EpochLine(pl.Callback):
    """Logs loss and validation AUROC after each epoch."""

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Log."""
        if trainer.is_global_zero:
            LOG.info(
                epoch_line(trainer.current_epoch + 1, trainer.max_epochs, trainer.callback_metrics)
            )


def epoch_line(epoch: int, epochs: int | None, metrics: Mapping[str, Tensor | float]) -> str:
    """The text of one line.

    >>> epoch_line(1, 8, {"train/loss": 0.5})
    'epoch 1/8  train/loss 0.5000'
    """
    names = ("train/loss", "val/loss", "val/auroc")
    shown = [f"{name} {float(metrics[name]):.4f}" for name in names if name in metrics]
    return "  ".join([f"epoch {epoch}/{epochs}", *shown])
