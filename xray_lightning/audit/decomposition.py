"""Why does a model score differently on test than on validation? Other patients, or something else.

The change of AUROC from validation to test is written as the sum of two parts::

    test - validation = (test - re-weighted test) + (re-weighted test - validation)
                          case mix                    the rest

The re-weighted test counts each test image by the share of its cell (view x follow-up band x number
of findings) in validation over that in test, so that it has validation's mix: direct
standardisation, the importance weighting of Shimodaira (J. Stat. Plan. Inference 2000, eq. 2.3)
with cells for densities.

Assumptions: within a cell, validation and test images are alike but for what the rest stands for
(chance, over-fitting to validation, another scanner, label noise). Limits: only what is in the
table is standardised, so unseen differences count in the rest; findings are the labels themselves,
with their errors; images of validation in cells without a test image have no counterpart (their
share is given), and a few heavy weights make the figure uncertain (see the effective sample size;
below about a tenth of the images, take it as a hint). The mean is over the labels with an AUROC in
all three places.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from xray_lightning.audit.columns import Columns
from xray_lightning.metrics.bootstrap import (
    Codes,
    Counts,
    Floats,
    Interval,
    bootstrap_counts,
    divided,
    mean_of_defined,
    percentile_interval,
)

CHUNK = 16  # draws at a time

MINIMUM = 10  # positives and negatives of a label in a stratum, below which it does not count

_FOLLOW_UPS = (1, 5, 20)  # first image, 1 to 4, 5 to 19, 20 and more
_FINDINGS = ("0", "1", "2", "3+")


def reweighting(
    val_cells: Codes, test_cells: Codes, val_weights: Floats, test_weights: Floats
) -> Floats:
    """Weights of the test images that give them validation's mix of cells, (D, m).

    Cells are (n,) and (m,); weights say how often each draw has each image, (D, n) and (D, m).
    """
    count = int(max(val_cells.max(), test_cells.max())) + 1
    found = np.empty(test_weights.shape)
    for row, wanted, have in zip(found, val_weights, test_weights, strict=True):
        shares = [
            np.bincount(cells, weights=each, minlength=count) / each.sum()
            for cells, each in ((val_cells, wanted), (test_cells, have))
        ]
        row[:] = have * np.nan_to_num(divided(*shares))[test_cells]
    return found


def effective_size(weights: Floats) -> float:
    """(sum w)^2 / sum w^2 (Kish 1965): how many equally weighted ones tell as much.

    >>> effective_size(np.array([1.0, 1.0, 0.0]))
    2.0
    """
    return float(divided(weights.sum() ** 2, (weights**2).sum()))


def weighted_auroc(scores: Floats, positive: npt.NDArray[np.bool_], weights: Floats) -> Floats:
    """Weighted share of pairs of a positive and a negative in the right order, ties half, (D,).

    Scores and ``positive`` are (n,), the weights of each draw (D, n).

    Returns:
        NaN where a draw has no positive or no negative.
    """
    order = np.argsort(scores, kind="stable")
    ordered, positive = scores[order], positive[order]
    below, upto = (np.searchsorted(ordered, ordered[positive], side=s) for s in ("left", "right"))
    found = []
    for start in range(0, len(weights), CHUNK):
        chunk = weights[start : start + CHUNK][:, order]
        negative = np.zeros((len(chunk), len(order) + 1))
        np.cumsum(np.where(positive, 0, chunk), axis=1, out=negative[:, 1:])
        own = chunk[:, positive]
        won = (own * (negative[:, below] + negative[:, upto])).sum(axis=1) / 2
        found.append(divided(won, own.sum(axis=1) * negative[:, -1]))
    return np.concatenate(found)


@dataclass(frozen=True, eq=False)
class Scored:
    """Scores of a model on a part.

    Attributes:
        columns: of the n scored images.
        scores: (n, L).
    """

    columns: Columns
    scores: Floats


@dataclass(frozen=True)
class Difference:
    """Mean AUROC on matched images of both parts.

    Attributes:
        name: which images.
        labels: how many labels have an AUROC in both.
        val: mean AUROC on validation; NaN where there is none.
        test: on test.
        change: test less val.
        interval: of the change; 95 %, patients of both parts resampled.
        val_images: how many.
        test_images: how many.
    """

    name: str
    labels: int
    val: float
    test: float
    change: float
    interval: Interval
    val_images: int
    test_images: int


@dataclass(frozen=True)
class Decomposition:
    """The change from validation to test in two parts; see the module's docstring.

    Attributes:
        labels: how many the means are over.
        val: mean AUROC on validation.
        test: on test.
        reweighted: on test with validation's mix.
        change: test less val, with its interval.
        case_mix: test less re-weighted, with its interval.
        rest: re-weighted less val, with its interval.
        effective_images: Kish's (sum w)^2 / sum w^2 of the test images.
        effective_patients: the same of the weights summed by patient.
        test_images: of the test set.
        uncovered: share of validation's images in cells without a test image.
        by_label: label to (val, test, re-weighted).
        matched: on parts of both.
        severity: by number of other findings.
    """

    labels: int
    val: float
    test: float
    reweighted: float
    change: tuple[float, Interval]
    case_mix: tuple[float, Interval]
    rest: tuple[float, Interval]
    effective_images: float
    effective_patients: float
    test_images: int
    uncovered: float
    by_label: dict[str, tuple[float, float, float]]
    matched: list[Difference]
    severity: list[Difference]


def decompose(
    val: Scored,
    test: Scored,
    groups: Mapping[str, tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]],
    *,
    draws: int,
    seed: int,
) -> Decomposition:
    """Split the change from validation to test.

    ``groups``: name to the matched images of validation (n,) and test (m,), e.g. those of the
    publisher's test list, besides the views and first images that are always compared. The weights
    are found anew in each draw.
    """
    pair = [
        _counts(subset.columns, draws, seed + place) for place, subset in enumerate((val, test))
    ]
    cells = _cells(val.columns, test.columns)
    weights = reweighting(*cells, *pair)
    unweighted = [_aurocs(subset, each) for subset, each in zip((val, test), pair, strict=True)]
    curves = np.stack([*unweighted, _aurocs(test, weights)])  # (3, L, 1 + D)
    curves[:, np.isnan(curves[:, :, 0]).any(axis=0)] = np.nan
    means = [mean_of_defined(each) for each in curves]  # (1 + D,) each
    known = ~np.isnan(curves[0, :, 0])
    by_patient = np.bincount(test.columns.patients, weights=weights[0]).astype(np.float64)
    matched = {**_always(val.columns, test.columns), **groups}
    return Decomposition(
        labels=int(known.sum()),
        val=float(means[0][0]),
        test=float(means[1][0]),
        reweighted=float(means[2][0]),
        change=_with_interval(means[1] - means[0]),
        case_mix=_with_interval(means[1] - means[2]),
        rest=_with_interval(means[2] - means[0]),
        effective_images=effective_size(weights[0]),
        effective_patients=effective_size(by_patient),
        test_images=len(weights[0]),
        uncovered=float(np.mean(~np.isin(cells[0], cells[1]))),
        by_label={
            label: (float(row[0]), float(row[1]), float(row[2]))
            for label, row in zip(val.columns.labels, curves[:, :, 0].T, strict=True)
        },
        matched=[_matched(name, val, test, pair, each) for name, each in matched.items()],
        severity=[_severity(level, val, test, pair) for level in range(len(_FINDINGS))],
    )


def findings(columns: Columns) -> Floats:
    """How many findings each image has, (n,); an unknown one is not counted."""
    return np.asarray((columns.targets == 1).sum(axis=1), dtype=np.float64)


def _counts(columns: Columns, draws: int, seed: int) -> Floats:
    """How often each image is drawn with its patient, the sample itself first, (1 + D, n)."""
    counts: Counts = bootstrap_counts(columns.patient_count, draws, seed)
    drawn = counts[:, columns.patients].astype(np.float64)
    return np.vstack([np.ones((1, drawn.shape[1])), drawn])


def _cells(val: Columns, test: Columns) -> tuple[Codes, Codes]:
    """View x follow-up band x number of findings as one number for both parts, (n,) and (m,)."""
    views = np.unique(np.concatenate([val.view, test.view]))
    both = []
    for columns in (val, test):
        band = np.searchsorted(_FOLLOW_UPS, columns.follow_up, side="right")
        band = np.where(np.isnan(columns.follow_up), len(_FOLLOW_UPS) + 1, band)
        severity = np.minimum(findings(columns), len(_FINDINGS) - 1)
        place = np.searchsorted(views, columns.view)
        cell = (place * (len(_FOLLOW_UPS) + 2) + band) * len(_FINDINGS) + severity
        both.append(cell.astype(np.intp))
    return both[0], both[1]


def _always(
    val: Columns, test: Columns
) -> dict[str, tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]]:
    """Each view, and the patients' first images."""
    views = sorted(set(val.view.tolist()) & set(test.view.tolist()) - {""})
    found = {f"view {view}": (val.view == view, test.view == view) for view in views}
    if not np.isnan(test.follow_up).all():
        found["first images"] = (val.follow_up == 0, test.follow_up == 0)
    return found


def _aurocs(subset: Scored, weights: Floats, use: npt.NDArray[np.bool_] | None = None) -> Floats:
    """AUROC of each label in each draw, (L, D); NaN for a label with too few images in ``use``.

    The weights are (D, n); ``use`` (n, L): the images of each label that count, None: all.
    """
    targets = subset.columns.targets
    found = np.full((targets.shape[1], len(weights)), np.nan)
    for index in range(len(found)):
        known = ~np.isnan(targets[:, index])
        if use is not None:
            known &= use[:, index]
        positive = targets[known, index] == 1
        least = 1 if use is None else MINIMUM
        if min(positive.sum(), (~positive).sum()) >= least:
            found[index] = weighted_auroc(subset.scores[known, index], positive, weights[:, known])
    return found


def _matched(
    name: str,
    val: Scored,
    test: Scored,
    counts: Sequence[Floats],
    masks: tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]],
) -> Difference:
    """Both parts on some of their images; a mask is (n,), or (n, L) where it differs by label."""
    curves, images = [], []
    for subset, weights, mask in zip((val, test), counts, masks, strict=True):
        use = np.broadcast_to(mask.T, subset.scores.T.shape).T
        curves.append(_aurocs(subset, weights, use))
        images.append(int(use.any(axis=1).sum()))
    both = ~np.isnan(curves[0][:, 0]) & ~np.isnan(curves[1][:, 0])
    means = [mean_of_defined(each[both]) for each in curves]
    change, interval = _with_interval(means[1] - means[0])
    firsts = (float(means[0][0]), float(means[1][0]))
    return Difference(name, int(both.sum()), *firsts, change, interval, *images)


def _severity(level: int, val: Scored, test: Scored, counts: Sequence[Floats]) -> Difference:
    """Images with so many findings besides the judged label, which differ from label to label."""
    masks = []
    for subset in (val, test):
        others = findings(subset.columns)[:, None] - (subset.columns.targets == 1)  # (n, L)
        masks.append(np.minimum(others, len(_FINDINGS) - 1) == level)
    name = f"{_FINDINGS[level]} other findings"
    return _matched(name, val, test, counts, (masks[0], masks[1]))


def _with_interval(values: Floats) -> tuple[float, Interval]:
    """Of the sample, and of its draws."""
    return float(values[0]), percentile_interval(values[1:])
