"""A training run: from a task and data to a folder with its best and its last checkpoint."""

import logging
import math
import multiprocessing
import re
import shutil
import signal
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytorch_lightning as pl
import torch
from lightning_fabric.utilities.exceptions import MisconfigurationException
from pytorch_lightning.callbacks import EarlyStopping, ProgressBar, RichProgressBar
from pytorch_lightning.plugins.io import TorchCheckpointIO

from xray_lightning.checkpoint import Checkpoint, load_checkpoint, write_checkpoint
from xray_lightning.data.datamodule import XrayDataModule
from xray_lightning.data.source import usage_notes
from xray_lightning.errors import ConfigError, SplitError, XrayError, require_number
from xray_lightning.folders import prepare_folder
from xray_lightning.metrics.estimates import CURVES, best_of, mean_metric
from xray_lightning.processes import first_process
from xray_lightning.results import Result
from xray_lightning.training.callbacks.epochs import EpochSeed, MetricsFile, WatchMetric
from xray_lightning.training.callbacks.weights import EMA, FreezeBackbone, RunCheckpoint
from xray_lightning.training.environment import describe_sampling, write_environment
from xray_lightning.training.sharding import FSDP, require_shardable
from xray_lightning.training.task import XrayTask
from xray_lightning.wording import fault, tell

LOG = logging.getLogger(__name__)
Floats = npt.NDArray[np.float32]
MONITOR = "val/auroc"  # what chooses the best checkpoint unless another metric is named
LOST = re.compile("gloo|nccl|by peer", re.IGNORECASE)  # what torch says where a process is gone


@dataclass(frozen=True)
class TrainingRun(Result):
    """What a training run left."""

    folder: str  # of the run
    best_epoch: int  # of the best checkpoint, counted from 1
    choice: str  # how it was chosen, such as "best val/auroc"
    images_seen: int  # in training, all epochs and processes
    seconds: float  # of training, without validation
    val_auroc: float  # mean validation AUROC of the best checkpoint; NaN where undefined

    @property
    def best(self) -> Path:
        """The best checkpoint: weights and what inference needs."""
        return Path(self.folder) / "checkpoints" / "best.ckpt"

    @property
    def last(self) -> Path:
        """The last checkpoint, to resume from."""
        return Path(self.folder) / "checkpoints" / "last.ckpt"


def train(
    task: XrayTask,
    data: XrayDataModule,
    folder: str | Path,
    *,
    epochs: int = 10,
    callbacks: Sequence[pl.Callback] = (),
    metrics: Mapping[str, Callable[[Floats, Floats], float]] | None = None,
    monitor: str = MONITOR,
    tolerance: float = 1.0,
    seed: int = 0,
    trainer: pl.Trainer | None = None,
    resume: Checkpoint | None = None,
) -> TrainingRun:
    """Train, and keep the best checkpoint by validation AUROC or another metric.

    The folder gets checkpoints/best.ckpt and last.ckpt, metrics.csv and environment.json.

    Args:
        task: network, loss and optimiser.
        data: its images.
        folder: of the run.
        epochs: how many.
        callbacks: further ones.
        metrics: figures to watch beside AUROC, by name: see :class:`WatchMetric`.
        monitor: what chooses the checkpoint, see :func:`choose_by`.
        tolerance: where that is the mean AUROC, the last epoch within so many standard errors of
            the best one is kept (Breiman et al. 1984, section 3.4.3); 0: the best one.
        seed: of dropout and the like; that of the images' order is the data's.
        trainer: one of :func:`make_trainer` with :func:`make_callbacks`, in place of ``epochs``,
            ``callbacks``, ``metrics``, ``monitor``, ``tolerance`` and ``seed``.
        resume: the last checkpoint of this run, to go on from.

    Raises:
        ConfigError: a trainer without the callbacks of a run, or no such ``monitor``.
        MissingImagesError: images of the table are not on disk.
        NonFiniteLossError: the loss became NaN or infinite.
        SplitError: the data is not that of the checkpoint to resume from.
    """
    folder = prepare_folder(Path(folder))
    if trainer is None:
        watched = [WatchMetric(name, function) for name, function in (metrics or {}).items()]
        make = partial(make_callbacks, monitor=monitor, tolerance=tolerance, seed=seed)
        every = make(folder, data, [*watched, *callbacks])
        trainer = make_trainer(partial(pl.Trainer, max_epochs=epochs), folder, every)
        write_environment(folder, data, trainer, seed)
    table, best = _find(trainer, MetricsFile), _find(trainer, RunCheckpoint)  # before "last"
    if resume is not None:
        require_same_split(resume, data)
    data.require_trainer(trainer)
    averaged = any(isinstance(callback, EMA) for callback in trainer.callbacks)  # type: ignore[attr-defined]
    require_shardable(trainer, task.net, averaged=averaged)
    log_run(data, task, trainer)
    trial = partial(try_step, trainer, task, data.image_size)
    with stop_together(trainer, folder, data.batch_size, trial):
        trainer.fit(task, data, ckpt_path=resume.path if resume else None, weights_only=True)
    epoch = load_checkpoint(folder / "checkpoints" / "best.ckpt").epoch
    return TrainingRun(
        folder=str(folder),
        best_epoch=epoch + 1,
        choice=best.choice,
        images_seen=table.images_seen,
        seconds=table.seconds,
        val_auroc=next((row[MONITOR] for row in table.rows if row["epoch"] == epoch), math.nan),
    )


@contextmanager
def stop_together(
    trainer: pl.Trainer, folder: Path, batch_size: int, try_size: Callable[[int], bool]
) -> Iterator[None]:
    """Stop the others at any error, for which they would wait half an hour; explain two of them."""
    try:
        yield
    except Exception as error:
        if trainer.strategy.launcher is not None:  # the processes that this one started
            trainer.strategy.launcher.kill(signal.SIGKILL)  # they write nothing
        if isinstance(error, torch.cuda.OutOfMemoryError):
            traceback.clear_frames(error.__traceback__)  # they hold the tensors of the step
            halves = (batch_size >> k for k in range(1, batch_size.bit_length() - 1))
            alone = not isinstance(trainer.strategy, FSDP)  # else all processes would have to try
            fits = next(filter(try_size, halves), 0) if alone else None
            raise ConfigError(fault("gpu_full", trainer, batch_size, fits)) from error
        if trainer.world_size == 1 or not LOST.search(str(error)):
            raise
        raise XrayError(fault("process_gone", trainer.world_size, folder)) from error


def try_step(trainer: pl.Trainer, task: XrayTask, image_size: int, size: int) -> bool:
    """Whether a step of so many images has room on the device; for a training that has ended."""
    torch.cuda.empty_cache()
    device = trainer.strategy.root_device
    try:
        net = task.to(device).net  # Lightning has moved it away
        net.zero_grad(set_to_none=True)
        _moments = [torch.empty_like(one) for one in net.parameters() for _ in "mv"]  # Adam's
        images = torch.rand(size, 1, image_size, image_size, device=device)
        with trainer.precision_plugin.forward_context():  # not a compiled network, which needs less
            loss = task.loss(net.forward(images), images.new_zeros(size, len(task.labels)))
        loss.backward()
    except torch.cuda.OutOfMemoryError:
        return False
    return True


def make_callbacks(
    folder: Path,
    data: XrayDataModule,
    callbacks: Sequence[pl.Callback] = (),
    *,
    monitor: str = MONITOR,
    seed: int = 0,
    freeze_epochs: int = 0,
    ema_decay: float | None = None,
    tolerance: float = 1.0,
) -> list[pl.Callback]:
    """What every run has, seeding, tables, the best and the last checkpoint; then its own."""
    watched, mode = choose_by(monitor, callbacks, data)
    table = MetricsFile(folder / "metrics.csv", monitor)
    how: Any = {"save_on_train_epoch_end": True, "enable_version_counter": False}
    keep = partial(RunCheckpoint, folder / "checkpoints", **how)
    best = keep(filename="best", monitor=monitor, mode=mode, save_weights_only=True)
    if require_number("tolerance", tolerance, 0) and monitor == MONITOR:
        best.lowest = partial(lowest_kept, table, data, tolerance)
    return [
        EpochSeed(seed),
        table,
        best,
        keep(filename="last"),
        *([FreezeBackbone(epochs=freeze_epochs)] if freeze_epochs else []),
        *([EMA(decay=ema_decay)] if ema_decay is not None else []),
        *callbacks,
        *watched,
    ]


def lowest_kept(table: MetricsFile, data: XrayDataModule, tolerance: float) -> float:
    """So many standard errors below the highest mean validation AUROC of a table's epochs.

    Of Hanley and McNeil 1982, eq. 2, by numbers of patients, labels taken for independent.
    """
    best = max(table.rows, key=lambda row: np.nan_to_num(row[MONITOR], nan=-1.0))
    auroc = np.array([best[f"{MONITOR}/{label}"] for label in data.labels])
    patients = np.array([record.patient_id for record in data.subset_records("val")])
    columns = data.subset_targets("val").T
    sick, well = (np.array([len({*patients[t == side]}) for t in columns]) for side in (1, 0))
    square = auroc**2
    first, second = auroc / (2 - auroc) - square, 2 * square / (1 + auroc) - square
    spread = auroc - square + (sick - 1) * first + (well - 1) * second
    variances = spread[np.isfinite(auroc)] / (1.0 * sick * well)[np.isfinite(auroc)]
    return best[MONITOR] - tolerance * math.sqrt(variances.sum()) / max(1, len(variances))


def choose_by(
    monitor: str, callbacks: Sequence[pl.Callback], data: XrayDataModule
) -> tuple[list[pl.Callback], str]:
    """What must log a metric that nothing else logs, and whether its "min" or "max" is best.

    Known are val/loss, val/NAME and val/NAME/LABEL of ``CURVES``, and those of the callbacks.

    Raises:
        ConfigError: another one, one that is undefined on validation, or early stopping that
            waits for the other direction.
    """
    name = str(monitor).removeprefix("val/")
    kind, _, label = name.partition("/")
    own = {f"val/{watch.name}": watch for watch in callbacks if isinstance(watch, WatchMetric)}
    watch = own.get(str(monitor))
    known = kind in CURVES and (name == kind or label in data.labels)
    if watch is None and known and monitor == f"val/{name}":
        start = data.labels.index(label) if label else 0
        columns = slice(start, start + 1 if label else None)
        watch = WatchMetric(name, partial(mean_metric, kind, columns=columns))
    if watch is None and monitor != "val/loss":
        raise ConfigError(fault("no_metric", monitor, CURVES, MONITOR, data.labels[0], own))
    targets = data.subset_targets("val")
    scores = np.random.default_rng(0).random(targets.shape, dtype=np.float32)
    if watch and monitor != MONITOR and math.isnan(watch.measure(scores, targets)):
        raise ConfigError(f"monitor={monitor} is undefined on validation: name another metric")
    mode = watch.mode if watch else best_of(monitor)
    stops = [callback for callback in callbacks if isinstance(callback, EarlyStopping)]
    if any(stop.monitor == monitor and stop.mode != mode for stop in stops):
        raise ConfigError(fault("other_direction", monitor, mode))
    return [watch] if watch and monitor not in own and kind != "auroc" else [], mode


class KeepSigterm(pl.Callback):
    """Puts the handler of SIGTERM back that was there before.

    Lightning's ends a fit at the next batch with exit code 0, is silent in a prediction and, as it
    broadcasts between processes from inside the handler, can hang.
    """

    def __init__(self) -> None:
        self._handler = signal.getsignal(signal.SIGTERM)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Undo what the trainer has just done."""
        if callable(self._handler):  # nobody's: Lightning's stays
            signal.signal(signal.SIGTERM, self._handler)

    on_predict_start = on_train_start


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes by :func:`~xray_lightning.checkpoint.write_checkpoint`: whole or not at all."""

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None
    ) -> None:
        """Write a checkpoint, replacing an older one in one step."""
        write_checkpoint(checkpoint, Path(path))


def make_trainer(
    factory: Callable[..., pl.Trainer],
    folder: str | Path,
    callbacks: Sequence[pl.Callback] = (),
    *,
    loggers: Sequence[pl.loggers.Logger] = (),
    fit: bool = True,
) -> pl.Trainer:
    """A Lightning trainer as a run needs it.

    Args:
        factory: pl.Trainer, or a partial of it with devices, precision, max_epochs, ...
        folder: of the run.
        callbacks: those of :func:`make_callbacks` and further ones.
        loggers: Lightning's.
        fit: false: only to predict, without checkpoints.
    """
    # Lightning's at a requeue by Slurm: amid an epoch, and even trainer.predict would load it
    for path in Path(folder).glob("hpc_ckpt_*.ckpt"):
        path.unlink(missing_ok=True)
    torch.backends.cudnn.benchmark = fit  # try its algorithms, unless Lightning is told otherwise
    try:
        return factory(
            callbacks=[KeepSigterm(), *callbacks],
            logger=list(loggers) or False,
            plugins=[AtomicCheckpointIO()],
            default_root_dir=folder,
            enable_checkpointing=fit,
            enable_progress_bar=any(isinstance(callback, ProgressBar) for callback in callbacks),
            enable_model_summary=False,
            use_distributed_sampler=False,
            num_sanity_val_steps=0,
            log_every_n_steps=10,
            inference_mode=True,
        )
    except (ValueError, MisconfigurationException) as error:  # what Lightning cannot combine
        raise ConfigError(f"trainer: {error}") from error


def show_bar() -> list[pl.Callback]:
    """A progress bar where somebody watches, unless several runs share the terminal."""
    alone = multiprocessing.parent_process() is None
    return [RichProgressBar()] if sys.stdout.isatty() and alone else []


def reopen_run(run: Path) -> Checkpoint | None:
    """The last checkpoint of an interrupted run; None where no epoch was finished.

    Then what a new start would add to, instead of replacing it, is removed.

    Raises:
        CheckpointError: the best or the last checkpoint is damaged or gone.
    """
    last, history = run / "checkpoints" / "last.ckpt", run / "metrics.csv"
    later = history.is_file() and len(history.read_text(encoding="utf-8").splitlines()) > 2
    if later or last.is_file():
        load_checkpoint(run / "checkpoints" / "best.ckpt")  # now, not at the end of the training
        return load_checkpoint(last)
    if first_process():  # the others find what this one writes
        for name in ("environment.json", "metrics.csv", "failure.json"):
            (run / name).unlink(missing_ok=True)
        shutil.rmtree(run / "tensorboard", ignore_errors=True)
    return None


def require_same_split(checkpoint: Checkpoint, data: XrayDataModule) -> None:
    """Never go on where a changed data set would assign patients anew."""
    before = checkpoint.description.split["fingerprint"]
    if before != data.split.fingerprint:
        raise SplitError(fault("data_changed", checkpoint.path, before, data.split.fingerprint))


def log_run(data: XrayDataModule, task: XrayTask, trainer: pl.Trainer) -> None:
    """Log what the run is about to use, and what is undefined in it."""
    net, notes, sampling = task.net, usage_notes(data.source), describe_sampling(data)
    sizes = [(one.numel() / 1e6, one.requires_grad) for one in net.parameters()]
    name = getattr(net, "config", {}).get("backbone", type(net).__name__)
    loaded, compiled = getattr(net, "load_report", None), net._compiled_call_impl
    about = [*notes, *data.split.notes], sampling, name, loaded, sizes, trainer.world_size, compiled
    for line in tell(__package__, "used", data, *about):
        LOG.info("%s", line)
    counted = bool(sampling) and any(buffer.numel() for buffer in task.loss.buffers())
    frozen = not loaded and not all(learns for _, learns in sizes)
    for line in tell(__package__, "doubtful", data, counted, frozen):
        LOG.warning("%s", line)


def _find(trainer: pl.Trainer, kind: type) -> Any:
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(callback, kind):
            return callback
    raise ConfigError(f"the trainer has no {kind.__name__}: make_trainer(..., make_callbacks(...))")
