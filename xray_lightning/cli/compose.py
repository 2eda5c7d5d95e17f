"""The main job: from a configuration to a run directory; where Hydra ends."""

import logging
import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from xray_lightning.callbacks.metrics_file import MetricsFile
from xray_lightning.checkpoint import Checkpoint, load_checkpoint
from xray_lightning.cli.build import (
    bundle_from,
    data_from,
    fit_callbacks,
    prepare_process,
    progress,
    task_from,
    trainer_from,
)
from xray_lightning.cli.overrides import overridden
from xray_lightning.cli.provenance import write_config, write_environment
from xray_lightning.cli.tables import auroc_table, parts_line, show
from xray_lightning.data.datamodule import XrayDataModule
from xray_lightning.data.source import usage_notes
from xray_lightning.data.splits import PARTS
from xray_lightning.errors import CheckpointError, ConfigError, SplitError
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
    if last is None:
        refuse_used(run)
    else:
        require_same_split(last, data)
    task = task_from(config, data)
    task.bundle = bundle_from(config, data, task.net)
    metrics, callbacks = fit_callbacks(config)
    trainer = trainer_from(config, callbacks)
    describe(data, task)
    if trainer.is_global_zero:
        run.mkdir(parents=True, exist_ok=True)
        write_config(task.bundle.config, run)
        write_environment(config, data, trainer.strategy.root_device, run)
        draw_data(data, run)
    try:
        checkpoint = None if last is None else last.path
        trainer.fit(task, data, ckpt_path=checkpoint, weights_only=True)
    except (KeyboardInterrupt, SystemExit):
        if (run / "checkpoints" / "last.ckpt").is_file():
            LOG.info("stopped; continue with: python train.py resume=%s", run)
        raise
    summaries = finish(config, data, task, run)
    if trainer.is_global_zero:
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


def refuse_used(run: Path) -> None:
    """Never mix a new run with what an older one left.

    Raises:
        ConfigError: the folder holds a run.
    """
    first = int(os.environ.get("LOCAL_RANK", "0")) == 0  # the others find what this one wrote
    if first and (run / "config.yaml").exists():
        raise ConfigError(f"{run} holds a run already: resume={run} continues it, or name another")


def require_same_split(checkpoint: Checkpoint, data: XrayDataModule) -> None:
    """Never go on where a changed data set would deal patients anew.

    Raises:
        SplitError: the split is not the one the checkpoint was trained on.
    """
    before = checkpoint.bundle.split["fingerprint"]
    if before != data.split.fingerprint:
        raise SplitError(
            f"the data changed since {checkpoint.path} was written: its split was [{before}], now "
            f"it is [{data.split.fingerprint}], and images it was trained on could land in test. "
            "Restore the data, or start a new run"
        )


def resumed(config: DictConfig) -> tuple[DictConfig, Checkpoint]:
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
    checkpoint = load_checkpoint(last)
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
    plain = {str(key): value for key, value in saved.items() if key != "hydra"}
    merged = overridden(plain, changes)
    merged.run_dir = str(run)
    LOG.info("resuming %s", run)
    return merged, checkpoint


def describe(data: XrayDataModule, task: XrayTask) -> None:
    """Log what the run is about to use, and what is undefined in it."""
    for note in usage_notes(data.source):
        LOG.info("%s: %s", data.source.name, note)
    sizes = ", ".join(f"{part} {len(data.split.parts[part]):,}" for part in PARTS)
    LOG.info("split %s [%s]: %s images", data.split.name, data.split.fingerprint, sizes)
    for part in PARTS:
        if empty := data.labels_without_positives(part):
            LOG.warning("no positive in %s: %s; AUROC there is undefined", part, ", ".join(empty))
    parameters = sum(parameter.numel() for parameter in task.net.parameters())
    report = task.net.load_report
    weights = f"loaded {report}; the head is new" if report else "random weights"
    LOG.info("%s: %.1f M parameters, %s", task.net.config["backbone"], parameters / 1e6, weights)


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
        summary = summarise(predictions, data.split.part_fingerprints[part])
        summary["data"] = data.source.title
        summaries[part] = summary
        if trainer.is_global_zero:
            write_predictions(predictions, folder / f"predictions_{part}.csv")
            title = f"{part}: {data.source.title}, split {data.split.name} "
            title += f"[{summary['fingerprint']}]"
            roc_figure(predictions, summary["auroc"]["labels"], title, folder / f"roc_{part}.png")
    if trainer.is_global_zero:
        write_json(summaries, folder / "metrics.json")
    return summaries


def closing(
    summaries: dict[str, Summary], metrics: MetricsFile, data: XrayDataModule, run: Path
) -> None:
    """Print the result."""
    rate = metrics.images_seen / metrics.seconds if metrics.seconds else 0.0
    show(
        auroc_table(
            summaries, f"{data.source.title}, split {data.split.name} [{data.split.fingerprint}]"
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
