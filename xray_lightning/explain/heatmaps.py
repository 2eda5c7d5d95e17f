"""Heat maps of chosen images after each validation and test."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
from matplotlib.figure import Figure
from pytorch_lightning.loggers import TensorBoardLogger

from xray_lightning.data.datamodule import XrayDataModule
from xray_lightning.errors import ConfigError, require_integer
from xray_lightning.explain.maps import GATES, require_method
from xray_lightning.explain.overlays import (
    RULES,
    Choice,
    Floats,
    Overlay,
    make_overlays,
    write_maps,
)
from xray_lightning.models.network import XrayNet
from xray_lightning.writing import save_figure

Draw = Callable[[Sequence[Overlay], str], Figure]


class HeatMaps(pl.Callback):
    """Draws maps of chosen images to a folder and to TensorBoard, and keeps their raw values.

    Of several processes the first draws; a rule that asks for scores knows those of its own share
    of the images.

    Raises:
        ConfigError: an unknown method, or ``every`` is not an integer of at least 1; at the start
            of a run: a label the data does not have, method "cbam" for a network without gates, or
            another kind of module.
    """

    def __init__(
        self,
        # for ``val_epoch1.png``, ``test.png`` and, beside each, ``.npz`` with the raw maps
        folder: str | Path,
        draw: Draw,  # makes the figure from overlays and a title
        *,
        choice: Choice | None = None,  # of the images
        method: str = "cam",  # of :func:`~xray_lightning.explain.maps.class_maps`
        every: int = 1,  # epochs from one figure to the next
    ) -> None:
        require_integer("every", every, 1)
        require_method(method)
        self.folder, self.draw, self.every = Path(folder), draw, every
        self.choice, self.method = choice or Choice(), method
        self._scores: dict[int, Floats] = {}  # by position in the subset

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Refuse what cannot be drawn, before training."""
        if stage != "predict":
            net, data = require_xray(trainer, pl_module)
            self.choice.require_labels(data.labels)
            if self.method == GATES:
                net.require_gates()

    def on_validation_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Keep the scores."""
        self._scores |= zip(batch["index"].tolist(), outputs.float().cpu().numpy(), strict=True)

    on_test_batch_end = on_validation_batch_end

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Draw the validation set."""
        epoch = trainer.current_epoch + 1
        if not trainer.sanity_checking and epoch % self.every == 0:
            self._draw_scored(trainer, pl_module, "val", f"val_epoch{epoch}")
        self._scores.clear()

    def on_test_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Draw the test set."""
        self._draw_scored(trainer, pl_module, "test", "test")
        self._scores.clear()

    def _draw_scored(
        self, trainer: pl.Trainer, module: pl.LightningModule, subset: str, name: str
    ) -> None:
        if not trainer.is_global_zero:
            return
        net, data = require_xray(trainer, module)
        scores = np.full((len(data.split.subsets[subset]), len(net.labels)), np.nan, np.float32)
        for row, of_image in self._scores.items():
            scores[row] = of_image
        columns = [net.labels.index(label) for label in data.labels]
        figure = self.draw_subset(net, data, subset, scores[:, columns], name)
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger):
                logger.experiment.add_figure(
                    f"maps/{subset}", figure, trainer.global_step, close=False
                )

    def draw_subset(
        self, net: XrayNet, data: XrayDataModule, subset: str, scores: Floats, name: str
    ) -> Figure:
        """Draw the chosen images of a subset; the figure and the raw maps go to the folder."""
        places = self.choice.places(data, subset, scores)
        overlays = make_overlays(net, data, subset, places, scores, method=self.method)
        title = f"{subset} set of {data.source.title}, split {data.split.name} "
        title += f"[{data.split.subset_fingerprints[subset]}]: {self.method}, "
        title += RULES[self.choice.rule]
        self.folder.mkdir(parents=True, exist_ok=True)
        write_maps(overlays, self.folder / f"{name}.npz")
        figure = self.draw(overlays, title)
        save_figure(figure, self.folder / f"{name}.png")
        return figure


def require_xray(trainer: pl.Trainer, module: pl.LightningModule) -> tuple[XrayNet, XrayDataModule]:
    """The network and the data of a run; a ConfigError if they are of other classes."""
    net, data = getattr(module, "net", None), getattr(trainer, "datamodule", None)
    if not isinstance(net, XrayNet) or not isinstance(data, XrayDataModule):
        raise ConfigError(
            "HeatMaps works in a Trainer that is given an XrayTask and an XrayDataModule, got "
            f"{type(module).__name__} and {type(data).__name__}"
        )
    return net, data
