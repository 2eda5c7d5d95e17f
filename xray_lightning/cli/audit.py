"""``xray audit``: leakage, shift, image-free baselines and the change from validation to test."""

import json
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import DictConfig
from rich.table import Table

from xray_lightning.audit.columns import plain
from xray_lightning.audit.duplicates import CORRELATION, DISTANCE, SIDE, duplicates
from xray_lightning.audit.run import Facts, audit_facts, gist
from xray_lightning.cli.overrides import boolean, composed, integer, make, taken_out
from xray_lightning.cli.watching import watched
from xray_lightning.data.cache import open_cache
from xray_lightning.data.names import NameIndex, read_list
from xray_lightning.data.nih_map import read_nih_map
from xray_lightning.data.partition import FaultySplitError
from xray_lightning.data.source import Source, readable_records
from xray_lightning.data.splits import SUBSETS, Split
from xray_lightning.errors import ConfigError
from xray_lightning.evaluation.predictions import Predictions, read_own
from xray_lightning.folders import prepare_folder
from xray_lightning.report.audit_page import audit_page
from xray_lightning.report.page import p_text
from xray_lightning.report.terminal import empty_table, number, show
from xray_lightning.writing import open_replacing, write_json

OWN = {
    "lists": "",
    "rsna_map": "",
    "duplicates": "false",  # compares pixels: needs the image cache, and builds it
    "checkpoint": "",
    "predictions": "",
    "draws": "500",
    "bootstrap_seed": "0",
}


def audit(overrides: Sequence[str], as_json: bool) -> None:
    """Audit a split; see ``xray audit --help``.

    Raises:
        ConfigError: a setting of this verb has a value that cannot work.
    """
    own, values = taken_out(overrides, OWN)
    draws, seed = (
        integer(name, own[name], low) for name, low in (("draws", 1), ("bootstrap_seed", 0))
    )
    config, run_dir = composed(values, OWN)
    source: Source = make(config.data)
    predictions = predictions_of(own["predictions"])
    if predictions and source.missing and source.allow_missing:
        source.records = readable_records(source)  # of which the run made its split
    split = any_split(config, source)
    folder = prepare_folder(run_dir or Path("outputs") / f"audit_{source.name}_{split.fingerprint}")
    compare = boolean("duplicates", own["duplicates"])
    leaks = {
        "duplicates": duplicate_facts(config, source, split) if compare else None,
        "checkpoint": checkpoint_facts(name, source, split)
        if (name := own["checkpoint"])
        else None,
    }
    facts = audit_facts(
        source,
        split,
        lists=lists_of(own, source, exposures := exposures_of(config)),
        exposures=exposures,
        predictions=predictions,
        draws=draws,
        seed=seed,
    )
    facts["leakage"] |= leaks
    facts["command"] = " ".join(["xray audit", *overrides])
    facts["gist"] = gist(facts)
    text = written(facts, folder)
    if as_json:
        print(text)
        return
    show(prevalence_table(facts), other_table(facts), baseline_table(facts))
    show(*facts["gist"], *(f"note: {note}" for note in facts["notes"]), f"written to {folder}")


def written(facts: Facts, folder: Path) -> str:
    """audit.json and audit.html; the text of the first."""
    write_json(facts, folder / "audit.json")
    with open_replacing(folder / "audit.html") as file:
        file.write(audit_page(facts))
    return json.dumps(facts, indent=2)


def any_split(config: DictConfig, source: Source) -> Split:
    """The split, also one that no training may use: to count what is wrong with it."""
    try:
        split: Split = make(config.split)(source.records, source.official)
    except FaultySplitError as error:
        return error.split
    return split


def lists_of(
    own: Mapping[str, str], source: Source, exposures: Mapping[str, str]
) -> dict[str, Collection[str]]:
    """Known image names by what they are: the files of lists=, and NIH's names in RSNA's map.

    Args:
        own: settings of the verb.
        source: the data set.
        exposures: other names of its images.

    Raises:
        ConfigError: a map to NIH's names is no help with this data.
    """
    paths = [Path(name) for name in own["lists"].strip("[]").split(",") if name]
    index = NameIndex([*(record.image_id for record in source.records), *exposures.values()])
    lists: dict[str, Collection[str]] = {f"list {path}": read_list(path, index) for path in paths}
    if own["rsna_map"]:
        if source.population != "nih":
            raise ConfigError(f"rsna_map names NIH's images: it tells nothing of {source.name}'s")
        images = read_nih_map(Path(own["rsna_map"]))
        name = f"RSNA challenge ({len(images):,} images, by its map)"
        lists[name] = frozenset(images.values())
    return lists


def duplicate_facts(config: DictConfig, source: Source, split: Split) -> Facts:
    """Exact and near-duplicates among the images on disk, compared at the cache's size.

    Raises:
        ConfigError: that size is too small to compare radiographs.
    """
    if config.image_size < SIDE:
        raise ConfigError(
            f"duplicates=true compares at {SIDE} px or more: image_size={config.image_size} is "
            "too small"
        )
    records = readable_records(source)
    cache = open_cache(source, records, size=config.image_size, root=config.cache_dir)
    for place in watched(range(len(records)), "comparing checksums", len(records)):
        cache.square(place)
    row = {record.image_id: place for place, record in enumerate(records)}
    subsets = {}
    for subset, rows in split.subsets.items():
        places = [row.get(source.records[place].image_id, -1) for place in rows]
        subsets[subset] = np.array([place for place in places if place >= 0], dtype=np.int64)
    facts: Facts = plain(duplicates(cache.images, records, subsets))
    bounds = {"distance": DISTANCE, "correlation": CORRELATION}
    return {**facts, **bounds, "not_on_disk": len(source.records) - len(records)}


def exposures_of(config: DictConfig) -> dict[str, str]:
    """NIH's name of every RSNA image, where the configuration has the map."""
    path = config.data.get("nih_map")
    return read_nih_map(Path(path)) if path else {}


def predictions_of(run: str) -> tuple[Predictions, Predictions] | None:
    """The tables a run left, None without a run."""
    if not run:
        return None
    val, test = (read_own(Path(run) / f"predictions_{subset}.csv") for subset in SUBSETS[1:])
    return val, test


def checkpoint_facts(path: str, source: Source, split: Split) -> Facts:
    """Images of each part whose patient the checkpoint learned from."""
    from xray_lightning.checkpoint import load_checkpoint  # torch takes seconds to import
    from xray_lightning.evaluation.overlap import seen_before

    description = load_checkpoint(path).description
    seen = seen_before(description, source.population, source.records)
    subsets = description.split.get("parts", {})
    same = {subset: subsets.get(subset) == split.subset_fingerprints[subset] for subset in SUBSETS}
    return {
        "path": path,
        "comparable": seen is not None,
        "population": description.split.get("population") or None,
        "same_training_images": same["train"],
        "same_test_images": same["test"],
        "seen": None
        if seen is None
        else {subset: int(seen[split.subsets[subset]].sum()) for subset in SUBSETS},
    }


def interval_title(facts: Mapping[str, Any]) -> str:
    """What the draws are of."""
    return "95 % (images)" if facts["patients"] is None else "95 % (patients)"


def prevalence_table(facts: Mapping[str, Any]) -> Table:
    """A row a label: prevalence of each part, and the ratios."""
    split = facts["split"]
    title = f"{facts['data']}, split {split['name']} [{split['fingerprint']}]: prevalence in %"
    table = empty_table(title, "label", *facts["parts"], "test/train+val", interval_title(facts))
    for name in ("test/train", "p (Holm)"):
        table.add_column(name, justify="right")
    for row in facts["shift"]["prevalence"]:
        shares = [_percent(row["value"][subset]) for subset in facts["parts"]]
        ends = (number(row["ratio_to_train"], 2), p_text(row["corrected"]))
        table.add_row(row["name"], *shares, number(row["ratio"], 2), _pair(row), *ends)
    return table


def other_table(facts: Mapping[str, Any]) -> Table:
    """A row for each kind of metadata."""
    table = empty_table(
        "metadata", "", *facts["parts"], "test/train+val", interval_title(facts), "p (Holm)"
    )
    for row in facts["shift"]["metadata"]:
        shares = row["name"].startswith(("sex", "view"))
        show_value = _percent if shares else lambda value: number(value, 2)
        cells = [
            show_value(row["value"][subset]) + (" %" if shares else "") for subset in row["value"]
        ]
        last = p_text(row["corrected"])
        table.add_row(row["name"], *cells, number(row["ratio"], 2), _pair(row), last)
    return table


def baseline_table(facts: Mapping[str, Any]) -> Table:
    """Mean AUROC of scores that need no image."""
    table = empty_table(
        "mean test AUROC without looking at an image", "", "AUROC", interval_title(facts)
    )
    table.add_column("labels", justify="right")
    for row in facts["baselines"]:
        found = row["result"]
        if found is None:
            table.add_row(row["name"], "-", row["undefined"], "")
            continue
        interval = (
            "-" if found["interval"][0] is None else "{:.3f}-{:.3f}".format(*found["interval"])
        )
        defined = f"{found['defined']}/{len(facts['labels'])}"
        table.add_row(row["name"], number(found["mean"]), interval, defined)
    return table


def _percent(value: float | None) -> str:
    return number(None if value is None else 100 * value, 1)


def _pair(row: Mapping[str, Any]) -> str:
    low, high = row["ratio_interval"]
    return "-" if low is None else f"{low:.2f}-{high:.2f}"
