"""Is the test set like what a model learns from, or one hospital like another?

Prevalence and metadata of the groups of images, and whether a classifier can tell them apart
without looking at an image.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
from scipy.stats import norm
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import GroupKFold
from threadpoolctl import threadpool_limits

from xray_lightning.audit.label_table import LabelTable, MeanAuroc, Rows, varies
from xray_lightning.metrics.bootstrap import PatientBootstrap
from xray_lightning.metrics.delong import holm
from xray_lightning.metrics.intervals import Floats, Interval, divided, percentile_interval
from xray_lightning.results import Result

Shares = dict[str, tuple[Floats, Floats]]  # name to numerator and denominator, (N,) each
Pair = tuple[str, str]  # names of the groups: what it is compared with, and what is compared

# What NIH's list calls train_val: a publisher's facts are about the two together.
BOTH = "train+val"
SUBSETS = (BOTH, "test")
FOLDS = 5
PER_PATIENT = "images of the patient"


@dataclass(frozen=True)
class Quantity(Result):
    """A mean or a share in each group, subset or hospital; 95 % intervals, patients resampled."""

    name: str  # a label, "age", "view AP", ...
    count: dict[str, float]  # group to the numerator (positive images, images of the view)
    known: dict[str, float]  # group to the denominator (images whose target, age, ... is known)
    value: dict[str, float]  # group to their quotient; NaN where nothing is known
    interval: dict[str, Interval]  # group to the interval of the value
    ratio: float  # test over train+val
    ratio_interval: Interval
    ratio_to_train: float  # test over train alone; NaN between hospitals
    p_value: float  # two-sided, of test less train+val, normal with the deviation of the draws
    corrected: float  # the same, corrected for the number of rows of the table (Holm)


@dataclass(frozen=True)
class Separation(Result):
    """How well metadata alone tells the test set from train and val, or two hospitals."""

    result: MeanAuroc | None  # of the images' held-out scores; 0.5: the groups look alike
    used: dict[str, float]  # AUROC lost when a column is shuffled among the held-out images
    undefined: str  # why there is no AUROC; "" if there is one
    left_out: list[str] = field(default_factory=list)  # columns that one of the groups lacks


@dataclass(frozen=True)
class Shift(Result):
    """How a group differs from the base: the test set from what a model learns from."""

    prevalence: list[Quantity]  # of each label
    metadata: list[Quantity]
    separation: Separation

    @property
    def largest(self) -> Quantity | None:
        """Whose prevalence differs most, beyond chance if any does; None without a ratio."""
        rows = [row for row in self.prevalence if not np.isnan(row.ratio)]
        rows.sort(key=lambda row: -abs(np.log(max(row.ratio, 1e-9))))
        return next((row for row in rows if row.corrected < 0.05), rows[0] if rows else None)


def measure_shift(
    table: LabelTable,
    groups: Mapping[str, Rows],
    bootstrap: PatientBootstrap,  # over the whole table: a patient that leaks is one
    seed: int,
    pair: Pair = SUBSETS,
) -> Shift:
    """All of it: the other group of ``pair`` against its base, and the values of all ``groups``."""
    return Shift(
        compare_prevalence(table, groups, bootstrap, pair),
        compare_metadata(table, groups, bootstrap, pair),
        separate_by_metadata(table, groups, bootstrap, seed, pair),
    )


def add_train_val(subsets: Mapping[str, Rows]) -> dict[str, Rows]:
    """The subsets, and train and val together."""
    both = np.concatenate([subsets["train"], subsets["val"]])
    return {"train": subsets["train"], "val": subsets["val"], BOTH: both, "test": subsets["test"]}


def compare_prevalence(
    table: LabelTable, groups: Mapping[str, Rows], bootstrap: PatientBootstrap, pair: Pair = SUBSETS
) -> list[Quantity]:
    """Share of positive images among those whose target is known, of each label."""
    known = (~np.isnan(table.targets)).astype(np.float64)
    positive = (table.targets == 1).astype(np.float64)
    shares = {label: (positive[:, i], known[:, i]) for i, label in enumerate(table.labels)}
    return _compare(dict.fromkeys(groups, shares), groups, bootstrap, pair)


def compare_metadata(
    table: LabelTable, groups: Mapping[str, Rows], bootstrap: PatientBootstrap, pair: Pair = SUBSETS
) -> list[Quantity]:
    """Means of age and follow-up number, shares of each sex and view, images per patient."""
    shares: Shares = {}
    for name, column in (("age", table.age), ("follow-up number", table.follow_up)):
        shares[name] = (np.nan_to_num(column), (~np.isnan(column)).astype(np.float64))
    for name, words in (("sex", table.sex), ("view", table.view)):
        known = (words != "").astype(np.float64)
        for word in sorted(set(words.tolist()) - {""}):
            shares[f"{name} {word}"] = ((words == word).astype(np.float64), known)
    by_group = {group: dict(shares) for group in groups}
    if table.patients_known:
        known = (~np.isnan(table.images_of_patient)).astype(np.float64)
        for group, rows in groups.items():
            weight = np.zeros(len(table.patients))
            codes = table.patients[rows]
            weight[rows] = 1 / np.bincount(codes)[codes]  # the images of a patient sum to 1
            by_group[group]["images per patient"] = (known, known * weight)
    return _compare(by_group, groups, bootstrap, pair)


def _compare(
    by_group: Mapping[str, Shares],
    groups: Mapping[str, Rows],
    bootstrap: PatientBootstrap,
    pair: Pair,
) -> list[Quantity]:
    """One row for each numerator and denominator, p values corrected over the rows."""
    sums, draws = {}, {}  # group to (K, 2), group to (D, K)
    for group, rows in groups.items():
        rows = np.sort(rows)  # sums to the last digit, whatever the group is made of
        columns = [column[rows] for share in by_group[group].values() for column in share]
        weights = np.column_stack(columns)  # (n, 2 K)
        drawn = bootstrap.subset(rows).compact().sums(weights)[1:]
        sums[group] = weights.sum(axis=0).reshape(-1, 2)
        draws[group] = divided(drawn[:, ::2], drawn[:, 1::2])
    quantities = [
        _quantity(
            name,
            {group: shares[index] for group, shares in sums.items()},
            {group: ratios[:, index] for group, ratios in draws.items()},
            pair,
        )
        for index, name in enumerate(by_group[pair[0]])
    ]
    corrected = holm([row.p_value for row in quantities]).tolist()
    return [replace(row, corrected=p) for row, p in zip(quantities, corrected, strict=True)]


def _quantity(
    name: str, sums: Mapping[str, Floats], draws: Mapping[str, Floats], pair: Pair
) -> Quantity:
    base, other = pair
    value = {group: float(divided(*share)) for group, share in sums.items()}
    return Quantity(
        name,
        count={group: float(share[0]) for group, share in sums.items()},
        known={group: float(share[1]) for group, share in sums.items()},
        value=value,
        interval={group: percentile_interval(drawn) for group, drawn in draws.items()},
        ratio=float(divided(value[other], value[base])),
        ratio_interval=percentile_interval(divided(draws[other], draws[base])),
        ratio_to_train=float(divided(value[other], value.get("train", np.nan))),
        p_value=_p_value(value[other] - value[base], draws[other] - draws[base]),
        corrected=float("nan"),
    )


def _p_value(difference: float, draws: Floats) -> float:
    """Counting draws on the other side of 0 could not go below 2 / (D + 1) before correction."""
    spread = float(np.std(draws))
    return float(2 * norm.sf(abs(difference) / spread)) if spread > 0 else float("nan")


def separate_by_metadata(
    table: LabelTable,
    groups: Mapping[str, Rows],
    bootstrap: PatientBootstrap,
    seed: int,
    pair: Pair = SUBSETS,
) -> Separation:
    """A classifier two-sample test (Lopez-Paz and Oquab, ICLR 2017) without labels."""
    # Trees on age, sex, view, follow-up number and images of the patient in the whole table, five
    # folds of patients. What is unknown in all of one group would name it: it is left out.
    base, other = (groups[name] for name in pair)
    rows = np.concatenate([base, other])
    columns = {**table.features(), PER_PATIENT: table.images_of_patient}
    unknown = {k: [bool(np.isnan(v[g]).all()) for g in (base, other)] for k, v in columns.items()}
    lacking = [name for name, sides in unknown.items() if any(sides) and not all(sides)]
    features = {k: v[rows] for k, v in columns.items() if k not in lacking and varies(v[rows])}
    if not features:
        return Separation(None, {}, "the label table has no metadata that varies", lacking)
    codes = table.patients[rows]
    if len(np.unique(codes)) < FOLDS:
        return Separation(None, {}, f"{FOLDS} folds need as many patients", lacking)
    is_other = (np.arange(len(rows)) >= len(base)).astype(np.float64)
    scores, shuffled = _score_held_out(
        np.column_stack(list(features.values())), is_other, codes, seed
    )
    drawn = bootstrap.subset(rows)
    result = MeanAuroc.of([pair[1]], scores[:, None], is_other[:, None], drawn)
    best = float(roc_auc_score(is_other, scores))
    used = {
        name: best - float(roc_auc_score(is_other, column))
        for name, column in zip(features, shuffled.T, strict=True)
    }
    return Separation(result, used, "", lacking)


def fit_trees(features: Floats, targets: Floats, seed: int) -> HistGradientBoostingClassifier:
    """Small trees that take unknown values as they are; the settings are not tuned."""
    trees = HistGradientBoostingClassifier(
        max_iter=50, max_leaf_nodes=15, early_stopping=False, random_state=seed
    )
    features = np.where(np.isnan(features).all(axis=0), 0.0, features)  # which it cannot take
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
