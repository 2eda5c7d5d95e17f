"""``xray score``: anybody's table of scores against a data set's label table; without torch."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from xray_lightning.cli.config import (
    choose_labels,
    compose_settings,
    make,
    read_boolean,
    read_integer,
    read_value,
    take_own,
)
from xray_lightning.cli.settings import point_settings
from xray_lightning.data.nih_expert import NihExperts
from xray_lightning.data.partition import SUBSETS, Split, split_source
from xray_lightning.data.source import Source, select_labels
from xray_lightning.errors import ConfigError, MissingImagesError
from xray_lightning.evaluation.evaluate import Origin, SplitName, evaluate, fit_operating_points
from xray_lightning.evaluation.predictions import Predictions
from xray_lightning.evaluation.priors import Prior, require_prior
from xray_lightning.evaluation.scores import find_scored_labels, read_scores
from xray_lightning.evaluation.truths import NEEDED, score_truths
from xray_lightning.folders import prepare_folder
from xray_lightning.records import Record, patient_ids, patients_text, target_matrix
from xray_lightning.report.evaluation_table import evaluation_lines
from xray_lightning.report.terminal import show, truth_lines
from xray_lightning.writing import json_text, write_json

OWN = {
    "subset": "",
    "labels": "",  # shared: those of the data that the table has scores for; or a list
    "allow_missing": "false",
    "points": "",  # the subset whose scores operating points and calibrations are fitted on
    "prior": "validation",
    "subgroups": "false",
    "draws": "2000",
    "bootstrap_seed": "0",
    "truth": "",  # experts: against radiologists and text miner on the same images
}


@dataclass(frozen=True)
class Settings:
    """The settings of this verb, see ``xray score --help``."""

    subset: str
    points: str
    labels: str
    prior: Prior
    allow_missing: bool
    subgroups: bool
    draws: int
    bootstrap_seed: int
    truth: str


def score(table: Path, overrides: Sequence[str], as_json: bool = False) -> None:
    """Score a table; see ``xray score --help``."""
    own, values = own_settings(overrides)
    config, run_dir = compose_settings(values, OWN)
    source: Source = make(config.data)
    splitter = make(config.split) if own.subset else None
    split = splitter and split_source(source, splitter, source.records)
    images = [record.image_id for record in source.records]
    if own.truth:
        show_truths(table, source, split, own, run_dir, as_json)
        return
    if own.labels:
        theirs = find_scored_labels(table, source.labels)
        source = select_labels(source, choose_labels(own.labels, source.labels, theirs))
    scores = dict(zip(*read_scores(table, source.labels, images), strict=True))
    records, note = choose_records(source.records, scores, split, own.subset, own.allow_missing)
    if run_dir is not None:
        prepare_folder(run_dir)
    points = None
    if own.points:
        fit, _ = choose_records(source.records, scores, split, own.points, own.allow_missing)
        fitted = beside_truth(source, fit, scores)
        points = fit_operating_points(fitted, subset=own.points, **point_settings(config))
    evaluation = evaluate(
        beside_truth(source, records, scores),
        records,
        origin_of(table, source, split, own.subset),
        operating_points=points,
        prior=own.prior,
        draws=own.draws,
        seed=own.bootstrap_seed,
        subgroups=own.subgroups,
    )
    if run_dir is not None:
        write_json(evaluation.to_json(), run_dir / "score.json")
    if as_json:
        print(json_text(evaluation.to_json()))
        return
    place = "" if split is None else f", split {split.name} [{split.fingerprint}], {own.subset}"
    size = f"{len(records):,} images of {patients_text(evaluation.patients)}"
    show(
        *evaluation_lines(evaluation, f"{table} on {source.title}{place}"),
        f"{size} [{evaluation.fingerprint}]",
        *(f"note: {text}" for text in (*source.notes, note) if text),
    )


def show_truths(
    table: Path,
    source: Source,
    split: Split | None,
    own: Settings,
    run_dir: Path | None,
    as_json: bool,
) -> None:
    """The scores against radiologists and against the text miner on the same images."""
    if not isinstance(source, NihExperts):
        raise ConfigError(f"truth=experts needs data=nih_expert, got data={source.name}")
    labels = find_scored_labels(table, NEEDED)
    if not labels:
        raise ConfigError(f"truth=experts: {table} has no scores of {', '.join(NEEDED)}")
    images = [record.image_id for record in source.records]
    scores = dict(zip(*read_scores(table, labels, images, others=True), strict=True))
    records, note = choose_records(source.records, scores, split, own.subset, own.allow_missing)
    ids, patients = (record.image_id for record in records), tuple(patient_ids(records))
    columns = np.stack([scores[record.image_id] for record in records])
    unknown = np.full_like(columns, np.nan)  # each row has truths of its own
    predictions = Predictions(labels, tuple(ids), patients, unknown, columns)
    truths = score_truths(predictions, source, draws=own.draws, seed=own.bootstrap_seed)
    if run_dir is not None:
        write_json(truths.to_json(), prepare_folder(run_dir) / "truths.json")
    if as_json:
        print(json_text(truths.to_json()))
        return
    notes = (f"note: {text}" for text in (*source.notes, note) if text)
    show(*truth_lines(truths, f"{table} on {source.name}"), *notes)


def beside_truth(
    source: Source, records: Sequence[Record], scores: Mapping[str, npt.NDArray[np.float32]]
) -> Predictions:
    """The scores of some records beside their targets."""
    ids = tuple(record.image_id for record in records)
    patients = tuple(patient_ids(records))
    columns = target_matrix(records), np.stack([scores[image] for image in ids])
    return Predictions(source.labels, ids, patients, *columns)


def own_settings(overrides: Sequence[str]) -> tuple[Settings, list[str]]:
    """The settings of this verb, and what is left for the configuration."""
    values, rest = take_own(overrides, OWN)
    if values["subset"] not in ("", *SUBSETS):
        raise ConfigError(f"subset must be one of {', '.join(SUBSETS)}, got {values['subset']!r}")
    require_points(values["points"], values["subset"])
    if values["truth"] not in ("", "experts"):
        raise ConfigError(f"truth must be experts, got {values['truth']!r}")
    return Settings(
        **{key: values[key] for key in ("subset", "points", "labels", "truth")},
        prior=require_prior(read_value("prior", values["prior"])),
        allow_missing=read_boolean("allow_missing", values["allow_missing"]),
        subgroups=read_boolean("subgroups", values["subgroups"]),
        draws=read_integer("draws", values["draws"], 1),
        bootstrap_seed=read_integer("bootstrap_seed", values["bootstrap_seed"], 0),
    ), rest


def require_points(points: str, subset: str) -> None:
    """Operating points chosen on the images they are applied to would flatter."""
    if points and (not subset or points not in set(SUBSETS) - {subset}):
        raise ConfigError(
            f"points={points!r}: operating points are chosen on one of {', '.join(SUBSETS)}, and "
            "subset= names another one to apply them to"
        )


def choose_records(
    records: Sequence[Record],
    scores: Mapping[str, object],
    split: Split | None,
    subset: str,
    allow_missing: bool,
) -> tuple[list[Record], str]:
    """The records to score, and a sentence about those that are not."""
    rows = range(len(records)) if split is None else split.subsets[subset].tolist()
    scored = [records[row] for row in rows if records[row].image_id in scores]
    missing = [records[row].image_id for row in rows if records[row].image_id not in scores]
    place = subset or "label table"
    if not scored:
        raise MissingImagesError(f"no image of the {place} has a score")
    if missing and split is not None and not allow_missing:
        raise MissingImagesError(
            f"{len(missing):,} of the {len(rows):,} images in {place} have no score, the first "
            f"is {missing[0]}. Score them, or set allow_missing=true to go without them"
        )
    notes = [f"{len(missing):,} of the {len(rows):,} images in the {place} have no score"]
    if extra := len(scores) - len(scored):
        notes.append(f"{extra:,} scored images are not in {place} and were left out")
    return scored, "; ".join(notes if missing else notes[1:])


def origin_of(table: Path, source: Source, split: Split | None, subset: str) -> Origin:
    """Where the scores come from."""
    return Origin(
        data=source.title,
        data_images=len(source.records),
        split=SplitName(split.name, split.fingerprint) if split else None,
        subset=subset or None,
        table=str(table),
        notes=(*source.notes, *(split.notes if split else ())),
    )
