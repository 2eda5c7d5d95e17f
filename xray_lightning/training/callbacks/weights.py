"""What becomes of the weights: averaged, frozen at first, kept where best, with their gate."""

import logging
from collections.abc import Callable, Mapping
from pathlib import Path, PurePath
from typing import Any, cast

import numpy as np
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.trainer.states import TrainerFn
from torch import Tensor
from torch.optim.swa_utils import get_ema_multi_avg_fn

from xray_lightning.checkpoint import load_checkpoint, store_gate
from xray_lightning.data.datamodule import XrayDataModule
from xray_lightning.errors import ConfigError, require_integer, require_number
from xray_lightning.models.gate import Gate, fit_gate
from xray_lightning.models.network import XrayNet
from xray_lightning.training.task import XrayTask
from xray_lightning.wording import tell
from xray_lightning.writing import Json

LOG = logging.getLogger(__name__)


class EMA(pl.Callback):
    """Averages the network over its steps (Polyak 1992): ``a <- d a + (1 - d) w`` after each one.

    ``d = min(decay, (1 + n) / (10 + n))`` at the n-th step, so that the random start is soon
    forgotten (as TensorFlow's ExponentialMovingAverage). Weights and running statistics are
    averaged alike. Validation sees the average, and so does the network after training. Every
    checkpoint's ``state_dict`` holds the average; one to resume from also holds the weights.

    Lightning's own EMAWeightAveraging puts the last weights, not the average, into a checkpoint
    with ``save_weights_only`` and has no growing decay. ConfigError: a ``decay`` outside (0, 1).
    """

    def __init__(self, decay: float) -> None:
        self.decay = require_number("ema_decay", decay, 0, 1, "()")
        self.updates = 0
        self.average: dict[str, Tensor] = {}
        self.weights: dict[str, Tensor] = {}  # while the network holds the average
        self._network: dict[str, Tensor] = {}  # while training; making a state_dict takes long
        self._step = 0

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start the average where the network is; a checkpoint has filled it with its average."""
        task = cast(XrayTask, pl_module)
        state = task.net.state_dict().items()
        self._network = {name: tensor for name, tensor in state if tensor.is_floating_point()}
        self.average = task.averaged = {k: v.clone() for k, v in self._network.items()}
        self._restore()

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Note how many steps were done before, known only now."""
        self._step = trainer.global_step

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, *_: Any
    ) -> None:
        """Update, unless this batch only added to a gradient."""
        if trainer.global_step > self._step:
            self._step = trainer.global_step
            self.updates += 1
            decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
            mix = get_ema_multi_avg_fn(decay)  # type: ignore[no-untyped-call]  # torch has no types
            mix(list(self.average.values()), list(self._network.values()), 0)

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Evaluate the average."""
        if trainer.state.fn == TrainerFn.FITTING:
            self._use_average()

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Go on with the weights."""
        if trainer.state.fn == TrainerFn.FITTING:
            self._restore()

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Leave the average in the network."""
        self._use_average()
        self._network = {}

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Add the weights; not called where weights only, that is the average only, are saved."""
        checkpoint["ema"] = {"updates": self.updates, "weights": self.weights or self._network}

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Keep the weights until the fit starts; a checkpoint without any starts a new average."""
        state = checkpoint.get("ema", {"updates": 0, "weights": {}})
        self.updates, self.weights = state["updates"], state["weights"]

    def _use_average(self) -> None:
        if not self.weights:
            self.weights = {k: v.clone() for k, v in self._network.items()}
            overwrite(self._network, self.average)

    def _restore(self) -> None:
        if self.weights:
            overwrite(self._network, self.weights)
            self.weights = {}


@torch.no_grad()
def overwrite(tensors: Mapping[str, Tensor], values: Mapping[str, Tensor]) -> None:
    """Overwrite each tensor with the value of its name."""
    for name, tensor in tensors.items():
        tensor.copy_(values[name])


class FreezeBackbone(pl.Callback):
    """Keeps the backbone as it is for the first epochs, so that a random head cannot spoil it.

    Weights and running statistics of its norms stay bit for bit; neither weight decay nor momentum
    moves them. It keeps no state: an epoch is frozen or not by its number, also after a resume.
    The learning-rate schedule goes on counting: a warm-up or cosine starts with the first frozen
    epoch, and a plateau may cut the rate before the backbone has learned anything.

    In several processes the backbone's gradients are computed and thrown away, to the same end:
    DistributedDataParallel settles which parameters have one when it wraps the network, and fails
    if that changes. ConfigError: ``epochs`` is not a whole number of at least 1.
    """

    def __init__(self, epochs: int) -> None:
        self.epochs = require_integer("freeze_epochs", epochs, 1)

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Warn if there is nothing but frozen epochs, or nothing worth freezing."""
        net = cast(XrayTask, pl_module).net
        if not hasattr(net, "backbone"):
            raise ConfigError(f"freeze_epochs: {type(net).__name__} has no attribute backbone")
        if "finetune" in getattr(net, "config", {}):
            raise ConfigError(f"freeze_epochs={self.epochs} and model.finetune: leave out one")
        if getattr(net, "load_report", None) is None:
            LOG.warning(*tell("xray_lightning.training", "frozen_noise", self.epochs))
        if trainer.max_epochs is not None and 0 <= trainer.max_epochs <= self.epochs:
            text = "freeze_epochs=%d of max_epochs=%d: the backbone will learn nothing"
            LOG.warning(text, self.epochs, trainer.max_epochs)

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Freeze or thaw; Lightning restores these modes after a validation."""
        thawed = trainer.current_epoch >= self.epochs
        backbone = cast(XrayTask, pl_module).net.backbone
        for module in backbone.modules():  # batch norms
            if any(name.startswith("running_") for name, _ in module.named_buffers(recurse=False)):
                module.train(thawed)
        if trainer.model is pl_module:  # not wrapped
            backbone.requires_grad_(thawed)

    def on_after_backward(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Throw the gradients away, before they are clipped and used; a zero would be decayed."""
        if trainer.current_epoch < self.epochs:
            cast(XrayTask, pl_module).net.backbone.zero_grad(set_to_none=True)


class RunCheckpoint(ModelCheckpoint):
    """Lightning's, but its memory of the best score goes with the files, wherever they lie.

    Lightning forgets it in another folder. A score undefined in every epoch keeps the last one.
    Where ``lowest`` is set, the last epoch is kept whose score is not below what it then returns.
    """

    lowest: Callable[[], float] | None = None

    @property
    def choice(self) -> str:
        """By what the kept epoch was chosen."""
        if self._lacks_score():
            return f"last epoch: {self.monitor} was undefined in every one"
        return f"{'last epoch within the error of the ' if self.lowest else ''}best {self.monitor}"

    def check_monitor_top_k(self, trainer: pl.Trainer, current: Tensor | None = None) -> bool:
        """Whether to keep this epoch."""
        again = current is not None and bool(current.isnan()) and self._lacks_score()
        near = current is not None and self.lowest is not None and bool(current >= self.lowest())
        return again or near or super().check_monitor_top_k(trainer, current)

    def _lacks_score(self) -> bool:
        score = self.best_model_score  # infinite: Lightning's word for undefined
        return score is not None and not bool(torch.as_tensor(score).isfinite())

    @property
    def state_key(self) -> str:
        """As Lightning's: checkpoints of runs before there was this class stay readable."""
        return super().state_key.replace(type(self).__qualname__, ModelCheckpoint.__qualname__, 1)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over what was known, every path by its file name in this folder."""

        def here(path: str) -> str:
            return str(PurePath(str(self.dirpath), PurePath(path).name)) if path else path

        paths = ("best_model_path", "kth_best_model_path", "last_model_path")
        moved = {name: here(state_dict[name]) for name in paths}
        kept = {here(path): score for path, score in state_dict["best_k_models"].items()}
        own = {**moved, "best_k_models": kept, "dirpath": self.dirpath}
        super().load_state_dict(state_dict | own)


class FitGate(pl.Callback):
    """Stores a gate in the best and the last checkpoint, each of its own weights, at the end.

    See :func:`~xray_lightning.models.gate.fit_gate`: ``false_alarms``, and ``seed``; it is fitted
    on at most ``films`` of training and of validation. Weights and random state stay. Where there
    can be none (another class of network, hardly any films) the log says why. ConfigError: a share
    outside (0, 1), or ``films`` is not a whole number of at least 16.
    """

    def __init__(self, false_alarms: float = 0.05, films: int = 512, seed: int = 0) -> None:
        self.films = require_integer("gate: films", films, 16)
        self.false_alarms = require_number("gate: false_alarms", false_alarms, 0, 1, "()")
        self.seed = seed

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
            with torch.random.fork_rng(devices=()):  # a new network draws weights, for nothing
                own = cast(XrayTask, task).restore_net(loaded).to(task.device)
            if (key := loaded.weights_sha256) not in gates:
                gates[key] = fit_gate(own, films[0], films[1], seed=self.seed, **settings)
            store_gate(path, gates[key])


def draw_films(data: XrayDataModule, subset: str, most: int, rng: np.random.Generator) -> Tensor:
    """At most so many films of a subset, unaugmented, (N, 1, S, S)."""
    dataset = data.dataset(subset)
    rows = rng.permutation(len(dataset))[:most].tolist()
    return torch.stack([dataset[row]["image"] for row in rows])
