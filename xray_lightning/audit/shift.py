"""Is the test set like what a model learns from? Prevalence and metadata of the subsets.

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

from xray_lightning.audit.label_table import LabelTable, MeanAuroc, Rows
from xray_lightning.metrics.bootstrap import PatientBootstrap
from xray_lightning.metrics.delong import holm
from xray_lightning.metrics.intervals import Floats, Interval, divided, percentile_interval
from xray_lightning.results import Result

Pairs = dict[str, tuple[Floats, Floats]]  # name to numerator and denominator, (N,) each

# What NIH's list calls train_val: a publisher's facts are about the two together.
BOTH = "train+val"
FOLDS = 5
PER_PATIENT = "images of the patient"


@dataclass(frozen=True)
class Quantity(Result):
    """A mean or a share in each subset; every interval is a 95 % one, patients resampled."""

    name: str  # a label, "age", "view AP", ...
    count: dict[str, float]  # subset to the numerator (positive images, images of the view)
    known: dict[str, float]  # subset to the denominator (images whose target, age, ... is known)
    value: dict[str, float]  # subset to their quotient; NaN where nothing is known
    interval: dict[str, Interval]  # subset to the interval of the value
    ratio: float  # test over train+val
    ratio_interval: Interval
    ratio_to_train: float  # test over train alone
    p_value: float  # two-sided, of test less train+val, normal with the deviation of the draws
    corrected: float  # the same, corrected for the number of rows of the table (Holm)


@dataclass(frozen=True)
class Separation(Result):
    """How well metadata alone tells the test set from train and val."""

    result: MeanAuroc | None  # of the images' held-out scores; 0.5: the subsets look alike
    used: dict[str, float]  # AUROC lost when a column is shuffled among the held-out images
    undefined: str  # why there is no AUROC; "" if there is one


@dataclass(frozen=True)
class Shift(Result):
    """How the test set differs from what a model learns from."""

    prevalence: list[Quantity]  # of each label
    metadata: list[Quantity]
    separation: Separation


def measure_shift(
    table: LabelTable, subsets: Mapping[str, Rows], bootstrap: PatientBootstrap, seed: int
) -> Shift:
    """All of it; ``bootstrap`` is over the whole table, so that a patient that leaks is one."""
    return Shift(
        compare_prevalence(table, subsets, bootstrap),
        compare_metadata(table, subsets, bootstrap),
        separate_by_metadata(table, subsets, bootstrap, seed),
    )


def add_train_val(subsets: Mapping[str, Rows]) -> dict[str, Rows]:
    """The subsets, and train and val together."""
    both = np.sort(np.concatenate([subsets["train"], subsets["val"]]))
    return {"train": subsets["train"], "val": subsets["val"], BOTH: both, "test": subsets["test"]}


def compare_prevalence(
    table: LabelTable, subsets: Mapping[str, Rows], bootstrap: PatientBootstrap
) -> list[Quantity]:
    """Share of positive images among those whose target is known, of each label."""
    known = (~np.isnan(table.targets)).astype(np.float64)
    positive = (table.targets == 1).astype(np.float64)
    pairs = {label: (positive[:, i], known[:, i]) for i, label in enumerate(table.labels)}
    return _compare(dict.fromkeys(add_train_val(subsets), pairs), subsets, bootstrap)


def compare_metadata(
    table: LabelTable, subsets: Mapping[str, Rows], bootstrap: PatientBootstrap
) -> list[Quantity]:
    """Means of age and follow-up number, shares of each sex and view, images per patient."""
    pairs: Pairs = {}
    for name, column in (("age", table.age), ("follow-up number", table.follow_up)):
        pairs[name] = (np.nan_to_num(column), (~np.isnan(column)).astype(np.float64))
    for name, words in (("sex", table.sex), ("view", table.view)):
        known = (words != "").astype(np.float64)
        for word in sorted(set(words.tolist()) - {""}):
            pairs[f"{name} {word}"] = ((words == word).astype(np.float64), known)
    by_subset = {}
    for subset, rows in add_train_val(subsets).items():
        by_subset[subset] = dict(pairs)
        if table.patients_known:
            weight = np.zeros(len(table.patients))
            codes = table.patients[rows]
            weight[rows] = 1 / np.bincount(codes)[codes]  # the images of a patient sum to 1
            by_subset[subset]["images per patient"] = (np.ones(len(weight)), weight)
    return _compare(by_subset, subsets, bootstrap)


def _compare(
    by_subset: Mapping[str, Pairs], subsets: Mapping[str, Rows], bootstrap: PatientBootstrap
) -> list[Quantity]:
    """One row for each numerator and denominator, p values corrected over the rows."""
    sums, draws = {}, {}  # subset to (K, 2), subset to (D, K)
    for subset, rows in add_train_val(subsets).items():
        columns = [column[rows] for pair in by_subset[subset].values() for column in pair]
        weights = np.column_stack(columns)  # (n, 2 K)
        drawn = bootstrap.subset(rows).compact().sums(weights)[1:]
        sums[subset] = weights.sum(axis=0).reshape(-1, 2)
        draws[subset] = divided(drawn[:, ::2], drawn[:, 1::2])
    quantities = [
        _quantity(
            name,
            {subset: pairs[index] for subset, pairs in sums.items()},
            {subset: ratios[:, index] for subset, ratios in draws.items()},
        )
        for index, name in enumerate(by_subset[BOTH])
    ]
    corrected = holm([row.p_value for row in quantities]).tolist()
    return [replace(row, corrected=p) for row, p in zip(quantities, corrected, strict=True)]


def _quantity(name: str, sums: Mapping[str, Floats], draws: Mapping[str, Floats]) -> Quantity:
    value = {subset: float(divided(*pair)) for subset, pair in sums.items()}
    return Quantity(
        name,
        count={subset: float(pair[0]) for subset, pair in sums.items()},
        known={subset: float(pair[1]) for subset, pair in sums.items()},
        value=value,
        interval={subset: percentile_interval(drawn) for subset, drawn in draws.items()},
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


def separate_by_metadata(
    table: LabelTable, subsets: Mapping[str, Rows], bootstrap: PatientBootstrap, seed: int
) -> Separation:
    """A classifier two-sample test (Lopez-Paz and Oquab, ICLR 2017) without labels.

    Trees on age, sex, view, follow-up number and images of the patient in the whole table, in five
    folds of patients.
    """
    per_patient = np.bincount(table.patients)[table.patients].astype(np.float64)
    features = table.features()
    if (per_patient != per_patient[0]).any():
        features[PER_PATIENT] = per_patient
    rows = np.concatenate([subsets["train"], subsets["val"], subsets["test"]])
    is_test = np.isin(rows, subsets["test"]).astype(np.float64)
    codes = table.patients[rows]
    if not features:
        return Separation(None, {}, "the label table has no metadata that varies")
    if len(np.unique(codes)) < FOLDS:
        return Separation(None, {}, f"{FOLDS} folds need as many patients")
    columns = np.column_stack([column[rows] for column in features.values()])  # (n, F)
    scores, shuffled = _score_held_out(columns, is_test, codes, seed)
    result = MeanAuroc.of(["test"], scores[:, None], is_test[:, None], bootstrap.subset(rows))
    best = float(roc_auc_score(is_test, scores))
    used = {
        name: best - float(roc_auc_score(is_test, column))
        for name, column in zip(features, shuffled.T, strict=True)
    }
    return Separation(result, used, "")


def fit_trees(features: Floats, targets: Floats, seed: int) -> HistGradientBoostingClassifier:
    """Small trees that take unknown values as they are; the settings are not tuned."""
    trees = HistGradientBoostingClassifier(
        max_iter=50, max_leaf_nodes=15, early_stopping=False, random_state=seed
    )
    with threadpool_limits(1):  # its threads spin: beside other load 0.2 s were seen to take 10
        return trees.fit(features, targets)


def score_trees(trees: HistGradientBoostingClassifier, features: Floats) -> Floats:
    """Scores of the class 1, (n,)."""
    with threadpool_limits(1):
        scores: Floats = trees.predict_proba(features)[:, 1]
    return scores


def _score_held_out(
    features: Floats, targets: Floats, codes: Floats, seed: int
) -> tuple[Floats, Floats]:
    """Scores of the images of each fold (n,), and with each column shuffled (n, F)."""
    generator = np.random.default_rng(seed)
    scores, shuffled = np.zeros(len(features)), np.zeros(features.shape)
    for learned, held in GroupKFold(FOLDS).split(features, targets, codes):
        trees = fit_trees(features[learned], targets[learned], seed)
        scores[held] = score_trees(trees, features[held])
        for column in range(features.shape[1]):
            changed = features[held].copy()
            changed[:, column] = generator.permutation(changed[:, column])
            shuffled[held, column] = score_trees(trees, changed)
    return scores, shuffled
