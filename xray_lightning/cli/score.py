"""``xray score``: anybody's table of scores against a data set's label table; without torch."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from xray_lightning.cli.judging import fitted, verdict_of
from xray_lightning.cli.overrides import boolean, composed, integer, labels_asked, make, taken_out
from xray_lightning.cli.priors import read_prior
from xray_lightning.data.partition import SUBSETS, Split, fingerprint
from xray_lightning.data.source import Source, select_labels
from xray_lightning.errors import ConfigError, MissingImagesError
from xray_lightning.evaluation.predictions import Predictions
from xray_lightning.evaluation.scores import find_scored_labels, read_scores
from xray_lightning.folders import prepare_folder
from xray_lightning.records import Record, patient_ids, patients_text, target_matrix
from xray_lightning.report.terminal import show
from xray_lightning.writing import write_json

OWN = {
    "subset": "",
    "labels": "",  # shared: those of the data that the table has scores for; or a list
    "allow_missing": "false",
    "points": "",  # the part whose scores operating points and calibrations are fitted on
    "prior": "validation",
    "subgroups": "false",
    "draws": "2000",
    "bootstrap_seed": "0",
}


def score(table: Path, overrides: Sequence[str], as_json: bool) -> None:
    """Score a table; see ``xray score --help``.

    Raises:
        ConfigError: a setting of this verb has a value that cannot work.
        MissingImagesError: an image of the subset has no score.
    """
    own, values = own_settings(overrides)
    config, run_dir = composed(values, OWN)
    source: Source = make(config.data)
    images = [record.image_id for record in source.records]
    split: Split | None = None
    if own["subset"]:
        split = make(config.split)(source.records, source.official)
    if own["labels"]:
        theirs = find_scored_labels(table, source.labels)
        source = select_labels(source, labels_asked(own["labels"], source.labels, theirs))
    ids, scores = read_scores(table, source.labels, images)
    records, note = chosen(source.records, ids, split, own)
    if run_dir is not None:
        prepare_folder(run_dir)
    scored = dict(zip(ids, scores, strict=True))
    validation = None
    if own["points"]:
        fit, _ = chosen(source.records, ids, split, {**own, "subset": own["points"]})
        named = fingerprint({own["points"]: [record.image_id for record in fit]})
        validation = fitted(predicted(source, fit, scored), named, config, own["points"])
    found = verdict_of(
        predicted(source, records, scored),
        records,
        identity(table, source, split, own, records),
        validation=validation,
        draws=own["draws"],
        seed=own["bootstrap_seed"],
        groups=own["subgroups"],
        prior=own["prior"],
    )
    text = json.dumps(found.facts, indent=2, allow_nan=False)
    if run_dir is not None:
        write_json(found.facts, run_dir / "score.json")
    if as_json:
        print(text)
        return
    show(
        *found.shown(heading(table, source, split, own)),
        f"{len(records):,} images of {patients_text(found.facts['patients'])} "
        f"[{found.facts['fingerprint']}]",
        *(f"note: {text}" for text in (*source.notes, note) if text),
    )


def heading(table: Path, source: Source, split: Split | None, own: Mapping[str, Any]) -> str:
    """What was scored, over the tables."""
    place = "" if split is None else f", split {split.name} [{split.fingerprint}], {own['subset']}"
    return f"{table} on {source.title}{place}"


def predicted(
    source: Source, records: Sequence[Record], scored: Mapping[str, npt.NDArray[np.float32]]
) -> Predictions:
    """The scores of some records beside their truth."""
    ids = tuple(record.image_id for record in records)
    scores = np.stack([scored[image] for image in ids])
    patients = tuple(patient_ids(records))
    return Predictions(source.labels, ids, patients, target_matrix(records), scores)


def own_settings(overrides: Sequence[str]) -> tuple[dict[str, Any], list[str]]:
    """The settings of this verb, and what is left for the configuration.

    Raises:
        ConfigError: a value that cannot work.
    """
    values, rest = taken_out(overrides, OWN)
    if values["subset"] not in ("", *SUBSETS):
        raise ConfigError(f"subset must be one of {', '.join(SUBSETS)}, got {values['subset']!r}")
    require_points(values["points"], values["subset"])
    own: dict[str, Any] = {key: values[key] for key in ("subset", "points", "labels")}
    own["prior"] = read_prior(values["prior"])
    for key in ("allow_missing", "subgroups"):
        own[key] = boolean(key, values[key])
    for key, low in (("draws", 1), ("bootstrap_seed", 0)):
        own[key] = integer(key, values[key], low)
    return own, rest


def require_points(points: str, subset: str) -> None:
    """Operating points chosen on the images they are judged on would flatter.

    Raises:
        ConfigError: unknown, the scored part itself, or no part is scored.
    """
    if points and (not subset or points not in set(SUBSETS) - {subset}):
        raise ConfigError(
            f"points={points!r}: operating points are chosen on one of {', '.join(SUBSETS)}, and "
            "subset= names another part to apply them to"
        )


def chosen(
    records: Sequence[Record], ids: Sequence[str], split: Split | None, own: Mapping[str, Any]
) -> tuple[list[Record], str]:
    """The records to score, and a sentence about those that are not.

    Raises:
        MissingImagesError: an image of the subset has no score, and that is not allowed.
    """
    scored = set(ids)
    wanted = range(len(records)) if split is None else split.subsets[own["subset"]].tolist()
    rows = [row for row in wanted if records[row].image_id in scored]
    missing = [records[row].image_id for row in wanted if records[row].image_id not in scored]
    place = own["subset"] or "label table"
    if not rows:
        raise MissingImagesError(f"no image of the {place} has a score")
    if missing and split is not None and not own["allow_missing"]:
        raise MissingImagesError(
            f"{len(missing):,} of the {len(wanted):,} images in {place} have no score, the first "
            f"is {missing[0]}. Score them, or set allow_missing=true to go without them"
        )
    notes = [f"{len(missing):,} of the {len(wanted):,} images in the {place} have no score"]
    extra = len(scored) - len(rows)
    if extra:
        notes.append(f"{extra:,} scored images are not in {place} and were left out")
    return [records[row] for row in rows], "; ".join(notes if missing else notes[1:])


def identity(
    table: Path,
    source: Source,
    split: Split | None,
    own: Mapping[str, Any],
    records: Sequence[Record],
) -> dict[str, Any]:
    """What was scored, as plain values."""
    ids = [record.image_id for record in records]
    name = own["subset"] or "scored"
    return {
        "fingerprint": fingerprint({name: ids}),
        "table": str(table),
        "data": source.title,
        "data_images": len(source.records),
        "split": None if split is None else {"name": split.name, "fingerprint": split.fingerprint},
        "subset": own["subset"] or None,
        "notes": [*source.notes, *(split.notes if split else ())],
    }
