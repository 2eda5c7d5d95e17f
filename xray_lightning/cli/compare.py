"""``xray compare``: is one model better than another on the same test images?"""

import json
from collections.abc import Sequence
from dataclasses import asdict
from glob import glob
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table

from xray_lightning.cli.folds import data_title, pooled_tables
from xray_lightning.cli.overrides import labels_asked
from xray_lightning.data.decoding import available_cores
from xray_lightning.data.splits import fingerprint
from xray_lightning.errors import DataNotFoundError, TableError
from xray_lightning.evaluation.predictions import Predictions, read_own
from xray_lightning.evaluation.sweep import read_runs
from xray_lightning.folders import prepare_folder
from xray_lightning.metrics.compare import Comparison, Difference, compare
from xray_lightning.records import patients_text
from xray_lightning.report.terminal import empty_table, number, show
from xray_lightning.writing import write_json

TABLE = "predictions_test.csv"


def compare_runs(
    first: str,
    second: str,
    labels: str = "",
    *,
    draws: int,
    seed: int,
    as_json: bool,
    out: Path | None,
) -> None:
    """Compare two models on the test images of their runs; ``labels`` may be a list or "shared".

    Raises:
        ConfigError: ``labels`` names one that a table lacks.
        DataNotFoundError: a pattern finds no run.
        TableError: the test images, their truth or the labels differ; see :func:`read_own`.
    """
    sides = tuple([(path, read_own(path)) for path in tables(side)] for side in (first, second))
    if labels:
        asked = labels_asked(labels, *(table.labels for side in sides for _, table in side))
        sides = tuple([(path, table.keep(asked)) for path, table in side] for side in sides)
    reference = sides[0][0][1]
    for path, predictions in (*sides[0], *sides[1]):
        require_same_images(sides[0][0][0], reference, path, predictions)
    if out is not None:
        prepare_folder(out)
    runs = [[table.scores[_order(table, reference)] for _, table in side] for side in sides]
    found = compare(
        reference.labels,
        reference.targets,
        reference.patient_ids,
        *runs,
        draws=draws,
        seed=seed,
        threads=available_cores(),
    )
    facts = comparison_facts(found, reference, [[str(path) for path, _ in side] for side in sides])
    facts["data"] = " / ".join(dict.fromkeys(data_title(side[0][0]) for side in sides))
    if out is not None:
        write_json(facts, out / "compare.json")
    if as_json:
        print(json.dumps(facts, indent=2))
        return
    seeds = "seeds: {} of A, {} of B; their means are compared, and draws resample seeds too"
    show(
        comparison_table(found, f"A: {first}    B: {second}    {facts['data']}".rstrip()),
        f"{facts['images']:,} test images of {patients_text(facts['patients'])} "
        f"[{facts['fingerprint']}]; Student's t, its deviation from {draws:,} paired draws of "
        f"{'patients' if facts['patients'] else 'images'}; "
        f"corrected for {tested(found)} labels (Holm)",
        *([seeds.format(*map(len, runs))] if max(map(len, runs)) > 1 else []),
        f"verdict: {facts['verdict']}",
    )


def tables(pattern: str) -> list[Path]:
    """The predictions that a run folder, a table or a pattern of these names, sorted.

    SWEEP/SETTINGS names the finished runs of one row of the sweep's ranking, all seeds; SWEEP, or
    that, the pooled folds of a cross-validation.

    Raises:
        DataNotFoundError: there are none.
    """
    found = []
    named = map(Path, sorted(glob(pattern)))  # noqa: PTH207 - Path.glob takes no absolute pattern
    exact = [Path(pattern)] if Path(pattern).exists() else []  # "fold[1]" is a name, too
    for path in exact or list(named) or group_of(Path(pattern)):
        table = path / TABLE if path.is_dir() else path
        found += [table] if table.is_file() else pooled_tables(path)
    if not found:
        raise DataNotFoundError(
            f"{pattern} names no run with {TABLE} and no table of predictions; several seeds of "
            'one model are named by a pattern in quotes, such as "outputs/*_xception_*", or by the '
            'row of a sweep\'s ranking, such as "outputs/sweep_x/loss=bce"'
        )
    return found


def group_of(path: Path) -> list[Path]:
    """The finished runs of a sweep whose settings are what follows the sweep's folder."""
    folder = next((parent for parent in path.parents if parent.is_dir()), path)
    runs = read_runs(folder) if folder != path else []
    wanted = str(path.relative_to(folder))
    same = [run for run in runs if run.state == "finished" and run.settings == wanted]
    if any(run.fold is not None for run in same):
        return pooled_tables(folder, wanted)
    return [folder / run.folder for run in same]


def require_same_images(
    place: Path, reference: Predictions, other_place: Path, other: Predictions
) -> None:
    """Refuse to compare scores of different images.

    Raises:
        TableError: the images, their patients, their truth or the labels differ.
    """
    prints = [fingerprint({"test": each.image_ids}) for each in (reference, other)]
    if prints[0] != prints[1]:
        raise TableError(
            f"{place} [{prints[0]}] and {other_place} [{prints[1]}] score different test images: a "
            "difference would say nothing about the models. Evaluate both on one split"
        )
    if other.labels != reference.labels:
        raise TableError(f"{place} and {other_place} have different labels: --labels shared")
    order = _order(other, reference)
    patients = tuple(other.patient_ids[row] for row in order)
    same = np.array_equal(other.targets[order], reference.targets, equal_nan=True)
    if not same or patients != reference.patient_ids:
        raise TableError(
            f"{place} and {other_place} name the same images but other patients or targets: they "
            "were made from different label tables"
        )


def _order(predictions: Predictions, reference: Predictions) -> list[int]:
    place = {image: row for row, image in enumerate(predictions.image_ids)}
    return [place[image] for image in reference.image_ids]


def comparison_facts(
    found: Comparison, reference: Predictions, files: Sequence[Sequence[str]]
) -> dict[str, Any]:
    """Plain values: None where undefined."""
    return {
        "labels": {label: _facts(each) for label, each in found.labels.items()},
        "mean": _facts(found.mean),
        "verdict": verdict(found),
        "identical": found.identical,
        "first": list(files[0]),
        "second": list(files[1]),
        "fingerprint": fingerprint({"test": reference.image_ids}),
        "images": len(reference.image_ids),
        "patients": reference.patients,
    }


def _facts(difference: Difference) -> dict[str, Any]:
    values = {
        name: _plain(value) for name, value in asdict(difference).items() if name != "interval"
    }
    ends = [_plain(value) for value in difference.interval]
    return {**values, "interval": None if None in ends else ends}


def _plain(value: float) -> float | None:
    return None if np.isnan(value) else float(value)


def verdict(found: Comparison) -> str:
    """One sentence about the mean, one about the labels."""
    mean = found.mean
    if np.isnan(mean.difference):
        return "undefined: no label has both a positive and a negative test image"
    if found.identical:
        return "identical: A and B give every image the same scores; nothing is compared"
    shown = f"mean AUROC {mean.first:.4f} against {mean.second:.4f}, difference "
    shown += f"{mean.difference:+.4f}"
    if np.isnan(mean.interval).any():
        text = f"untested ({shown}): no two draws differ, or too few patients have a positive image"
    else:
        shown += f", 95 % {mean.interval[0]:+.4f} to {mean.interval[1]:+.4f}"
        text = (
            f"indistinguishable ({shown}); this test set would show a true difference of "
            f"{mean.detectable:.4f} or more in 80 % of cases"
        )
        if mean.distinguishable:
            better = "A is better than B" if mean.difference > 0 else "B is better than A"
            text = f"{better} ({shown})"
    clear = [label for label, each in found.labels.items() if each.corrected < 0.05]
    untested = [label for label, each in found.labels.items() if np.isnan(each.p_value)]
    none = "none" if tested(found) else "no label could be tested"
    text += f". Labels that differ after correction: {', '.join(clear) or none}"
    return text + (f" (untested: {', '.join(untested)})" if untested and tested(found) else "")


def tested(found: Comparison) -> int:
    """How many labels have a p value, which is what is corrected for."""
    return sum(not np.isnan(each.p_value) for each in found.labels.values())


def comparison_table(found: Comparison, title: str) -> Table:
    """A row a label, the mean in the last."""
    names = ("A", "B", "A - B", "95 % (patients)", "p", "p corrected", "p DeLong", "detectable")
    table = empty_table(title, "label", *names)
    for label, each in found.labels.items():
        table.add_row(label, *_cells(each))
    table.add_section()
    table.add_row("mean", *_cells(found.mean), style="bold")
    return table


def _cells(each: Difference) -> list[str]:
    signed = "-" if np.isnan(each.difference) else f"{each.difference:+.4f}"
    ends = "-" if np.isnan(each.interval).any() else "{:+.4f} to {:+.4f}".format(*each.interval)
    figures = (each.first, each.second)
    rest = (each.p_value, each.corrected, each.delong, each.detectable)
    return [
        *(number(_plain(value), 4) for value in figures),
        signed,
        ends,
        *(number(_plain(value), 4) for value in rest),
    ]
