"""Cross-validation: the folds of a sweep pooled, each image scored by a run that never saw it."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table

from xray_lightning.data.decoding import available_cores
from xray_lightning.evaluation.folds import (
    POOLED,
    CrossValidation,
    find_cross_validations,
    join_folds,
)
from xray_lightning.evaluation.predictions import write_predictions
from xray_lightning.evaluation.sweep import SweepRun, average_seeds
from xray_lightning.metrics.estimates import estimate_metrics
from xray_lightning.records import patients_text
from xray_lightning.report.evaluation_table import interval_text
from xray_lightning.report.terminal import empty_table, number
from xray_lightning.writing import read_json, write_json

Facts = dict[str, Any]
LEGEND = (
    "pooled: all images ranked at once, though several networks scored them, each patients it had "
    "not seen; mean and sd: of the folds' own AUROCs, whose training images overlap"
)


def pool(runs: Sequence[SweepRun], folder: Path) -> list[Facts]:
    """Pool the complete cross-validations of a sweep: predictions.csv, pooled.json and pooled.png.

    The names of the tables and figures get a number where there are several.

    Raises:
        DataNotFoundError, TableError: a run's predictions are not there, or do not fit together.
    """
    every = find_cross_validations(runs)
    found = []
    for stale in (*folder.glob("predictions*.csv"), *folder.glob("pooled*.*")) if every else ():
        stale.unlink()
    for place, each in enumerate(every):
        ending = f"_{place}" if every[1:] else ""
        facts: Facts = {
            "settings": each.settings,
            "seed": each.seed,
            "title": each.title,
            "folds": each.folds,
            "fingerprint": each.fingerprint,  # of how the patients were dealt
            "missing": each.missing,
            "predictions": None if each.missing else f"predictions{ending}.csv",
        }
        found.append(facts if each.missing else facts | pooled(each, folder, ending))
    if found:
        write_json({"cross_validations": found}, folder / POOLED)
    return found


def pooled(each: CrossValidation, folder: Path, ending: str) -> Facts:
    """Figures of all images with intervals, and of each fold; written are table and figure."""
    from xray_lightning.report.figures import folds_figure

    runs = [each.runs[fold] for fold in range(each.folds)]
    predictions = join_folds([folder / run.folder / "predictions_test.csv" for run in runs])
    columns = predictions.labels, predictions.scores, predictions.targets
    metrics = estimate_metrics(*columns, predictions.patient_ids, threads=available_cores())
    known = {"images": len(predictions.image_ids), "patients": predictions.patients}
    facts = {**metrics.to_json(), **known, "data": runs[0].data}
    places = [folder / run.folder / "metrics.json" for run in runs]
    folds = [read_json(place)["test"]["auroc"] for place in places]
    of_folds = {label: [fold["labels"][label] for fold in folds] for label in predictions.labels}
    facts |= {"fold_auroc": of_folds, "fold_mean": [fold["mean"] for fold in folds]}
    write_predictions(predictions, folder / f"predictions{ending}.csv")
    rows = [*facts["labels"].items(), ("mean", facts["mean"])]
    folds = [*of_folds.values(), facts["fold_mean"]]
    dots = [
        (label, row["auroc"]["value"], row["auroc"]["patient_interval"], single)
        for (label, row), single in zip(rows, folds, strict=True)
    ]
    folds_figure(dots, each.title, folder / f"pooled{ending}.png")
    return facts


def fold_lines(found: Sequence[Facts]) -> list[Table | str]:
    """A table for each complete cross-validation, and a word on the others."""
    lines: list[Table | str] = []
    for facts in found:
        if missing := facts["missing"]:
            lines.append(
                f"{facts['title']}: not finished of its {facts['folds']} folds: "
                f"{', '.join(map(str, missing))}; nothing is pooled before they are"
            )
        else:
            lines.append(fold_table(facts))
    return [*lines, LEGEND] if any(not facts["missing"] for facts in found) else lines


def fold_table(facts: Mapping[str, Any]) -> Table:
    """A row a label: pooled AUROC with its interval, mean and deviation of the folds."""
    title = f"{facts['title']}: {facts['images']:,} images of {patients_text(facts['patients'])}"
    title += f", each in the test set of one of {facts['folds']} folds"
    columns = ("positive", "pooled AUROC", "95 % (patients)", "mean of folds", "sd", "folds")
    table = empty_table(title, "label", *columns)
    rows = [(*row, facts["fold_auroc"][row[0]]) for row in facts["labels"].items()]
    for label, each, aurocs in (*rows, ("mean", facts["mean"], facts["fold_mean"])):
        folds = average_seeds(aurocs)
        ends = each["auroc"]["patient_interval"] or (np.nan, np.nan)
        table.add_row(
            label,
            f"{each['positives']:,}" if "positives" in each else "",
            number(each["auroc"]["value"]),
            interval_text(tuple(ends)),
            number(folds.mean),
            number(folds.deviation),
            str(folds.count),
            style=None if "positives" in each else "bold",
            end_section="positives" in each and label == rows[-1][0],
        )
    return table
