"""From a composed configuration to objects; beyond this file nothing knows Hydra."""

import inspect
import multiprocessing
import os
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import cv2
import pytorch_lightning as pl
import torch
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning.callbacks import RichProgressBar
from torch import nn

from xray_lightning.checkpoint import AtomicCheckpointIO, Description, describe_model
from xray_lightning.cli.overrides import in_sweep, make
from xray_lightning.data.datamodule import XrayDataModule, default_workers
from xray_lightning.data.decoding import available_cores
from xray_lightning.data.source import Source
from xray_lightning.errors import ConfigError
from xray_lightning.models.backbones import traced_sizes
from xray_lightning.models.network import XrayNet
from xray_lightning.report.panel import Panel
from xray_lightning.training.callbacks.checkpoints import RunCheckpoint
from xray_lightning.training.callbacks.epochs import EpochLine, EpochSeed, KeepSigterm, MetricsFile
from xray_lightning.training.callbacks.weights import EMA, FreezeBackbone
from xray_lightning.training.optim import make_optimizer
from xray_lightning.training.task import XrayTask

# What a partial loss can ask for by a parameter's name, counted on the training set.
STATISTICS = {
    "positive_weight": XrayDataModule.positive_weight,  # (L,)
    "class_counts": XrayDataModule.class_counts,  # (2, L)
}


def data_from(config: DictConfig, source: Source | None = None) -> XrayDataModule:
    """The data module of a configuration: reads the tables and makes the split, no pixels.

    Args:
        config: all settings.
        source: the data set, if its tables were read already.
    """
    return XrayDataModule(
        source or make(config.data),
        split=make(config.split),
        sampler=make(config.sampler),
        image_size=config.image_size,
        batch_size=config.batch_size,
        augment=make(config.augment),
        clahe=config.clahe,
        workers=config.workers,
        cache_dir=config.cache_dir,
        seed=config.seed,
        permute_labels=config.permute_labels,
    )


def task_from(config: DictConfig, data: XrayDataModule) -> XrayTask:
    """Network, loss and optimiser of a configuration.

    Raises:
        ConfigError: the optimiser refuses its settings, or see :func:`require_sizes`.
    """
    net: XrayNet = make(config.model, labels=data.labels)
    require_sizes(net, config.image_size, config.batch_size)
    if config.compile:
        net.compile()
    settings = {"schedule": make(config.schedule), "tta": config.tta, **make(config.optim)}
    task = XrayTask(net, loss_from(config, data), **settings)
    try:
        make_optimizer(task.optimizer, net, task.head_lr, task.layer_decay)
    except ConfigError:
        raise
    except (TypeError, ValueError) as error:
        raise ConfigError(f"optim.optimizer: {error}") from error
    return task


def require_sizes(net: XrayNet, image_size: int, batch_size: int) -> None:
    """Refuse an image whose margin is never read, and a batch that batch norm cannot train on.

    Raises:
        ConfigError: image_size or batch_size, with those that work.
    """
    share, side, single = traced_sizes(net, image_size)
    if share < 1:
        low = image_size // side * side
        raise ConfigError(
            f"image_size={image_size}: {net.config['backbone']} reads patches, and {1 - share:.1%} "
            f"of the image never; use {f'{low} or ' if low else ''}{low + side}"
        )
    if single and batch_size == 1:
        raise ConfigError(
            f"batch_size=1: at image_size={image_size} a batch norm of {net.config['backbone']} "
            "sees a single value, on which it cannot train; use batch_size=2 or larger images"
        )


def panel_from(config: DictConfig, labels: Sequence[str]) -> Panel | None:
    """The settings of the results figure; None if the data leaves open which finding to show.

    Raises:
        ConfigError: an unknown label or rule, or a number out of range.
    """
    panel = Panel(config.panel.label, config.panel.rule, config.panel.columns, config.panel.seed)
    return panel if panel.finding(labels) else None


def loss_from(config: DictConfig, data: XrayDataModule) -> nn.Module:
    """The loss of a configuration; a partial one gets the statistics that it has parameters for."""
    loss: nn.Module | partial[nn.Module] = make(config.loss)
    if not isinstance(loss, partial):
        return loss
    wanted = STATISTICS.keys() & inspect.signature(loss).parameters.keys()
    return loss(**{name: STATISTICS[name](data) for name in wanted})


def describe_run(config: DictConfig, data: XrayDataModule, net: XrayNet) -> Description:
    """What a checkpoint of this run says about itself."""
    plain = OmegaConf.to_container(config, resolve=True)
    if not isinstance(plain, dict):
        raise ConfigError("the configuration must be a mapping")
    settings = {str(key): value for key, value in plain.items()}
    return describe_model(net, data, settings)


def trainer_from(
    config: DictConfig,
    callbacks: list[pl.Callback],
    *,
    fit: bool = True,
    folder: Path | None = None,
) -> pl.Trainer:
    """The Lightning trainer of a configuration, on a GPU if it asks for one and there is one.

    Raises:
        ConfigError: a GPU is demanded and there is none.
    """
    node = {str(key): value for key, value in config.trainer.items()}
    on_gpu = wants_gpu(config)
    if node["accelerator"] == "gpu" and not on_gpu:
        raise ConfigError(
            "trainer.accelerator=gpu, but torch sees no GPU; use trainer=auto or trainer=cpu"
        )
    if node["precision"] == "auto":
        node["precision"] = "bf16-mixed" if on_gpu else "32-true"
    torch.backends.cudnn.allow_tf32 = node["precision"] != "32-true"  # float32 is float32
    run = folder or Path(config.run_dir)
    for path in run.glob("hpc_ckpt_*.ckpt"):  # Lightning's at a requeue by Slurm:
        path.unlink(missing_ok=True)  # amid an epoch, and even trainer.predict would load it
    loggers = list(make(config.logger).values()) if fit else []
    trainer: pl.Trainer = make(
        OmegaConf.create(node),
        callbacks=[KeepSigterm(), *callbacks, *(extras(config) if fit else [])],
        logger=loggers or False,
        plugins=[AtomicCheckpointIO()],
        default_root_dir=run,
        enable_checkpointing=fit,
        enable_progress_bar=any(isinstance(callback, RichProgressBar) for callback in callbacks),
        enable_model_summary=False,
        use_distributed_sampler=False,
        num_sanity_val_steps=0,
        log_every_n_steps=10,
        inference_mode=True,
    )
    return trainer


def extras(config: DictConfig) -> list[pl.Callback]:
    """The callbacks of the configuration; one that is null is switched off."""
    return [callback for callback in make(config.callbacks).values() if callback is not None]


def fit_callbacks(config: DictConfig) -> tuple[MetricsFile, list[pl.Callback]]:
    """What every training run has: seeding, tables, progress, the best and the last checkpoint."""
    run = Path(config.run_dir)
    metrics = MetricsFile(run / "metrics.csv")
    best = RunCheckpoint(
        run / "checkpoints",
        "best",
        monitor="val/auroc",
        mode="max",
        save_weights_only=True,
        save_on_train_epoch_end=True,
        enable_version_counter=False,
    )
    last = RunCheckpoint(
        run / "checkpoints", "last", save_on_train_epoch_end=True, enable_version_counter=False
    )
    callbacks = [EpochSeed(config.seed), metrics, EpochLine(), best, last]
    if config.freeze_epochs:
        callbacks.append(FreezeBackbone(epochs=config.freeze_epochs))
    if config.ema_decay is not None:
        callbacks.append(EMA(decay=config.ema_decay))
    return metrics, callbacks + progress()


def progress() -> list[pl.Callback]:
    """A progress bar where somebody watches, unless several runs share the terminal."""
    alone = multiprocessing.parent_process() is None
    return [RichProgressBar()] if sys.stdout.isatty() and alone else []


def prepare_process(config: DictConfig) -> None:
    """Seed; decide the loader's workers and the compute threads, and write both into the settings.

    A resumed run keeps its thread count, on which the last bits of its sums depend. OpenCV's own
    threads are switched off: images are small and the loader is parallel already.
    """
    cores = own_cores(cores_each(local_processes(config)))
    if config.workers is None:
        config.workers = default_workers(cores, wants_gpu(config))
    if config.threads is None:
        config.threads = max(1, cores - config.workers)
    torch.set_num_threads(config.threads)
    os.environ["OMP_NUM_THREADS"] = str(config.threads)  # or Lightning sets another for processes
    cv2.setNumThreads(1)
    pl.seed_everything(config.seed, verbose=False)


def cores_each(processes: int) -> int:
    """Cores for each of so many processes on this machine; Slurm says how many it granted."""
    granted = os.environ.get("SLURM_CPUS_PER_TASK")
    return int(granted) if granted else max(1, available_cores() // processes)


def local_processes(config: DictConfig) -> int:
    """Number of processes that ``trainer.devices`` asks for on this machine."""
    devices = config.trainer.devices
    if devices in (-1, "-1", "auto"):
        return torch.cuda.device_count() if wants_gpu(config) else 1
    return devices if isinstance(devices, int) else len(str(devices).split(","))  # numbers of GPUs


def own_cores(cores: int) -> int:
    """This run's share of the machine's cores.

    In a sweep Hydra's joblib launcher keeps ``n_jobs`` runs going; submitit gives each
    ``cpus_per_task``, and its local executor starts all of them at once: a core each.
    """
    if not in_sweep():
        return cores
    launcher = HydraConfig.get().launcher
    if asked := launcher.get("cpus_per_task"):
        return min(cores, int(asked))
    if launcher.get("_target_", "").endswith(".LocalLauncher"):
        return 1
    jobs = int(launcher.get("n_jobs", 1))
    at_once = jobs if jobs > 0 else cores + 1 + jobs  # joblib: -1 is a job per core, -2 one less
    return max(1, cores // max(1, at_once))


def wants_gpu(config: DictConfig) -> bool:
    """Whether the trainer will use a GPU."""
    return torch.cuda.is_available() and config.trainer.accelerator in ("auto", "gpu", "cuda")
