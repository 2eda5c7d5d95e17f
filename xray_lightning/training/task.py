"""XrayTask: how a network learns from batches and is evaluated on them."""

import copy
import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR
from torchmetrics import MeanMetric

from xray_lightning.checkpoint import KEY, TTA, Checkpoint, Description, describe_model
from xray_lightning.data.datamodule import Batch, XrayDataModule
from xray_lightning.errors import ConfigError, NonFiniteLossError, require_choice
from xray_lightning.metrics.auroc import PerLabelAUROC, defined_mean
from xray_lightning.models.network import XrayNet
from xray_lightning.training.losses import BCE, ConditionalBCE
from xray_lightning.training.optim import OptimizerFactory, Plateau, Schedule, fuse, make_optimizer
from xray_lightning.training.sharding import fill_whole, shard
from xray_lightning.wording import fault


class XrayTask(pl.LightningModule):
    """Trains a network and logs AUROC per label.

    Logs ``train/loss``, and after each validation or test ``val/loss``, ``val/auroc`` (mean over
    the labels where it is defined), ``val/auroc_defined`` (how many) and ``val/auroc/<label>``
    (NaN where undefined), alike for ``test``. Among several processes each has the same figures,
    those of all images; ``val/loss`` is the mean over all known targets. A loss of pairs (``auc``)
    compares images within a batch: its ``val/loss`` depends on the batch size and on how many
    processes share the images, so compare it with the same settings only, or use ``val/auroc``.

    Args:
        net: an :class:`~xray_lightning.models.network.XrayNet`, or any module that gives logits
            (B, L) of images (B, 1, H, W) in [0, 1]. Freezing and layer decay need its
            ``backbone``, heat maps an XrayNet.
        loss: from logits (B, L) and targets (B, L) to a scalar; None: BCE.
        labels: the L labels; None: ``net.labels``.
        optimizer: makes the optimiser from parameter groups; a partial of a torch optimiser.
        head_lr: learning rate of the head; None: the optimiser's.
        layer_decay: factor of the learning rate for each layer away from the head; None: one rate.
        schedule: factor of the learning rate at each step; None: constant.
        tta: test-time augmentation of predictions. "flip": the mean of the scores of the image and
            of its mirror image. Validation and test while training are always without.

    Attributes:
        description: stored in every checkpoint, so that it rebuilds its network and names its data;
            None: made from the network and the trainer's XrayDataModule.
        averaged: tensors of the network that checkpoints hold in place of its own; set by EMA.

    Raises:
        ConfigError: an unknown test-time augmentation, no labels, or a network that a conditional
            loss cannot tell to multiply its scores.
    """

    def __init__(
        self,
        net: nn.Module,
        loss: nn.Module | None = None,
        *,
        labels: Sequence[str] | None = None,
        optimizer: OptimizerFactory = partial(AdamW, lr=3e-4),  # noqa: B008 - a partial is constant
        head_lr: float | None = None,
        layer_decay: float | None = None,
        schedule: Schedule | None = None,
        tta: str = "none",
    ) -> None:
        super().__init__()
        require_choice("tta", tta, TTA)
        own: Any = getattr(net, "labels", ())
        self.labels: tuple[str, ...] = tuple(own if labels is None else labels)
        if not self.labels:
            raise ConfigError(fault("no_own_labels", type(net).__name__))
        self.net: Any = net
        self.loss = loss or BCE()
        if isinstance(self.loss, ConditionalBCE):
            condition: Any = getattr(net, "condition", None)
            if condition is None:
                raise ConfigError(f"{type(net).__name__} has no condition(ancestors), see XrayNet")
            condition(self.loss.ancestors)
        self.optimizer, self.head_lr, self.layer_decay = optimizer, head_lr, layer_decay
        self.schedule, self.tta = schedule, tta
        self.description: Description | None = None
        self.averaged: Mapping[str, Tensor] = {}
        self._whole: list[Any] = []  # the network of which each process holds a share: no module
        self.auroc, self.mean_loss = PerLabelAUROC(len(self.labels)), MeanMetric("error")

    def forward(self, images: Tensor) -> Tensor:
        """Logits (B, L) of images (B, 1, H, W) in [0, 1]; ConfigError: whole numbers."""
        if not images.is_floating_point():
            raise ConfigError(fault("no_floats", images.dtype))
        logits: Tensor = self.net(images)
        return logits

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Loss of one batch."""
        loss: Tensor = self.loss(self(batch["image"]), batch["targets"])
        require_finite(loss.detach(), batch["image_id"], self.current_epoch)
        size = len(batch["targets"])
        self.log("train/loss", loss, on_step=False, on_epoch=True, batch_size=size, sync_dist=True)
        return loss

    def validation_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Add one batch to the figures; its scores (B, L) are for callbacks."""
        logits = self(batch["image"])
        loss = self.loss(logits, batch["targets"])
        require_finite(loss, batch["image_id"], self.current_epoch)
        self.mean_loss.update(loss, weight=(~torch.isnan(batch["targets"])).sum())
        scores = torch.sigmoid(logits)
        self.auroc.update(scores, batch["targets"])
        return scores

    test_step = validation_step

    def predict_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Scores (B, L) in [0, 1]."""
        scores = torch.sigmoid(self(batch["image"]))
        if self.tta == "flip":
            scores = (scores + torch.sigmoid(self(batch["image"].flip(-1)))) / 2
        return scores

    def on_validation_epoch_end(self) -> None:
        """Log the figures; tell a plateau schedule those of validation."""
        subset = "test" if self.trainer.testing else "val"
        values = self.auroc.compute().reshape(-1)  # torchmetrics squeezes a single label
        mean, defined = defined_mean(values)
        figures: dict[str, Tensor | float] = {
            "loss": self.mean_loss.compute(),
            "auroc": mean,
            "auroc_defined": float(defined),
            **{f"auroc/{k}": value for k, value in zip(self.labels, values, strict=True)},
        }
        for name, figure in figures.items():  # equal in all processes already
            self.log(f"{subset}/{name}", figure, prog_bar=name == "auroc", sync_dist=True)
        with torch.inference_mode(mode=False):  # or fit could not add to what validate has reset
            self.auroc.reset()
            self.mean_loss.reset()
        told = subset == "val" and not self.trainer.sanity_checking
        if told and isinstance(self.schedule, Plateau):
            self.schedule.update(mean)

    on_test_epoch_end = on_validation_epoch_end

    def configure_model(self) -> None:
        """Share the network out among the processes, if the strategy is to."""
        if self.device_mesh is not None and self.trainer.training and not self._whole:
            self._whole = [shard(self.net, self.device_mesh["data_parallel"])]

    def on_validation_start(self) -> None:
        """Validate, and draw, with a whole network: processes have different numbers of batches."""
        if self._whole:
            whole = fill_whole(self._whole[0], self.net, self.device)
            self._whole, self.net = [self.net], whole

    def on_validation_end(self) -> None:
        """Go on with the share."""
        if self._whole:
            self._whole, self.net = [self.net.cpu()], self._whole[0]

    def setup(self, stage: str) -> None:
        """Forget what an earlier run left, and tell trackers the settings of this one."""
        self.averaged = {}
        self.auroc.reset()  # of a validation that was interrupted
        self.mean_loss.reset()
        config = self.description.config if self.description else {}
        for logger in self.loggers if config else ():
            logger.log_hyperparams(config)
        data = getattr(self.trainer, "datamodule", None)
        size = getattr(self.net, "config", {}).get("image_size")
        if isinstance(data, XrayDataModule) and size not in (None, data.image_size):
            raise ConfigError(fault("other_image_size", size, data.image_size))
        if isinstance(data, XrayDataModule) and self.labels != tuple(data.labels):
            raise ConfigError(fault("other_labels", self.labels, data.labels))

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the description; without it and an XrayDataModule the file only resumes its own run.

        The averaged weights are put in here and not by their callback, which Lightning does not
        ask when it saves weights only.
        """
        description, data = self.description, getattr(self.trainer, "datamodule", None)
        if description is None and isinstance(data, XrayDataModule):
            description = describe_model(self.net, data)
        if description is not None:
            checkpoint[KEY] = description.to_plain()
        for name, tensor in self.averaged.items():
            checkpoint["state_dict"][f"net.{name}"] = tensor

    def on_train_start(self) -> None:
        """Fit the schedule to the length of this run, which a resumed run may have changed."""
        if self.schedule is not None:
            self._start_schedule(self.schedule)

    def configure_optimizers(self) -> Any:
        """Optimiser over backbone and head; the schedule moves every step."""
        kind = self.trainer.strategy.root_device.type
        factory = fuse(self.optimizer, kind, self.trainer.gradient_clip_val)
        optimizer = make_optimizer(factory, self.net, self.head_lr, self.layer_decay)
        if self.schedule is None:
            return optimizer
        self._start_schedule(self.schedule)
        scheduler = {"scheduler": LambdaLR(optimizer, self.schedule), "interval": "step"}
        return {"optimizer": optimizer, "lr_scheduler": scheduler}

    def restore_net(self, checkpoint: Checkpoint) -> Any:
        """A checkpoint's network; with parts of the user's own, a copy of this one, filled."""
        rebuilt = isinstance(self.net, XrayNet) and "." not in self.net.config["head"]
        return checkpoint.build_net(None if rebuilt else copy.deepcopy(self.net).cpu())

    def _start_schedule(self, schedule: Schedule) -> None:
        steps = self.trainer.estimated_stepping_batches
        if math.isinf(steps):
            raise ConfigError("a schedule needs the length of the run: set max_epochs or max_steps")
        self.trainer.fit_loop.setup_data()  # known only then: max_steps may end within an epoch
        batches = self.trainer.num_training_batches
        per_epoch = math.ceil(batches / self.trainer.accumulate_grad_batches)
        if steps < per_epoch:
            raise ConfigError(f"max_steps must be at least {per_epoch}, an epoch, got {steps}")
        schedule.start(int(steps), per_epoch)


def require_finite(loss: Tensor, image_ids: Sequence[str], epoch: int) -> None:
    """Stop at the first loss that is NaN or infinite."""
    if not torch.isfinite(loss):
        raise NonFiniteLossError(fault("loss_became", float(loss), epoch + 1, image_ids))
