"""The main job: from a configuration to a run directory; where Hydra ends."""

import logging
from collections.abc import Sequence
from pathlib import Path
from signal import SIGKILL
from typing import Any

import pytorch_lightning as pl
from omegaconf import DictConfig

from xray_lightning.checkpoint import Checkpoint, load_checkpoint, weights_sha256
from xray_lightning.cli.build import (
    data_from,
    describe_run,
    fit_callbacks,
    panel_from,
    prepare_process,
    progress,
    task_from,
    trainer_from,
)
from xray_lightning.cli.overrides import in_sweep
from xray_lightning.cli.provenance import sampling_line, write_config, write_environment
from xray_lightning.cli.report import closing_report
from xray_lightning.cli.settings import point_settings, require_settings
from xray_lightning.data.datamodule import XrayDataModule
from xray_lightning.data.partition import SUBSETS
from xray_lightning.data.source import Source, usage_notes
from xray_lightning.errors import ConfigError, SplitError
from xray_lightning.evaluation.evaluate import Evaluation
from xray_lightning.evaluation.predict import Summary, evaluate_run, predict_subset, summarise
from xray_lightning.evaluation.predictions import Predictions, write_predictions
from xray_lightning.explain.heatmaps import HeatMaps
from xray_lightning.folders import prepare_folder
from xray_lightning.processes import quieten, started_outside
from xray_lightning.report.evaluation_table import evaluation_lines
from xray_lightning.report.figures import (
    curves_figure,
    distribution_figure,
    montage_figure,
    roc_figure,
)
from xray_lightning.report.panel import Panel, results_panel
from xray_lightning.report.terminal import auroc_table, show, subsets_line
from xray_lightning.training.callbacks.checkpoints import RunCheckpoint
from xray_lightning.training.callbacks.epochs import MetricsFile
from xray_lightning.training.task import XrayTask
from xray_lightning.writing import write_json

LOG = logging.getLogger(__name__)
Scored = dict[str, Predictions]  # of each part


def fit(
    config: DictConfig, last: Checkpoint | None = None, *, source: Source | None = None
) -> float | None:
    """Train, keep the best checkpoint by validation AUROC, evaluate it on validation and test.

    Args:
        config: all settings.
        last: where to go on, if ``config`` is that run's own already.
        source: the data set, if its tables were read already.

    Returns:
        The best checkpoint's validation AUROC, for Hydra's sweepers; None if undefined.
    """
    quieten()
    require_settings(config)
    prepare_process(config)
    run = Path(config.run_dir)
    data = data_from(config, source)
    if last is not None:
        require_same_split(last, data)
    task = task_from(config, data)
    task.description = describe_run(config, data, task.net)
    panel = panel_from(config, data.labels)
    metrics, callbacks = fit_callbacks(config)
    trainer = trainer_from(config, callbacks)
    require_own_processes(trainer)
    data.require_images(trainer.world_size)
    describe(config, data, task, trainer)
    if trainer.is_global_zero:
        (run / "metrics.json").unlink(missing_ok=True)  # of a finished run that is taken further
        write_config(task.description.config, prepare_folder(run))
        write_environment(config, data, trainer, run)
        draw_data(data, run)
    train(trainer, task, data, last)
    kept = next(each for each in callbacks if isinstance(each, RunCheckpoint))  # the best
    summaries, predictions = finish(config, data, task, run, kept.choice)
    if trainer.is_global_zero:
        points = point_settings(config)
        evaluation = evaluate_run(data, predictions, run, tta=config.tta, **points)
        draw_maps(trainer, panel, data, predictions, run)
        if config.report:
            closing_report(config, data.source, data.split, summaries, run)
        write_json(summaries, run / "metrics.json")  # last: it says that the run is finished
        closing(summaries, evaluation, metrics, data, run)
    mean: float | None = summaries["val"]["auroc"]["mean"]
    return mean


def train(
    trainer: pl.Trainer, task: XrayTask, data: XrayDataModule, last: Checkpoint | None
) -> None:
    """Fit, from the last checkpoint on if there is one."""
    try:
        trainer.fit(task, data, ckpt_path=last.path if last else None, weights_only=True)
    except Exception:  # of any kind: the other processes would wait for this one
        stop_others(trainer)
        raise


def require_own_processes(trainer: pl.Trainer) -> None:
    """Never start processes that would each run the whole sweep.

    Raises:
        ConfigError: a sweep's run that is to start processes itself.
    """
    if in_sweep() and trainer.world_size > 1 and not started_outside():
        raise ConfigError(
            f"a sweep (-m) cannot start {trainer.world_size} processes for each run: set "
            "trainer.devices=1, run them one by one, or let Slurm start them "
            "(hydra/launcher=submitit_slurm)"
        )


def stop_others(trainer: pl.Trainer) -> None:
    """End the processes this one started: they would wait for it for half an hour."""
    if trainer.strategy.launcher is not None:
        trainer.strategy.launcher.kill(SIGKILL)  # they write nothing


def require_same_split(checkpoint: Checkpoint, data: XrayDataModule) -> None:
    """Never go on where a changed data set would deal patients anew.

    Raises:
        SplitError: the split is not the one the checkpoint was trained on.
    """
    before = checkpoint.description.split["fingerprint"]
    if before != data.split.fingerprint:
        raise SplitError(
            f"the data changed since {checkpoint.path} was written: its split was [{before}], now "
            f"it is [{data.split.fingerprint}], and images it was trained on could land in test. "
            "Restore the data, or start a new run"
        )


def describe(config: DictConfig, data: XrayDataModule, task: XrayTask, trainer: pl.Trainer) -> None:
    """Log what the run is about to use, and what is undefined in it."""
    for note in [*usage_notes(data.source), *data.split.notes]:
        LOG.info("%s: %s", data.source.name, note)
    sizes = ", ".join(f"{subset} {len(data.split.subsets[subset]):,}" for subset in SUBSETS)
    LOG.info("split %s [%s]: %s images", data.split.name, data.split.fingerprint, sizes)
    for subset in SUBSETS:
        if empty := data.labels_without_positives(subset):
            LOG.warning("no positive in %s: %s; AUROC there is undefined", subset, ", ".join(empty))
    if data.permute_labels:
        LOG.warning("permute_labels: training labels are dealt anew, so the scores mean nothing")
    if line := sampling_line(data):
        LOG.info(line)
        if config.loss.get("_partial_"):
            LOG.warning("loss: counted on the training set, not on what the sampler draws of it")
    parameters = sum(parameter.numel() for parameter in task.net.parameters())
    report = task.net.load_report
    weights = f"loaded {report}; the head is new" if report else "random weights"
    LOG.info("%s: %.1f M parameters, %s", task.net.config["backbone"], parameters / 1e6, weights)
    if trainer.world_size > 1:
        LOG.info("%d processes x %d images a step", trainer.world_size, data.batch_size)


def draw_data(data: XrayDataModule, run: Path) -> None:
    """Class distribution of each part, and one training batch as the network sees it."""
    targets = {subset: data.subset_targets(subset) for subset in SUBSETS}
    distribution_figure(targets, data.labels, run / "class_distribution.png")
    data.prepare_data()
    batch: Any = next(iter(data.train_dataloader()))
    pixels, truth = batch["image"].squeeze(1).numpy(), batch["targets"].numpy()
    montage_figure(pixels, truth, batch["image_id"], data.labels, run / "montage.png")


def finish(
    config: DictConfig, data: XrayDataModule, task: XrayTask, run: Path, choice: str
) -> tuple[dict[str, Summary], Scored]:
    """Score the best checkpoint, by whatever choice, on validation and test; tables, figures."""
    best = load_checkpoint(run / "checkpoints" / "best.ckpt")
    scorer = XrayTask(best.build_net(), task.loss, tta=task.tta)
    found = score(config, data, scorer, run, ("val", "test"))
    if (run / "metrics.csv").is_file():
        curves_figure(run / "metrics.csv", run / "curves.png")
    if choice.startswith("best"):
        LOG.info("best checkpoint: epoch %d", best.epoch + 1)
    else:
        LOG.warning("best checkpoint unknown: epoch %d, the %s", best.epoch + 1, choice)
    found[0]["val"]["checkpoint"] = {"epoch": best.epoch + 1, "choice": choice}
    return found


def draw_maps(
    trainer: pl.Trainer, panel: Panel | None, data: XrayDataModule, scores: Scored, run: Path
) -> None:
    """Maps of the best checkpoint on the test set: the chosen images, and the results figure."""
    net = load_checkpoint(run / "checkpoints" / "best.ckpt").build_net()
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(callback, HeatMaps):
            callback.draw_subset(net, data, "test", scores["test"].scores, "test")
    if panel and not results_panel(net, data, scores, panel, run / "panel_test.png"):
        LOG.warning(
            "no panel_test.png: validation has no positive or no negative of %s, which leaves its "
            "threshold undefined",
            panel.finding(data.labels),
        )


def score(
    config: DictConfig, data: XrayDataModule, task: XrayTask, folder: Path, subsets: Sequence[str]
) -> tuple[dict[str, Summary], Scored]:
    """Predict each part; write predictions and figures: the one path to a score."""
    trainer = trainer_from(config, progress(), fit=False, folder=folder)
    summaries, found = {}, {}
    for subset in subsets:
        predictions = predict_subset(trainer, task, data, subset)
        summary = summarise(predictions, data.split.subset_fingerprints[subset], tta=task.tta)
        summary["data"] = data.source.title
        summary["weights_sha256"] = weights_sha256(task.net.state_dict())
        summaries[subset], found[subset] = summary, predictions
        if trainer.is_global_zero:
            digest = write_predictions(predictions, folder / f"predictions_{subset}.csv")
            summary["predictions_sha256"] = digest
            title = f"{subset}: {data.source.title}, split {data.split.name} "
            title += f"[{summary['fingerprint']}]"
            roc_figure(predictions, summary["auroc"]["labels"], title, folder / f"roc_{subset}.png")
    return summaries, found


def closing(
    summaries: dict[str, Summary],
    evaluation: Evaluation,
    metrics: MetricsFile,
    data: XrayDataModule,
    run: Path,
) -> None:
    """Print the result."""
    rate = metrics.images_seen / metrics.seconds if metrics.seconds else 0.0
    show(
        auroc_table(
            summaries, f"{data.source.title}, split {data.split.name} [{data.split.fingerprint}]"
        ),
        *evaluation_lines(evaluation, f"test of {data.source.title}", subgroups=False),
        subsets_line(summaries),
        mean_line(summaries),
        f"training saw {metrics.images_seen:,} images at {rate:.1f} images per second",
        f"run directory: {run}",
    )


def mean_line(summaries: dict[str, Summary]) -> str:
    """The mean test AUROC with all its digits."""
    auroc = summaries["test"]["auroc"]
    return f"mean test AUROC {auroc['mean']} over {auroc['defined']} labels"
