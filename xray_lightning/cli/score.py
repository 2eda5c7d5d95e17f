"""``xray score``: anybody's table of scores against a data set's label table; without torch."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from xray_lightning.cli.config import compose_settings, make, read_value
from xray_lightning.cli.request import Own, choose_labels, present, take_own
from xray_lightning.cli.settings import point_settings
from xray_lightning.data.nih_expert import NihExperts
from xray_lightning.data.partition import SUBSETS, Split, split_source
from xray_lightning.data.source import Source, select_labels
from xray_lightning.errors import ConfigError, MissingImagesError
from xray_lightning.evaluation.compare import NEEDED, score_truths
from xray_lightning.evaluation.evaluate import evaluate, fit_operating_points
from xray_lightning.evaluation.predictions import Origin, Predictions, SplitName
from xray_lightning.evaluation.priors import require_prior
from xray_lightning.evaluation.scores import find_scored_labels, read_scores
from xray_lightning.folders import prepare_folder
from xray_lightning.records import Record, patients_text, take_records, target_matrix
from xray_lightning.report.evaluation_table import evaluation_lines
from xray_lightning.report.terminal import truth_lines

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
    require_points(own["points"], own["subset"])
    prior = require_prior(read_value("prior", own["prior"]))
    config, run_dir = compose_settings(values, OWN)
    source: Source = make(config.data)
    split = split_source(source, make(config.split), source.records) if own["subset"] else None
    if own["truth"]:
        show_truths(table, source, split, own, run_dir, as_json)
        return
    if own["labels"]:
        theirs = find_scored_labels(table, source.labels)
        source = select_labels(source, choose_labels(own["labels"], source.labels, theirs))
    take = read_subsets(table, source, source.labels, split, own["allow_missing"])
    records, predictions, note = take(own["subset"])
    fit = take(own["points"])[1] if own["points"] else None
    how = {"subset": own["points"], **point_settings(config)}
    path = run_dir and prepare_folder(run_dir) / "score.json"
    train = take_records(source.records, split.subsets["train"]) if split else None
    evaluation = evaluate(
        predictions,
        records,
        origin_of(table, source, split, own["subset"]),
        operating_points=fit_operating_points(fit, **how) if fit else None,
        prior=prior,
        draws=own["draws"],
        seed=own["bootstrap_seed"],
        learned=None if train is None else target_matrix(train),
        subgroups=own["subgroups"],
    )
    place = "" if split is None else f", split {split.name} [{split.fingerprint}], {own['subset']}"
    present(
        evaluation.to_json(),
        as_json,
        *evaluation_lines(evaluation, f"{table} on {source.title}{place}"),
        f"{len(records):,} images of {patients_text(evaluation.patients)} "
        f"[{evaluation.fingerprint}]",
        *(f"note: {text}" for text in (*source.notes, note) if text),
        path=path,
    )


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
    take = read_subsets(table, source, labels, split, own["allow_missing"], others=True)
    _, predictions, note = take(own["subset"])
    truths = score_truths(predictions, source, draws=own["draws"], seed=own["bootstrap_seed"])
    path = run_dir and prepare_folder(run_dir) / "truths.json"
    notes = (f"note: {text}" for text in (*source.notes, note) if text)
    lines = truth_lines(truths, f"{table} on {source.name}")
    present(truths.to_json(), as_json, *lines, *notes, path=path)


def require_points(points: str, subset: str) -> None:
    """Operating points chosen on the images they are applied to would flatter."""
    if points and (not subset or points not in set(SUBSETS) - {subset}):
        raise ConfigError(
            f"points={points!r}: operating points are chosen on one of {', '.join(SUBSETS)}, and "
            "subset= names another one to apply them to"
        )


def read_subsets(
    table: Path,
    source: Source,
    labels: Sequence[str],
    split: Split | None,
    allow_missing: bool,
    *,
    others: bool = False,  # whether other images may have scores, and targets are not these
) -> Callable[[str], tuple[list[Record], Predictions, str]]:
    """Gives a subset's records, their scores, and a sentence about records without any."""
    records = source.records
    images = [record.image_id for record in records]
    scores = dict(zip(*read_scores(table, labels, images, others=others), strict=True))

    def take(subset: str) -> tuple[list[Record], Predictions, str]:
        rows = range(len(records)) if split is None else split.subsets[subset].tolist()
        scored = [records[row] for row in rows if images[row] in scores]
        missing = [images[row] for row in rows if images[row] not in scores]
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
        columns = np.stack([scores[record.image_id] for record in scored])
        truth = np.full_like(columns, np.nan) if others else None
        found = Predictions.of(scored, labels, columns, truth)
        return scored, found, "; ".join(notes if missing else notes[1:])

    return take


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
