"""The label table as columns, and the AUROC of scores against its targets."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from xray_lightning.metrics.bootstrap import PatientBootstrap, number_patients
from xray_lightning.metrics.intervals import Floats, Interval, mean_of_defined, percentile_interval
from xray_lightning.metrics.ranks import Codes
from xray_lightning.records import Record, patient_ids, read_column, target_matrix
from xray_lightning.results import Result

Rows = npt.NDArray[np.int64]  # ascending positions in the label table
Words = npt.NDArray[np.str_]
Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class LabelTable:
    """The label table of N images of P patients, as columns."""

    labels: tuple[str, ...]  # L
    targets: Floats  # (N, L): 1 present, 0 absent, NaN unknown
    patients: Codes  # (N,): number of each image's patient, 0 to P - 1
    age: Floats  # (N,): years, NaN if unknown
    sex: Words  # (N,): "M", "F" or ""
    view: Words  # (N,): "PA", "AP", ... or ""
    follow_up: Floats  # (N,): 0 for a patient's first image, NaN if unknown
    images_of_patient: Floats  # (N,): in its data set, NaN if that tells no patients

    @property
    def patients_known(self) -> bool:
        """Whether a data set tells patients; where none does, each image counts as its own."""
        return not np.isnan(self.images_of_patient).all()

    @classmethod
    def of(
        cls, records: Sequence[Record], labels: Sequence[str], untold: Collection[str] = ()
    ) -> "LabelTable":
        """The columns of some records, in their order; ``untold`` hospitals tell no patients."""
        names = ("age", "sex", "view", "follow_up")
        columns = {name: np.array(read_column(records, name)) for name in names}
        targets = target_matrix(records).astype(np.float64)
        patients = number_patients(patient_ids(records))
        people = len(records) * number_patients(read_column(records, "hospital")) + patients
        _, own, counts = np.unique(people, return_inverse=True, return_counts=True)
        images = np.where(find_anonymous(records, untold), np.nan, counts[own])
        return cls(tuple(labels), targets, patients, **columns, images_of_patient=images)

    def features(self) -> dict[str, Floats]:
        """Age, sex, view, follow-up number, (N,) each, NaN unknown; without those alike for all."""
        sex, view = (
            np.where(words == "", np.nan, np.unique(words, return_inverse=True)[1])
            for words in (self.sex, self.view)
        )
        columns = {"age": self.age, "sex": sex, "view": view, "follow-up number": self.follow_up}
        return {name: column for name, column in columns.items() if varies(column)}


def find_anonymous(records: Sequence[Record], untold: Collection[str] = ()) -> Mask:
    """Images of a data set that tells no patients, as ``untold`` do not: each its own, (N,)."""
    hospitals = np.array(read_column(records, "hospital"))
    named = patient_ids(records) != np.array(read_column(records, "image_id"))
    return np.isin(hospitals, list(untold)) | ~np.isin(hospitals, hospitals[named])


@dataclass(frozen=True)
class Size(Result):
    """Of a subset, or of a hospital."""

    images: int
    patients: int | None  # None where the label table tells none

    @classmethod
    def of(cls, table: LabelTable, rows: Rows, *, told: bool) -> "Size":
        """Of some rows, whose patients are told or not."""
        return cls(len(rows), len(np.unique(table.patients[rows])) if told else None)


@dataclass(frozen=True)
class MeanAuroc(Result):
    """AUROC of scores on some images; NaN where undefined."""

    mean: float  # over the defined labels
    interval: Interval  # of the mean: 95 % percentile interval, patients resampled
    defined: int  # how many labels have an AUROC
    labels: dict[str, float]  # AUROC of each

    @classmethod
    def of(
        cls, labels: Sequence[str], scores: Floats, targets: Floats, bootstrap: PatientBootstrap
    ) -> "MeanAuroc":
        """Of scores (n, L) against targets (n, L), NaN where unknown; a NaN score: undefined."""
        whole = np.where(np.isnan(scores).any(axis=0), np.nan, targets).T
        draws = np.stack([bootstrap.auroc(*pair) for pair in zip(scores.T, whole, strict=True)])
        mean = mean_of_defined(draws)  # of (L, 1 + D)
        by_label = dict(zip(labels, draws[:, 0].tolist(), strict=True))
        defined = int((~np.isnan(draws[:, 0])).sum())
        return cls(float(mean[0]), percentile_interval(mean[1:]), defined, by_label)


def varies(column: Floats) -> bool:
    """Whether a column tells anything: known values differ, or some are unknown."""
    return len(np.unique(column)) > 1  # all NaN are one there
