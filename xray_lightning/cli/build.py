"""From a composed configuration to objects; beyond this file nothing knows Hydra."""

import logging
import os
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf
from torch import nn

from xray_lightning.cli.config import in_sweep, make
from xray_lightning.cli.request import Facts
from xray_lightning.cli.settings import CACHES, Settings
from xray_lightning.data.datamodule import XrayDataModule
from xray_lightning.data.decoding import available_cores
from xray_lightning.data.source import Source
from xray_lightning.explain.overlays import HeatMaps
from xray_lightning.models.backbones import require_sizes
from xray_lightning.models.network import XrayNet
from xray_lightning.training import environment
from xray_lightning.training.optim import make_optimizer
from xray_lightning.training.run import make_callbacks, make_trainer, show_bar
from xray_lightning.training.task import XrayTask
from xray_lightning.writing import write_file

LOG = logging.getLogger(__name__)
HYDRA = {
    "run": {"dir": "${run_folder:${resume},again}"},
    "output_subdir": None,
    "job": {"name": "train"},
}
# Settings that the data module takes under their own names.
AS_THEY_ARE = ("image_size", "batch_size", "clahe", *CACHES, "seed", "permute_labels")


def data_from(
    config: Settings, source: Source | None = None, *, workers: int = 0
) -> XrayDataModule:
    """The data module of a configuration: reads the tables and makes the split, no pixels."""
    made = {name: make(config[name]) for name in ("split", "sampler", "augment")}
    plain = {name: config[name] for name in AS_THEY_ARE}
    return XrayDataModule(source or make(config.data), **made, **plain, workers=workers)


def task_from(config: Settings, data: XrayDataModule) -> XrayTask:
    """Network, loss and optimiser of a configuration."""
    net: nn.Module = make(config.model, labels=data.labels)
    require_sizes(net, config.image_size, config.batch_size)
    if config.compile:
        net.compile(dynamic=False)
    settings = {"schedule": make(config.schedule), "tta": config.tta, **make(config.optim)}
    task = XrayTask(net, data.complete_loss(make(config.loss)), labels=data.labels, **settings)
    make_optimizer(task.optimizer, net, task.head_lr, task.layer_decay)  # refuses its settings
    return task


def record_run(settings: Facts, data: XrayDataModule, trainer: pl.Trainer, run: Path) -> None:
    """config.yaml, which starts a new run elsewhere, and environment.json of a run that starts."""
    if not (run / "config.yaml").exists():  # a resumed run keeps its own
        write_file(run / "config.yaml", OmegaConf.to_yaml(reusable(settings)))
    hydra = HydraConfig.get() if HydraConfig.initialized() else None
    overrides = list(hydra.overrides.task) if hydra else []
    chosen = hydra.runtime.choices.items() if hydra else ()
    choices = {str(k): v for k, v in chosen if "/" not in str(k)}  # without Hydra's
    alone = ["train.py", *(text for text in overrides if not text.startswith("sweep="))]
    command = alone if in_sweep() else None  # a launcher's is not what the user typed
    told: Any = {"command": command, "overrides": overrides, "choices": choices}
    environment.write_environment(run, data, trainer, settings["seed"], **told)


def reusable(config: Facts) -> Settings:
    """A run's settings, everything resolved but its folder."""
    settings = OmegaConf.create({**config, "hydra": HYDRA})
    before = str(settings.run_dir)
    settings.run_dir = "${hydra:runtime.output_dir}"
    for logger in settings.logger.values():
        if "save_dir" in logger:
            logger.save_dir = "${run_dir}"
    for callback in settings.callbacks.values():
        if callback and str(callback.get("folder", "")).startswith(before):
            callback.folder = "${run_dir}" + callback.folder[len(before) :]
    return settings


def trainer_from(
    config: Settings, folder: Path, callbacks: list[pl.Callback] | None = None
) -> pl.Trainer:
    """The Lightning trainer of a configuration, on a GPU if it asks for one and there is one.

    With ``callbacks`` it trains and logs into the folder, without it only scores.
    """
    node = {str(key): value for key, value in config.trainer.items()}
    node["precision"] = environment.choose_precision(node["accelerator"], str(node["precision"]))
    factory, trains = make({**node, "_partial_": True}), callbacks is not None
    loggers = [*make(config.logger).values()] if trains else []
    return make_trainer(factory, folder, callbacks or show_bar(), loggers=loggers, fit=trains)


def run_callbacks(
    config: Settings, run: Path, net: nn.Module, data: XrayDataModule
) -> list[pl.Callback]:
    """What every training run has, and the configuration's callbacks; null switches one off."""
    extra = [callback for callback in make(config.callbacks).values() if callback is not None]
    drawn = [callback for callback in extra if isinstance(callback, HeatMaps)]
    if drawn and not isinstance(net, XrayNet):
        LOG.warning("no heat maps: %s is not an XrayNet", type(net).__name__)
        extra = [callback for callback in extra if callback not in drawn]
    own = {k: config[k] for k in ("seed", "freeze_epochs", "ema_decay", "monitor", "tolerance")}
    return make_callbacks(run, data, [*show_bar(), *extra], **own)


def prepare_process(config: Settings) -> dict[str, int]:
    """Seed; decide the loader's ``workers`` and the compute ``threads``."""
    on_gpu = environment.wants_gpu(config.trainer.accelerator)
    cores = own_cores(environment.count_processes(config.trainer.devices, on_gpu))
    asked = config.seed, config.workers, config.threads
    return environment.prepare_training(cores, *asked, on_gpu=on_gpu)


def own_cores(processes: int) -> int:
    """Cores of one of a run's processes on this machine; what Slurm granted counts as it is."""
    granted = os.environ.get("SLURM_CPUS_PER_TASK")
    cores = int(granted) if granted else max(1, available_cores() // processes)
    # joblib keeps ``n_jobs`` runs going; submitit gives ``cpus_per_task``, locally a core each
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
