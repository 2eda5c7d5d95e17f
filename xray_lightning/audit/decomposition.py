"""Why does a model score differently on test than on validation? Other patients, or something else.

The change of AUROC from validation to test is written as the sum of two::

    test - validation = (test - re-weighted test) + (re-weighted test - validation)
                          case mix                    the rest

The re-weighted test counts each test image by the share of its cell (view x follow-up band x number
of findings) in validation over that in test: direct standardisation, the importance weighting of
Shimodaira (J. Stat. Plan. Inference 2000, eq. 2.3) with cells for densities. Within a cell,
validation and test must be alike but for what the rest stands for (chance, over-fitting to
validation, another scanner, label noise); differences that are not in the table count in the rest.
A few heavy weights make the figure uncertain: see the effective sample size. The mean is over the
labels with an AUROC in all three places.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from xray_lightning.audit.label_table import LabelTable
from xray_lightning.metrics import intervals
from xray_lightning.metrics.bootstrap import PatientBootstrap
from xray_lightning.metrics.intervals import Floats, Interval, Mask, divided, mean_of_defined
from xray_lightning.metrics.ranks import Codes
from xray_lightning.results import Result

MINIMUM = 10  # positives and negatives of a label in a stratum, below which it does not count

_FOLLOW_UPS = (1, 5, 20)  # first image, 1 to 4, 5 to 19, 20 and more
_FINDINGS = ("0", "1", "2", "3+")

Change = tuple[float, Interval]  # a difference and its 95 % interval, patients resampled


@dataclass(frozen=True, eq=False)
class ScoredSubset:
    """Scores of a model on a subset."""

    table: LabelTable  # of the n scored images
    scores: Floats  # (n, L)


@dataclass(frozen=True)
class MatchedChange(Result):
    """Mean AUROC on matched images of validation and test; NaN where there is none."""

    name: str  # which images
    labels: int  # how many have an AUROC in both
    val: float
    test: float
    change: float  # test less val
    interval: Interval  # of the change
    val_images: int
    test_images: int


@dataclass(frozen=True)
class Decomposition(Result):
    """The change from validation to test as a sum; see the module's docstring."""

    labels: int  # how many the means are over
    val: float  # mean AUROC on validation
    test: float
    reweighted: float  # on test with validation's mix
    change: Change  # test less val
    case_mix: Change  # test less re-weighted
    rest: Change  # re-weighted less val
    effective_images: float  # Kish's (sum w)^2 / sum w^2 of the test images
    effective_patients: float  # the same of the weights summed by patient; NaN: unknown patients
    test_images: int
    uncovered: float  # share of validation's images in cells without a test image
    by_label: dict[str, tuple[float, float, float]]  # val, test, re-weighted
    matched: list[MatchedChange]  # on the same views, first images, lists of both
    severity: list[MatchedChange]  # by number of other findings


def decompose(
    val: ScoredSubset,
    test: ScoredSubset,
    groups: Mapping[str, tuple[Mask, Mask]],  # matched images (n,), (m,), e.g. of a test list
    *,
    draws: int,
    seed: int,
) -> Decomposition:
    """Split the change from validation to test; the weights are found anew in each draw."""
    pair = (val, test)
    own = [PatientBootstrap(one.table.patients, draws, seed + i) for i, one in enumerate(pair)]
    # how often each image is in the sample (once) and drawn with its patient, (1 + D, n)
    drawn = [patients.counts[:, patients.codes].astype(np.float64) for patients in own]
    cells = _number_cells(val.table, test.table)
    weights = reweight(*cells, *drawn)
    unweighted = [_aurocs(subset, counts) for subset, counts in zip(pair, drawn, strict=True)]
    curves = np.stack([*unweighted, _aurocs(test, weights)])  # (3, L, 1 + D)
    curves[:, np.isnan(curves[:, :, 0]).any(axis=0)] = np.nan
    on_val, on_test, on_mix = (mean_of_defined(aurocs) for aurocs in curves)  # (1 + D,)
    by_patient = np.bincount(test.table.patients, weights=weights[0])
    known = test.table.patients_known
    matched, severity = {**_match(val.table, test.table), **groups}, _match_severity(pair)
    return Decomposition(
        labels=int((~np.isnan(curves[0, :, 0])).sum()),
        val=float(on_val[0]),
        test=float(on_test[0]),
        reweighted=float(on_mix[0]),
        change=_change(on_test - on_val),
        case_mix=_change(on_test - on_mix),
        rest=_change(on_mix - on_val),
        effective_images=intervals.effective_patients(weights[0]),
        effective_patients=intervals.effective_patients(by_patient) if known else float("nan"),
        test_images=len(weights[0]),
        uncovered=float(np.mean(~np.isin(cells[0], cells[1]))),
        by_label=dict(zip(val.table.labels, map(tuple, curves[:, :, 0].T.tolist()), strict=True)),
        matched=[_compare(name, pair, drawn, masks) for name, masks in matched.items()],
        severity=[_compare(name, pair, drawn, masks) for name, masks in severity.items()],
    )


def reweight(
    val_cells: Codes, test_cells: Codes, val_weights: Floats, test_weights: Floats
) -> Floats:
    """Weights of the test images that give them validation's mix of cells, (D, m)."""
    # Cells are (n,) and (m,); weights say how often each draw has each image, (D, n) and (D, m).
    count = int(max(val_cells.max(), test_cells.max())) + 1
    wanted, have = (
        drawn @ np.eye(count)[cells] / drawn.sum(axis=1, keepdims=True)
        for cells, drawn in ((val_cells, val_weights), (test_cells, test_weights))
    )
    return np.asarray(test_weights * np.nan_to_num(divided(wanted, have))[:, test_cells])


def measure_auroc(scores: Floats, targets: Floats | Mask, weights: Floats) -> Floats:
    """Weighted share of pairs of a positive and a negative in the right order, ties half, (D,)."""
    # The weights (D, n) are any numbers; NaN where a draw has no positive or no negative, which
    # a difference of rounded sums would not tell.
    aurocs = PatientBootstrap.of(np.arange(len(scores)), weights).auroc(scores, targets * 1.0)
    both = [(weights[:, targets == side] > 0).any(axis=1) for side in (0, 1)]
    return np.where(np.all(both, axis=0), aurocs, np.nan)


def _number_cells(val: LabelTable, test: LabelTable) -> tuple[Codes, Codes]:
    """View x follow-up band x number of findings as one number for both, (n,) and (m,)."""
    view = np.concatenate([val.view, test.view])
    number = np.concatenate([val.follow_up, test.follow_up])
    band = np.where(np.isnan(number), -1, np.searchsorted(_FOLLOW_UPS, number, side="right"))
    findings = (np.concatenate([val.targets, test.targets]) == 1).sum(axis=1)
    columns = np.unique(view, return_inverse=True)[1], band, findings.clip(max=len(_FINDINGS) - 1)
    cells = np.unique(np.stack(columns), axis=1, return_inverse=True)[1].reshape(-1)
    return cells[: len(val.view)], cells[len(val.view) :]


def _match(*tables: LabelTable) -> dict[str, Sequence[Mask]]:
    """Each view that both have, and the patients' first images."""
    views = set.intersection(*(set(table.view.tolist()) for table in tables)) - {""}
    masks: dict[str, Sequence[Mask]] = {
        f"view {view}": [table.view == view for table in tables] for view in sorted(views)
    }
    if not np.isnan(tables[-1].follow_up).all():
        masks["first images"] = [table.follow_up == 0 for table in tables]
    return masks


def _aurocs(subset: ScoredSubset, weights: Floats, use: Mask | None = None) -> Floats:
    """AUROC (L, D) of each label, weights (D, n), among ``use`` (n, L); NaN with too few images."""
    least, targets = 1 if use is None else MINIMUM, subset.table.targets
    targets = targets if use is None else np.where(use, targets, np.nan)
    few = np.min([(targets == side).sum(axis=0) for side in (0, 1)], axis=0) < least
    pairs = zip(subset.scores.T, targets.T, strict=True)
    aurocs = np.stack([measure_auroc(*pair, weights) for pair in pairs])
    return np.where(few[:, None], np.nan, aurocs)


def _compare(
    name: str, pair: Sequence[ScoredSubset], drawn: Sequence[Floats], masks: Sequence[Mask]
) -> MatchedChange:
    """Both on some of their images; a mask is (n,), or (n, L) where it differs by label."""
    sides = zip(pair, masks, strict=True)
    uses = [np.broadcast_to(mask.T, subset.scores.T.shape).T for subset, mask in sides]
    curves = [_aurocs(*side) for side in zip(pair, drawn, uses, strict=True)]
    both = ~np.isnan(curves[0][:, 0]) & ~np.isnan(curves[1][:, 0])
    val, test = (mean_of_defined(aurocs[both]) for aurocs in curves)
    ends = (float(val[0]), float(test[0]), *_change(test - val))
    return MatchedChange(name, int(both.sum()), *ends, *(int(u.any(axis=1).sum()) for u in uses))


def _match_severity(pair: Sequence[ScoredSubset]) -> dict[str, Sequence[Mask]]:
    """Images with so many findings besides the label in question: others for each label."""
    present = [subset.table.targets == 1 for subset in pair]
    others = [np.minimum(own.sum(axis=1)[:, None] - own, len(_FINDINGS) - 1) for own in present]
    return {f"{k} other findings": [c == n for c in others] for n, k in enumerate(_FINDINGS)}


def _change(draws: Floats) -> Change:
    """Of the sample and of each draw, (1 + D,)."""
    return float(draws[0]), intervals.percentile_interval(draws[1:])
