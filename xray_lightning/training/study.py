"""A study of settings: Optuna proposes, a training in a process of its own answers.

Trials stand in one journal, so that several processes, also on machines that share a disk, work on
one study, and a killed one goes on. Akiba et al. 2019; proposals by TPE (Bergstra et al. 2011).
"""

import csv
import math
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import scipy  # its parts load at their first use
from filelock import FileLock, Timeout
from matplotlib import pyplot
from optuna import Study, Trial, create_study, logging, pruners, samplers, visualization
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from xray_lightning.errors import ConfigError, XrayError
from xray_lightning.folders import LOCK
from xray_lightning.metrics.compare import holm
from xray_lightning.metrics.estimates import best_of
from xray_lightning.training.callbacks.epochs import epoch_seed
from xray_lightning.training.run import MONITOR
from xray_lightning.writing import Json, read_json, save_figure, write_json

FEWEST = 10  # finished trials, from which on it can be asked what mattered
TRAIN = ("-m", "xray_lightning.cli.train")
POLL = 0.5  # seconds between two looks at a training
Range = Callable[[Trial], Any]  # gives a trial's value of a setting
logging.set_verbosity(logging.WARNING)


def open_study(
    folder: Path,
    asked: Sequence[str],  # settings and ranges, as they were written
    *,
    metric: str = MONITOR,  # a column of metrics.csv
    warmup: int = 2,  # epochs in which no trial is pruned
) -> Study:
    """The study in a folder, made if need be; ConfigError if it is of other settings, or a run's.

    A trial is pruned whose best epoch so far is worse than the median of those before, from five.
    """
    log = folder / "study.log"
    if (folder / "config.yaml").is_file():
        raise ConfigError(f"{folder} is the folder of a run: name another for the study")
    median = pruners.MedianPruner(n_startup_trials=5, n_warmup_steps=warmup)
    make = partial(create_study, study_name="study", pruner=median, load_if_exists=True)
    direction = StudyDirection.MINIMIZE if best_of(metric) == "min" else StudyDirection.MAXIMIZE
    try:
        study = make(storage=JournalStorage(JournalFileBackend(str(log))), direction=direction)
    except ValueError as error:  # of JSON
        raise ConfigError(f"{log} is damaged ({error}): name another folder") from error
    before = study.user_attrs.get("asked", [*asked])
    if other := sorted({*before} ^ {*asked}):
        raise ConfigError(f"{folder} holds a study of other settings: {other}; name another folder")
    study.set_user_attr("asked", before)
    return study


def claim_trial(
    study: Study, folder: Path, *, count: int, seed: int
) -> tuple[Trial, FileLock] | None:
    """The next trial, for this process alone until its lock is released; None: all are there.

    First come those whose process is gone. What a new one proposes depends on the seed, its number
    and the trials before it.
    """

    def lock(number: int) -> FileLock:
        study.sampler = samplers.TPESampler(seed=epoch_seed(seed, number))
        held = FileLock(folder / f".trial-{number}.lock", timeout=0)
        held.acquire()
        return held

    with FileLock(folder / ".claim.lock"):
        for left in study.get_trials(states=[TrialState.RUNNING]):
            with suppress(Timeout):  # else another process is at it
                return Trial(study, left._trial_id), lock(left.number)
        if len(study.trials) >= count:
            return None
        trial = study.ask()
        return trial, lock(trial.number)


def run_study(
    study: Study,
    folder: Path,  # of the study; each trial gets a run folder in it
    settings: Sequence[str],  # of all trials
    space: Mapping[str, Range],  # of each other setting
    *,
    count: int = 20,  # of trials, those of other processes, failed and pruned ones too
    metric: str = MONITOR,  # as of the study
    seed: int = 0,  # of what is proposed
    report: Callable[[str], None] = lambda line: None,  # told when a trial starts and ends
) -> None:
    """Train until all trials are there; XrayError: one failed, and none was finished before it."""
    while claimed := claim_trial(study, folder, count=count, seed=seed):
        trial, lock = claimed
        try:
            own = [f"{name}={ask(trial)}" for name, ask in space.items()]
            report(f"trial {trial.number}: {' '.join(own)}")
            run, every = folder / str(trial.number), [*settings, *own]
            state, value, why = run_trial(trial, every, run, metric)
            if why:
                kind = "pruned" if state == TrialState.PRUNED else "failed"
                told = {"state": kind, "overrides": every, "message": why}
                write_json(told, run / "failure.json")
            study.tell(trial, None if why else value, state=state)
        finally:
            lock.release()
        report(f"trial {trial.number}: {why or f'{metric} {value:.4f}'}")
        if state == TrialState.FAIL and not study.get_trials(states=[TrialState.COMPLETE]):
            raise XrayError(f"trial {trial.number} failed: {why}")


def run_trial(
    trial: Trial, settings: Sequence[str], run: Path, metric: str
) -> tuple[TrialState, float, str]:
    """Train in a run folder, anew or from where a process died: how it ended, its metric, why."""
    run.mkdir(exist_ok=True)
    with FileLock(run / LOCK):  # the training of a study that was killed may still go on
        log, table, end = run / "output.log", run / "metrics.csv", run / "metrics.json"
    if not end.is_file():
        words = [sys.executable, *TRAIN, *settings, f"hydra.run.dir={run}"]
        with log.open("ab") as file, subprocess.Popen(words, stdout=file, stderr=file) as process:
            try:
                pruned = follow(trial, process, table, metric)
            finally:  # Ctrl-C comes here too
                process.terminate()  # it keeps its last checkpoint
        if pruned:
            return TrialState.PRUNED, math.nan, "below the median of the trials before"
        if process.returncode:
            told = log.read_text(encoding="utf-8", errors="replace").rpartition("error: ")[2]
            return TrialState.FAIL, math.nan, f"{told.strip()[-500:]} ({log})"
    if metric == MONITOR:  # of the epoch that was kept
        value = read_json(end)["val"]["auroc"]["mean"]
    else:
        best = np.fmin if best_of(metric) == "min" else np.fmax
        value = float(best.reduce(read_epochs(table, metric)))
    if value is None or math.isnan(value):
        return TrialState.FAIL, math.nan, f"{metric} is undefined"
    return TrialState.COMPLETE, value, ""


def follow(trial: Trial, process: subprocess.Popen[bytes], table: Path, metric: str) -> bool:
    """Report each epoch of a training's metrics.csv until it ends; whether it was pruned."""
    told = len(trial.study.trials[trial.number].intermediate_values)
    while True:
        over = process.poll() is not None
        for row in read_epochs(table, metric)[told:]:
            trial.report(row, told)
            told += 1
        if over or trial.should_prune():
            return not over
        time.sleep(POLL)


def read_epochs(table: Path, metric: str) -> list[float]:
    """A metric of each epoch so far, NaN where it is undefined."""
    with suppress(FileNotFoundError), table.open(encoding="utf-8", newline="") as file:
        return [float(row[metric] or "nan") for row in csv.DictReader(file)]
    return []


def measure_effects(trials: Sequence[FrozenTrial]) -> tuple[dict[str, float], int | None]:
    """Holm's p value of each setting, the least first, {} below ``FEWEST`` trials; of which epoch.

    Kruskal and Wallis 1952 over the words of a choice or the thirds of a range. None: of the
    trials' end. Where some are pruned, of the last epoch that all reached: those left at the end
    are better and later, and of pure noise up to 19 % of studies had p < 0.05 among them.
    """
    done = (t for t in trials if t.state in (TrialState.COMPLETE, TrialState.PRUNED))
    ended = [*{str(trial.params): trial for trial in done}.values()]  # one of those that repeat
    if len(ended) < FEWEST:
        return {}, None
    pruned = any(trial.state == TrialState.PRUNED for trial in ended)
    epoch = min(len(trial.intermediate_values) for trial in ended) if pruned else None
    values = np.array([t.intermediate_values[epoch - 1] if epoch else t.value for t in ended])
    raw = {}
    for name in ended[0].params:
        column = np.array([trial.params[name] for trial in ended])
        if column.dtype.kind in "if" and len(np.unique(column)) > 3:
            column = np.digitize(column, np.quantile(column, [1 / 3, 2 / 3]))
        groups = [values[column == one] for one in np.unique(column)]
        known = len(groups) > 1 and np.ptp(values) > 0
        raw[name] = float(scipy.stats.kruskal(*groups).pvalue) if known else 1.0
    least = dict(sorted(raw.items(), key=lambda item: item[1]))
    return dict(zip(least, holm([*least.values()]).tolist(), strict=True)), epoch


def draw_slices(study: Study, metric: str, path: Path) -> None:
    """The finished trials' metric against each setting."""
    plot = visualization.matplotlib.plot_slice
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Optuna calls its own figures experimental
        panels = np.ravel(np.asarray(plot(study, target_name=metric)))
    figure = panels[0].figure
    figure.set(figwidth=2 + 3.6 * len(panels), figheight=4.2)
    save_figure(figure, path)
    pyplot.close(figure)


def describe(study: Study) -> Json:
    """What a study came to, as plain values."""
    rows = [
        {"number": t.number, "state": t.state.name.lower(), "value": t.value, "settings": t.params}
        for t in study.trials
    ]
    finished = study.get_trials(states=[TrialState.COMPLETE])
    best = rows[study.best_trial.number] if finished else None
    effects, epoch = measure_effects(study.trials)
    told = {"trials": rows, "finished": len(finished), "best": best}
    return {**told, "effects": effects, "effects_epoch": epoch}
