"""The main job of training: settings in, a finished run folder out."""

from functools import partial
from pathlib import Path

import pytorch_lightning as pl

from xray_lightning.checkpoint import Checkpoint, describe_model
from xray_lightning.cli import build
from xray_lightning.cli.config import in_sweep, to_container
from xray_lightning.cli.report import closing_report
from xray_lightning.cli.settings import Settings, point_settings, require_settings
from xray_lightning.data.source import Source
from xray_lightning.errors import ConfigError
from xray_lightning.evaluation.predict import Summary
from xray_lightning.explain.overlays import HeatMaps
from xray_lightning.folders import prepare_folder
from xray_lightning.processes import quieten, started_outside
from xray_lightning.report.evaluation_table import evaluation_lines
from xray_lightning.report.finish import FinishedRun, draw_data, finish_run
from xray_lightning.report.page import say
from xray_lightning.report.terminal import auroc_table, show
from xray_lightning.training.run import require_same_split, train


def fit(
    config: Settings, last: Checkpoint | None = None, *, source: Source | None = None
) -> float | None:
    """Train, keep the best checkpoint by validation AUROC, evaluate it on validation and test."""
    quieten()
    require_settings(config)
    resources = build.prepare_process(config)
    run = Path(config.run_dir)
    data = build.data_from(config, source, workers=resources.workers)
    if last is not None:
        require_same_split(last, data)
    task = build.task_from(config, data)
    task.description = describe_model(task.net, data, to_container(config) | resources._asdict())
    panel = build.panel_from(config, data.labels)
    callbacks = build.run_callbacks(config, run, task.net)
    trainer = build.trainer_from(config, callbacks)
    require_own_processes(trainer)
    data.require_images(trainer.world_size)
    if trainer.is_global_zero:
        (run / "metrics.json").unlink(missing_ok=True)  # of a finished run that is taken further
        build.record_run(task.description.config, data, trainer, prepare_folder(run))
        draw_data(data, run)
    page = partial(closing_report, config, data.source, data.split, folder=run)
    finished = finish_run(
        train(task, data, run, trainer=trainer, resume=last),
        task,
        data,
        build.trainer_from(config, build.progress(), fit=False),
        heat_maps=[callback for callback in callbacks if isinstance(callback, HeatMaps)],
        panel=panel,
        write_page=page if config.report else None,
        **point_settings(config),
    )
    show_run(finished)
    mean: float | None = finished.summaries["val"]["auroc"]["mean"]
    return mean


def require_own_processes(trainer: pl.Trainer) -> None:
    """Never start processes that would each run the whole sweep."""
    if in_sweep() and trainer.world_size > 1 and not started_outside():
        raise ConfigError(
            f"a sweep (-m) cannot start {trainer.world_size} processes for each run: set "
            "trainer.devices=1, run them one by one, or let Slurm start them "
            "(hydra/launcher=submitit_slurm)"
        )


def show_run(finished: FinishedRun) -> None:
    """Print the result, in the first process."""
    evaluation, run, summaries = finished.evaluation, finished.run, finished.summaries
    if evaluation is None:
        return
    rate = run.images_seen / run.seconds if run.seconds else 0.0
    data, split = evaluation.origin.data, evaluation.origin.split
    title = f"{data}, split {split.name} [{split.fingerprint}]" if split else data
    show(
        auroc_table(summaries, title),
        *evaluation_lines(evaluation, f"test of {data}", subgroups=False),
        *say("subsets", summaries),
        mean_line(summaries),
        f"training saw {run.images_seen:,} images at {rate:.1f} images per second",
        f"run directory: {run.folder}",
    )


def mean_line(summaries: dict[str, Summary]) -> str:
    """The mean test AUROC with all its digits."""
    auroc = summaries["test"]["auroc"]
    return f"mean test AUROC {auroc['mean']} over {auroc['defined']} labels"
