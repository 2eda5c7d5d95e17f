"""What a checkpoint learns of its training films at the end: whether a new film is like them."""

import copy
import logging
from pathlib import Path
from typing import cast

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor

from xray_lightning.checkpoint import load_checkpoint, store_gate
from xray_lightning.data.datamodule import XrayDataModule
from xray_lightning.errors import ConfigError, require_integer
from xray_lightning.models.gate import Gate, fit_gate, require_share
from xray_lightning.models.network import XrayNet
from xray_lightning.training.task import XrayTask
from xray_lightning.writing import Json

LOG = logging.getLogger(__name__)


class FitGate(pl.Callback):
    """Stores a gate in the best and the last checkpoint, each of its own weights, at the end.

    See :func:`~xray_lightning.models.gate.fit_gate`: ``false_alarms``, and ``seed``; it is fitted
    on at most ``films`` of training and of validation. Weights and random state stay. Where there
    can be none (another class of network, hardly any films) the log says why. ConfigError: a share
    outside (0, 1), or ``films`` is not a whole number of at least 16.
    """

    def __init__(self, false_alarms: float = 0.05, films: int = 512, seed: int = 0) -> None:
        require_integer("gate: films", films, 16)
        require_share(false_alarms)
        self.false_alarms, self.films, self.seed = false_alarms, films, seed

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Fit in the first process; the others wait until the files are whole."""
        if trainer.is_global_zero:
            kept = {callback.best_model_path for callback in trainer.checkpoint_callbacks}  # type: ignore[attr-defined]
            data: object = trainer.datamodule  # type: ignore[attr-defined]
            try:
                self.store([Path(path) for path in sorted(kept) if path], pl_module, data)
            except ConfigError as error:
                LOG.warning("no gate in the checkpoints: %s", error)
        trainer.strategy.barrier("gate")

    def store(self, paths: list[Path], task: pl.LightningModule, data: object) -> None:
        """Fit a gate for each checkpoint of a task, once for the same weights, and store it."""
        net = cast(XrayTask, task).net
        if not isinstance(net, XrayNet) or not isinstance(data, XrayDataModule):
            raise ConfigError(f"{type(net).__name__} is no XrayNet, or its data no XrayDataModule")
        records, gates = data.subset_records("train"), dict[str, Gate]()
        generator = np.random.default_rng(self.seed)
        films = [draw_films(data, subset, self.films, generator) for subset in ("train", "val")]
        youngest = min((r.age for r in records if r.age == r.age), default=None)
        views = tuple(sorted({record.view for record in records} - {""}))
        settings: Json = {"false_alarms": self.false_alarms, "youngest": youngest, "views": views}
        for path in paths:
            loaded = load_checkpoint(path, trust=True)  # just written here
            own = loaded.build_net(copy.deepcopy(net)).to(task.device)
            if (key := loaded.weights_sha256) not in gates:
                gates[key] = fit_gate(own, films[0], films[1], seed=self.seed, **settings)
            store_gate(path, gates[key])


def draw_films(data: XrayDataModule, subset: str, most: int, rng: np.random.Generator) -> Tensor:
    """At most so many films of a subset, unaugmented, (N, 1, S, S)."""
    dataset = data.dataset(subset)
    rows = rng.permutation(len(dataset))[:most].tolist()
    return torch.stack([dataset[row]["image"] for row in rows])
