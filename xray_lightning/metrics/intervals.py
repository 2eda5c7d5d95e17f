"""Intervals of a figure: of draws, of patients left out, and exact ones."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import scipy  # .special loads at its first use

from xray_lightning.results import Json, Result
from xray_lightning.writing import to_plain

Floats = npt.NDArray[np.float64]
Array = npt.NDArray[np.floating]  # of scores, or of targets: NaN where unknown
Mask = npt.NDArray[np.bool_]
Interval = tuple[float, float]

NAN = float("nan")
NONE: Interval = (NAN, NAN)
ROUNDING = 1e-12  # draws that differ by less are equal


@dataclass(frozen=True)
class Estimate(Result):
    """A figure and its 95 % interval; NaN where undefined."""

    value: float  # on the sample
    low: float = NAN  # lower end, patients resampled
    high: float = NAN  # upper end
    # whether the interval is Clopper and Pearson's bound, since all patients agree
    exact: bool = False
    # the same with images resampled as if they were independent: too narrow; None where that was
    # not asked for
    image_interval: Interval | None = None

    @classmethod
    def of_draws(cls, draws: Floats, patients: float = np.inf) -> Self:
        """Value and percentile interval of a figure of the sample and of each draw, (1 + D,)."""
        return cls(float(draws[0]), *percentile_interval(draws[1:], patients))

    @property
    def interval(self) -> Interval:
        """Both ends."""
        return self.low, self.high

    @property
    def width_ratio(self) -> float:
        """Width of the patients' interval over that of the images'; NaN where one is exact."""
        low, high = self.image_interval or NONE
        return (self.high - self.low) / (high - low) if high > low and not self.exact else NAN

    def to_json(self) -> Json:
        """``{"value", "interval": [low, high]}``, null where undefined, and what else is known."""
        ends = to_plain(drop_undefined(self.interval))
        values = {"value": None if np.isnan(self.value) else self.value, "interval": ends}
        if self.exact or self.image_interval:
            values["exact"] = self.exact
        if self.image_interval:
            values["patient_interval"] = ends  # its name in schema 1
            values["image_interval"] = to_plain(drop_undefined(self.image_interval))
            values["width_ratio"] = None if np.isnan(self.width_ratio) else self.width_ratio
        return values

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """What :meth:`to_json` gave, of this schema or the one before."""
        ends = values["interval"] if "interval" in values else values["patient_interval"]
        value = NAN if values["value"] is None else float(values["value"])
        images = tuple(values["image_interval"] or NONE) if "image_interval" in values else None
        low, high = ends or NONE
        return cls(value, low, high, values.get("exact", False), images)


@dataclass(frozen=True)
class Band(Result):
    """A figure at K places with the 95 % interval of each; NaN where undefined."""

    value: list[float]
    low: list[float]
    high: list[float]

    def at(self, place: int) -> Estimate:
        """What stands at one place."""
        return Estimate(self.value[place], self.low[place], self.high[place])


def drop_undefined(ends: Interval) -> Interval | None:
    """Both ends, None where undefined."""
    return None if np.isnan(ends).any() else ends


def percentile_interval(
    values: Floats, patients: float = np.inf, *, constant: bool = False
) -> Interval:
    """The middle 95 % of the draws; (NaN, NaN): over 5 % are undefined, or all are equal."""
    # Draws without a class are undefined. Equal draws have no width, which says nothing of other
    # patients; with ``constant`` they do, for a verdict's rule, not to be printed. Fewer than 39
    # have no end that 2.5 % lie beyond. Of few ``patients`` all stray too little (Hesterberg 2015).
    defined = _keep_varied(values, -1.0 if constant else ROUNDING)
    if defined is None or len(defined) < 39 or patients < 2:
        return NONE
    student = scipy.special.stdtrit(patients - 1, 0.025) * np.sqrt(1 + 1 / (patients - 1))
    low, high = np.quantile(defined, scipy.special.ndtr([student, -student]))
    return float(low), float(high)


def _keep_varied(draws: Floats, least: float = ROUNDING) -> Floats | None:
    """The defined draws; None where they are too few or all equal."""
    defined = draws[~np.isnan(draws)]
    if not len(defined) or len(defined) < 0.95 * len(draws) or np.ptp(defined) <= least:
        return None
    return defined


def effective_patients(images: npt.ArrayLike) -> float:
    """How many patients with equally many images would say as much (Kish 1965, section 11.7)."""
    weights = np.asarray(images, dtype=np.float64)
    return float(divided(weights.sum() ** 2, (weights**2).sum()))


def rarer_class(positive: Mask) -> Mask:
    """The images (n,) of the class that has fewer, on which an AUROC rests."""
    return positive if 2 * positive.sum() <= len(positive) else ~positive


@dataclass(frozen=True)
class Spread:
    """How far a figure strays from sample to sample; NaN where that cannot be told."""

    deviation: float  # standard deviation
    freedom: float  # degrees of freedom of Student's t

    @classmethod
    def of(cls, draws: Floats, effective: float) -> "Spread":
        """Standard deviation of the draws (D,), corrected for few patients."""
        # A bootstrap of K patients (their effective number) gives (K - 1) / K of the variance
        # (Davison and Hinkley 1997, section 2.3). Its resolution does not hang on the draws.
        defined = _keep_varied(draws)
        if defined is None or len(defined) < 2 or not effective > 1:
            return cls(float("nan"), float("nan"))
        factor = np.sqrt(effective / (effective - 1))
        return cls(float(defined.std(ddof=1) * factor), min(effective, len(defined)) - 1)

    @classmethod
    def of_mean(cls, figures: Floats, images: Sequence[Floats]) -> "Spread":
        """Of the mean of L shares, of the sample and its draws (L, 1 + D); images (P,) of each."""
        # Each label's variance and freedom are its own: many patients of one say nothing of another
        # that has few. One whose draws do not vary, or lack a class, has the most that independent
        # patients can have, of a share with two more of either kind (Agresti and Coull 1998).
        sizes = np.array([*map(effective_patients, images)])
        parts = [cls.of(draws, size) for draws, size in zip(figures[:, 1:], sizes, strict=True)]
        if len(parts) == 1:
            return parts[0]
        count = np.array([(own > 0).sum() for own in images])
        near = (count * np.clip(figures[:, 0], 0, 1) + 2) / (count + 4)
        own = np.array([part.deviation**2 for part in parts])
        seen, most = ~np.isnan(own), divided(near * (1 - near), count)
        factor = np.where(seen, np.sqrt(divided(sizes, sizes - 1)), 0)[:, None]
        moved = (figures[:, 1:] - mean_of_defined(figures[:, 1:].T)[:, None]) * factor
        variance = np.nan_to_num(moved).sum(axis=0).var(ddof=1) + most[~seen].sum()
        own = np.where(seen, own, most)
        freedoms = np.where(seen, [part.freedom for part in parts], np.inf)
        joined = divided(own.sum() ** 2, (own**2 / freedoms).sum())  # Welch and Satterthwaite
        freedom = np.fmin(joined, effective_patients(np.sum(images, axis=0)) - 1)
        return cls(float(np.sqrt(variance)) / len(parts), float(freedom))

    @classmethod
    def left_out(cls, values: Floats, effective: float) -> "Spread":
        """From a figure with each patient left out once, (P,): the jackknife."""
        if not effective > 1 or np.isnan(values).any() or not np.ptp(values) > ROUNDING:
            return cls(float("nan"), float("nan"))
        return cls(float(np.sqrt((len(values) - 1) * values.var())), effective - 1)

    @classmethod
    def of_sum(cls, parts: Sequence["Spread"], covariance: float = 0.0) -> "Spread":
        """Of a sum or difference: variances add up, ``covariance`` too (Welch 1947, eq. 28)."""
        variances = np.array([part.deviation**2 for part in parts])
        freedom = variances.sum() ** 2 / sum(variances**2 / [part.freedom for part in parts])
        return cls(float(np.sqrt(variances.sum() + covariance)), float(freedom))

    @classmethod
    def of_influence(cls, influence: Floats, codes: Any, effective: float) -> "Spread":
        """From each image's influence on a figure (n,), by patient (Liang and Zeger 1986)."""
        if np.isnan(influence).any() or not effective > 1:
            return cls(NAN, NAN)
        variance = float((np.bincount(codes, influence) ** 2).sum()) * effective / (effective - 1)
        return cls(float(np.sqrt(variance)), effective - 1)

    def around(self, value: float, level: float = 0.95, *, most: float = np.inf) -> Interval:
        """Interval of what is not bound to [0, 1]; of a difference of shares ``most`` is 1."""
        reach = float(scipy.special.stdtrit(self.freedom, (1 + level) / 2)) * self.deviation
        return max(value - reach, -most), min(value + reach, most)  # NaN stays

    def p_value(self, difference: float) -> float:
        """Two-sided, of a difference from 0."""
        return float(2 * scipy.special.stdtr(self.freedom, -abs(difference) / self.deviation))


def pool_variances(values: Floats, variances: Floats, effective: Floats) -> Floats:
    """Variances of two AUROCs, (2,), were both their pooled value; where that is more."""
    # Near 1 a lucky sample hardly varies: its own variance would show a difference that is none. It
    # grows as a (1 - a) to the 1.5, by simulation (README), up to that of independent patients,
    # which no AUROC exceeds (van Dantzig 1951).
    pooled, own = np.average(values, weights=effective), values * (1 - values)
    most = pooled * (1 - pooled) / effective
    factor = divided(pooled * (1 - pooled), own) ** 1.5  # NaN of 0 and 1
    return np.fmax(variances, np.fmin(variances * factor, most))


def share_interval(
    value: float, spread: Spread, level: float = 0.95, *, bias: float = 0.0, patients: int = 0
) -> Interval:
    """Student's interval on the logit scale, delta method; of 0 and 1 :func:`exact_interval`."""
    # Chosen by simulation, see README; ``bias`` is taken off the middle. Without ``patients``, who
    # agree on 0 or 1, these two have no interval.
    if np.isnan(spread.deviation) or not 0 < value < 1:
        return exact_interval(value, patients, level)
    slope = value * (1 - value)  # d value / d logit
    scaled = Spread(spread.deviation / slope, spread.freedom)
    middle = float(scipy.special.logit(value)) - bias / slope
    low, high = scipy.special.expit(scaled.around(middle, level))
    return float(low), float(high)


def exact_interval(value: float, patients: int, level: float = 0.95) -> Interval:
    """Bound where all patients agree on 0 or 1 (Clopper and Pearson 1934); else (NaN, NaN)."""
    if patients < 1 or value not in (0, 1):
        return NONE
    bound = float(((1 - level) / 2) ** (1 / patients))
    return (bound, 1.0) if value == 1 else (0.0, 1 - bound)


def estimate_ratio(part: Floats | Mask, whole: Floats | Mask, codes: Any) -> Estimate:
    """A share, the sum of one quantity over that of another, of images (N,), by patient."""
    value, behind = float(divided(part.sum(), whole.sum())), np.bincount(codes, whole)
    influence = (part - value * whole) * divided(1, whole.sum())
    spread = Spread.of_influence(influence, codes, effective_patients(behind))
    ends = share_interval(value, spread, patients=int((behind > 0).sum()))
    return Estimate(value, *ends, exact=value in (0, 1))


def divided(numerator: npt.ArrayLike, denominator: npt.ArrayLike) -> Floats:
    """Quotient, NaN where the denominator is 0."""
    whole = np.asarray(denominator, dtype=np.float64)
    undefined = np.full(whole.shape, np.nan)
    return np.asarray(np.divide(numerator, whole, out=undefined, where=whole > 0))


def mean_of_defined(values: Floats) -> Floats:
    """Mean along the first axis over the values that are defined, NaN where none is."""
    defined = ~np.isnan(values)
    return divided(np.where(defined, values, 0).sum(axis=0), defined.sum(axis=0))
