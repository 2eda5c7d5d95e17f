"""Is the test part like what a model learns from? Prevalence and metadata of the parts."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from scipy.stats import norm

from xray_lightning.audit.columns import Columns, Rows
from xray_lightning.metrics.clusters import (
    Counts,
    Floats,
    Interval,
    divided,
    percentile_interval,
    sums_over,
)
from xray_lightning.metrics.delong import holm

Pairs = dict[str, tuple[Floats, Floats]]  # name to numerator and denominator, (N,) each

BOTH = (
    "train+val"  # what NIH's list calls train_val: a publisher's facts are about the two together
)


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


def with_both(parts: Mapping[str, Rows]) -> dict[str, Rows]:
    """The parts, and train and val together."""
    both = np.sort(np.concatenate([parts["train"], parts["val"]]))
    return {"train": parts["train"], "val": parts["val"], BOTH: both, "test": parts["test"]}


def prevalence(columns: Columns, parts: Mapping[str, Rows], counts: Counts) -> list[Quantity]:
    """Share of positive images among those whose target is known, of each label.

    Args:
        columns: the label table.
        parts: of the split.
        counts: draws of the whole table's patients, (D, P): one drawn twice counts twice in every
            part it has images in, so a patient that leaks is resampled as one.
    """
    known = (~np.isnan(columns.targets)).astype(np.float64)
    positive = (columns.targets == 1).astype(np.float64)
    pairs = {label: (positive[:, i], known[:, i]) for i, label in enumerate(columns.labels)}
    return _quantities(columns, dict.fromkeys(with_both(parts), pairs), parts, counts)


def metadata(columns: Columns, parts: Mapping[str, Rows], counts: Counts) -> list[Quantity]:
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
    by_part = {}
    for part, rows in with_both(parts).items():
        weight = np.zeros(len(columns.patients))
        codes = columns.patients[rows]
        weight[rows] = 1 / np.bincount(codes)[codes]  # the images of a patient sum to 1
        by_part[part] = dict(pairs)
        if columns.patients_known:
            by_part[part]["images per patient"] = (np.ones(len(weight)), weight)
    return _quantities(columns, by_part, parts, counts)


def _quantities(
    columns: Columns, by_part: Mapping[str, Pairs], parts: Mapping[str, Rows], counts: Counts
) -> list[Quantity]:
    """One row for each numerator and denominator, p values corrected over the rows."""
    sums, draws = {}, {}  # part to (K, 2), part to (D, K)
    for part, rows in with_both(parts).items():
        weights = np.column_stack([each[rows] for pair in by_part[part].values() for each in pair])
        used, codes = np.unique(columns.patients[rows], return_inverse=True)
        drawn = sums_over(counts[:, used], codes, weights)  # (D, 2 K)
        sums[part], draws[part] = weights.sum(axis=0).reshape(-1, 2), _ratios(drawn)
    rows_of = [
        _quantity(
            name,
            {part: each[index] for part, each in sums.items()},
            {part: each[:, index] for part, each in draws.items()},
        )
        for index, name in enumerate(by_part[BOTH])
    ]
    corrected = holm([row.p_value for row in rows_of]).tolist()
    return [replace(row, corrected=value) for row, value in zip(rows_of, corrected, strict=True)]


def _ratios(sums: Floats) -> Floats:
    return divided(sums[:, ::2], sums[:, 1::2])


def _quantity(name: str, sums: Mapping[str, Floats], draws: Mapping[str, Floats]) -> Quantity:
    value = {part: float(divided(*pair)) for part, pair in sums.items()}
    return Quantity(
        name,
        count={part: float(pair[0]) for part, pair in sums.items()},
        known={part: float(pair[1]) for part, pair in sums.items()},
        value=value,
        interval={part: percentile_interval(each) for part, each in draws.items()},
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
