"""One run: settings in, a finished folder out; started before, it is skipped or continued."""

import logging
from collections.abc import Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path

import pytorch_lightning as pl
from hydra.core.hydra_config import HydraConfig

from xray_lightning import processes
from xray_lightning.checkpoint import Checkpoint, describe_model
from xray_lightning.cli import build, settings
from xray_lightning.cli import config as configs
from xray_lightning.cli.request import DEFAULTS, take_own
from xray_lightning.cli.settings import CACHES, Settings, to_container
from xray_lightning.data.source import Source
from xray_lightning.errors import ConfigError
from xray_lightning.explain.overlays import HeatMaps
from xray_lightning.folders import LockedError, lock_folder, prepare_folder
from xray_lightning.report.finish import draw_data, finish_run, finished_lines
from xray_lightning.report.gallery import Panel
from xray_lightning.report.run_page import closing_report
from xray_lightning.report.terminal import show
from xray_lightning.training.run import reopen_run, require_same_split, train
from xray_lightning.wording import fault, number
from xray_lightning.writing import entries_of, read_json, write_json

LOG = logging.getLogger(__name__)
SURROUNDINGS = ("run_dir", "hydra", "workers", "threads", *CACHES, "trust")  # change no result
UNNAMED = {"trainer.num_nodes": 1, "augment.on": "auto"}  # where a run does not name them
MOVABLE = (*CACHES, *DEFAULTS["keys"]["movable"])


def sweep_run(config: Settings) -> float | None:
    """Train one run of a sweep unless it is done; a failure is written down, not raised."""
    run = Path(config.run_dir)
    processes.number_lines(HydraConfig.get().job.num)
    if (run / "config.yaml").is_file() and not config.resume:
        require_same_settings(config, run)
    try:
        return start_run(config)
    except LockedError as error:
        LOG.warning("left to the process that trains it: %s", error)
        return None
    except Exception as error:  # whatever it is, the other runs go on
        if processes.STOPPED_BY:
            raise
        message = configs.explain_error(error)
        LOG.error("failed: %s", message or error, exc_info=message is None)
        told = {"overrides": list(HydraConfig.get().overrides.task), "seed": config.seed}
        told["message"] = message or f"{type(error).__name__}: {error}"
        write_json(told, run / "failure.json")
        return None


def start_run(config: Settings, source: Source | None = None) -> float | None:
    """Train in a folder that is this run's alone: anew, or what an earlier start left undone."""
    processes.quieten()  # before the first line of the log
    settings.require_known_keys(config)
    run, last = Path(config.resume or config.run_dir), None
    with lock_folder(run) if processes.first_process() else nullcontext():
        if (run / "config.yaml").is_file():
            if not config.resume and (path := run / "metrics.json").is_file():
                if not configs.in_sweep():
                    raise ConfigError(fault("finished_run", run))
                mean: float | None = read_json(path)["val"]["auroc"]["mean"]
                show(f"finished before: {run}, validation AUROC {number(mean, 4)}")
                return mean
            if not config.resume:
                require_same_settings(config, run)
            (run / "failure.json").unlink(missing_ok=True)
            own = HydraConfig.get().overrides.task if config.resume else ["trust=true"]
            config, last = resume_run(run, own)  # trusted: they are this command's own
        try:
            return fit(config, last, source=source)
        except (KeyboardInterrupt, SystemExit):
            if processes.first_process() and (run / "config.yaml").is_file():
                LOG.info("stopped; continue with: python train.py resume=%s", run)
            raise


def resume_run(run: Path, overrides: Sequence[str]) -> tuple[Settings, Checkpoint | None]:
    """The configuration of an interrupted run with overrides, and its last checkpoint."""
    plain = [text.removeprefix("++") for text in overrides]  # see cli.train.free_moved
    own, changes = take_own(plain, {"resume": "", "trust": False})
    for change in changes:
        if not change.startswith(("trainer.", *(f"{key}=" for key in MOVABLE))):
            raise ConfigError(fault("resumed", change, MOVABLE))
    merged = configs.change_settings(configs.read_config(run, trust=own["trust"]), changes)
    checkpoint = reopen_run(run)
    LOG.info("resuming %s%s", run, "" if checkpoint else ": no epoch was finished, it starts anew")
    return merged, checkpoint


def require_same_settings(config: Settings, run: Path) -> None:
    """Never take another run's result, or go on with another run's weights."""
    ours = to_container(build.reusable(to_container(config)), resolve=False)
    now, then = (
        UNNAMED | {k: v for k, v in entries_of(values) if not isinstance(v, dict)}
        for values in (ours, configs.read_config(run))
    )
    keys = [k for k in sorted(now.keys() | then.keys()) if k.split(".")[0] not in SURROUNDINGS]
    changed = [key for key in keys if now.get(key) != then.get(key)]
    changed.sort(key=lambda key: key.count("."))  # what others are derived from comes first
    if changed:
        raise ConfigError(fault("run_of_others", run, changed[:3], then, now))


def fit(
    config: Settings, last: Checkpoint | None = None, *, source: Source | None = None
) -> float | None:
    """Train, keep the best checkpoint, evaluate it on validation and test."""
    processes.quieten()
    settings.require_settings(config)
    resources = build.prepare_process(config)
    run = Path(config.run_dir)
    data = build.data_from(config, source, workers=resources["workers"])
    if last is not None:
        require_same_split(last, data)
    task = build.task_from(config, data)
    task.description = describe_model(task.net, data, to_container(config) | resources)
    panel = Panel(**config.panel)
    shows = panel.finding(data.labels)  # None: the data leaves open which
    callbacks = build.run_callbacks(config, run, task.net, data)
    trainer = build.trainer_from(config, run, callbacks)
    require_own_processes(trainer)
    data.require_trainer(trainer)
    if trainer.is_global_zero:
        (run / "metrics.json").unlink(missing_ok=True)  # of a finished run that is taken further
        build.record_run(task.description.config, data, trainer, prepare_folder(run))
        draw_data(data, run)
    page = partial(closing_report, data.source, data.split, folder=run)
    finished = finish_run(
        train(task, data, run, trainer=trainer, resume=last),
        task,
        data,
        build.trainer_from(config, run),
        heat_maps=[callback for callback in callbacks if isinstance(callback, HeatMaps)],
        panel=panel if shows else None,
        write_page=page if config.report else None,
        loggers=trainer.loggers,
        **settings.point_settings(config),
    )
    show(*finished_lines(finished))
    mean: float | None = finished.summaries["val"]["auroc"]["mean"]
    return mean


def require_own_processes(trainer: pl.Trainer) -> None:
    """Never start processes that would each run the whole sweep."""
    if configs.in_sweep() and trainer.world_size > 1 and not processes.started_outside():
        raise ConfigError(fault("sweep_processes", trainer.world_size))
