"""The main job: from a configuration to a run directory; where Hydra ends."""

import logging
import platform
import subprocess
import sys
import warnings
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from xray_lightning.callbacks.metrics_file import MetricsFile
from xray_lightning.checkpoint import load_checkpoint
from xray_lightning.cli.build import (
    bundle_from,
    data_from,
    fit_callbacks,
    prepare_process,
    progress,
    split_facts,
    task_from,
    trainer_from,
)
from xray_lightning.cli.overrides import overridden
from xray_lightning.cli.tables import auroc_table, parts_line, show
from xray_lightning.data.datamodule import XrayDataModule
from xray_lightning.data.splits import PARTS
from xray_lightning.errors import CheckpointError, ConfigError
from xray_lightning.evaluation import Summary, predict_part, summarise, write_json
from xray_lightning.predictions import write_predictions
from xray_lightning.report.figures import (
    curves_figure,
    distribution_figure,
    montage_figure,
    roc_figure,
)
from xray_lightning.task import XrayTask

LOG = logging.getLogger(__name__)
PACKAGES = (
    "torch",
    "pytorch-lightning",
    "timm",
    "torchmetrics",
    "albumentations",
    "numpy",
    "hydra-core",
)

REMARKS = (
    ".*does not have many workers.*",  # on a CPU they would fight with the compute threads
    ".*smaller than the logging interval.*",  # figures are logged once an epoch
    ".*isinstance.treespec, LeafSpec.*",  # inside Lightning
    ".*Checkpoint directory .* exists and is not empty.*",  # a resumed run
)


def fit(config: DictConfig) -> float | None:
    """Train, keep the best checkpoint by validation AUROC, evaluate it on validation and test.

    Returns:
        The best checkpoint's validation AUROC, for Hydra's sweepers; None if undefined.
    """
    quieten()
    last = None
    if config.resume:
        config, last = resumed(config)
    prepare_process(config)
    run = Path(config.run_dir)
    data = data_from(config)
    task = task_from(config, data)
    task.bundle = bundle_from(config, data, task.net)
    describe(data, task)
    run.mkdir(parents=True, exist_ok=True)
    OmegaConf.save(OmegaConf.create(task.bundle.config), run / "config.yaml")
    write_json(environment(config, data), run / "environment.json")
    draw_data(data, run)
    metrics, callbacks = fit_callbacks(config)
    trainer = trainer_from(config, callbacks)
    try:
        trainer.fit(task, data, ckpt_path=last, weights_only=True)
    except (KeyboardInterrupt, SystemExit):
        if (run / "checkpoints" / "last.ckpt").is_file():
            LOG.info("stopped; continue with: python train.py resume=%s", run)
        raise
    summaries = finish(config, data, task, run)
    closing(summaries, metrics, data, run)
    mean: float | None = summaries["val"]["auroc"]["mean"]
    return mean


def quieten() -> None:
    """Keep libraries' remarks about our considered choices out of the user's terminal."""
    for name in ("pytorch_lightning", "lightning.pytorch", "lightning_fabric", "httpx", "httpcore"):
        logging.getLogger(name).setLevel(logging.WARNING)
    logging.captureWarnings(True)
    for message in REMARKS:
        warnings.filterwarnings("ignore", message)
    warnings.formatwarning = lambda message, *_, **__: str(message)


def resumed(config: DictConfig) -> tuple[DictConfig, Path]:
    """The configuration of an interrupted run with this call's overrides, and its last checkpoint.

    Raises:
        ConfigError: a setting is to change that would make it another run.
        CheckpointError: it was interrupted before its first epoch ended.
    """
    run = Path(config.resume)
    last = run / "checkpoints" / "last.ckpt"
    if not last.is_file():
        raise CheckpointError(
            f"{run} has no checkpoints/last.ckpt: no epoch was finished; start it anew"
        )
    load_checkpoint(last)  # a clear message if it is damaged
    saved = OmegaConf.to_container(OmegaConf.load(run / "config.yaml"))
    changes = [text for text in HydraConfig.get().overrides.task if not text.startswith("resume=")]
    for change in changes:
        if not change.startswith(("trainer.", "workers=", "threads=", "cache_dir=")):
            raise ConfigError(
                f"{change}: a resumed run keeps its settings; only trainer.* (max_epochs for more "
                "epochs), workers, threads and cache_dir may change"
            )
    if not isinstance(saved, dict):
        raise ConfigError(f"{run / 'config.yaml'} is no mapping")
    merged = overridden({str(key): value for key, value in saved.items()}, changes)
    merged.run_dir = str(run)
    LOG.info("resuming %s", run)
    return merged, last


def describe(data: XrayDataModule, task: XrayTask) -> None:
    """Log what the run is about to use, and what is undefined in it."""
    for note in data.source.notes:
        LOG.info("%s: %s", data.source.name, note)
    if data.source.missing:
        LOG.warning(
            "%s of %s images are not on disk and are left out (data.allow_missing=true)",
            f"{len(data.source.missing):,}",
            f"{len(data.source.records):,}",
        )
    sizes = ", ".join(f"{part} {len(data.split.parts[part]):,}" for part in PARTS)
    LOG.info("split %s [%s]: %s images", data.split.name, data.split.fingerprint, sizes)
    for part in PARTS:
        if empty := data.labels_without_positives(part):
            LOG.warning("no positive in %s: %s; AUROC there is undefined", part, ", ".join(empty))
    parameters = sum(parameter.numel() for parameter in task.net.parameters())
    report = task.net.load_report
    weights = f"loaded {report}; the head is new" if report else "random weights"
    LOG.info("%s: %.1f M parameters, %s", task.net.config["backbone"], parameters / 1e6, weights)


def environment(config: DictConfig, data: XrayDataModule) -> dict[str, Any]:
    """What is needed to understand and repeat the run."""
    on_hydra = HydraConfig.initialized()
    return {
        "command": sys.argv,
        "overrides": list(HydraConfig.get().overrides.task) if on_hydra else [],
        "choices": choices(HydraConfig.get().runtime.choices) if on_hydra else {},
        "seed": config.seed,
        "split": split_facts(data.split),
        "data": {"name": data.source.name, **data.source.identity()},
        "device": torch.cuda.get_device_name()
        if torch.cuda.is_available()
        else platform.processor() or "cpu",
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "versions": {name: version(name) for name in PACKAGES},
        "git_commit": git_commit(),
    }


def choices(chosen: Mapping[str, str | None]) -> dict[str, str | None]:
    """The options of our own groups, without Hydra's."""
    return {str(group): option for group, option in chosen.items() if "/" not in str(group)}


def git_commit() -> str | None:
    """The commit of the source tree, "+changes" if it was edited; None outside a repository."""
    here = Path(__file__).resolve().parents[2]
    command = ["git", "-C", str(here), "describe", "--always", "--abbrev=40", "--dirty=+changes"]
    if not (here / ".git").exists():
        return None
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None


def draw_data(data: XrayDataModule, run: Path) -> None:
    """Class distribution of each part, and one training batch as the network sees it."""
    targets = {part: data.part_targets(part) for part in PARTS}
    distribution_figure(targets, data.labels, run / "class_distribution.png")
    data.prepare_data()
    batch: Any = next(iter(data.train_dataloader()))
    pixels, truth = batch["image"].squeeze(1).numpy(), batch["targets"].numpy()
    montage_figure(pixels, truth, batch["image_id"], data.labels, run / "montage.png")


def finish(
    config: DictConfig, data: XrayDataModule, task: XrayTask, run: Path
) -> dict[str, Summary]:
    """Score the best checkpoint on validation and test; write tables and figures."""
    best = load_checkpoint(run / "checkpoints" / "best.ckpt")
    scorer = XrayTask(best.build_net(), task.loss)
    summaries = score(config, data, scorer, run, ("val", "test"))
    if (run / "metrics.csv").is_file():
        curves_figure(run / "metrics.csv", run / "curves.png")
    LOG.info("best checkpoint: epoch %d", best.epoch + 1)
    return summaries


def score(
    config: DictConfig, data: XrayDataModule, task: XrayTask, folder: Path, parts: Sequence[str]
) -> dict[str, Summary]:
    """Predict each part; write predictions, figures and metrics.json: the one path to a score."""
    trainer = trainer_from(config, progress(), fit=False)
    summaries = {}
    for part in parts:
        predictions = predict_part(trainer, task, data, part)
        write_predictions(predictions, folder / f"predictions_{part}.csv")
        summary = summarise(predictions, data.split.part_fingerprints[part])
        title = f"{part}: {data.source.name}, split {data.split.name} [{summary['fingerprint']}]"
        roc_figure(predictions, summary["auroc"]["labels"], title, folder / f"roc_{part}.png")
        summaries[part] = summary
    write_json(summaries, folder / "metrics.json")
    return summaries


def closing(
    summaries: dict[str, Summary], metrics: MetricsFile, data: XrayDataModule, run: Path
) -> None:
    """Print the result."""
    rate = metrics.images_seen / metrics.seconds if metrics.seconds else 0.0
    show(
        auroc_table(
            summaries, f"{data.source.name}, split {data.split.name} [{data.split.fingerprint}]"
        ),
        parts_line(summaries),
        mean_line(summaries),
        f"training saw {metrics.images_seen:,} images at {rate:.1f} images per second",
        f"run directory: {run}",
    )


def mean_line(summaries: dict[str, Summary]) -> str:
    """The mean test AUROC with all its digits."""
    auroc = summaries["test"]["auroc"]
    return f"mean test AUROC {auroc['mean']} over {auroc['defined']} labels"
