"""From predictions to evaluation.json and to what the terminal shows of it; without torch."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from omegaconf import DictConfig
from rich.table import Table

from xray_lightning.cli.judgement import (
    calls_line,
    fit_notes,
    interval,
    point_table,
    undefined_notes,
    verdict_facts,
    verdict_table,
)
from xray_lightning.cli.priors import VALIDATION, Prior, corrections, prior_warnings, priors_line
from xray_lightning.data.decoding import available_cores
from xray_lightning.errors import CheckpointError
from xray_lightning.evaluation.predictions import Predictions
from xray_lightning.evaluation.published import Published, comparable, place_among
from xray_lightning.metrics.bootstrap import Interval
from xray_lightning.metrics.estimates import Verdict, judge
from xray_lightning.metrics.operating_points import Fitted, fit_on_validation, wrong_calls
from xray_lightning.metrics.subgroups import MEAN, subgroups, underdiagnosis
from xray_lightning.records import Record, patients_known
from xray_lightning.report.terminal import empty_table, number

Columns = tuple[tuple[str, ...], npt.NDArray[np.float32], npt.NDArray[np.float32]]
NO_GROUPS: dict[str, Any] = {"subgroups": [], "underdiagnosis": []}
UNKNOWN_PATIENTS = (
    "note: patients are not known: every image counts as its own, and the intervals are too narrow "
    "where a patient has several"
)
MISSED_DRAWS = 500  # of missed disease, in each of 31 groups


@dataclass(frozen=True)
class Judged:
    """A set of predictions judged: for Python, for JSON and for the terminal.

    Attributes:
        verdict: every figure.
        thresholds: operating point of each label that has one.
        published: results that these may stand beside.
        facts: plain values of evaluation.json.
    """

    verdict: Verdict
    thresholds: dict[str, float]
    published: list[Published]
    facts: dict[str, Any]

    def shown(self, title: str, *, groups: bool = True) -> list[Table | str]:
        """Tables and lines for the terminal; without ``groups`` only those that differ."""
        lines: list[Table | str] = [verdict_table(self.verdict, title)]
        if self.thresholds:
            validation = self.facts["validation"]
            rule, subset = validation["rule"], validation.get("part", "val")
            subset = "validation" if subset == "val" else subset
            if rule in ("sensitivity", "specificity"):
                rule += f" of at least {validation['value']}"
            title, calls = f"operating points: {rule} on {subset}", self.facts["calls"]
            table = point_table(self.verdict, self.thresholds, calls["labels"], title)
            lines += [table, calls_line(calls)]
        if rows := [row for row in self.facts["subgroups"] if row["label"] == MEAN]:
            lines.append(subgroup_table(rows) if groups else subgroup_line(rows))
        lines.append(
            f"intervals: {self.facts['draws']:,} bootstrap draws of patients, Student's t of the "
            "logit; ratio: their width over that of intervals that take images for independent"
        )
        if priors := self.facts["priors"]:
            lines.append(priors_line(priors))
        lines += prior_warnings(self.facts["prior_tests"])
        if not self.facts["patients_known"]:
            lines.append(UNKNOWN_PATIENTS)
        lines += published_lines(self.published, self.verdict.mean["auroc"].value)
        notes = undefined_notes(self.verdict, points=bool(self.thresholds))
        notes += fit_notes(self.facts["validation"].get("labels", {}))
        return [*lines, *(f"note: {text}" for text in notes)]


def fitted(
    predictions: Predictions, fingerprint: str, config: DictConfig, subset: str = "val"
) -> dict[str, Any]:
    """Operating points and calibrations of the validation set, plain values for the checkpoint.

    Args:
        predictions: of the validation set.
        fingerprint: of that part.
        config: all settings; used are its ``operating_point``, ``calibration`` and ``draws``.
        subset: its name, where it is not validation.
    """
    point = config.operating_point
    found = fit_on_validation(
        predictions.labels,
        predictions.scores,
        predictions.targets,
        predictions.patient_ids,
        rule=point.rule,
        value=point.value,
        calibration=config.calibration,
        draws=config.draws,
    )
    return {
        "rule": point.rule,
        "value": point.value,
        "part": subset,
        "fingerprint": fingerprint,
        "labels": {label: each.to_plain() for label, each in found.items()},
    }


def fitted_labels(validation: Mapping[str, Any]) -> dict[str, Fitted]:
    """What :func:`fitted` found for each label; none of an empty mapping.

    Raises:
        CheckpointError: a point is none of this version.
    """
    try:
        return {
            name: Fitted.from_plain(each) for name, each in validation.get("labels", {}).items()
        }
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"validation.labels has no operating points: {error!r}") from error


def verdict_of(
    predictions: Predictions,
    records: Sequence[Record],
    facts: Mapping[str, Any],
    *,
    validation: Mapping[str, Any] | None = None,
    draws: int = 2000,
    seed: int = 0,
    groups: bool = True,
    prior: Prior = VALIDATION,
) -> Judged:
    """Every figure of some predictions, points and calibrations of validation applied.

    Args:
        predictions: of N images.
        records: the N images.
        facts: what else is to stand in evaluation.json: "fingerprint", "data", "subset", "split"
            (with its "name"), "data_images".
        validation: see :func:`fitted`; empty or None: no operating points, no calibration.
        draws: of the bootstrap; subgroups need none, missed disease gets at most 500.
        seed: of the bootstrap.
        groups: whether subgroups are judged.
        prior: the prevalence that calibrated scores hold for, see ``priors.corrections``.
    """
    labels = fitted_labels(validation or {})
    calibrations = {label: each.calibration for label, each in labels.items()}
    priors, prior_tests = corrections(prior, predictions, labels)
    for label, (before, now) in priors.items():
        if (map_of_label := calibrations[label]) is not None:
            calibrations[label] = map_of_label.at_prior(before, now)
    thresholds = {k: each.threshold for k, each in labels.items() if not np.isnan(each.threshold)}
    columns = predictions.labels, predictions.scores, predictions.targets
    verdict = judge(
        *columns,
        predictions.patient_ids,
        thresholds=thresholds,
        calibrations=calibrations or None,
        draws=draws,
        seed=seed,
        threads=available_cores(),
    )
    published = comparable(
        facts["data"],
        predictions.labels,
        (facts["split"] or {}).get("name", ""),
        facts["subset"] or "",
        known=facts["data_images"],
        scored=len(records),
    )
    known = {
        **facts,
        "images": len(records),
        "patients": predictions.patients,
        "patients_known": patients_known(records),
        "draws": draws,
        "seed": seed,
        "validation": dict(validation or {}),
        "priors": {label: list(pair) for label, pair in priors.items()},
        "prior_tests": prior_tests,
        "calls": wrong_calls(*columns, thresholds) if thresholds else None,
        **(group_facts(columns, records, thresholds, draws, seed) if groups else NO_GROUPS),
        "published": [asdict(row) for row in published],
    }
    return Judged(verdict, thresholds, published, verdict_facts(verdict, known))


def group_facts(
    columns: Columns,
    records: Sequence[Record],
    thresholds: Mapping[str, float],
    draws: int,
    seed: int,
) -> dict[str, Any]:
    """Subgroups and, where there are operating points, underdiagnosis, as plain values."""
    few = min(draws, MISSED_DRAWS)
    rows = subgroups(*columns, records)
    unknown = {} if patients_known(records) else {"patients": None}
    missed, alarms = (
        underdiagnosis(*columns, records, thresholds, false_alarms=side, draws=few, seed=seed)
        if thresholds
        else {}
        for side in (False, True)
    )
    return {
        "subgroups": [_plain(asdict(row)) | unknown for row in rows],
        "underdiagnosis": [
            {"dimension": place[0], "group": place[1], **_share(found)}
            | {"false_alarms": _share(alarms[place])}
            for place, found in missed.items()
        ],
    }


def _share(found: tuple[float, Interval, int]) -> dict[str, Any]:
    return _plain(dict(zip(("rate", "interval", "images"), found, strict=True)))


def published_lines(rows: Sequence[Published], mean: float) -> list[Table | str]:
    """The published means, ours among those of its own images only."""
    if not rows:
        return []
    table = empty_table(f"published, {rows[0].split} split", "work", "year", "mean AUROC")
    for row in rows:
        table.add_row(row.work + " *" * (not row.primary), str(row.year), number(row.mean))
    return [table, place_among(mean, rows)]


def subgroup_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """The mean AUROC in each group, and what sets it apart from all other images.

    "too few": fewer than ten positives or negatives of every label.
    """
    columns = ("images", "patients", "AUROC", "95 % (patients)", "difference", "p corrected")
    table = empty_table("subgroups, mean AUROC", "group", *columns)
    for row in rows:
        name = f"{row['dimension']}: {row['group']}"
        sizes = [number(row[name], 0) for name in ("images", "patients")]
        if row["note"]:
            table.add_row(name, *sizes, "too few")
            continue
        signed = "-" if row["difference"] is None else f"{row['difference']:+.3f}"
        ends = interval(tuple(row["interval"] or (np.nan, np.nan)))
        p_value = number(row["corrected"])
        p_value = "< 0.001" if p_value == "0.000" else p_value
        table.add_row(name, *sizes, number(row["auroc"]), ends, signed, p_value)
    return table


def subgroup_line(rows: Sequence[Mapping[str, Any]]) -> str:
    """The groups that differ from all other images, and how many could be judged."""
    sure = [row for row in rows if row["corrected"] is not None and row["corrected"] < 0.05]
    named = [f"{row['dimension']}: {row['group']} {row['difference']:+.3f}" for row in sure]
    able = sum(row["corrected"] is not None for row in rows)
    if not able:
        return f"subgroups: none of {len(rows)} has enough positives to be tested"
    return (
        f"subgroups: {able} of {len(rows)} have enough positives; mean AUROC differs from that of "
        f"all other images in: {', '.join(named) or 'none'} (all: evaluation.json)"
    )


def _plain(values: Mapping[str, Any]) -> dict[str, Any]:
    """None for NaN, lists for intervals."""
    plain: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, tuple):
            plain[name] = None if np.isnan(value).any() else [float(end) for end in value]
        else:
            plain[name] = None if isinstance(value, float) and np.isnan(value) else value
    return plain
