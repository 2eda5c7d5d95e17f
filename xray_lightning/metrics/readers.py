"""Several readers of the same images: do they agree, and does a model read as they do?

A mark is 1, 0, or NaN where unread. Patients are drawn, readers are not: intervals hold for these
readers, but for :func:`compare_modalities`, which speaks of readers like them.
"""

from dataclasses import dataclass
from functools import cache

import numpy as np
import numpy.typing as npt
import scipy  # .special and .optimize load at their first use

from xray_lightning.metrics import intervals
from xray_lightning.metrics.bootstrap import PatientBootstrap, number_patients
from xray_lightning.metrics.intervals import NAN, Array, Estimate, Floats, Mask, Spread, divided
from xray_lightning.metrics.ranks import Ranking, auroc_left_out, sum_patients
from xray_lightning.records import is_known
from xray_lightning.results import Result


@dataclass(frozen=True)
class Agreement(Result):
    """How far readers agree on a label; NaN without an image that two of them have read."""

    images: int  # read by two readers or more; the others tell nothing
    prevalence: float  # share of positive marks of an image, mean over the images
    agreed: float  # share of pairs of marks of an image that are equal, likewise
    kappa: Estimate  # of two readers Cohen's (1960), of more Fleiss' (1971)
    ac1: Estimate  # Gwet's (2008), which rare findings do not push towards 0


@dataclass(frozen=True)
class ReaderFigures(Result):
    """A reader of a label against a truth, and a model against it on the same images."""

    images: int  # that the reader marked and whose truth is known, and that have a score
    positives: int  # of them, by the truth
    sensitivity: Estimate  # of the reader
    specificity: Estimate
    auroc: float = NAN  # of the model
    model_sensitivity: float = NAN  # on its ROC curve at the reader's specificity
    difference: Estimate = Estimate(NAN)  # noqa: RUF009  frozen; from the reader's sensitivity


@dataclass(frozen=True)
class ModalityTest(Result):
    """Mean AUROC of the same readers with two modalities, readers and cases both at random."""

    images: int  # that every reader has rated with both
    aurocs: tuple[list[float], list[float]]  # of each reader, with each modality
    difference: Estimate  # of the means, first less second; the interval agrees with ``p_value``
    p_value: float  # two-sided, bounded: see ``bound_p_value``
    hillis: float  # p value by Student's t with ``freedom``, as other programs print it
    f_value: float
    freedom: float  # of the denominator (Hillis 2007, ddf_H)


def take_majority(marks: Array) -> Floats:
    """What most readers (N, R) say, (N,); NaN where as many say the other, or none read it."""
    share = divided((marks == 1).sum(axis=1), is_known(marks).sum(axis=1))
    return np.where(share == 0.5, np.nan, np.round(share))


def measure_agreement(marks: Array, patients: npt.ArrayLike) -> Agreement:
    """Kappa and AC1 of marks (N, R), each image by the readers it has (Gwet 2014, section 2.6)."""
    several = is_known(marks).sum(axis=1) > 1
    marks, codes = marks[several], number_patients(np.asarray(patients)[several])
    count, positive = is_known(marks).sum(axis=1), (marks == 1).sum(axis=1)
    equal = positive * (positive - 1) + (count - positive) * (count - positive - 1)
    share = positive / count
    # Of two readers chance goes by the share of positive marks of each, of more by that of all.
    own = marks.T if marks.shape[1] == 2 else (share, share)
    columns = np.ones(len(marks)), equal / (count * (count - 1)), share, *own
    sums = np.array([np.bincount(codes, column) for column in columns])  # (5, P)
    left = np.insert(sums.sum(axis=1, keepdims=True) - sums, 0, sums.sum(axis=1), axis=1)
    observed, positives, first, second = divided(left[1:], np.tile(left[0], (4, 1)))
    by_readers = first * second + (1 - first) * (1 - second)
    rarer = sums[2] if 2 * sums[2].sum() <= len(marks) else sums[0] - sums[2]
    beyond = []
    for chance in (by_readers, 2 * positives * (1 - positives)):
        value, *left_out = divided(observed - chance, 1 - chance).tolist()
        spread = Spread.left_out(np.array(left_out), intervals.effective_patients(rarer))
        beyond.append(Estimate(value, *spread.around(value, most=1)))
    return Agreement(len(marks), float(positives[0]), float(observed[0]), *beyond)


def compare_reader(
    bootstrap: PatientBootstrap,
    marks: Array,  # (N,) of one reader
    truth: Array,  # (N,) NaN where unknown, such as the majority of the others
    scores: Array | None = None,  # (N,) of a model, NaN where an image has none
) -> ReaderFigures:
    """A reader and a model against one truth; each draw of patients evaluates both."""
    known = is_known(marks) & is_known(truth) & (scores is None or ~np.isnan(scores))
    side, positive = bootstrap.subset(known), truth[known] == 1
    right, classes = (marks[known] == 1) == positive, (positive, ~positive)
    first, second = (intervals.estimate_ratio(right & own, own, side.codes) for own in classes)
    reader = len(positive), int(positive.sum()), first, second
    if scores is None or positive.all() or not positive.any():
        return ReaderFigures(*reader)
    side = side.compact()
    sensitivity, specificity = (side.ratio(right & own, own) for own in classes)
    there = draw_sensitivity(side, scores[known], positive, specificity)
    images = sum_patients(side.codes, intervals.rarer_class(positive), side.patients)
    spread = Spread.of((there - sensitivity)[1:], intervals.effective_patients(images))
    auroc, value = side.auroc(scores[known], truth[known])[0], float((there - sensitivity)[0])
    difference = Estimate(value, *spread.around(value, most=1))
    return ReaderFigures(*reader, float(auroc), float(there[0]), difference)


def draw_sensitivity(
    bootstrap: PatientBootstrap, scores: Array, positive: Mask, specificity: Floats
) -> Floats:
    """Of scores (n,) on each draw's ROC curve, joined by lines, at its specificity, (1 + D,)."""
    order = np.argsort(-scores, kind="stable")
    starts = np.flatnonzero(np.diff(scores[order], prepend=np.inf))
    codes, classes = bootstrap.codes[order], np.stack([positive, ~positive])[:, order]

    def read(counts: Floats, alarms: float) -> float:
        steps = np.add.reduceat(counts[codes] * classes, starts, axis=1).cumsum(axis=1)
        true, false = np.insert(steps * divided(1, steps[:, -1:]), 0, 0, axis=1)
        return float(np.interp(alarms + intervals.ROUNDING, false, true))  # the last of equal ones

    return np.array([*map(read, bootstrap.counts, 1 - specificity)])


def measure_modalities(
    ratings: Array,  # (2, R, N): of each modality and reader, NaN where unread
    targets: Array,  # (N,) NaN where unknown
    patients: npt.ArrayLike,  # (N,) ids
) -> tuple[Floats, Floats, int]:
    """AUROC (2, R) and covariances (2, R, 2, R), by leaving out patients; of how many images.

    Of those that every reader has rated with both, and whose target is known.
    """
    known, shape = is_known(targets) & ~np.isnan(ratings).any(axis=(0, 1)), ratings.shape[:2]
    codes, rows = number_patients(np.asarray(patients)[known]), ratings[..., known]
    last = int(codes.max(initial=0))
    rankings = (Ranking.of(row, targets[known], codes) for row in np.concatenate(rows))
    values = np.stack([auroc_left_out(ranking, last + 1) for ranking in rankings])
    covariance = np.cov(values[:, 1:], ddof=0) * last  # the jackknife's: P - 1
    return values[:, 0].reshape(shape), covariance.reshape(*shape, *shape), len(codes)


def compare_modalities(aurocs: Floats, covariance: Floats, images: int) -> ModalityTest:
    """Obuchowski and Rockette's test (1995) with Hillis' degrees of freedom (2007), bounded.

    Of what :func:`measure_modalities` gives; NaN where that is undefined or readers differ alike.
    """
    readers, gaps = aurocs.shape[1], aurocs[0] - aurocs[1]
    others = ~np.eye(readers, dtype=np.bool_)
    second = (covariance[0, :, 0] + covariance[1, :, 1])[others].mean() / 2
    shared = np.maximum(second - covariance[0, :, 1][others].mean(), 0)  # Cov2 - Cov3
    square = gaps.var(ddof=1) / 2  # MS(T*R)
    error, value = square + readers * shared, float(gaps.mean())
    freedom = float((readers - 1) * divided(error, square) ** 2)
    deviation = np.sqrt(2 * error / readers) if square > intervals.ROUNDING**2 else NAN
    spread = Spread(float(deviation), freedom)
    f_value, hillis = float(divided(value**2, spread.deviation**2)), spread.p_value(value)
    difference = Estimate(value, *spread.around(value, 1 - find_level(readers), most=1))
    pair, bounded = (aurocs[0].tolist(), aurocs[1].tolist()), bound_p_value(hillis, readers)
    return ModalityTest(images, pair, difference, bounded, hillis, f_value, freedom)


def bound_p_value(p_value: float, readers: int) -> float:
    """How often, at most, equal modalities give Hillis' p value or a lesser one."""
    # Where the mean square of R readers is by chance small, so is the deviation, and his degrees of
    # freedom are many. With normal readers and many cases it is chi-squared (R - 1), and the only
    # unknown the share of the variance that comes of cases: the worst is taken.
    freedom, share, middles = readers - 1, np.arange(0, 1, 0.01)[:, None], np.arange(5e-4, 1, 1e-3)
    square = (1 - share) * scipy.special.gammaincinv(freedom / 2, middles) * 2 / freedom
    tail = np.maximum(p_value, 1e-15) / 2  # there are no quantiles far below
    limits = scipy.special.stdtrit(freedom * ((square + share) / square) ** 2, tail)
    return float(2 * scipy.special.ndtr(limits * np.sqrt(square + share)).mean(axis=1).max())


@cache
def find_level(readers: int) -> float:
    """Hillis' p value that equal modalities go below in 5 % of studies, at most."""
    return float(scipy.optimize.brentq(lambda p: bound_p_value(p, readers) - 0.05, 1e-9, 0.1))
