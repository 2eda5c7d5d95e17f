"""``xray score``: anybody's table of scores against a data set's label table; without torch."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from xray_lightning.cli.config import compose_settings, make, read_value
from xray_lightning.cli.request import Own, choose_labels, present, take_own
from xray_lightning.cli.settings import Settings, point_settings
from xray_lightning.data.nih_expert import NihExperts
from xray_lightning.data.partition import SUBSETS, Split, split_source
from xray_lightning.data.source import Source, select_labels
from xray_lightning.errors import ConfigError, MissingImagesError
from xray_lightning.evaluation.evaluate import Origin, SplitName, evaluate, fit_operating_points
from xray_lightning.evaluation.predictions import Predictions
from xray_lightning.evaluation.priors import require_prior
from xray_lightning.evaluation.scores import find_scored_labels, read_scores
from xray_lightning.evaluation.truths import NEEDED, score_truths
from xray_lightning.folders import prepare_folder
from xray_lightning.metrics.operating_points import OperatingPoints
from xray_lightning.records import Record, patient_ids, patients_text, target_matrix
from xray_lightning.report.evaluation_table import evaluation_lines
from xray_lightning.report.terminal import truth_lines

Scores = Mapping[str, npt.NDArray[np.float32]]  # image id -> (L,)
OWN = {
    "subset": ("", *SUBSETS),
    "labels": "",  # shared: those of the data that the table has scores for; or a list
    "allow_missing": False,
    "points": "",  # the subset whose scores operating points and calibrations are fitted on
    "prior": "validation",
    "subgroups": False,
    "draws": 2000,
    "bootstrap_seed": 0,
    "truth": ("", "experts"),  # against radiologists and text miner on the same images
}


def score(table: Path, overrides: Sequence[str], as_json: bool = False) -> None:
    """Score a table; see ``xray score --help``."""
    own, values = take_own(overrides, OWN)
    subset = own["subset"]
    require_points(own["points"], subset)
    prior = require_prior(read_value("prior", own["prior"]))
    config, run_dir = compose_settings(values, OWN)
    source: Source = make(config.data)
    split = split_source(source, make(config.split), source.records) if subset else None
    images = [record.image_id for record in source.records]
    if own["truth"]:
        show_truths(table, source, split, own, run_dir, as_json)
        return
    if own["labels"]:
        theirs = find_scored_labels(table, source.labels)
        source = select_labels(source, choose_labels(own["labels"], source.labels, theirs))
    scores = dict(zip(*read_scores(table, source.labels, images), strict=True))
    records, note = choose_records(source.records, scores, split, subset, own["allow_missing"])
    path = run_dir and prepare_folder(run_dir) / "score.json"
    train = split.subsets["train"] if split else ()
    evaluation = evaluate(
        beside_truth(source, records, scores),
        records,
        origin_of(table, source, split, subset),
        operating_points=fit_points(source, split, scores, own, config),
        prior=prior,
        draws=own["draws"],
        seed=own["bootstrap_seed"],
        learned=target_matrix([source.records[row] for row in train]) if split else None,
        subgroups=own["subgroups"],
    )
    place = "" if split is None else f", split {split.name} [{split.fingerprint}], {subset}"
    present(
        evaluation.to_json(),
        as_json,
        *evaluation_lines(evaluation, f"{table} on {source.title}{place}"),
        f"{len(records):,} images of {patients_text(evaluation.patients)} "
        f"[{evaluation.fingerprint}]",
        *(f"note: {text}" for text in (*source.notes, note) if text),
        path=path,
    )


def fit_points(
    source: Source, split: Split | None, scores: Scores, own: Own, config: Settings
) -> OperatingPoints | None:
    """Operating points and calibrations by the scores of points=; None without."""
    if not (subset := own["points"]):
        return None
    fit, _ = choose_records(source.records, scores, split, subset, own["allow_missing"])
    beside = beside_truth(source, fit, scores)
    return fit_operating_points(beside, subset=subset, **point_settings(config))


def show_truths(
    table: Path,
    source: Source,
    split: Split | None,
    own: Own,
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
    records, note = choose_records(
        source.records, scores, split, own["subset"], own["allow_missing"]
    )
    ids, patients = (record.image_id for record in records), tuple(patient_ids(records))
    columns = np.stack([scores[record.image_id] for record in records])
    unknown = np.full_like(columns, np.nan)  # each row has truths of its own
    predictions = Predictions(labels, tuple(ids), patients, unknown, columns)
    truths = score_truths(predictions, source, draws=own["draws"], seed=own["bootstrap_seed"])
    path = run_dir and prepare_folder(run_dir) / "truths.json"
    notes = (f"note: {text}" for text in (*source.notes, note) if text)
    lines = truth_lines(truths, f"{table} on {source.name}")
    present(truths.to_json(), as_json, *lines, *notes, path=path)


def beside_truth(source: Source, records: Sequence[Record], scores: Scores) -> Predictions:
    """The scores of some records beside their targets."""
    ids = tuple(record.image_id for record in records)
    patients = tuple(patient_ids(records))
    columns = target_matrix(records), np.stack([scores[image] for image in ids])
    return Predictions(source.labels, ids, patients, *columns)


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
