"""Is a model as good for some patients as for the others?

Every patient is left out once (the jackknife: Efron and Stein 1981; for AUROC an exact form of the
clustered variance of Obuchowski 1997), so that no p value hangs on a number of draws.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from xray_lightning.metrics.bootstrap import PatientBootstrap, number_patients
from xray_lightning.metrics.compare import benjamini_hochberg
from xray_lightning.metrics.intervals import (
    NAN,
    Array,
    Estimate,
    Floats,
    Interval,
    Mask,
    Spread,
    drop_undefined,
    effective_patients,
    share_interval,
)
from xray_lightning.metrics.ranks import Codes, Ranking, auroc_left_out, sum_patients
from xray_lightning.records import Record, patient_ids, patients_known
from xray_lightning.results import Result

MINIMUM = 10  # positives and negatives of a group, below which there is a word and no number
UNKNOWN = "unknown"
MEAN = "mean"

_AGES = (("0-17", 18), ("18-39", 40), ("40-59", 60), ("60-79", 80), ("80+", np.inf))
_FOLLOW_UPS = (("first", 1), ("1-4", 5), ("5-19", 20), ("20+", np.inf))
_COUNTS = (("1", 2), ("2-4", 5), ("5-9", 10), ("10+", np.inf))

Groups = npt.NDArray[np.str_]  # (N,)
Side = tuple[Floats, Floats]  # AUROC, then with each patient left out, (L, 1 + P); images, (L, P)


@dataclass(frozen=True)
class Subgroup(Result):
    """AUROC of one label (or the mean) in one group of images; NaN, None where undefined."""

    dimension: str  # "sex", "age", ..
    group: str  # "F", "60-79", ..
    label: str  # a label, or "mean"
    images: int  # of the group
    patients: int | None  # of the group; None where they are not known
    positives: int  # of the label in the group; of the mean, images with any finding
    auroc: float  # in the group
    interval: Interval | None  # 95 %, see ``share_interval``
    difference: float  # AUROC of the group less that of all other images of known group
    difference_interval: Interval | None  # 95 %, Student's t
    p_value: float  # two-sided, of the difference; NaN where all positives are one patient's
    # for the rate of false discoveries; the rows of the mean are one family, those of single labels
    # another
    corrected: float
    note: str  # why there is no number; "" if there is one


def group_records(records: Sequence[Record]) -> dict[str, Groups]:
    """The group of each image in each dimension, (N,); "unknown" where the record does not say."""
    codes = number_patients(patient_ids(records))
    per_patient = np.bincount(codes)[codes].astype(np.float64)
    sex = np.array([record.sex or UNKNOWN for record in records])
    view = np.array([record.view or UNKNOWN for record in records])
    age = _band([record.age for record in records], _AGES)
    return {
        "sex": sex,
        "age": age,
        "view": view,
        "follow-up": _band([record.follow_up for record in records], _FOLLOW_UPS),
        "images of the patient": _band(per_patient, _COUNTS),
        "sex and age": _cross(sex, age),
        "sex and view": _cross(sex, view),
        "hospital": np.array([record.hospital or UNKNOWN for record in records]),
    }


def _iterate_groups(records: Sequence[Record]) -> Iterator[tuple[str, str, Groups]]:
    """Every dimension and known group with the groups of the images."""
    for dimension, groups in group_records(records).items():
        for group in np.unique(groups[groups != UNKNOWN]).tolist():
            yield dimension, group, groups


def _band(values: npt.ArrayLike, bands: Sequence[tuple[str, float]]) -> Groups:
    """The first band whose end lies above the value."""
    numbers = np.asarray(values, dtype=np.float64)
    place = np.searchsorted([end for _, end in bands[:-1]], numbers, side="right")
    names = np.array([name for name, _ in bands])[place]
    return np.where(np.isnan(numbers), UNKNOWN, names)


def _cross(first: Groups, second: Groups) -> Groups:
    both = np.char.add(np.char.add(first, " "), second)
    return np.where((first != UNKNOWN) & (second != UNKNOWN), both, UNKNOWN)


def measure_subgroups(
    labels: Sequence[str], scores: Array, targets: Array, records: Sequence[Record]
) -> list[Subgroup]:
    """A row for each label and the mean in each group; scores and targets (N, L), NaN unknown."""
    codes = number_patients(patient_ids(records))
    rows = []
    for dimension, group, groups in _iterate_groups(records):
        inside, outside = groups == group, (groups != group) & (groups != UNKNOWN)
        sides = [_aurocs(scores, targets, codes, side) for side in (inside, outside)]
        patients = len(np.unique(codes[inside])) if patients_known(records) else None
        rows += _rows((dimension, group), labels, targets[inside], patients, sides)
    for of_mean in (True, False):
        family = [k for k, row in enumerate(rows) if (row.label == MEAN) == of_mean]
        corrected = benjamini_hochberg([rows[k].p_value for k in family])
        for k, p_value in zip(family, corrected, strict=True):
            rows[k] = replace(rows[k], corrected=float(p_value))
    return rows


def _aurocs(scores: Array, targets: Array, codes: Codes, side: Mask) -> Side:
    """AUROC among some images, each patient left out; images of the rarer class."""
    labels, patients = targets.shape[1], int(codes.max(initial=-1)) + 1
    aurocs, rarer = np.full((labels, 1 + patients), np.nan), np.zeros((labels, patients))
    for label in range(labels):
        ranking = Ranking.of(scores[side, label], targets[side, label], codes[side])
        if min(ranking.positive.sum(), (~ranking.positive).sum()) >= MINIMUM:
            aurocs[label] = auroc_left_out(ranking, patients)
            rarer[label] = sum_patients(ranking.codes, ranking.rarer, patients)
    return aurocs, rarer


def _rows(
    place: tuple[str, str],
    labels: Sequence[str],
    targets: Array,
    patients: int | None,
    sides: Sequence[Side],
) -> list[Subgroup]:
    both = ~np.isnan([aurocs[:, 0] for aurocs, _ in sides]).any(axis=0)  # the mean: of the same
    positive = targets == 1
    counts = [*positive.sum(axis=0).tolist(), int(positive.any(axis=1).sum())]
    chosen, rows = [*np.eye(len(labels), dtype=np.bool_), both], []
    for label, count, mask in zip((*labels, MEAN), counts, chosen, strict=True):
        (inside, here), (outside, there) = (_over(side, mask) for side in sides)
        value, difference = float(inside[0]), float(inside[0] - outside[0])
        spread = Spread.left_out(inside[1:], here)
        apart = Spread.left_out(inside[1:] - outside[1:], min(here, there))
        rows.append(
            Subgroup(
                *(*place, label, len(targets), patients, count),
                auroc=value,
                interval=drop_undefined(share_interval(value, spread)),
                difference=difference,
                difference_interval=drop_undefined(apart.around(difference)),
                p_value=apart.p_value(difference),
                corrected=NAN,
                note="" if not np.isnan(value) else f"fewer than {MINIMUM} positives or negatives",
            )
        )
    return rows


def _over(side: Side, chosen: Mask) -> tuple[Floats, float]:
    """Mean over some labels, (1 + P,), and the effective number of patients behind it."""
    aurocs, rarer = (part[chosen] for part in side)
    mean = aurocs.sum(axis=0) / len(aurocs) if len(aurocs) else np.full(aurocs.shape[1], np.nan)
    return mean, effective_patients(rarer.sum(axis=0))


@dataclass(frozen=True)
class WrongShare(Result):
    """Share of some images that is called wrongly: its rate, 95 % interval and those images."""

    rate: float
    interval: Interval | None
    images: int


@dataclass(frozen=True)
class Underdiagnosis(WrongShare):
    """Abnormal images that one group's operating points call free, and false alarms there."""

    # Of images where every label is known to be absent, those called abnormal are false alarms.

    dimension: str
    group: str
    false_alarms: WrongShare


def measure_underdiagnosis(
    labels: Sequence[str],
    scores: Array,
    targets: Array,
    records: Sequence[Record],
    thresholds: Mapping[str, float],
    *,
    draws: int = 500,
    seed: int = 0,
) -> list[Underdiagnosis]:
    """Findings missed and false alarms of the same operating points in each group."""
    # Seyyed-Kalantari 2021 takes the false positive rate of a "No Finding" output; without one an
    # image is called free when every score lies below its operating point. Below 10 images: NaN.
    least = np.array([thresholds.get(label, np.inf) for label in labels])
    called = np.asarray((scores >= least).any(axis=1))
    present, absent = np.any(targets == 1, axis=1), np.all(targets == 0, axis=1)
    sides = (present, ~called), (absent, called)
    bootstrap = PatientBootstrap(patient_ids(records), draws, seed)
    rows = []
    for dimension, group, groups in _iterate_groups(records):
        shares = [_share(bootstrap, of & (groups == group), wrong) for of, wrong in sides]
        rows.append(Underdiagnosis(*shares[0], dimension, group, WrongShare(*shares[1])))
    return rows


def _share(
    bootstrap: PatientBootstrap, inside: Mask, wrong: Mask
) -> tuple[float, Interval | None, int]:
    """Rate, interval and images of a :class:`WrongShare`."""
    count = int(inside.sum())
    if count < MINIMUM:
        return NAN, None, count
    rate = Estimate.of_draws(bootstrap.ratio(inside & wrong, inside))
    return rate.value, drop_undefined(rate.interval), count
