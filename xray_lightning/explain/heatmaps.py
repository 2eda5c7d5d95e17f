"""Heat maps of chosen images after each validation and test."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytorch_lightning as pl
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from pytorch_lightning.loggers import TensorBoardLogger
from torch import Tensor

from xray_lightning.data.datamodule import XrayDataModule
from xray_lightning.errors import ConfigError
from xray_lightning.explain.grid import grid_of
from xray_lightning.explain.maps import GATES, require_method
from xray_lightning.explain.overlays import CHOICES, Choice, Overlay, overlays
from xray_lightning.models.network import XrayNet
from xray_lightning.writing import open_replacing, save_figure

Floats = npt.NDArray[np.float32]
Draw = Callable[[Sequence[Overlay], str], Figure]


class HeatMaps(pl.Callback):
    """Draws maps of chosen images to a folder and to TensorBoard, and keeps their raw values.

    Of several processes the first draws; a rule that asks for scores knows those of its own share
    of the images.

    Args:
        folder: for ``val_epoch1.png``, ``test.png`` and, beside each, ``.npz`` with the maps as
            they were computed (see :func:`write_maps`).
        draw: makes the figure from overlays and a title.
        choice: of the images.
        method: of :func:`~xray_lightning.explain.class_maps`.
        every: epochs from one look to the next.

    Raises:
        ConfigError: an unknown method, or ``every`` is no whole number of at least 1; at the start
            of a run: a label the data does not have, method "cbam" for a network without gates, or
            another kind of module.
    """

    def __init__(
        self,
        folder: str | Path,
        draw: Draw,
        *,
        choice: Choice | None = None,
        method: str = "cam",
        every: int = 1,
    ) -> None:
        if not isinstance(every, int) or every < 1:
            raise ConfigError(f"every must be an integer of at least 1, got {every!r}")
        require_method(method)
        self.folder, self.draw, self.every = Path(folder), draw, every
        self.choice, self.method = choice or Choice(), method
        self._scores: dict[int, Floats] = {}  # by position in the part

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Refuse what cannot be drawn, before training."""
        if stage != "predict":
            net, data = looked_at(trainer, pl_module)
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
        self._keep(outputs, batch)

    on_test_batch_end = on_validation_batch_end

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Look at the validation set."""
        epoch = trainer.current_epoch + 1
        if not trainer.sanity_checking and epoch % self.every == 0:
            self._judged(trainer, pl_module, "val", f"val_epoch{epoch}")
        self._scores.clear()

    def on_test_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Look at the test set."""
        self._judged(trainer, pl_module, "test", "test")
        self._scores.clear()

    def _keep(self, scores: Tensor, batch: Any) -> None:
        rows = batch["index"].tolist()
        self._scores |= dict(zip(rows, scores.float().cpu().numpy(), strict=True))

    def _judged(
        self, trainer: pl.Trainer, module: pl.LightningModule, subset: str, name: str
    ) -> None:
        if not trainer.is_global_zero:
            return
        net, data = looked_at(trainer, module)
        scores = np.full((len(data.split.subsets[subset]), len(net.labels)), np.nan, np.float32)
        for row, values in self._scores.items():
            scores[row] = values
        columns = [net.labels.index(label) for label in data.labels]
        figure = self.look(net, data, subset, scores[:, columns], name)
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger):
                logger.experiment.add_image(
                    f"maps/{subset}", pixels(figure), trainer.global_step, dataformats="HWC"
                )

    def look(
        self, net: XrayNet, data: XrayDataModule, subset: str, scores: Floats, name: str
    ) -> Figure:
        """Draw the chosen images of a part; the figure and the raw maps go to the folder.

        ``scores`` (n, L) are those of the part, ``name`` is that of both files.

        Raises:
            ConfigError: an unknown label or method.
        """
        places = self.choice.places(data, subset, scores)
        found = overlays(net, data, subset, places, scores, method=self.method)
        title = f"{subset} set of {data.source.title}, split {data.split.name} "
        title += f"[{data.split.subset_fingerprints[subset]}]: {self.method}, "
        title += CHOICES[self.choice.rule]
        self.folder.mkdir(parents=True, exist_ok=True)
        write_maps(found, self.folder / f"{name}.npz")
        figure = self.draw(found, title)
        save_figure(figure, self.folder / f"{name}.png")
        return figure


def looked_at(trainer: pl.Trainer, module: pl.LightningModule) -> tuple[XrayNet, XrayDataModule]:
    """The network and the data of a run.

    Raises:
        ConfigError: they are not ours.
    """
    net, data = getattr(module, "net", None), getattr(trainer, "datamodule", None)
    if not isinstance(net, XrayNet) or not isinstance(data, XrayDataModule):
        raise ConfigError(
            "HeatMaps works in a Trainer that is given an XrayTask and an XrayDataModule, got "
            f"{type(module).__name__} and {type(data).__name__}"
        )
    return net, data


def write_maps(found: Sequence[Overlay], path: Path) -> None:
    """Raw maps of N overlays: arrays image_id, label, score, target (N,), and maps (N, h, w).

    Cell i of a side sees the image around pixel first + i * step, both (N,).
    Boxes are rows of x, y, width, height in pixels of the square image, (M, 4), with the overlay
    each belongs to in box_of, (M,).
    """
    heats = [each.heat for each in found]
    boxes = [(number, *box) for number, each in enumerate(found) for box in each.boxes]
    grids = [grid_of(len(each.heat), len(each.image), each.grids) for each in found]
    table = np.array(boxes, dtype=np.float64).reshape(-1, 5)
    with open_replacing(path, "wb") as file:
        np.savez(
            file,
            image_id=np.array([each.image_id for each in found], dtype=np.str_),
            label=np.array([each.label for each in found], dtype=np.str_),
            score=np.array([each.score for each in found], dtype=np.float32),
            target=np.array([each.target for each in found], dtype=np.float32),
            maps=np.stack(heats) if heats else np.empty((0, 0, 0), np.float32),
            first=np.array([grid.first for grid in grids]),
            step=np.array([grid.step for grid in grids]),
            boxes=table[:, 1:],
            box_of=table[:, 0].astype(np.int64),
        )


def pixels(figure: Figure) -> npt.NDArray[np.uint8]:
    """A figure as an image, (H, W, 3) uint8."""
    canvas: Any = FigureCanvasAgg(figure)
    canvas.draw()
    image: npt.NDArray[np.uint8] = np.array(canvas.buffer_rgba())[..., :3]
    return image
