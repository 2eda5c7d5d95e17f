"""Is a model as good for some patients as for the others?"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from xray_lightning.metrics.clusters import (
    Codes,
    Counts,
    Floats,
    Interval,
    bootstrap_counts,
    mean_of_defined,
    patient_codes,
    percentile_interval,
    ratio_over,
    two_sided,
)
from xray_lightning.metrics.delong import benjamini_hochberg
from xray_lightning.metrics.ranks import Ranking, curves_over
from xray_lightning.records import Record

MINIMUM = 10  # positives and negatives of a group, below which there is a word and no number
UNKNOWN = "unknown"
MEAN = "mean"

_AGES = (("0-17", 18), ("18-39", 40), ("40-59", 60), ("60-79", 80), ("80+", np.inf))
_FOLLOW_UPS = (("first", 1), ("1-4", 5), ("5-19", 20), ("20+", np.inf))
_COUNTS = (("1", 2), ("2-4", 5), ("5-9", 10), ("10+", np.inf))

Groups = npt.NDArray[np.str_]  # (N,)


@dataclass(frozen=True)
class Subgroup:
    """AUROC of one label (or the mean) in one group of images; NaN where undefined.

    Attributes:
        dimension: "sex", "age", ...
        group: "F", "60-79", ...
        label: a label, or "mean".
        images: of the group.
        patients: of the group.
        positives: of the label in the group; of the mean, images with any finding.
        auroc: in the group.
        interval: 95 % percentile interval, patients resampled.
        difference: AUROC of the group less that of all other images of known group.
        difference_interval: likewise.
        p_value: two-sided, of the difference.
        corrected: for the rate of false discoveries over all rows of the table.
        note: why there is no number; "" if there is one.
    """

    dimension: str
    group: str
    label: str
    images: int
    patients: int
    positives: int
    auroc: float
    interval: Interval
    difference: float
    difference_interval: Interval
    p_value: float
    corrected: float
    note: str


def groupings(records: Sequence[Record]) -> dict[str, Groups]:
    """The group of each image in each dimension, (N,); "unknown" where the record does not say.

    Images per patient are counted among these records.
    """
    codes = patient_codes([record.patient_id for record in records])
    per_patient = np.bincount(codes)[codes].astype(np.float64)
    sex = np.array([record.sex or UNKNOWN for record in records])
    view = np.array([record.view or UNKNOWN for record in records])
    age = _banded([record.age for record in records], _AGES)
    found = {
        "sex": sex,
        "age": age,
        "view": view,
        "follow-up": _banded([record.follow_up for record in records], _FOLLOW_UPS),
        "images of the patient": _banded(per_patient, _COUNTS),
    }
    found["sex and age"] = _crossed(sex, age)
    found["sex and view"] = _crossed(sex, view)
    return found


def _banded(values: npt.ArrayLike, bands: Sequence[tuple[str, float]]) -> Groups:
    """The first band whose end lies above the value."""
    numbers = np.asarray(values, dtype=np.float64)
    place = np.searchsorted([end for _, end in bands[:-1]], numbers, side="right")
    names = np.array([name for name, _ in bands])[place]
    return np.where(np.isnan(numbers), UNKNOWN, names)


def _crossed(first: Groups, second: Groups) -> Groups:
    known = (first != UNKNOWN) & (second != UNKNOWN)
    both = np.char.add(np.char.add(first, " "), second)
    return np.where(known, both, UNKNOWN)


def subgroups(
    labels: Sequence[str],
    scores: npt.NDArray[np.floating],
    targets: npt.NDArray[np.floating],
    records: Sequence[Record],
    *,
    draws: int = 500,
    seed: int = 0,
) -> list[Subgroup]:
    """A row for each label and the mean in each group.

    Args:
        labels: the L labels.
        scores: (N, L).
        targets: (N, L), NaN where unknown.
        records: the N images.
        draws: of the bootstrap.
        seed: of the bootstrap.
    """
    codes = patient_codes([record.patient_id for record in records])
    clusters = int(codes.max(initial=-1)) + 1
    counts = np.concatenate(
        [np.ones((1, clusters), dtype=np.float32), bootstrap_counts(clusters, draws, seed)]
    )
    rows = []
    for dimension, groups in groupings(records).items():
        for group in [str(name) for name in np.unique(groups) if name != UNKNOWN]:
            inside, outside = groups == group, (groups != group) & (groups != UNKNOWN)
            sides = [_aurocs(scores, targets, codes, counts, side) for side in (inside, outside)]
            place = (dimension, group)
            rows += _rows(place, labels, targets[inside], len(np.unique(codes[inside])), sides)
    corrected = benjamini_hochberg([row.p_value for row in rows])
    return [replace(row, corrected=float(p)) for row, p in zip(rows, corrected, strict=True)]


def _aurocs(
    scores: npt.NDArray[np.floating],
    targets: npt.NDArray[np.floating],
    codes: Codes,
    counts: Counts,
    side: npt.NDArray[np.bool_],
) -> Floats:
    """AUROC of each label among some images, (L, 1 + D); NaN with too few of a class."""
    found = np.full((targets.shape[1], len(counts)), np.nan)
    for label in range(targets.shape[1]):
        ranking = Ranking.of(scores[side, label], targets[side, label], codes[side])
        if min(ranking.positive.sum(), (~ranking.positive).sum()) >= MINIMUM:
            found[label] = curves_over(ranking, counts)[0]
    return found


def _rows(
    place: tuple[str, str],
    labels: Sequence[str],
    targets: npt.NDArray[np.floating],
    patients: int,
    sides: Sequence[Floats],
) -> list[Subgroup]:
    both = ~np.isnan(sides[0][:, :1]) & ~np.isnan(sides[1][:, :1])  # the mean: over the same labels
    means = [mean_of_defined(np.where(both, side, np.nan)) for side in sides]
    positive = targets == 1
    counted = [*positive.sum(axis=0).tolist(), int(positive.any(axis=1).sum())]
    inside, outside = (np.vstack([side, mean]) for side, mean in zip(sides, means, strict=True))
    return [
        _row(place, name, (len(targets), patients, count), inside[index], outside[index])
        for index, (name, count) in enumerate(zip((*labels, MEAN), counted, strict=True))
    ]


def _row(
    place: tuple[str, str], label: str, sizes: tuple[int, int, int], inside: Floats, outside: Floats
) -> Subgroup:
    differences = inside - outside
    p_value = float("nan") if np.isnan(differences[0]) else two_sided(differences[1:])
    return Subgroup(
        *place,
        label,
        *sizes,
        auroc=float(inside[0]),
        interval=percentile_interval(inside[1:]),
        difference=float(differences[0]),
        difference_interval=percentile_interval(differences[1:]),
        p_value=p_value,
        corrected=float("nan"),
        note="" if not np.isnan(inside[0]) else f"fewer than {MINIMUM} positives or negatives",
    )


def underdiagnosis(
    labels: Sequence[str],
    scores: npt.NDArray[np.floating],
    targets: npt.NDArray[np.floating],
    records: Sequence[Record],
    thresholds: Mapping[str, float],
    *,
    draws: int = 500,
    seed: int = 0,
) -> dict[tuple[str, str], tuple[float, Interval, int]]:
    """Share of the images with a finding that the model calls free of findings, in each group.

    Seyyed-Kalantari 2021 takes the false positive rate of a "No Finding" output; a model without
    one calls an image free of findings when every score lies below its operating point. Labels
    without an operating point call nothing.

    Returns:
        (dimension, group) -> rate, its patient interval, images with a finding; NaN below 10.
    """
    points = np.array([thresholds.get(label, np.nan) for label in labels])
    called = (scores >= np.where(np.isnan(points), np.inf, points)).any(axis=1)
    sick = (targets == 1).any(axis=1)
    codes = patient_codes([record.patient_id for record in records])
    counts = bootstrap_counts(int(codes.max(initial=-1)) + 1, draws, seed)
    found = {}
    for dimension, groups in groupings(records).items():
        for group in [str(name) for name in np.unique(groups) if name != UNKNOWN]:
            chosen = sick & (groups == group)
            if chosen.sum() < MINIMUM:
                found[dimension, group] = (np.nan, (np.nan, np.nan), int(chosen.sum()))
                continue
            values = ratio_over(counts, codes, chosen & ~called, chosen)
            rate = float((chosen & ~called).sum() / chosen.sum())
            found[dimension, group] = (rate, percentile_interval(values), int(chosen.sum()))
    return found
