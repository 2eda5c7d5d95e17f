"""From a composed configuration to objects; beyond this file nothing knows Hydra."""

import inspect
import logging
import multiprocessing
import os
import sys
from functools import partial
from pathlib import Path

import cv2
import pytorch_lightning as pl
import torch
from hydra.core.hydra_config import HydraConfig
from lightning_fabric.utilities.exceptions import MisconfigurationException
from omegaconf import OmegaConf
from pytorch_lightning.callbacks import RichProgressBar
from torch import nn

from xray_lightning.cli.config import in_sweep, make
from xray_lightning.cli.request import Facts
from xray_lightning.cli.settings import CACHES, Settings
from xray_lightning.data.datamodule import XrayDataModule, default_workers
from xray_lightning.data.decoding import available_cores
from xray_lightning.data.source import Source
from xray_lightning.errors import ConfigError, require_choice
from xray_lightning.explain.overlays import HeatMaps
from xray_lightning.models.backbones import require_sizes
from xray_lightning.models.network import XrayNet
from xray_lightning.training.environment import write_environment
from xray_lightning.training.optim import make_optimizer
from xray_lightning.training.run import make_callbacks, make_trainer
from xray_lightning.training.task import XrayTask
from xray_lightning.writing import write_file

LOG = logging.getLogger(__name__)
HYDRA = {
    "run": {"dir": "${run_folder:${resume},again}"},
    "output_subdir": None,
    "job": {"name": "train"},
}
PRECISIONS = ("auto", "32-true", "32", "bf16-mixed", "16-mixed")  # heads compute in float32
# Settings that the data module takes under their own names.
AS_THEY_ARE = ("image_size", "batch_size", "clahe", *CACHES, "seed", "permute_labels")
# What a partial loss can ask for by a parameter's name, counted on the training set.
STATISTICS = {
    "positive_weight": XrayDataModule.positive_weight,  # (L,)
    "class_counts": XrayDataModule.class_counts,  # (2, L)
    "ancestors": XrayDataModule.ancestors,  # (L, L)
}


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
    task = XrayTask(net, loss_from(config, data), labels=data.labels, **settings)
    make_optimizer(task.optimizer, net, task.head_lr, task.layer_decay)  # refuses its settings
    return task


def loss_from(config: Settings, data: XrayDataModule) -> nn.Module:
    """The loss of a configuration; a partial one gets the statistics that it has parameters for."""
    loss: nn.Module | partial[nn.Module] = make(config.loss)
    if not isinstance(loss, partial):
        return loss
    wanted = STATISTICS.keys() & inspect.signature(loss).parameters.keys()
    return loss(**{name: STATISTICS[name](data) for name in wanted})


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
    facts = partial(write_environment, command=command, overrides=overrides, choices=choices)
    facts(run, data, trainer, settings["seed"])


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
    on_gpu = wants_gpu(config)
    if node["accelerator"] == "gpu" and not on_gpu:
        remedy = "use trainer=auto or trainer=cpu"
        raise ConfigError(f"trainer.accelerator=gpu, but torch sees no GPU; {remedy}")
    require_choice("trainer.precision", str(node["precision"]), PRECISIONS)
    if node["precision"] == "auto":
        node["precision"] = "bf16-mixed" if on_gpu else "32-true"
    torch.backends.cudnn.allow_tf32 = node["precision"] != "32-true"  # float32 is float32
    factory = make(OmegaConf.create({**node, "_partial_": True}))
    trains = callbacks is not None
    loggers = [*make(config.logger).values()] if trains else []
    try:
        return make_trainer(factory, folder, callbacks or progress(), loggers=loggers, fit=trains)
    except (ValueError, MisconfigurationException) as error:  # what Lightning cannot combine
        raise ConfigError(f"trainer: {error}") from error


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
    return make_callbacks(run, data, [*progress(), *extra], **own)


def progress() -> list[pl.Callback]:
    """A progress bar where somebody watches, unless several runs share the terminal."""
    alone = multiprocessing.parent_process() is None
    return [RichProgressBar()] if sys.stdout.isatty() and alone else []


def prepare_process(config: Settings) -> dict[str, int]:
    """Seed; decide the loader's ``workers`` and the compute ``threads``."""
    cores = own_cores(local_processes(config))
    workers, threads = config.workers, config.threads
    workers = default_workers(cores, wants_gpu(config)) if workers is None else workers
    threads = max(1, cores - workers) if threads is None else threads
    torch.set_num_threads(threads)
    os.environ["OMP_NUM_THREADS"] = str(threads)  # or Lightning sets another for processes
    cv2.setNumThreads(1)
    pl.seed_everything(config.seed, verbose=False)
    return {"workers": workers, "threads": threads}


def local_processes(config: Settings) -> int:
    """Number of processes that ``trainer.devices`` asks for on this machine."""
    devices = config.trainer.devices
    if devices in (-1, "-1", "auto"):
        return torch.cuda.device_count() if wants_gpu(config) else 1
    return devices if isinstance(devices, int) else len(str(devices).split(","))  # numbers of GPUs


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


def wants_gpu(config: Settings) -> bool:
    """Whether the trainer will use a GPU."""
    return torch.cuda.is_available() and config.trainer.accelerator in ("auto", "gpu", "cuda")
