"""``xray external``: models by what they were trained on, tested on other hospitals' data."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from xray_lightning.cli.config import compose_settings, make, split_sets, write_sources
from xray_lightning.cli.request import Own, Request, take_own
from xray_lightning.cli.settings import (
    Settings,
    find_checkpoints,
    require_changes,
    require_settings,
    to_container,
)
from xray_lightning.data.source import Source
from xray_lightning.errors import ConfigError
from xray_lightning.folders import prepare_folder
from xray_lightning.processes import quieten
from xray_lightning.report.terminal import show
from xray_lightning.writing import write_file, write_json

if TYPE_CHECKING:  # needs torch, which is loaded once everything named was found
    from xray_lightning.evaluation.external import ExternalValidation

OWN = {"draws": 2000, "bootstrap_seed": 0, "trust": False}
READS = (*OWN, "data", "trainer", "batch_size", "workers", "threads", "cache_dir", "hydra")


def external(request: Request) -> None:
    """Does it work in another hospital? xray external CKPT data=[rsna] data.rsna.root=DIR."""
    own, values = take_own(request.settings, OWN)
    paths = find_checkpoints(request.files)
    settings, rest = split_sets(values)
    if not settings:
        raise ConfigError("name the test sets: data=[rsna,chexpert] data.rsna.root=DIR ...")
    for text in rest:
        if text.startswith("data."):
            leaf = text.partition("=")[0][5:]
            raise ConfigError(f"{text}: of which data set? data.{next(iter(settings))}.{leaf}=")
    require_changes(rest, READS, "an external validation reads only")
    config = compose_settings(rest, OWN)
    require_settings(config)
    nodes = {name: compose_settings([*rest, *text]).data for name, text in settings.items()}
    write_sources({name: to_container(node, resolve=False) for name, node in nodes.items()})
    sources: dict[str, Source] = {name: make(node) for name, node in nodes.items()}
    show(*(f"note: {name}: {note}" for name, s in sources.items() for note in s.notes))
    folder = prepare_folder(request.out or Path("outputs") / f"external_{'_'.join(sources)}")
    result = _validate(paths, sources, config, folder, own)
    result = replace(result, command=" ".join(["xray external", *request.words]))
    from xray_lightning.report.external import external_lines, external_page, heat_figure

    write_json(result.to_json(), folder / "external.json")
    heat_figure(result, folder / "external.png")
    write_file(folder / "external.html", external_page(result))
    request.present(result.to_json(), *external_lines(result), f"written to {folder}")


def _validate(
    paths: Sequence[Path], sources: Mapping[str, Source], config: Settings, folder: Path, own: Own
) -> "ExternalValidation":
    from xray_lightning.checkpoint import load_checkpoint
    from xray_lightning.cli.build import prepare_process, trainer_from
    from xray_lightning.cli.opening import open_saved
    from xray_lightning.evaluation.external import validate_externally
    from xray_lightning.evaluation.model import Scoring

    quieten()  # after Lightning, which sets its own level
    workers, cache_dir = prepare_process(config)["workers"], config.cache_dir
    trainer = trainer_from(config, folder)
    return validate_externally(
        [load_checkpoint(path, trust=own["trust"]) for path in paths],
        sources,
        Scoring(folder, trainer, config.batch_size, workers, cache_dir),
        open_data=partial(open_saved, cache_dir=cache_dir, workers=workers),
        draws=own["draws"],
        seed=own["bootstrap_seed"],
    )
