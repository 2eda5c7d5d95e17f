"""Can a classifier tell test images from training images without looking at them?"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import GroupKFold
from threadpoolctl import threadpool_limits

from xray_lightning.audit.columns import Columns, Discrimination, Rows, discrimination
from xray_lightning.metrics.clusters import Counts, Floats

FOLDS = 5
PER_PATIENT = "images of the patient"


@dataclass(frozen=True)
class Separation:
    """How well metadata alone tells the test part from train and val.

    Attributes:
        result: AUROC of the images' held-out scores; 0.5: the parts look alike.
        used: how much AUROC is lost when a column is shuffled among the held-out images.
        undefined: why there is no figure; "" if there is one.
    """

    result: Discrimination | None
    used: dict[str, float]
    undefined: str


def separation(
    columns: Columns, parts: Mapping[str, Rows], counts: Counts, seed: int
) -> Separation:
    """Gradient-boosted trees on age, sex, view, follow-up number and images of the patient.

    Cross-validated in five folds of patients, so that others taught what judges a patient; the
    images of a patient are counted in the whole label table. Labels are not used: their shift is
    in the table of prevalences. (A classifier two-sample test: Lopez-Paz and Oquab, ICLR 2017.)

    Args:
        columns: the label table.
        parts: of the split.
        counts: draws of patients for the interval, (D, P).
        seed: of the shuffling.
    """
    per_patient = np.bincount(columns.patients)[columns.patients].astype(np.float64)
    features = columns.features()
    if (per_patient != per_patient[0]).any():
        features[PER_PATIENT] = per_patient
    rows = np.concatenate([parts["train"], parts["val"], parts["test"]])
    is_test = np.isin(rows, parts["test"]).astype(np.float64)
    codes = columns.patients[rows]
    if not features:
        return Separation(None, {}, "the label table has no metadata that varies")
    if len(np.unique(codes)) < FOLDS:
        return Separation(None, {}, f"{FOLDS} folds need as many patients")
    table = np.column_stack([values[rows] for values in features.values()])  # (n, F)
    scores, shuffled = _held_out(table, is_test, codes, seed)
    result = discrimination(["test"], scores[:, None], is_test[:, None], codes, counts)
    best = float(roc_auc_score(is_test, scores))
    used = {
        name: best - float(roc_auc_score(is_test, column))
        for name, column in zip(features, shuffled.T, strict=True)
    }
    return Separation(result, used, "")


def fitted(table: Floats, targets: Floats, seed: int) -> HistGradientBoostingClassifier:
    """Small trees that take unknown values as they are; the settings are not tuned.

    On one thread: its threads wait for each other by spinning, and beside other load on the same
    cores a fit of 0.2 s was seen to take 10.
    """
    trees = HistGradientBoostingClassifier(
        max_iter=50, max_leaf_nodes=15, early_stopping=False, random_state=seed
    )
    with threadpool_limits(1):
        return trees.fit(table, targets)


def probabilities(trees: HistGradientBoostingClassifier, table: Floats) -> Floats:
    """Scores of the class 1, (n,); on one thread, as the fit is."""
    with threadpool_limits(1):
        scores: Floats = trees.predict_proba(table)[:, 1]
    return scores


def _held_out(table: Floats, targets: Floats, codes: Floats, seed: int) -> tuple[Floats, Floats]:
    """Scores of the images of each fold (n,), and with each column shuffled (n, F)."""
    generator = np.random.default_rng(seed)
    scores, shuffled = np.zeros(len(table)), np.zeros(table.shape)
    for learned, held in GroupKFold(FOLDS).split(table, targets, codes):
        model = fitted(table[learned], targets[learned], seed)
        scores[held] = probabilities(model, table[held])
        for column in range(table.shape[1]):
            changed = table[held].copy()
            changed[:, column] = generator.permutation(changed[:, column])
            shuffled[held, column] = probabilities(model, changed)
    return scores, shuffled
