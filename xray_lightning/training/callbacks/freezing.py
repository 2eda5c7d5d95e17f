"""Freeze warm-up: the new layers learn first, then everything."""

import logging
from typing import Any, cast

import pytorch_lightning as pl
from torch import nn

from xray_lightning.errors import ConfigError
from xray_lightning.training.task import XrayTask

LOG = logging.getLogger(__name__)


class FreezeBackbone(pl.Callback):
    """Keeps the backbone as it is for the first epochs, so that a random head cannot spoil it.

    Weights and running statistics of its norms stay bit for bit; neither weight decay nor momentum
    moves them. It keeps no state: an epoch is frozen or not by its number, also after a resume.
    The learning-rate schedule goes on counting: a warm-up or cosine starts with the first frozen
    epoch, and a plateau may cut the rate before the backbone has learned anything.

    In several processes the backbone's gradients are computed and thrown away, to the same end:
    DistributedDataParallel settles which parameters have one when it wraps the network, and fails
    if that changes.

    Args:
        epochs: how many are frozen.

    Raises:
        ConfigError: not a whole number of epochs.
    """

    def __init__(self, epochs: int) -> None:
        if not isinstance(epochs, int) or epochs < 1:
            raise ConfigError(f"freeze_epochs must be a whole number of epochs, got {epochs!r}")
        self.epochs = epochs

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Warn if there is nothing but frozen epochs, or nothing worth freezing."""
        if cast(XrayTask, pl_module).net.load_report is None:
            LOG.warning(
                "freeze_epochs=%d holds random weights still, and the head learns from noise: use "
                "model.weights=imagenet or freeze_epochs=0",
                self.epochs,
            )
        if trainer.max_epochs is not None and 0 <= trainer.max_epochs <= self.epochs:
            LOG.warning(
                "freeze_epochs=%d of max_epochs=%d: the backbone will learn nothing",
                *(self.epochs, trainer.max_epochs),
            )

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Freeze or thaw; Lightning restores these modes after a validation."""
        thawed = trainer.current_epoch >= self.epochs
        backbone = cast(XrayTask, pl_module).net.backbone
        set_running_statistics(backbone, learn=thawed)
        if trainer.model is pl_module:  # not wrapped
            backbone.requires_grad_(thawed)

    def on_after_backward(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Throw the gradients away, before they are clipped and used."""
        if trainer.current_epoch < self.epochs:
            drop_gradients(cast(XrayTask, pl_module).net.backbone)


def set_running_statistics(network: nn.Module, *, learn: bool) -> None:
    """Whether layers with running statistics (batch norms) update them, or use them as they are."""
    for module in network.modules():
        if any(name.startswith("running_") for name, _ in module.named_buffers(recurse=False)):
            module.train(learn)


def drop_gradients(network: Any) -> None:
    """Leave no gradient: optimisers pass over such parameters, a zero they would decay."""
    for parameter in network.parameters():
        parameter.grad = None
