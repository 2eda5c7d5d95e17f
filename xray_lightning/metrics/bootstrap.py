"""Bootstrap over patients: how often each was drawn, and figures weighted by that.

A patient has up to 180 images, and a model errs alike on all of them, so images are no independent
draws: resampling images gives intervals that are too narrow. Here patients are drawn with
replacement (cluster bootstrap: Davison and Hinkley 1997, section 3.8; Field and Welsh 2007) and
bring all their images along. A draw is a row of counts, so a figure of a draw is a sum weighted by
counts; sums of small whole numbers are exact in float64.
"""

from typing import Self

import numpy as np
import numpy.typing as npt

from xray_lightning.errors import ConfigError
from xray_lightning.metrics.intervals import NONE as NONE
from xray_lightning.metrics.intervals import ROUNDING as ROUNDING
from xray_lightning.metrics.intervals import Floats as Floats  # until all import it from there
from xray_lightning.metrics.intervals import Interval as Interval
from xray_lightning.metrics.intervals import Spread as Spread
from xray_lightning.metrics.intervals import divided as divided
from xray_lightning.metrics.intervals import effective_patients as effective_patients
from xray_lightning.metrics.intervals import exact_interval as exact_interval
from xray_lightning.metrics.intervals import mean_of_defined as mean_of_defined
from xray_lightning.metrics.intervals import percentile_interval as percentile_interval
from xray_lightning.metrics.intervals import share_interval as share_interval
from xray_lightning.metrics.ranks import Codes as Codes
from xray_lightning.metrics.ranks import Counts as Counts
from xray_lightning.metrics.ranks import Ranking, curves_over
from xray_lightning.metrics.ranks import counted as counted


class PatientBootstrap:
    """The sample and draws of its patients, each as often as there are patients, with replacement.

    Attributes:
        codes: number of each image's patient, 0 to P - 1, (N,).
        counts: how often each patient is in the sample (once) and in each draw, (1 + D, P).

    A figure "of the sample and each draw" is an array (1 + D,):
    :meth:`~xray_lightning.metrics.intervals.Estimate.of_draws` makes an estimate of it.
    """

    codes: Codes
    counts: Counts

    def __init__(self, patients: npt.ArrayLike, draws: int = 2000, seed: int = 0) -> None:
        """Draw.

        Args:
            patients: id of each of the N images' patient.
            draws: number of draws D.
            seed: equal seeds give equal draws, so that two models are compared on the same ones.

        Raises:
            ConfigError: fewer than one patient or draw.
        """
        self.codes = patient_codes(patients)
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

    def subset(self, images: npt.NDArray[np.intp] | npt.NDArray[np.bool_]) -> Self:
        """The same draws for some of the images, rows or a mask; all patients stay."""
        return self.of(self.codes[images], self.counts)

    def compact(self) -> Self:
        """The same draws without the patients that have no image here."""
        used, codes = np.unique(self.codes, return_inverse=True)
        return self.of(codes, self.counts[:, used])

    def sums(self, weights: npt.ArrayLike) -> Floats:
        """Sums of K quantities (N, K) over the images of the sample and each draw, (1 + D, K)."""
        return sums_over(self.counts, self.codes, weights)

    def ratio(self, numerator: npt.ArrayLike, denominator: npt.ArrayLike) -> Floats:
        """Sum of one quantity (N,) over that of another, (1 + D,); NaN for a sum of 0.

        Sensitivity, specificity, predictive values, Brier's score: all are such ratios.
        """
        return ratio_over(self.counts, self.codes, numerator, denominator)

    def mean(self, quantity: npt.ArrayLike) -> Floats:
        """Mean of a quantity (N,), NaN left out, (1 + D,)."""
        known = ~np.isnan(np.asarray(quantity, dtype=np.float64))
        return self.ratio(np.where(known, quantity, 0), known)

    def ranking(
        self, scores: npt.NDArray[np.floating], targets: npt.NDArray[np.floating]
    ) -> Ranking:
        """Images sorted by score (N,); those whose target (N,) is NaN are left out."""
        return Ranking.of(scores, targets, self.codes)

    def auroc(self, scores: npt.NDArray[np.floating], targets: npt.NDArray[np.floating]) -> Floats:
        """AUROC of scores (N,), targets 0, 1 or NaN (N,), (1 + D,); NaN without both classes."""
        return curves_over(self.ranking(scores, targets), self.counts)[0]


def patient_codes(patients: npt.ArrayLike) -> Codes:
    """Number of each image's patient, (N,), from 0 to P - 1."""
    return np.unique(np.asarray(patients), return_inverse=True)[1].astype(np.intp)


def bootstrap_counts(clusters: int, draws: int, seed: int) -> Counts:
    """How often each patient is drawn when as many are drawn as there are, (D, P).

    Args:
        clusters: number of patients P, or of images for the image-level interval.
        draws: number of draws D.
        seed: equal seeds give equal draws, so that two models are compared on the same ones.

    Raises:
        ConfigError: fewer than one patient or draw.
    """
    if clusters < 1 or draws < 1:
        raise ConfigError(f"a bootstrap needs patients and draws, got {clusters} and {draws}")
    generator = np.random.default_rng(seed)
    counts = np.empty((draws, clusters), dtype=np.float32)
    for row in counts:
        row[:] = np.bincount(generator.integers(clusters, size=clusters), minlength=clusters)
    return counts


def patient_draws(codes: Codes, draws: int, seed: int) -> Counts:
    """The sample itself, every patient once, then its draws, (1 + D, P)."""
    drawn = bootstrap_counts(int(codes.max(initial=-1)) + 1, draws, seed)
    return np.vstack([np.ones_like(drawn[:1]), drawn])


def ratio_over(
    counts: Counts, codes: Codes, numerator: npt.ArrayLike, denominator: npt.ArrayLike
) -> Floats:
    """Sum of one quantity (N,) over that of another in each draw (D, P), (D,); NaN for a sum of 0.

    Sensitivity, specificity, predictive values, Brier's score: all are such ratios.
    """
    sums = sums_over(counts, codes, np.column_stack([numerator, denominator]))
    return divided(sums[:, 0], sums[:, 1])


def sums_over(counts: Counts, codes: Codes, weights: npt.ArrayLike) -> Floats:
    """Sums of K quantities (N, K) over the images of each draw (D, P): (D, K)."""
    columns = np.asarray(weights, dtype=np.float64).T
    by_patient = [counted(codes, each, counts.shape[1]) for each in columns]
    return np.asarray(counts.astype(np.float64) @ np.column_stack(by_patient))
