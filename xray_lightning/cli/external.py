"""``xray external``: models by what they were trained on, tested on other hospitals' data."""

import sys
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from xray_lightning.cli.config import compose_settings, make, require_trusted, to_container
from xray_lightning.cli.request import present, take_own
from xray_lightning.cli.sets import split_sets, write_sources
from xray_lightning.cli.settings import Settings, find_checkpoints, require_settings
from xray_lightning.data.source import Source
from xray_lightning.errors import ConfigError
from xray_lightning.folders import prepare_folder
from xray_lightning.processes import quieten
from xray_lightning.report.terminal import show
from xray_lightning.writing import open_replacing, write_json

if TYPE_CHECKING:  # need torch, which is loaded once everything named was found
    from xray_lightning.checkpoint import Checkpoint
    from xray_lightning.data.datamodule import XrayDataModule
    from xray_lightning.evaluation.external import ExternalValidation

OWN = {"draws": 2000, "bootstrap_seed": 0, "trust": False}
READS = (*OWN, "data", "trainer", "batch_size", "workers", "threads", "cache_dir", "hydra")


def external(names: Sequence[str], overrides: Sequence[str], *, as_json: bool = False) -> None:
    """Test checkpoints on the data sets named; see ``xray external --help``."""
    own, values = take_own(overrides, OWN)
    boot, trust = (own["draws"], own["bootstrap_seed"]), own["trust"]
    paths = find_checkpoints(names)
    settings, rest = split_sets(values)
    if not settings:
        raise ConfigError("name the test sets: data=[rsna,chexpert] data.rsna.root=DIR ...")
    _require_reads(rest, next(iter(settings)))
    config, run_dir = compose_settings(rest, OWN)
    require_settings(config)
    with redirect_stdout(sys.stderr if as_json else sys.stdout):
        sources = {name: _open(name, text, rest) for name, text in settings.items()}
        show(*(f"note: {name}: {note}" for name, s in sources.items() for note in s.notes))
        folder = prepare_folder(run_dir or Path("outputs") / f"external_{'_'.join(sources)}")
        result = _validate(paths, sources, config, folder, boot, trust)
    result = replace(result, command=" ".join(["xray external", *names, *overrides]))
    from xray_lightning.report.external import external_lines, external_page, heat_figure

    write_json(result.to_json(), folder / "external.json")
    heat_figure(result, folder / "external.png")
    with open_replacing(folder / "external.html") as file:
        file.write(external_page(result))
    present(result.to_json(), as_json, *external_lines(result), f"written to {folder}")


def _require_reads(rest: Sequence[str], name: str) -> None:
    """Refuse what would change nothing here, and a setting of one data set that names none."""
    for text in rest:
        key = text.partition("=")[0]
        if key.startswith("data."):
            raise ConfigError(f"{text}: of which data set? data.{name}.{key[5:]}=")
        if key.split(".")[0] not in READS:
            raise ConfigError(f"{text}: an external validation reads only {', '.join(READS)}")


def _open(name: str, own: Sequence[str], rest: Sequence[str]) -> Source:
    node = compose_settings([*rest, *own])[0].data
    write_sources({name: to_container(node, resolve=False)})  # names what is missing
    source: Source = make(node)
    return source


def _validate(
    paths: Sequence[Path],
    sources: Mapping[str, Source],
    config: Settings,
    folder: Path,
    boot: tuple[int, int],
    trust: bool,
) -> "ExternalValidation":
    from xray_lightning.checkpoint import load_checkpoint
    from xray_lightning.cli.build import data_from, prepare_process, progress, trainer_from
    from xray_lightning.cli.opening import read_settings
    from xray_lightning.evaluation.external import validate_externally
    from xray_lightning.evaluation.model import Scoring

    quieten()  # after Lightning, which sets its own level
    workers = prepare_process(config).workers
    trainer = trainer_from(config, progress(), fit=False, folder=folder)

    def open_data(checkpoint: "Checkpoint") -> "XrayDataModule":
        if not trust:
            require_trusted(checkpoint.description.config, checkpoint.path)
        saved = read_settings(checkpoint, [f"cache_dir={config.cache_dir}"])
        return data_from(saved, workers=workers)

    return validate_externally(
        [load_checkpoint(path, trust=trust) for path in paths],
        sources,
        Scoring(folder, trainer, config.batch_size, workers, config.cache_dir),
        open_data=open_data,
        draws=boot[0],
        seed=boot[1],
    )
