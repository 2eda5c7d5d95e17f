"""Which images train, which choose the model, which test it: six ways to split the records.

A splitter is a plain function ``(records, official, *, settings) -> Split``. None depends on the
order of the records; all but ``image_split`` keep every patient in one subset.

Groups of images (patients) are assigned so that every subset has the same mix of findings: a group
is a row of counts, its images and its positives of each label. Exact balance is a knapsack problem;
here the heavy groups come first, and the many light ones even out what remains. The arithmetic is
of whole numbers, so one seed gives one split on every machine.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from numpy.random import Generator

from xray_lightning.data import partition
from xray_lightning.data.partition import LEAKY, SUBSETS, Images, Indices, Lists, Split, make_split
from xray_lightning.data.tables import read_table
from xray_lightning.errors import ConfigError, SplitError, require_integer, require_number
from xray_lightning.records import is_known, read_column, take_records, target_matrix
from xray_lightning.wording import fault

FRACTIONS = (0.7, 0.1, 0.2)
VAL_FRACTION = 0.125  # of the images that do not test: 10 % of the whole where 20 % test
UNIT = 2.0**30  # costs are integers in units of 1 / UNIT: UNIT * counts stays far below 2**63
BLOCK = 64  # groups assigned with one look at the totals
BY_LOT = 20  # the first of every 20 groups are assigned by lot, see balanced_assignment

Shares = Sequence[float]  # of the images in each subset


def balanced_assignment(
    counts: npt.ArrayLike,  # non-negative whole numbers, (P, K); column 0 is the images of a group
    fractions: Shares,  # share of each subset, positive, summing to 1
    rng: Generator,  # decides the order among groups of similar weight
) -> Indices:
    """The subset of each group, (P,), none empty, so that totals come near their fractions."""
    # Heavy groups come first, by their images times a random 0.5 to 1.5, which makes seeds differ.
    # Each goes where sum_pk (total_pk - target_pk)^2 / target_pk, Pearson's chi-square, is least: v
    # in subset p adds sum_k (2 (total_pk - target_pk) v_k + v_k^2) / target_pk. The heaviest
    # twentieth is assigned by lot: by cost they go to the largest subset whatever the seed (86 % of
    # NIH's ten heaviest to a training set of 70 %), and no test set would ever contain them.
    table = np.asarray(counts, dtype=np.int64)  # (P, K)
    if len(table) < len(fractions):
        raise SplitError(fault("few_groups", table, fractions))
    shares = np.asarray(fractions, dtype=np.float64)
    order = np.argsort(-table[:, 0] * (0.5 + rng.random(len(table))), kind="stable")
    by_lot = np.searchsorted(shares.cumsum()[:-1], rng.random(len(table) // BY_LOT), side="right")
    assignment = np.empty(len(table), dtype=np.int64)
    assignment[order] = _assign_greedily(table[order], shares, by_lot.tolist())
    return assignment


def _assign_greedily(
    table: Indices, shares: npt.NDArray[np.float64], by_lot: list[int]
) -> list[int]:
    """Subset of each row of ``table`` (P, K), assigned from the first row to the last."""
    target = shares[:, None] * table.sum(axis=0)  # (subsets, K)
    scale = UNIT / np.maximum(target, 1.0)
    price = np.rint(scale).astype(np.int64)  # 1 / target
    slope = -np.rint(2 * scale * target).astype(np.int64)  # 2 (total - target) / target, total = 0
    most = 2.0 * (price.max(axis=0) * table.sum(axis=0)) @ table.max(axis=0)
    if most < 2**50:  # every sum is a whole number that a float holds: as exact, and faster
        table, price, slope = table.astype(float), price.astype(float), slope.astype(float)
    subsets: list[int] = []
    empty = set(range(len(shares)))
    for start in range(0, len(table), BLOCK):
        rows = table[start : start + BLOCK]
        change = slope @ rows.T + price @ (rows**2).T  # (subsets, B)
        pull = 2 * (price[:, None] * rows) @ rows.T  # of each row on the others, (subsets, B, B)
        for place in range(len(rows)):
            costs, left = change[:, place], len(table) - len(subsets)
            subset = by_lot[len(subsets)] if len(subsets) < len(by_lot) else int(costs.argmin())
            if left <= len(empty):  # just enough groups left for the empty subsets
                subset = min(empty, key=costs.__getitem__)
            change[subset] += pull[subset, place]
            empty.discard(subset)
            subsets.append(subset)
        chosen = np.eye(len(shares), dtype=table.dtype)[subsets[start:]]  # (B, subsets)
        slope += 2 * price * (chosen.T @ rows)
    return subsets


def official_split(
    records: Images, official: Lists | None, *, val_fraction: float = VAL_FRACTION, seed: int = 0
) -> Split:
    """The publisher's lists; validation is carved from "train_val" by patient.

    ``official`` has the ids of "train_val" and "test", or of "train", "val" and "test".
    ``val_fraction`` of the train_val images validate, chosen by ``seed``; unused where "val" is a
    list.

    Raises:
        ConfigError: ``val_fraction`` is not between 0 and 1.
        SplitError: there are no lists, an image is in none or two of them, or a subset is empty.
    """
    require_number("val_fraction", val_fraction, 0, 1, "()")
    if official is None:
        raise SplitError(fault("no_official_split"))
    settings = {"val_fraction": val_fraction, "seed": seed}
    subsets, faults = partition.locate_lists(records, official)
    if "train_val" in subsets:
        subsets |= _carve(records, subsets.pop("train_val"), val_fraction, _make_generator(seed))
    return make_split("official", records, subsets, settings=settings, faults=faults)


def patient_split(
    records: Images, official: Lists | None, *, fractions: Shares = FRACTIONS, seed: int = 0
) -> Split:
    """Patients assigned so that each subset has its share of images and of every label.

    ``fractions`` are the shares of the images in train, val and test, positive, summing to 1;
    another seed assigns other patients to each subset.

    Raises:
        ConfigError: the fractions cannot work.
        SplitError: there are fewer than three patients.
    """
    return _split_groups("patient", records, "patient_id", fractions, seed)


def image_split(
    records: Images, official: Lists | None, *, fractions: Shares = FRACTIONS, seed: int = 0
) -> Split:
    """Images assigned without regard to patients: leaky, to measure how much the leak flatters.

    Arguments and errors are those of :func:`patient_split`.
    """
    return _split_groups(LEAKY, records, "image_id", fractions, seed)


def auto_split(
    records: Images,
    official: Lists | None,
    *,
    fractions: Shares | None = None,
    seed: int | None = None,
) -> Split:
    """The subsets of the table's own split column, if it has one; else :func:`patient_split`.

    ``fractions`` and ``seed`` are of the latter; None: its own.

    Raises:
        ConfigError: fractions or seed beside a split column, which has none.
        SplitError: see :func:`csv_split` and :func:`patient_split`.
    """
    given = {"fractions": fractions, "seed": seed}
    settings: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    if official is None or "train_val" in official:
        return patient_split(records, official, **settings)
    if settings:
        raise ConfigError(fault("beside_split_column", next(iter(settings))))
    return csv_split(records, official)


def kfold_split(
    records: Images,
    official: Lists | None,
    *,
    folds: int = 5,
    fold: int = 0,
    seed: int = 0,
    val_fraction: float = VAL_FRACTION,
) -> Split:
    """One fold tests, the others train; the test sets of one seed's folds partition the data.

    ``fold`` is the one that tests, from 0 to ``folds - 1``. The seed assigns the patients to the
    folds; keep it over the folds. ``val_fraction`` of the other folds' images validate, carved by
    patient.

    Raises:
        ConfigError: a setting cannot work.
        SplitError: there are too few patients.
    """
    require_number("val_fraction", val_fraction, 0, 1, "()")
    require_integer("folds", folds, 2)
    if not isinstance(fold, int) or not 0 <= fold < folds:
        raise ConfigError(f"fold must be from 0 to {folds - 1} (folds={folds}), got {fold}")
    tests = _assign_groups(records, "patient_id", [1 / folds] * folds, _make_generator(seed))
    rest = np.concatenate([indices for number, indices in enumerate(tests) if number != fold])
    carved = _carve(records, rest, val_fraction, np.random.default_rng((seed, fold)))
    settings = {"folds": folds, "fold": fold, "seed": seed, "val_fraction": val_fraction}
    return make_split("kfold", records, {"test": tests[fold], **carved}, settings=settings)


def csv_split(records: Images, official: Lists | None, *, path: str | Path | None = None) -> Split:
    """The subsets a table names; a note counts the names without a record.

    ``official`` has the ids of "train", "val" and "test" from the data set's own table; ``path`` is
    a table with the columns ``image,split``, None: use ``official``.

    Raises:
        DataNotFoundError, TableError: the table cannot be read.
        SplitError: no table and no split column, records without a subset, or a bad split.
    """
    notes: list[str] = []
    if path is not None:
        names = partition.read_split_column(read_table(Path(path), "image", "split", once="image"))
        named = {subset: (f"the {subset} set of {path}", ids) for subset, ids in names.items()}
        index = partition.NameIndex(read_column(records, "image_id"))
        official, notes = partition.match_names(named, index)
    elif official is None or set(official) != set(SUBSETS):
        raise SplitError(fault("no_split_column"))
    subsets, faults = partition.locate_lists(records, official)
    settings = {"path": None if path is None else str(path)}
    return make_split("csv", records, subsets, settings=settings, notes=notes, faults=faults)


def lists_split(
    records: Images,
    official: Lists | None,
    *,
    train: str | Path | None = None,
    val: str | Path | None = None,
    test: str | Path | None = None,
    val_fraction: float = VAL_FRACTION,
    seed: int = 0,
) -> Split:
    """The subsets of anybody's list files, see :func:`~xray_lightning.data.partition.read_list`.

    Without a list ``val``, ``val_fraction`` of the train images validate, carved by patient with
    ``seed``.

    Raises:
        ConfigError: a list is not named, or ``val_fraction`` is not between 0 and 1.
        DataNotFoundError, TableError: a list cannot be read.
        SplitError: a list names none of the images, or the split is faulty.
    """
    require_number("val_fraction", val_fraction, 0, 1, "()")
    if train is None or test is None:
        raise ConfigError("split=lists needs split.train=FILE and split.test=FILE (and split.val=)")
    index = partition.NameIndex(read_column(records, "image_id"))
    paths = {"train": train, "val": val, "test": test}
    given = {s: Path(path) for s, path in paths.items() if path is not None}
    named = {s: (str(paths[s]), partition.read_list(path, index)) for s, path in given.items()}
    lists, notes = partition.match_names(named, index)
    subsets, faults = partition.locate_lists(records, lists)
    settings: dict[str, object] = {s: None if p is None else str(p) for s, p in paths.items()}
    if val is None:
        subsets |= _carve(records, subsets["train"], val_fraction, _make_generator(seed))
        settings |= {"val_fraction": val_fraction, "seed": seed}
    return make_split("lists", records, subsets, settings=settings, notes=notes, faults=faults)


def count_groups(groups: npt.NDArray[np.intp], targets: npt.NDArray[np.float32]) -> Indices:
    """Of each group images, 1, images without finding, positives, known targets: (P, 3 + L + U)."""
    known = is_known(targets)
    columns = [np.ones(len(groups)), (targets == 0).all(axis=1), *(targets == 1).T]
    columns += [known[:, label] for label in np.flatnonzero(~known.all(axis=0))]
    images, *rest = (np.bincount(groups, weights=column) for column in columns)
    return np.column_stack([images, np.ones_like(images), *rest]).astype(np.int64)


def _split_groups(name: str, records: Images, group: str, fractions: Shares, seed: int) -> Split:
    """A split into ``fractions``, where records that are equal in a field stay together."""
    shares = tuple(fractions) if not isinstance(fractions, str | float | int | None) else ()
    positive = all(isinstance(share, float | int) and share > 0 for share in shares)
    if not (len(shares) == len(SUBSETS) and positive and abs(sum(shares) - 1) < 1e-6):
        raise ConfigError(fault("fractions", fractions))
    subsets = _assign_groups(records, group, shares, _make_generator(seed))
    settings = {"fractions": list(shares), "seed": seed}
    return make_split(name, records, dict(zip(SUBSETS, subsets, strict=True)), settings=settings)


def _assign_groups(records: Images, group: str, shares: Shares, rng: Generator) -> list[Indices]:
    """Positions of the records in each subset; those that are equal in a field stay together."""
    if not records:
        raise SplitError("there are no images to split: check the label table and the lists")
    names = read_column(records, group)
    places = {name: place for place, name in enumerate(sorted(set(names)))}  # forget the order
    numbers = np.array([places[name] for name in names])
    assignment = balanced_assignment(count_groups(numbers, target_matrix(records)), shares, rng)
    return [np.flatnonzero(assignment[numbers] == subset) for subset in range(len(shares))]


def _carve(
    records: Images, rest: Indices, val_fraction: float, rng: Generator
) -> dict[str, Indices]:
    """The positions ``rest`` divided into "train" and "val" by patient."""
    chosen = take_records(records, rest)
    train, val = _assign_groups(chosen, "patient_id", [1 - val_fraction, val_fraction], rng)
    return {"train": rest[train], "val": rest[val]}


def _make_generator(seed: int) -> Generator:
    require_integer("the split's seed", seed, 0)
    return np.random.default_rng(seed)
