"""``xray external``: models by what they were trained on, tested on other hospitals' data."""

from dataclasses import replace
from functools import partial
from pathlib import Path

from xray_lightning.cli import settings
from xray_lightning.cli.config import compose_settings, make, split_sets, write_sources
from xray_lightning.cli.request import DEFAULTS, Request
from xray_lightning.data.source import Source
from xray_lightning.errors import ConfigError
from xray_lightning.folders import prepare_folder
from xray_lightning.processes import quieten
from xray_lightning.report.terminal import show

OWN = DEFAULTS["external"]
READS = (*OWN, "data", "trainer", "batch_size", "workers", "threads", *settings.CACHES, "hydra")


def external(request: Request) -> None:
    """Does it work in another hospital? xray external CKPT data=[rsna] data.rsna.root=DIR."""
    paths = settings.find_checkpoints(request.files)
    of_sets, rest = split_sets(request.rest, of_all=())
    if not of_sets:
        raise ConfigError("name the test sets: data=[rsna,chexpert] data.rsna.root=DIR ...")
    settings.require_changes(rest, READS, "an external validation reads only")
    config = compose_settings(rest, request.own)
    settings.require_settings(config)
    nodes = {name: compose_settings([*rest, *text]).data for name, text in of_sets.items()}
    write_sources({k: settings.to_container(node, resolve=False) for k, node in nodes.items()})
    sources: dict[str, Source] = {name: make(node) for name, node in nodes.items()}
    show(*(f"note: {name}: {note}" for name, s in sources.items() for note in s.notes))
    folder = prepare_folder(request.out or Path("outputs") / f"external_{'_'.join(sources)}")
    from xray_lightning import Scoring, load_checkpoint, validate_externally  # torch, after that
    from xray_lightning.cli.build import prepare_process, trainer_from
    from xray_lightning.cli.opening import open_saved
    from xray_lightning.report.external import external_lines, write_external

    quieten()  # after Lightning, which sets its own level
    workers, own = prepare_process(config)["workers"], request.own
    result = validate_externally(
        [load_checkpoint(path, trust=own["trust"]) for path in paths],
        sources,
        Scoring(folder, trainer_from(config, folder), config.batch_size, workers, config.cache_dir),
        open_data=partial(open_saved, config, workers),
        draws=own["draws"],
        seed=own["bootstrap_seed"],
    )
    result = replace(result, command=" ".join(["xray external", *request.words]))
    write_external(result, folder)
    request.present(result.to_json(), *external_lines(result), f"written to {folder}")
