"""Many runs, ranked by validation AUROC: after ``-m``, and as trials of ``xray tune``."""

from pathlib import Path
from typing import Any

from hydra.core.utils import JobReturn
from hydra.experimental.callback import Callback
from hydra.types import RunMode

from xray_lightning.cli.config import compose_settings, make, read_space
from xray_lightning.cli.failures import USER_ERROR
from xray_lightning.cli.request import Request
from xray_lightning.cli.settings import Settings, require_known_keys, require_settings
from xray_lightning.errors import ConfigError
from xray_lightning.evaluation import sweep as sweeps
from xray_lightning.folders import prepare_folder
from xray_lightning.report.page import say
from xray_lightning.report.terminal import finish_sweep, show, write_sweep


class SweepTable(Callback):
    """Compares the runs of a sweep, in files after each run and on the terminal at the end.

    What no run could work with is refused before a folder is made; a SystemExit, since Hydra would
    turn any other exception into a warning.
    """

    def on_run_start(self, config: Settings, below: bool = True, **kwargs: Any) -> None:
        """Refuse a key that no setting has, and a value that cannot work."""
        try:
            require_known_keys(config, below=below)
            if below:
                require_settings(config)
        except ConfigError as error:
            raise SystemExit(USER_ERROR) from error

    def on_multirun_start(self, config: Settings, **kwargs: Any) -> None:
        """Refuse a key that no run has; what depends on a choice is for the run to say."""
        self.on_run_start(config, below=False)

    def on_job_end(self, config: Settings, job_return: JobReturn, **kwargs: Any) -> None:
        """Keep the files up to date after each run: the sweep may be killed."""
        if config.hydra.mode == RunMode.MULTIRUN:
            folder = Path(config.hydra.sweep.dir)
            write_sweep(sweeps.compare_runs(folder, none_yet=True), folder)

    def on_multirun_end(self, config: Settings, **kwargs: Any) -> None:
        """Compare."""
        folder = Path(config.hydra.sweep.dir)
        comparison = sweeps.compare_runs(folder, none_yet=True)
        show(*finish_sweep(comparison, folder)[0])
        if any(run.state == sweeps.FAILED for run in comparison.runs):
            raise SystemExit(1)


def sweep(request: Request) -> None:
    """Compare the runs of a finished, killed or running sweep, ranked by validation AUROC."""
    folder, all_tests = Path(request.files[0]), request.own["test"]
    comparison = sweeps.compare_runs(folder)
    lines, validations = finish_sweep(comparison, folder, all_tests=all_tests)
    pooled = {"cross_validations": [validation.to_json() for validation in validations]}
    request.present(comparison.to_json(all_tests=all_tests) | pooled, *lines)


def tune(request: Request) -> None:
    """Choose settings by many trainings: xray tune study=DIR loss=bce,focal."""
    own, rest = request.own, request.rest
    fixed, space, ends = read_space(rest)
    if not (own["study"] and space):
        raise ConfigError("xray tune needs study=DIR and a range, such as loss=bce,focal")
    for text in ends:
        config = compose_settings([*fixed, text])
        require_settings(config)
    make(config.data)  # is it there?
    try:
        from xray_lightning.training import study as studies  # torch, after that was said
    except ModuleNotFoundError as error:
        raise ConfigError(f'no {error.name}: pip install "xray_lightning[tune]"') from error

    folder, metric = prepare_folder(Path(own["study"])), config.monitor
    study = studies.open_study(folder, rest, metric=metric, warmup=own["warmup"])
    how = {"count": own["trials"], "metric": metric, "seed": config.seed}
    studies.run_study(study, folder, fixed, space, **how, report=show)
    values = studies.describe(study)
    if values["finished"]:
        studies.draw_slices(study, metric, folder / "study.png")
    lines, _ = finish_sweep(sweeps.compare_runs(folder), folder)
    request.present(values, *lines, *say("tuned", values, metric, studies.FEWEST))
