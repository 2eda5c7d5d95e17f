"""Several readers of the same images: how far they agree, and whether a model reads as they do.

A mark is 1, 0, or NaN where a reader did not read the image. Patients are drawn, readers are not:
intervals hold for these readers, but for those of :func:`compare_modalities`, of readers like them.
"""

from dataclasses import dataclass

import numpy as np

from xray_lightning.metrics.bootstrap import PatientBootstrap
from xray_lightning.metrics.intervals import (
    NAN,
    ROUNDING,
    Array,
    Estimate,
    Floats,
    Mask,
    Spread,
    divided,
    effective_patients,
    estimate_share,
)
from xray_lightning.metrics.ranks import Ranking, auroc_left_out, sum_patients
from xray_lightning.records import is_known
from xray_lightning.results import Result

UNKNOWN = Estimate(NAN)


@dataclass(frozen=True)
class Agreement(Result):
    """How far readers agree on one label; NaN without an image that two of them have read."""

    images: int  # read by two readers or more; the others tell nothing
    prevalence: float  # share of positive marks of an image, mean over the images
    agreed: Estimate  # share of pairs of marks of an image that are equal, mean over the images
    kappa: Estimate  # of two readers Cohen's (1960), of more Fleiss' (1971)
    ac1: Estimate  # Gwet's (2008), which rare findings do not push towards 0


@dataclass(frozen=True)
class ReaderFigures(Result):
    """One reader of one label against a truth, and the model against it on the same images."""

    images: int  # that the reader marked and whose truth is known
    positives: int  # of them, by the truth
    sensitivity: Estimate  # of the reader
    specificity: Estimate
    auroc: Estimate = UNKNOWN  # of the model
    model_sensitivity: Estimate = UNKNOWN  # on its ROC curve at the reader's specificity
    difference: Estimate = UNKNOWN  # from the reader's sensitivity; Student's t


@dataclass(frozen=True)
class ModalityTest(Result):
    """Mean AUROC of the same readers with two modalities, readers and cases both at random."""

    aurocs: tuple[list[float], list[float]]  # of each reader, with each modality
    means: tuple[Estimate, Estimate]  # over the readers
    difference: Estimate  # first less second
    p_value: float  # two-sided
    f_value: float
    freedom: float  # of the denominator (Hillis 2007)
    variance: float  # of an AUROC with its readers and modalities fixed; covariances: of
    covariances: tuple[float, float, float]  # other modality, other reader, both other


def take_majority(marks: Array) -> Floats:
    """What most readers (N, R) say, (N,); NaN where as many say the other, or none read it."""
    share = divided((marks == 1).sum(axis=1), is_known(marks).sum(axis=1))
    return np.where(share == 0.5, np.nan, np.round(share))


def measure_agreement(bootstrap: PatientBootstrap, marks: Array) -> Agreement:
    """Kappa and AC1 of marks (N, R), each image by the readers it has (Gwet 2014, section 2.6)."""
    several = is_known(marks).sum(axis=1) > 1
    side, marks = bootstrap.subset(several), marks[several]
    count, positive = is_known(marks).sum(axis=1), (marks == 1).sum(axis=1)
    equal = positive * (positive - 1) + (count - positive) * (count - positive - 1)
    share = positive / count
    columns = [np.ones(len(marks)), equal / (count * (count - 1)), share]
    two = marks.shape[1] == 2  # whose own shares of positive marks are what chance goes by
    whole, *sums = side.sums(np.column_stack([*columns, *(marks if two else marks[:, :0]).T])).T
    agreed, prevalence, *own = (divided(one, whole) for one in sums)
    first, second = own if two else (prevalence, prevalence)
    chances = first * second + (1 - first) * (1 - second), 2 * prevalence * (1 - prevalence)
    # Draws of a finding that everybody calls absent have no kappa.
    rarer = share if prevalence[0] <= 0.5 else 1 - share
    images = sum_patients(side.codes, rarer, side.patients)
    kappa, ac1 = (
        estimate_difference(divided(agreed - chance, 1 - chance), images) for chance in chances
    )
    rated = sum_patients(side.codes, columns[0], side.patients)
    return Agreement(
        len(marks), float(prevalence[0]), estimate_share(agreed, rated[None]), kappa, ac1
    )


def estimate_difference(draws: Floats, images: Floats) -> Estimate:
    """Student's interval in [-1, 1] of a figure of the sample and each draw, (1 + D,)."""
    low, high = Spread.of(draws[1:], effective_patients(images)).around(float(draws[0]))
    return Estimate(float(draws[0]), max(low, -1.0), min(high, 1.0))


def compare_reader(
    bootstrap: PatientBootstrap,
    marks: Array,  # (N,) of one reader
    truth: Array,  # (N,) NaN where unknown, such as the majority of the others
    scores: Array | None = None,  # (N,) of a model
) -> ReaderFigures:
    """A reader and a model against one truth; each draw of patients evaluates both."""
    known = is_known(marks) & is_known(truth)
    known &= True if scores is None else ~np.isnan(scores)
    side, positive = bootstrap.subset(known).compact(), truth[known] == 1
    right, classes = (marks[known] == 1) == positive, (positive, ~positive)
    rates = [side.ratio(own & right, own) for own in classes]
    images = [sum_patients(side.codes, own, side.patients) for own in classes]
    pairs = zip(rates, images, strict=True)
    sensitivity, specificity = (estimate_share(rate, own[None]) for rate, own in pairs)
    figures = len(positive), int(positive.sum()), sensitivity, specificity
    if scores is None:
        return ReaderFigures(*figures)
    rarer = images[2 * figures[1] > figures[0]]
    auroc = estimate_share(side.auroc(scores[known], truth[known]), rarer[None])
    there = draw_sensitivity(side, scores[known], positive, rates[1])
    model = estimate_share(there, images[0][None])
    return ReaderFigures(*figures, auroc, model, estimate_difference(there - rates[0], rarer))


def draw_sensitivity(
    bootstrap: PatientBootstrap,
    scores: Array,  # (n,)
    positive: Mask,  # (n,)
    specificity: Floats,  # of the sample and each draw, (1 + D,)
) -> Floats:
    """Sensitivity on each draw's ROC curve, its points joined by lines, at a specificity."""
    if positive.all() or not positive.any():
        return np.full(len(specificity), np.nan)
    order = np.argsort(-scores, kind="stable")
    starts = np.flatnonzero(np.diff(scores[order], prepend=np.inf))
    codes, sides = bootstrap.codes[order], np.stack([positive, ~positive])[:, order]

    def read(counts: Floats, alarms: float) -> float:
        steps = np.add.reduceat(counts[codes] * sides, starts, axis=1).cumsum(axis=1)
        true, false = np.insert(steps * divided(1, steps[:, -1:]), 0, 0, axis=1)
        return float(np.interp(alarms + ROUNDING, false, true))  # of equal alarms the last

    return np.array([*map(read, bootstrap.counts, 1 - specificity)])


def measure_modalities(
    ratings: Array,  # (2, R, N): of each modality and reader
    targets: Array,  # (N,) 0 or 1
    patients: Array,  # (N,) ids
) -> tuple[Floats, Floats]:
    """AUROC of each modality and reader (2, R); covariances (2, R, 2, R), patients left out."""
    bootstrap = PatientBootstrap(patients, 1)
    rows = ratings.reshape(-1, len(targets))
    rankings = [Ranking.of(row, targets, bootstrap.codes) for row in rows]
    values = np.stack([auroc_left_out(ranking, bootstrap.patients) for ranking in rankings])
    covariance = np.cov(values[:, 1:], ddof=0) * (bootstrap.patients - 1)
    shape = ratings.shape[:2]
    return values[:, 0].reshape(shape), covariance.reshape(*shape, *shape)


def compare_modalities(aurocs: Floats, covariance: Floats) -> ModalityTest:
    """Obuchowski and Rockette's test (1995) with Hillis' degrees of freedom (2007, ddf_H).

    ``aurocs`` are those of two modalities and R readers, (2, R), ``covariance`` is (2, R, 2, R),
    as :func:`measure_modalities` gives both. NaN where an AUROC or a covariance is undefined.
    """
    readers = aurocs.shape[1]
    same, cross = np.eye(readers, dtype=np.bool_), covariance[0, :, 1]
    within = covariance[[0, 1], :, [0, 1]]  # (2, R, R)
    first, third = float(cross[same].mean()), float(cross[~same].mean())
    second = within[:, ~same].mean(axis=1)  # of each modality
    rows = np.vstack([aurocs, aurocs[0] - aurocs[1]])  # the variance of the last is 2 MS(T*R)
    shared = np.maximum([*second, 2 * (second.mean() - third)], 0)
    variances = rows.var(axis=1, ddof=1)
    wholes = variances + readers * shared
    freedoms = divided(wholes**2, variances**2 / (readers - 1))  # ddf_H
    spreads = [*map(Spread, np.sqrt(wholes / readers).tolist(), freedoms.tolist())]
    pairs = zip(rows.mean(axis=1).tolist(), spreads, strict=True)
    means = [Estimate(mean, *spread.around(mean)) for mean, spread in pairs]
    return ModalityTest(
        (aurocs[0].tolist(), aurocs[1].tolist()),
        (means[0], means[1]),
        means[2],
        spreads[2].p_value(means[2].value),
        float(divided(means[2].value ** 2, spreads[2].deviation ** 2)),
        spreads[2].freedom,
        float(within[:, same].mean()),
        (first, float(second.mean()), third),
    )
