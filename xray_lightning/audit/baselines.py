"""Scores that need no image: what a label table alone gives away about the test set."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from xray_lightning.audit.columns import Columns, Discrimination, Rows, discrimination
from xray_lightning.audit.leakage import UNKNOWN
from xray_lightning.audit.shift import fitted, probabilities
from xray_lightning.metrics.bootstrap import Counts, Floats, divided

PRIOR_IMAGES = 1.0  # the training prevalence counts as much as one image of the patient

METADATA = "metadata"
PREVIOUS = "previous label"
OTHERS = "other images"
TRAINED = "images in training"

METHODS = {
    METADATA: "gradient-boosted trees on age, sex, view and follow-up number, fitted on train; the "
    "number of the patient's images is not used, since later images count in it",
    PREVIOUS: "the label of the patient's previous image by follow-up number, in whatever part; a "
    "first image, and one whose previous label is unknown, gets the label's prevalence in train",
    OTHERS: "mean label of the patient's other images in test, the label's prevalence in train "
    "counting as one more image; so a patient's only image gets that prevalence",
    TRAINED: "the same mean over the patient's images in train: what a model can gain by "
    "recognising patients. 0.5 where no patient is in both parts",
}


@dataclass(frozen=True)
class Baseline:
    """AUROC of one of :data:`METHODS` on the test set.

    Attributes:
        name: of the method.
        method: in words.
        result: None where it cannot be had.
        undefined: why not; "" if it can.
    """

    name: str
    method: str
    result: Discrimination | None
    undefined: str


def baselines(
    columns: Columns, subsets: Mapping[str, Rows], counts: Counts, seed: int
) -> list[Baseline]:
    """Judge every method on the test set.

    ``counts`` (D, P) are draws of the whole table's patients.
    """
    train, test = subsets["train"], subsets["test"]
    prior = prevalence_of(columns, train)
    scores = {METADATA: metadata_scores(columns, train, test, seed)}
    scores |= dict.fromkeys((PREVIOUS, OTHERS, TRAINED))
    reasons = dict.fromkeys(scores, UNKNOWN)
    reasons[METADATA] = "the label table has no metadata that varies"
    if columns.patients_known:
        scores[PREVIOUS] = previous_scores(columns, test, prior)
        scores[OTHERS] = mean_scores(columns, test, test, prior)
        scores[TRAINED] = mean_scores(columns, train, test, prior)
        reasons[PREVIOUS] = "the label table has no follow-up numbers"
    found = []
    for name, values in scores.items():
        result = None
        if values is not None:
            targets, codes = columns.targets[test], columns.patients[test]
            result = discrimination(columns.labels, values, targets, codes, counts)
        reason = "" if result else reasons[name]
        found.append(Baseline(name, METHODS[name], result, reason))
    return found


def prevalence_of(columns: Columns, rows: Rows) -> Floats:
    """Share of positives among the known targets of each label, (L,); NaN where none is known."""
    targets = columns.targets[rows]
    return divided((targets == 1).sum(axis=0), (~np.isnan(targets)).sum(axis=0))


def metadata_scores(columns: Columns, train: Rows, test: Rows, seed: int) -> Floats | None:
    """Scores (n, L) of trees fitted on the metadata of train; None without any metadata.

    NaN for a label without a positive or a negative in train.
    """
    features = columns.features()
    if not features:
        return None
    table = np.column_stack(list(features.values()))
    scores = np.full((len(test), len(columns.labels)), np.nan)
    for index in range(len(columns.labels)):
        targets = columns.targets[train, index]
        known = train[~np.isnan(targets)]
        if len(np.unique(columns.targets[known, index])) == 2:
            model = fitted(table[known], columns.targets[known, index], seed)
            scores[:, index] = probabilities(model, table[test])
    return scores


def previous_scores(columns: Columns, rows: Rows, prior: Floats) -> Floats | None:
    """Target of the patient's image before each of ``rows``, (n, L); None without an order.

    ``rows`` (n,) are the images to score, ``prior`` (L,) is the score of a first image.
    """
    if np.isnan(columns.follow_up).all():
        return None
    order = np.lexsort((columns.follow_up, columns.patients))  # unknown numbers last
    before = np.full(columns.targets.shape, np.nan)
    same = columns.patients[order][1:] == columns.patients[order][:-1]
    same &= ~np.isnan(columns.follow_up[order][1:])
    before[order[1:][same]] = columns.targets[order[:-1][same]]
    return np.where(np.isnan(before[rows]), prior, before[rows])


def mean_scores(
    columns: Columns, known_rows: Rows, rows: Rows, prior: Floats, weight: float = PRIOR_IMAGES
) -> Floats:
    """Mean target of the patient's other images among ``known_rows``, shrunk to ``prior``, (n, L).

    An image of ``known_rows`` never tells its own; ``prior`` (L,) counts as ``weight`` images.
    """
    use = np.zeros(len(columns.patients))
    use[known_rows] = 1
    own = columns.targets[rows]
    codes, count = columns.patients, columns.patient_count
    scores = np.empty(own.shape)
    for index in range(own.shape[1]):
        targets = columns.targets[:, index]
        known = use * ~np.isnan(targets)
        positives = np.bincount(codes, weights=known * (targets == 1), minlength=count)
        images = np.bincount(codes, weights=known, minlength=count)
        found = positives[codes[rows]] - known[rows] * (own[:, index] == 1)
        total = images[codes[rows]] - known[rows]
        scores[:, index] = (found + weight * prior[index]) / (total + weight)
    return scores
