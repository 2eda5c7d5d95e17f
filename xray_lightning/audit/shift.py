"""Is the test set like what a model learns from? Prevalence and metadata of the parts.

And whether a classifier can tell test images from training images without looking at them.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from scipy.stats import norm
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import GroupKFold
from threadpoolctl import threadpool_limits

from xray_lightning.audit.columns import Columns, Discrimination, Rows, discrimination
from xray_lightning.metrics.bootstrap import (
    Counts,
    Floats,
    Interval,
    divided,
    percentile_interval,
    sums_over,
)
from xray_lightning.metrics.delong import holm

Pairs = dict[str, tuple[Floats, Floats]]  # name to numerator and denominator, (N,) each

# What NIH's list calls train_val: a publisher's facts are about the two together.
BOTH = "train+val"
FOLDS = 5
PER_PATIENT = "images of the patient"


@dataclass(frozen=True)
class Quantity:
    """A mean or a share in each part; every interval is a 95 % one, patients resampled.

    Attributes:
        name: a label, "age", "view AP", ...
        count: part to the numerator (positive images, images of the view).
        known: part to the denominator (images whose target, age, ... is known).
        value: part to their quotient; NaN where nothing is known.
        interval: part to the interval of the value.
        ratio: test over train+val.
        ratio_interval: of the ratio.
        ratio_to_train: test over train alone.
        p_value: two-sided, of test less train+val, normal with the standard deviation of the draws.
        corrected: the same, corrected for the number of rows of the table (Holm).
    """

    name: str
    count: dict[str, float]
    known: dict[str, float]
    value: dict[str, float]
    interval: dict[str, Interval]
    ratio: float
    ratio_interval: Interval
    ratio_to_train: float
    p_value: float
    corrected: float


def with_both(subsets: Mapping[str, Rows]) -> dict[str, Rows]:
    """The parts, and train and val together."""
    both = np.sort(np.concatenate([subsets["train"], subsets["val"]]))
    return {"train": subsets["train"], "val": subsets["val"], BOTH: both, "test": subsets["test"]}


def prevalence(columns: Columns, subsets: Mapping[str, Rows], counts: Counts) -> list[Quantity]:
    """Share of positive images among those whose target is known, of each label.

    ``counts`` (D, P) are draws of the whole table's patients: one drawn twice counts twice in every
    part it has images in, so a patient that leaks is resampled as one.
    """
    known = (~np.isnan(columns.targets)).astype(np.float64)
    positive = (columns.targets == 1).astype(np.float64)
    pairs = {label: (positive[:, i], known[:, i]) for i, label in enumerate(columns.labels)}
    return _quantities(columns, dict.fromkeys(with_both(subsets), pairs), subsets, counts)


def metadata(columns: Columns, subsets: Mapping[str, Rows], counts: Counts) -> list[Quantity]:
    """Means of age and follow-up number, shares of each sex and view, images per patient.

    A mean or share is one over the images whose value is known; images per patient are counted
    within the part, where patients are known. The arguments are those of :func:`prevalence`.
    """
    pairs: Pairs = {}
    for name, values in (("age", columns.age), ("follow-up number", columns.follow_up)):
        pairs[name] = (np.nan_to_num(values), (~np.isnan(values)).astype(np.float64))
    for name, words in (("sex", columns.sex), ("view", columns.view)):
        known = (words != "").astype(np.float64)
        for word in sorted(set(words.tolist()) - {""}):
            pairs[f"{name} {word}"] = ((words == word).astype(np.float64), known)
    by_subset = {}
    for subset, rows in with_both(subsets).items():
        weight = np.zeros(len(columns.patients))
        codes = columns.patients[rows]
        weight[rows] = 1 / np.bincount(codes)[codes]  # the images of a patient sum to 1
        by_subset[subset] = dict(pairs)
        if columns.patients_known:
            by_subset[subset]["images per patient"] = (np.ones(len(weight)), weight)
    return _quantities(columns, by_subset, subsets, counts)


def _quantities(
    columns: Columns, by_subset: Mapping[str, Pairs], subsets: Mapping[str, Rows], counts: Counts
) -> list[Quantity]:
    """One row for each numerator and denominator, p values corrected over the rows."""
    sums, draws = {}, {}  # part to (K, 2), part to (D, K)
    for subset, rows in with_both(subsets).items():
        weights = np.column_stack(
            [each[rows] for pair in by_subset[subset].values() for each in pair]
        )
        used, codes = np.unique(columns.patients[rows], return_inverse=True)
        drawn = sums_over(counts[:, used], codes, weights)  # (D, 2 K)
        sums[subset], draws[subset] = weights.sum(axis=0).reshape(-1, 2), _ratios(drawn)
    rows_of = [
        _quantity(
            name,
            {subset: each[index] for subset, each in sums.items()},
            {subset: each[:, index] for subset, each in draws.items()},
        )
        for index, name in enumerate(by_subset[BOTH])
    ]
    corrected = holm([row.p_value for row in rows_of]).tolist()
    return [replace(row, corrected=value) for row, value in zip(rows_of, corrected, strict=True)]


def _ratios(sums: Floats) -> Floats:
    return divided(sums[:, ::2], sums[:, 1::2])


def _quantity(name: str, sums: Mapping[str, Floats], draws: Mapping[str, Floats]) -> Quantity:
    value = {subset: float(divided(*pair)) for subset, pair in sums.items()}
    return Quantity(
        name,
        count={subset: float(pair[0]) for subset, pair in sums.items()},
        known={subset: float(pair[1]) for subset, pair in sums.items()},
        value=value,
        interval={subset: percentile_interval(each) for subset, each in draws.items()},
        ratio=float(divided(value["test"], value[BOTH])),
        ratio_interval=percentile_interval(divided(draws["test"], draws[BOTH])),
        ratio_to_train=float(divided(value["test"], value["train"])),
        p_value=_p_value(value["test"] - value[BOTH], draws["test"] - draws[BOTH]),
        corrected=float("nan"),
    )


def _p_value(difference: float, draws: Floats) -> float:
    """Counting draws on the other side of 0 could not go below 2 / (D + 1) before correction."""
    spread = float(np.std(draws))
    return float(2 * norm.sf(abs(difference) / spread)) if spread > 0 else float("nan")


@dataclass(frozen=True)
class Separation:
    """How well metadata alone tells the test set from train and val.

    Attributes:
        result: AUROC of the images' held-out scores; 0.5: the parts look alike.
        used: how much AUROC is lost when a column is shuffled among the held-out images.
        undefined: why there is no figure; "" if there is one.
    """

    result: Discrimination | None
    used: dict[str, float]
    undefined: str


def separation(
    columns: Columns, subsets: Mapping[str, Rows], counts: Counts, seed: int
) -> Separation:
    """Gradient-boosted trees on age, sex, view, follow-up number and images of the patient.

    Cross-validated in five folds of patients, so that others taught what judges a patient; the
    images of a patient are counted in the whole label table. Labels are not used: their shift is in
    the table of prevalences. (A classifier two-sample test: Lopez-Paz and Oquab, ICLR 2017.)
    ``counts`` (D, P) are draws of patients for the interval.
    """
    per_patient = np.bincount(columns.patients)[columns.patients].astype(np.float64)
    features = columns.features()
    if (per_patient != per_patient[0]).any():
        features[PER_PATIENT] = per_patient
    rows = np.concatenate([subsets["train"], subsets["val"], subsets["test"]])
    is_test = np.isin(rows, subsets["test"]).astype(np.float64)
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
