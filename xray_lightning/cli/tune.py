"""``xray tune``: settings chosen by many trainings, each a run folder of the study's."""

from pathlib import Path

from xray_lightning.cli.config import compose_settings, make, read_space
from xray_lightning.cli.multirun import finish_sweep
from xray_lightning.cli.request import Request, take_own
from xray_lightning.cli.settings import require_settings
from xray_lightning.errors import ConfigError
from xray_lightning.evaluation.sweep import compare_runs
from xray_lightning.folders import prepare_folder
from xray_lightning.report.page import say
from xray_lightning.report.terminal import show

NEEDS = "a folder, study=DIR, and a range, such as 'optim.lr=tag(log,interval(1e-5,1e-2))'"


def tune(request: Request) -> None:
    """Choose settings by many trainings: xray tune study=DIR 'optim.lr=interval(1e-4,1e-2)'."""
    own, rest = take_own(request.settings, {"study": "", "trials": 20, "warmup": 2})
    fixed, space, ends = read_space(rest)
    if not (own["study"] and space):
        raise ConfigError(f"xray tune needs {NEEDS}")
    for text in ends:
        config = compose_settings([*fixed, text])
        require_settings(config)
    make(config.data)  # is it there?
    try:
        from xray_lightning.training import study as studies  # torch, after that was said
    except ModuleNotFoundError as error:
        raise ConfigError(f'no {error.name}: pip install "xray_lightning[tune]"') from error
    from xray_lightning.report.figures import study_figure

    folder, metric = prepare_folder(Path(own["study"])), config.monitor
    study = studies.open_study(folder, rest, metric=metric, warmup=own["warmup"])
    how = {"count": own["trials"], "metric": metric, "seed": config.seed}
    studies.run_study(study, folder, fixed, space, **how, report=show)
    values = studies.describe(study)
    study_figure(study.trials, values["effects"], metric, folder / "study.png")
    lines, _ = finish_sweep(compare_runs(folder), folder)
    request.present(values, *lines, *say("tuned", values, metric, studies.FEWEST))
