"""What happens each epoch: its seed, a row of metrics.csv, a line in the log."""

import logging
import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import pandas as pd
import pytorch_lightning as pl
import torch
from torch import Tensor
from torchmetrics.utilities import dim_zero_cat

from xray_lightning.metrics.estimates import best_of
from xray_lightning.training.task import XrayTask
from xray_lightning.writing import open_replacing

LOG = logging.getLogger(__name__)
Row = dict[str, float]
Floats = npt.NDArray[np.float32]
Metric = Callable[[Any, Any], Any]  # of scores and targets, arrays or tensors
Figures = Mapping[str, Tensor | float]


def write_rows(rows: list[Row], path: Path) -> None:
    """Replace the table in one step; an undefined value is an empty cell."""
    with open_replacing(path, newline="") as file:
        pd.DataFrame(rows).to_csv(file, index=False, float_format="%.9g", lineterminator="\r\n")


class MetricsFile(pl.Callback):
    """Collects each epoch's figures, images seen and images per second; part of the checkpoint.

    Losses, validation AUROC and the metric that chooses the checkpoint are logged too. Lightning's
    own CSV logger deletes the earlier file when a run resumes in its folder.
    """

    def __init__(self, path: Path, monitor: str = "val/auroc") -> None:
        self.path, self.monitor = path, monitor
        self.rows: list[Row] = []
        self.images_seen, self.seconds = 0, 0.0
        self._epoch_images, self._epoch_start, self._epoch_seconds = 0, 0.0, 0.0

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start the epoch's clock; it has no figures of the validation before."""
        kept = trainer.callback_metrics  # by Lightning; max_steps ends an epoch before validation
        kept |= {name: torch.tensor(math.nan) for name in kept if name.startswith("val/")}
        self._epoch_images, self._epoch_start = 0, time.perf_counter()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, *_: Any
    ) -> None:
        """Count images; validation runs after the last batch, so the clock stops here."""
        self._epoch_images += len(batch["targets"]) * trainer.world_size
        self._epoch_seconds = time.perf_counter() - self._epoch_start

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Add a row, write the table, log a line."""
        self.images_seen += self._epoch_images
        self.seconds += self._epoch_seconds
        metrics = {name: float(value) for name, value in sorted(trainer.callback_metrics.items())}
        rate = self._epoch_images / self._epoch_seconds if self._epoch_seconds else math.nan
        row = {"epoch": float(trainer.current_epoch), "step": float(trainer.global_step), **metrics}
        group = trainer.optimizers[0].param_groups[0]
        row |= {"lr": group["lr"] / group.get("lr_scale", 1.0)}  # before layer decay
        row |= {"images_seen": float(self.images_seen), "images_per_second": rate}
        self.rows.append(row)
        if trainer.is_global_zero:
            write_rows(self.rows, self.path)
            epoch = trainer.current_epoch + 1
            LOG.info(epoch_line(epoch, trainer.max_epochs, metrics, self.monitor))

    def state_dict(self) -> dict[str, Any]:
        """Rows and totals, plain values."""
        return {"rows": self.rows, "images_seen": self.images_seen, "seconds": self.seconds}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take the rows up to the checkpoint; later ones will be made again."""
        self.rows = list(state_dict["rows"])
        self.images_seen, self.seconds = state_dict["images_seen"], state_dict["seconds"]


class WatchMetric(pl.Callback):
    """Logs a metric of your own as ``val/<name>`` after each validation.

    So it stands in metrics.csv, and early stopping and ``monitor=val/<name>`` can go by it.

    Args:
        name: of the metric.
        function: from scores (N, L) in [0, 1] and targets (N, L), NaN unknown, of all validation
            images to a number; NumPy float32, in no particular order.
        mode: which is best, "min" or "max"; None: as of a known metric of that name, else "max".
        tensors: whether the function takes tensors, as torch's and torchmetrics' do.
    """

    def __init__(
        self, name: str, function: Metric, mode: str | None = None, *, tensors: bool = False
    ) -> None:
        self.name, self.function, self.tensors = name, function, tensors
        self.mode = mode or best_of(name)

    def measure(self, scores: Floats, targets: Floats) -> float:
        """The metric of scores and targets, (N, L) each."""
        pair = (scores, targets)
        return float(self.function(*(map(torch.from_numpy, pair) if self.tensors else pair)))

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Log, of what the task's AUROC holds until it is computed, in all processes together."""
        auroc = cast(XrayTask, pl_module).auroc
        with auroc.sync_context():
            states = [dim_zero_cat(state).float() for state in (auroc.preds, auroc.target)]
        scores, targets = (state.cpu().numpy().copy() for state in states)  # the function's own
        pl_module.log(f"val/{self.name}", self.measure(scores, targets), sync_dist=True)


def epoch_line(epoch: int, epochs: int | None, metrics: Figures, *more: str) -> str:
    """The text of one line, with figures beyond the usual ones."""
    names = dict.fromkeys(("train/loss", "val/loss", "val/auroc", *more))
    shown = [f"{name} {float(metrics[name]):.4f}" for name in names if name in metrics]
    return "  ".join([f"epoch {epoch}/{epochs}", *shown])


def epoch_seed(seed: int, epoch: int, rank: int = 0) -> int:
    """A seed for torch's generators, different for each (seed, epoch, number of the process)."""
    return int(np.random.SeedSequence((seed, epoch, rank)).generate_state(1)[0])


class EpochSeed(pl.Callback):
    """Seeds torch at the start of each epoch: Lightning does not restore its random state."""

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Seed."""
        torch.manual_seed(epoch_seed(self.seed, trainer.current_epoch, trainer.global_rank))
