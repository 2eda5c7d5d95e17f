"""metrics.csv: one row an epoch, kept across a kill and a resume."""

import csv
import math
import time
from pathlib import Path
from typing import Any

import pytorch_lightning as pl

from xray_lightning.writing import open_replacing

Row = dict[str, float]


def write_rows(rows: list[Row], path: Path) -> None:
    """Replace the table in one step; an undefined value is an empty cell."""
    columns: list[str] = []
    for row in rows:
        columns += [name for name in row if name not in columns]
    with open_replacing(path, newline="") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        for row in rows:
            cells = (row.get(name, math.nan) for name in columns)
            writer.writerow(["" if math.isnan(cell) else f"{cell:.9g}" for cell in cells])


class MetricsFile(pl.Callback):
    """Collects the logged figures of each epoch, with the images seen and images per second.

    The rows are part of the checkpoint: Lightning's own CSV logger deletes the earlier file when
    a run resumes in its folder.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows: list[Row] = []
        self.images_seen = 0
        self.seconds = 0.0
        self._epoch_images = 0
        self._epoch_start = 0.0
        self._epoch_seconds = 0.0

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start the epoch's clock."""
        self._epoch_images, self._epoch_start = 0, time.perf_counter()

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Count images; validation runs after the last batch, so the clock stops here."""
        self._epoch_images += len(batch["targets"]) * trainer.world_size
        self._epoch_seconds = time.perf_counter() - self._epoch_start

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Add a row and write the table."""
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

    def state_dict(self) -> dict[str, Any]:
        """Rows and totals, plain values."""
        return {"rows": self.rows, "images_seen": self.images_seen, "seconds": self.seconds}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take the rows up to the checkpoint; later ones will be made again."""
        self.rows = list(state_dict["rows"])
        self.images_seen, self.seconds = state_dict["images_seen"], state_dict["seconds"]
