"""The label table as columns, and scores without an image judged like a model's."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, is_dataclass
from dataclasses import fields as fields_of
from typing import Any

import numpy as np
import numpy.typing as npt

from xray_lightning.metrics.bootstrap import (
    Codes,
    Counts,
    Floats,
    Interval,
    mean_of_defined,
    patient_codes,
    percentile_interval,
)
from xray_lightning.metrics.ranks import Ranking, curves_over
from xray_lightning.records import Record, patient_ids, patients_known, target_matrix

Rows = npt.NDArray[np.int64]  # ascending positions in the label table
Words = npt.NDArray[np.str_]


@dataclass(frozen=True, eq=False)
class Columns:
    """A label table of N images of P patients.

    Attributes:
        labels: the L labels.
        targets: 1 present, 0 absent, NaN unknown, (N, L).
        patients: number of each image's patient, 0 to P - 1, (N,).
        age: years, NaN if unknown, (N,).
        sex: "M", "F" or "", (N,).
        view: "PA", "AP", ... or "", (N,).
        follow_up: 0 for a patient's first image, NaN if unknown, (N,).
        patients_known: whether the table tells them; where not, each image is its own.
    """

    labels: tuple[str, ...]
    targets: Floats
    patients: Codes
    age: Floats
    sex: Words
    view: Words
    follow_up: Floats
    patients_known: bool = True

    @classmethod
    def of(cls, records: Sequence[Record], labels: Sequence[str]) -> "Columns":
        """The columns of some records, in their order."""
        return cls(
            tuple(labels),
            target_matrix(records).astype(np.float64),
            patient_codes(patient_ids(records)),
            np.array([record.age for record in records], dtype=np.float64),
            np.array([record.sex for record in records], dtype=np.str_),
            np.array([record.view for record in records], dtype=np.str_),
            np.array([record.follow_up for record in records], dtype=np.float64),
            patients_known(records),
        )

    @property
    def patient_count(self) -> int:
        """P."""
        return int(self.patients.max()) + 1

    def features(self) -> dict[str, Floats]:
        """Age, sex, view and follow-up number as numbers, NaN where unknown, (N,) each.

        What is the same for every image (or unknown for all) tells nothing and is left out.
        """
        found = {
            "age": self.age,
            "sex": _numbered(self.sex),
            "view": _numbered(self.view),
            "follow-up number": self.follow_up,
        }
        return {name: values for name, values in found.items() if _varies(values)}


@dataclass(frozen=True)
class Discrimination:
    """AUROC of some scores; NaN where undefined.

    Attributes:
        mean: over the defined labels.
        interval: of the mean, 95 % percentile interval, patients resampled.
        defined: how many labels have an AUROC.
        labels: AUROC of each label.
    """

    mean: float
    interval: Interval
    defined: int
    labels: dict[str, float]


def discrimination(
    labels: Sequence[str], scores: Floats, targets: Floats, codes: Codes, counts: Counts
) -> Discrimination:
    """Judge scores (n, L) of n images; a label with a NaN score is undefined.

    Targets (n, L) are NaN where unknown; ``codes`` (n,) and the draws ``counts`` (D, P) are of
    patients.
    """
    used, codes = np.unique(codes, return_inverse=True)
    both = np.vstack([np.ones((1, len(used)), dtype=np.float32), counts[:, used]])
    values = np.full((len(labels), len(both)), np.nan)  # (L, 1 + D)
    for index in range(len(labels)):
        if not np.isnan(scores[:, index]).any():
            ranking = Ranking.of(scores[:, index], targets[:, index], codes)
            values[index] = curves_over(ranking, both)[0]
    mean = mean_of_defined(values)
    by_label = dict(zip(labels, values[:, 0].tolist(), strict=True))
    defined = int((~np.isnan(values[:, 0])).sum())
    return Discrimination(float(mean[0]), percentile_interval(mean[1:]), defined, by_label)


def plain(value: Any) -> Any:
    """Dataclasses, mappings and sequences as plain values for JSON; NaN as None.

    >>> plain({"a": (1.0, float("nan"))})
    {'a': [1.0, None]}
    """
    if is_dataclass(value):
        return {each.name: plain(getattr(value, each.name)) for each in fields_of(value)}
    if isinstance(value, Mapping):
        return {str(key): plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [plain(each) for each in value]
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _numbered(words: Words) -> Floats:
    """A number for each word, NaN for the empty one."""
    numbers = np.unique(words, return_inverse=True)[1].astype(np.float64)
    return np.where(words == "", np.nan, numbers)


def _varies(values: Floats) -> bool:
    known = values[~np.isnan(values)]
    return len(known) > 0 and bool((known != known[0]).any() or len(known) < len(values))
