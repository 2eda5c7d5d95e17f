"""``xray audit``: leakage, shift, image-free baselines and the change from validation to test."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from xray_lightning.audit.duplicates import compare_images
from xray_lightning.audit.run import audit_split
from xray_lightning.cli.config import compose_settings, make, read_boolean, read_integer, take_own
from xray_lightning.cli.settings import Settings
from xray_lightning.data.names import NameIndex, read_list
from xray_lightning.data.partition import FaultySplitError, Split, split_source
from xray_lightning.data.rsna import read_nih_map
from xray_lightning.data.source import Source, readable_records
from xray_lightning.errors import ConfigError
from xray_lightning.evaluation.predictions import Predictions, read_own
from xray_lightning.folders import prepare_folder
from xray_lightning.progress import show_progress
from xray_lightning.report.audit import audit_page, audit_tables
from xray_lightning.report.terminal import show
from xray_lightning.writing import json_text, open_replacing, write_json

OWN = {
    "lists": "",
    "rsna_map": "",
    "duplicates": "false",  # compares pixels: needs the image cache, and builds it
    "checkpoint": "",
    "predictions": "",
    "draws": "500",
    "bootstrap_seed": "0",
}


def audit(overrides: Sequence[str], as_json: bool = False) -> None:
    """Audit a split; see ``xray audit --help``."""
    own, values = take_own(overrides, OWN)
    least = {"draws": 1, "bootstrap_seed": 0}
    draws, seed = (read_integer(name, own[name], low) for name, low in least.items())
    compare = read_boolean("duplicates", own["duplicates"])
    config, run_dir = compose_settings(values, OWN)
    source: Source = make(config.data)
    predictions = _read_predictions(own["predictions"])
    if predictions and source.missing and source.allow_missing:
        source.records = readable_records(source)  # of which the run made its split
    split = _any_split(config, source)
    folder = prepare_folder(run_dir or Path("outputs") / f"audit_{source.name}_{split.fingerprint}")
    exposures = read_exposures(config)
    duplicates = None
    if compare:
        size, root = config.image_size, config.cache_dir
        with show_progress("comparing checksums") as report:
            duplicates = compare_images(source, split, size=size, cache_dir=root, report=report)
    result = audit_split(
        source,
        split,
        lists=_read_lists(own, source, exposures),
        exposures=exposures,
        predictions=predictions,
        checkpoint=own["checkpoint"],
        duplicates=duplicates,
        draws=draws,
        seed=seed,
    )
    result = replace(result, command=" ".join(["xray audit", *overrides]))
    write_json(result.to_json(), folder / "audit.json")
    with open_replacing(folder / "audit.html") as file:
        file.write(audit_page(result))
    if as_json:
        print(json_text(result.to_json()))
        return
    notes = (f"note: {note}" for note in result.notes)
    show(*audit_tables(result), *result.gist, *notes, f"written to {folder}")


def read_exposures(config: Settings) -> dict[str, str]:
    """NIH's name of every RSNA image, where the configuration has the map."""
    path = config.data.get("nih_map")
    return read_nih_map(Path(path)) if path else {}


def _any_split(config: Settings, source: Source) -> Split:
    """The split, also one that no training may use: to count what is wrong with it."""
    try:
        return split_source(source, make(config.split), source.records)
    except FaultySplitError as error:
        return error.split


def _read_lists(
    own: Mapping[str, str], source: Source, exposures: Mapping[str, str]
) -> dict[str, Collection[str]]:
    """Known image names by what they are: the files of lists=, and NIH's names in RSNA's map."""
    paths = [Path(name) for name in own["lists"].strip("[]").split(",") if name]
    index = NameIndex([*(record.image_id for record in source.records), *exposures.values()])
    lists: dict[str, Collection[str]] = {f"list {path}": read_list(path, index) for path in paths}
    if own["rsna_map"]:
        if source.population != "nih":
            raise ConfigError(f"rsna_map names NIH's images: it tells nothing of {source.name}'s")
        images = read_nih_map(Path(own["rsna_map"]))
        lists[f"RSNA challenge ({len(images):,} images, by its map)"] = frozenset(images.values())
    return lists


def _read_predictions(run: str) -> tuple[Predictions, Predictions] | None:
    """The tables a run left, None without a run."""
    if not run:
        return None
    val, test = (read_own(Path(run) / f"predictions_{subset}.csv") for subset in ("val", "test"))
    return val, test
