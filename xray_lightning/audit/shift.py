"""Is the test set like what a model learns from, or one hospital like another?

Prevalence and metadata of the groups of images, whether a classifier can tell them apart without
looking at an image, and scores that need no image: what a label table alone gives away.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import scipy  # .stats, a second's import, loads at its first use
from threadpoolctl import threadpool_limits

from xray_lightning.audit.label_table import LabelTable, MeanAuroc, Rows, varies
from xray_lightning.metrics.bootstrap import PatientBootstrap
from xray_lightning.metrics.compare import holm
from xray_lightning.metrics.intervals import Floats, Interval, Mask, divided, percentile_interval
from xray_lightning.metrics.ranks import sum_patients
from xray_lightning.records import prevalence
from xray_lightning.results import Result
from xray_lightning.wording import tell

Shares = dict[str, tuple[Floats | Mask, Floats | Mask]]  # numerator and denominator, (N,) each
Groups = Mapping[str, Rows]  # by name: the last is compared with the one before it, the base

# What NIH's list calls train_val: a publisher's facts are about the two together.
BOTH = "train+val"
FOLDS = 5
PER_PATIENT = "images of the patient"

METADATA = "metadata"
PREVIOUS = "previous label"
OTHERS = "other images"
TRAINED = "images in training"


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
    p_value: float  # two-sided, of test less train+val, normal: see :func:`_spread_if_alike`
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
    table: LabelTable, groups: Groups, bootstrap: PatientBootstrap, seed: int
) -> Shift:
    """All of it; the bootstrap is over the whole table: a patient that leaks is one."""
    return Shift(
        compare_prevalence(table, groups, bootstrap),
        compare_metadata(table, groups, bootstrap),
        separate_by_metadata(table, groups, bootstrap, seed),
    )


def add_train_val(subsets: Groups) -> dict[str, Rows]:
    """The subsets, and train and val together."""
    both = np.concatenate([subsets["train"], subsets["val"]])
    return {"train": subsets["train"], "val": subsets["val"], BOTH: both, "test": subsets["test"]}


def compare_prevalence(
    table: LabelTable, groups: Groups, bootstrap: PatientBootstrap
) -> list[Quantity]:
    """Share of positive images among those whose target is known, of each label."""
    columns = zip(table.labels, (table.targets == 1).T, ~np.isnan(table.targets).T, strict=True)
    shares: Shares = {label: (positive, known) for label, positive, known in columns}
    return _compare(dict.fromkeys(groups, shares), groups, bootstrap)


def compare_metadata(
    table: LabelTable, groups: Groups, bootstrap: PatientBootstrap
) -> list[Quantity]:
    """Means of age and follow-up number, shares of each sex and view, images per patient."""
    shares: Shares = {}
    for name, column in (("age", table.age), ("follow-up number", table.follow_up)):
        shares[name] = (np.nan_to_num(column), ~np.isnan(column))
    for name, words in (("sex", table.sex), ("view", table.view)):
        for word in sorted(set(words.tolist()) - {""}):
            shares[f"{name} {word}"] = (words == word, words != "")
    by_group = {group: dict(shares) for group in groups}
    if table.patients_known:
        known = ~np.isnan(table.images_of_patient)
        for group, rows in groups.items():
            weight = np.zeros(len(table.patients))
            codes = table.patients[rows]
            weight[rows] = 1 / np.bincount(codes)[codes]  # the images of a patient sum to 1
            by_group[group]["images per patient"] = (known, known * weight)
    return _compare(by_group, groups, bootstrap)


def _compare(
    by_group: Mapping[str, Shares], groups: Groups, bootstrap: PatientBootstrap
) -> list[Quantity]:
    """One row for each numerator and denominator, p values corrected over the rows."""
    draws, by_patient, (base, other) = {}, {}, list(groups)[-2:]  # group to (K, D), to (2 K, P)
    for group, rows in groups.items():
        rows = np.sort(rows)  # sums to the last digit, whatever the group is made of
        columns = [column[rows] for share in by_group[group].values() for column in share]
        codes, patients = bootstrap.codes[rows], bootstrap.patients
        by_patient[group] = np.stack([sum_patients(codes, one, patients) for one in columns])
        drawn = bootstrap.subset(rows).compact().sums(np.column_stack(columns))[1:]
        draws[group] = divided(drawn[:, ::2], drawn[:, 1::2]).T
    sums = {group: own.sum(axis=1).reshape(-1, 2) for group, own in by_patient.items()}
    quantities, spreads = [], _spread_if_alike(np.stack([by_patient[base], by_patient[other]]))
    for index, name in enumerate(by_group[base]):
        value = {group: float(divided(*shares[index])) for group, shares in sums.items()}
        spread, apart = spreads[index], abs(value[other] - value[base])
        quantities.append(Quantity(
            name,
            count={group: float(shares[index, 0]) for group, shares in sums.items()},
            known={group: float(shares[index, 1]) for group, shares in sums.items()},
            value=value,
            interval={k: percentile_interval(drawn[index]) for k, drawn in draws.items()},
            ratio=float(divided(value[other], value[base])),
            ratio_interval=percentile_interval(divided(draws[other][index], draws[base][index])),
            ratio_to_train=float(divided(value[other], value.get("train", np.nan))),
            p_value=float(2 * scipy.stats.norm.sf(apart / spread)) if spread > 0 else float("nan"),
            corrected=float("nan"),
        ))  # fmt: skip
    corrected = holm([row.p_value for row in quantities]).tolist()
    return [replace(row, corrected=p) for row, p in zip(quantities, corrected, strict=True)]


def _spread_if_alike(sums: Floats) -> Floats:
    """A score test's deviation of two shares' difference, (K,), by patients' sums (2, 2 K, P)."""
    # Draws of a group that happens to have no positive image are alike, and would be sure. So all
    # patients' squared residuals stand for either group: by its images (right where a patient's
    # differ as any do) or by the squares of their numbers (where they agree), whichever is more.
    part, whole = sums[:, ::2], sums[:, 1::2]  # (2, K, P)
    images, alike = whole.sum(axis=2), (whole**2).sum(axis=2)  # (2, K)
    share = divided(part.sum(axis=(0, 2)), images.sum(axis=0))[:, None]
    squares = ((part - share * whole) ** 2).sum(axis=(0, 2))
    by = [divided(size, size.sum(axis=0) * images**2).sum(axis=0) for size in (images, alike)]
    return np.asarray(np.sqrt(squares * np.maximum(*by)))


def separate_by_metadata(
    table: LabelTable, groups: Groups, bootstrap: PatientBootstrap, seed: int
) -> Separation:
    """A classifier two-sample test (Lopez-Paz and Oquab, ICLR 2017) without labels."""
    # Trees on age, sex, view, follow-up number and images of the patient in the whole table, five
    # folds of patients. What is unknown in all of one group would name it: it is left out.
    from sklearn.metrics import roc_auc_score

    base, other = list(groups.values())[-2:]
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
    stacked, drawn = np.column_stack(list(features.values())), bootstrap.subset(rows)
    scores, shuffled = _score_held_out(stacked, is_other, codes, seed)
    result = MeanAuroc.of(list(groups)[-1:], scores[:, None], is_other[:, None], drawn)
    # folds learn from each other: wider by sqrt(1 + FOLDS / (FOLDS - 1)) (Nadeau and Bengio 2003)
    low, high = (result.mean + 1.5 * (end - result.mean) for end in result.interval)
    result = replace(result, interval=(max(low, 0.0), min(high, 1.0)))
    pairs = zip(features, shuffled.T, strict=True)
    used = {name: result.mean - float(roc_auc_score(is_other, one)) for name, one in pairs}
    return Separation(result, used, "", lacking)


def score_by_trees(features: Floats, targets: Floats, seed: int, *others: Floats) -> list[Floats]:
    """Scores of the class 1, (n,), of other features by small trees; unknown values as they are.

    Their settings are not tuned.
    """
    from sklearn.ensemble import HistGradientBoostingClassifier  # a second's import

    trees = HistGradientBoostingClassifier(
        max_iter=50, max_leaf_nodes=15, early_stopping=False, random_state=seed
    )
    features = np.where(np.isnan(features).all(axis=0), 0.0, features)  # which it cannot take
    with threadpool_limits(1):  # its threads spin: beside other load 0.2 s were seen to take 10
        trees.fit(features, targets)
        return [np.asarray(trees.predict_proba(columns)[:, 1]) for columns in others]


def _score_held_out(
    features: Floats, targets: Floats, codes: Floats, seed: int
) -> tuple[Floats, Floats]:
    """Scores of the images of each fold (n,), and with each column shuffled (n, F)."""
    from sklearn.model_selection import GroupKFold

    generator = np.random.default_rng(seed)
    scores, shuffled = np.zeros(len(features)), np.zeros(features.shape)
    for learned, held in GroupKFold(FOLDS).split(features, targets, codes):
        changed = np.stack([features[held]] * features.shape[1])
        for column, own in enumerate(changed):
            own[:, column] = generator.permutation(own[:, column])
        asked = features[learned], targets[learned], seed, features[held], *changed
        scores[held], *others = score_by_trees(*asked)
        shuffled[held] = np.transpose(others)
    return scores, shuffled


@dataclass(frozen=True)
class Baseline(Result):
    """AUROC on the test set of scores that need no image."""

    name: str
    method: str  # in words
    result: MeanAuroc | None
    undefined: str  # why there is no result; "" if there is one


def score_baselines(
    table: LabelTable, subsets: Mapping[str, Rows], bootstrap: PatientBootstrap, seed: int
) -> list[Baseline]:
    """Every method on the test set; ``bootstrap`` is over the whole table's patients."""
    train, test = subsets["train"], subsets["test"]
    prior = prevalence(table.targets[train])
    scores = {METADATA: score_by_metadata(table, train, test, seed)}
    scores |= dict.fromkeys((PREVIOUS, OTHERS, TRAINED))
    if table.patients_known:
        scores[PREVIOUS] = score_by_previous(table, test, prior)
        if np.bincount(table.patients[test]).max() > 1:
            scores[OTHERS] = score_by_mean(table, test, test, prior)
        scores[TRAINED] = score_by_mean(table, train, test, prior)
    targets, drawn = table.targets[test], bootstrap.subset(test)
    rows = []
    for name, known in scores.items():
        result = None if known is None else MeanAuroc.of(table.labels, known, targets, drawn)
        method, undefined = tell(__package__, "method", name, table.patients_known)
        rows.append(Baseline(name, method, result, "" if result else undefined))
    return rows


def score_by_metadata(table: LabelTable, train: Rows, test: Rows, seed: int) -> Floats | None:
    """Scores (n, L) of trees; NaN for a label of one class in train; None without metadata."""
    features = table.features()
    if not features:
        return None
    columns = np.column_stack(list(features.values()))
    scores = np.full((len(test), len(table.labels)), np.nan)
    for index in range(len(table.labels)):
        known = train[~np.isnan(table.targets[train, index])]
        told = [varies(column) for column in columns[known].T]  # where hospitals tell other things
        if len(np.unique(table.targets[known, index])) == 2 and any(told):
            learned, asked = columns[known][:, told], columns[test][:, told]
            (scores[:, index],) = score_by_trees(learned, table.targets[known, index], seed, asked)
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
