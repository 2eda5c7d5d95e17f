"""Bootstrap over patients: how often each was drawn, and metrics weighted by that.

A patient has up to 180 images, and a model errs alike on all of them, so images are no independent
draws: resampling images gives intervals that are too narrow. Here patients are drawn with
replacement (cluster bootstrap: Davison and Hinkley 1997, section 3.8; Field and Welsh 2007) and
bring all their images along. A draw is a row of counts, so a metric of a draw is a sum weighted by
counts; sums of small whole numbers are exact in float64.
"""

from collections.abc import Sequence
from typing import Self

import numpy as np
import numpy.typing as npt

from xray_lightning.errors import ConfigError
from xray_lightning.metrics.intervals import Array, Floats, Mask, divided
from xray_lightning.metrics.ranks import Codes, Counts, Ranking, curves_over, sum_patients

BLOCK = 2**26  # bytes of counts that are turned to float64 at one time

Rows = npt.NDArray[np.intp] | Mask | slice


class PatientBootstrap:
    """The sample and draws of its patients, each as often as there are patients, with replacement.

    A metric "of the sample and each draw" is an array (1 + D,):
    :meth:`~xray_lightning.metrics.intervals.Estimate.of_draws` makes an estimate of it.

    Args:
        patients: id of each of the N images' patient.
        draws: number of draws D.
        seed: equal seeds give equal draws, so that two models are compared on the same ones.

    Raises:
        ConfigError: fewer than one patient or draw.
    """

    codes: Codes  # number of each image's patient, 0 to P - 1, (N,)
    counts: Counts  # how often each patient is in the sample (once) and in each draw, (1 + D, P)

    def __init__(self, patients: npt.ArrayLike, draws: int = 2000, seed: int = 0) -> None:
        self.codes = number_patients(patients)
        count = int(self.codes.max(initial=-1)) + 1
        if count < 1 or draws < 1:
            raise ConfigError(f"a bootstrap needs patients and draws, got {count} and {draws}")
        generator = np.random.default_rng(seed)
        self.counts = np.ones((1 + draws, count), dtype=np.float32)
        for row in self.counts[1:]:
            row[:] = np.bincount(generator.integers(count, size=count), minlength=count)

    @classmethod
    def of(cls, codes: Codes, counts: Counts) -> Self:
        """From what was drawn elsewhere."""
        bootstrap = cls.__new__(cls)
        bootstrap.codes, bootstrap.counts = codes, counts
        return bootstrap

    @property
    def patients(self) -> int:
        """How many, P."""
        return int(self.counts.shape[1])

    def subset(self, images: Rows) -> Self:
        """The same draws for some of the images, rows, a slice or a mask; all patients stay."""
        return self.of(self.codes[images], self.counts)

    def compact(self) -> Self:
        """The same draws without the patients that have no image here."""
        used, codes = np.unique(self.codes, return_inverse=True)
        return self.of(codes, self.counts[:, used])

    def sums(self, weights: npt.ArrayLike) -> Floats:
        """Sums of K quantities (N, K) over the images of the sample and each draw, (1 + D, K)."""
        columns = np.asarray(weights, dtype=np.float64).T
        by_patient = [sum_patients(self.codes, column, self.patients) for column in columns]
        parts = np.array_split(self.counts, 1 + self.counts.nbytes // BLOCK)
        return np.vstack([part.astype(np.float64) @ np.column_stack(by_patient) for part in parts])

    def count_beyond(self, place: Codes, lines: int, masks: Sequence[Mask]) -> Floats:
        """How many images of each mask lie beyond so many of K lines or more, (M, 1 + D, 1 + K)."""
        # ``place``: beyond how many an image lies, (N,). Whole numbers, exact in float32.
        shape = self.patients, 1 + lines
        cells = self.codes * shape[1] + place
        counts = [np.bincount(cells, mask, shape[0] * shape[1]).reshape(shape) for mask in masks]
        beyond = np.asarray(counts)[:, :, ::-1].cumsum(axis=2)[:, :, ::-1].astype(np.float32)
        return np.asarray(self.counts @ beyond, dtype=np.float64)

    def ratio(self, numerator: npt.ArrayLike, denominator: npt.ArrayLike) -> Floats:
        """Sum of one quantity (N,) over that of another, (1 + D,); NaN for a sum of 0.

        Sensitivity, specificity, predictive values, Brier's score: all are such ratios.
        """
        sums = self.sums(np.column_stack([numerator, denominator]))
        return divided(sums[:, 0], sums[:, 1])

    def mean(self, quantity: npt.ArrayLike) -> Floats:
        """Mean of a quantity (N,), NaN left out, (1 + D,)."""
        known = ~np.isnan(np.asarray(quantity, dtype=np.float64))
        return self.ratio(np.where(known, quantity, 0), known)

    def auroc(self, scores: Array, targets: Array) -> Floats:
        """AUROC of scores (N,), targets 0, 1 or NaN (N,), (1 + D,); NaN without both classes."""
        ranking = Ranking.of(scores, targets, self.codes)
        return curves_over(ranking, self.counts, auroc_only=True)["auroc"]


def number_patients(patients: npt.ArrayLike) -> Codes:
    """Number of each image's patient, (N,), from 0 to P - 1."""
    return np.unique(np.asarray(patients), return_inverse=True)[1].astype(np.intp)
