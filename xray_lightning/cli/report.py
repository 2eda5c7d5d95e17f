"""``xray report``, ``drift``: from a run's files and, if it is at hand, its data set."""

import shlex
from dataclasses import replace
from pathlib import Path

from xray_lightning.cli.config import explain_error, make, read_config
from xray_lightning.cli.failures import PartialError
from xray_lightning.cli.request import Request
from xray_lightning.cli.settings import Settings
from xray_lightning.data.files import find_images
from xray_lightning.data.partition import Split, split_source
from xray_lightning.data.source import Source, used_records
from xray_lightning.errors import ConfigError
from xray_lightning.folders import prepare_folder
from xray_lightning.hub import require_pushable
from xray_lightning.progress import show_progress
from xray_lightning.report.audit import drift_lines, drift_page
from xray_lightning.report.page import say
from xray_lightning.report.run import Run, read_run
from xray_lightning.report.run_page import audit_run, card_text, write_card, write_report
from xray_lightning.wording import fault
from xray_lightning.writing import write_file


def report(request: Request) -> None:
    """Make report.html and report.json of a run again; training has made them at its end."""
    run = read_run(Path(request.files[0]))
    data, missing = open_again(run, request.own["trust"])
    values = write_report(run, audit_run(*data, run) if data else None, missing, request.out)
    request.present(values, *say("reported", values, (request.out or run.folder) / "report.html"))


def card(request: Request) -> None:
    """A run as model card and as CLAIM 2024 and TRIPOD+AI sheet, as far as its files tell."""
    paths = [str(path) for path in write_card(read_run(Path(request.files[0])), request.out)]
    request.present({"files": paths}, *paths)


def push(request: Request) -> None:
    """A run's best checkpoint and card into a repository of the Hugging Face hub."""
    (folder, repo), public = request.files, request.own["public"]
    run = read_run(Path(folder))
    require_pushable(repo)
    from xray_lightning.deploy.export import push_checkpoint  # torch, after the files

    at = push_checkpoint(run.folder / "checkpoints/best.ckpt", repo, card_text(run), public=public)
    request.present({"place": at}, f"{at}, {'public' if public else 'private'}")


def drift(request: Request) -> None:
    """Are these films, scores and prevalences those of validation? xray drift RUN NEW/."""
    own, run = request.own, read_run(Path(request.files[0]))
    find_images(request.files[1:])
    folder = prepare_folder(request.out or run.folder / f"drift_{Path(request.files[1]).stem}")
    data, missing = open_again(run, own["trust"])
    from xray_lightning.deploy.drift import measure_drift  # torch, after the paths

    films = request.files[1:], data[0] if data else None
    with show_progress("scoring films") as progress:
        result = measure_drift(run.folder, *films, **own, progress=progress)
    result = replace(result, missing=missing, command=shlex.join(["xray", "drift", *request.words]))
    write_file(folder / "drift.html", drift_page(result))
    lines = (*drift_lines(result), f"written to {folder}")
    request.present(result.to_json(), *lines, path=folder / "drift.json")
    if result.failures:
        raise PartialError(fault("films_unread", [*result.failures], folder))


def open_again(run: Run, trust: bool) -> tuple[tuple[Source, Split] | None, str]:
    """A run's data set and split; None, and why they are not as they were."""
    config = Settings(read_config(run.folder, trust=trust))
    if not {"data", "split"} <= set(config):
        raise ConfigError(f"{run.folder}/config.yaml is damaged: it has no data and split")
    try:
        source: Source = make(config.data)
        split = split_source(source, make(config.split), used_records(source).records)
    except Exception as error:  # re-raised unless the user can repair it
        if (message := explain_error(error)) is None:
            raise
        return None, f"its data set is not at hand ({message})"
    if split.fingerprint != (before := run.environment["split"]["fingerprint"]):
        now = f"the settings now give [{split.fingerprint}]"
        return None, f"the data set changed: its split was [{before}], {now}"
    return (source, split), ""
