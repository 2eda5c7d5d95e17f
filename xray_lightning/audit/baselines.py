"""Scores that need no image: what a label table alone gives away about the test set."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from xray_lightning.audit.label_table import LabelTable, MeanAuroc, Rows, varies
from xray_lightning.audit.leakage import UNKNOWN
from xray_lightning.audit.shift import fit_trees, score_trees
from xray_lightning.metrics.bootstrap import PatientBootstrap
from xray_lightning.metrics.intervals import Floats, divided
from xray_lightning.results import Result

METADATA = "metadata"
PREVIOUS = "previous label"
OTHERS = "other images"
TRAINED = "images in training"

METHODS = {
    METADATA: "gradient-boosted trees on age, sex, view and follow-up number, fitted on train; the "
    "number of the patient's images is not used, since later images count in it",
    PREVIOUS: "the label of the patient's previous image by follow-up number, in any subset; a "
    "first image, and one whose previous label is unknown, gets the label's prevalence in train",
    OTHERS: "mean label of the patient's other images in test, the label's prevalence in train "
    "counting as one more image; so a patient's only image gets that prevalence",
    TRAINED: "the same mean over the patient's images in train: what a model can gain by "
    "recognising patients. 0.5 where no patient is in both subsets",
}


@dataclass(frozen=True)
class Baseline(Result):
    """AUROC of one of :data:`METHODS` on the test set."""

    name: str
    method: str  # in words
    result: MeanAuroc | None
    undefined: str  # why there is no result; "" if there is one


def score_baselines(
    table: LabelTable, subsets: Mapping[str, Rows], bootstrap: PatientBootstrap, seed: int
) -> list[Baseline]:
    """Every method on the test set; ``bootstrap`` is over the whole table's patients."""
    train, test = subsets["train"], subsets["test"]
    prior = measure_prevalence(table, train)
    scores = {METADATA: score_by_metadata(table, train, test, seed)}
    scores |= dict.fromkeys((PREVIOUS, OTHERS, TRAINED))
    reasons = dict.fromkeys(scores, UNKNOWN)
    reasons[METADATA] = "the label table has no metadata that varies"
    if table.patients_known:
        scores[PREVIOUS] = score_by_previous(table, test, prior)
        if np.bincount(table.patients[test]).max() > 1:
            scores[OTHERS] = score_by_mean(table, test, test, prior)
        scores[TRAINED] = score_by_mean(table, train, test, prior)
        reasons[PREVIOUS] = "the label table has no follow-up numbers"
        reasons[OTHERS] = "no patient has two images in test"
    targets, drawn = table.targets[test], bootstrap.subset(test)
    results = {
        name: None if known is None else MeanAuroc.of(table.labels, known, targets, drawn)
        for name, known in scores.items()
    }
    return [
        Baseline(name, METHODS[name], result, "" if result else reasons[name])
        for name, result in results.items()
    ]


def measure_prevalence(table: LabelTable, rows: Rows) -> Floats:
    """Share of positives among the known targets of each label, (L,); NaN where none is known."""
    targets = table.targets[rows]
    return divided((targets == 1).sum(axis=0), (~np.isnan(targets)).sum(axis=0))


def score_by_metadata(table: LabelTable, train: Rows, test: Rows, seed: int) -> Floats | None:
    """Scores (n, L) of trees; NaN for a label of one class in train; None without metadata."""
    features = table.features()
    if not features:
        return None
    columns = np.column_stack(list(features.values()))
    scores = np.full((len(test), len(table.labels)), np.nan)
    for index in range(len(table.labels)):
        targets = table.targets[train, index]
        known = train[~np.isnan(targets)]
        told = [varies(column) for column in columns[known].T]  # where hospitals tell other things
        if len(np.unique(table.targets[known, index])) == 2 and any(told):
            trees = fit_trees(columns[known][:, told], table.targets[known, index], seed)
            scores[:, index] = score_trees(trees, columns[test][:, told])
    return scores


def score_by_previous(table: LabelTable, rows: Rows, prior: Floats) -> Floats | None:
    """Target of the image before each of ``rows`` (n,), (n, L); None without an order."""
    if np.isnan(table.follow_up).all():
        return None
    order = np.lexsort((table.follow_up, table.patients))  # unknown numbers last
    before = np.full(table.targets.shape, np.nan)
    same = table.patients[order][1:] == table.patients[order][:-1]
    same &= ~np.isnan(table.follow_up[order][1:])
    before[order[1:][same]] = table.targets[order[:-1][same]]
    return np.where(np.isnan(before[rows]), prior, before[rows])


def score_by_mean(table: LabelTable, known_rows: Rows, rows: Rows, prior: Floats) -> Floats:
    """Mean target of the patient's other images in ``known_rows``, shrunk to ``prior``, (n, L)."""
    known = np.zeros(table.targets.shape)
    known[known_rows] = ~np.isnan(table.targets[known_rows])
    columns = np.hstack([known * (table.targets == 1), known])  # (N, 2 L)
    sums = np.zeros((table.patients.max() + 1, columns.shape[1]))
    np.add.at(sums, table.patients, columns)
    positives, images = np.hsplit(sums[table.patients[rows]] - columns[rows], 2)
    return np.asarray((positives + prior) / (images + 1))
