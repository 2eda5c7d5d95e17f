"""AUROC and errors in groups, the largest gap between them: by hand, pandas and simulation."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from scipy.special import expit, logit
from scipy.stats import false_discovery_control, norm, t
from sklearn.metrics import roc_auc_score

from xray_lightning.metrics import subgroups
from xray_lightning.metrics.subgroups import ANY, MEAN, RATIO, group_records, measure_groups
from xray_lightning.records import NAN, Record

PAIR, USUAL = ("Mass", "Nodule"), {"Mass": 1.0, "Nodule": 1.5}
POINTS = SimpleNamespace(thresholds=USUAL, groups={"sex": {"F": {"Mass": 0.2}}})
SIMULATED = ("missed", "false_alarms", RATIO, "auroc")
FOLLOW_UPS = {0.0: "first", 4.0: "1-4", 20.0: "20+"}
AGES = {17.9: "0-17", 18.0: "18-39", 80.0: "80+", NAN: "unknown"}


@pytest.mark.parametrize(
    ("facts", "dimension", "group"),
    [
        ({"sex": "F"}, "sex", "F"),
        ({}, "sex", "unknown"),
        *(({"age": age}, "age", group) for age, group in AGES.items()),
        ({"view": "AP"}, "view", "AP"),
        *(({"follow_up": number}, "follow-up", group) for number, group in FOLLOW_UPS.items()),
        ({"sex": "M", "age": 30.0}, "sex and age", "M 18-39"),
        ({"sex": "M"}, "sex and age", "unknown"),
        ({"sex": "M", "view": "PA"}, "sex and view", "M PA"),
    ],
)
def test_groups(facts: dict[str, object], dimension: str, group: str) -> None:
    records = [Record("0.png", "p0", (0.0,), **facts)]  # type: ignore[arg-type]
    assert group_records(records)[dimension].tolist() == [group]


def test_images_of_the_patient() -> None:
    for patients, wanted in (("aaaaab", ["5-9"] * 5 + ["1"]), ("012345", ["unknown"] * 6)):
        records = [Record(str(i), patient, (0.0,)) for i, patient in enumerate(patients)]
        assert group_records(records)["images of the patient"].tolist() == wanted


def sample() -> tuple[np.ndarray, np.ndarray, list[Record]]:
    """A model that is worse for women; 300 patients of two images, some targets unknown."""
    rng = np.random.default_rng(0)
    sexes, ages = (np.repeat(rng.choice(each, 300), 2) for each in (["F", "M"], [30.0, 50.0, 70.0]))
    targets = (rng.random((600, 2)) < 0.3).astype(np.float32)
    targets[rng.random((600, 2)) < 0.1] = np.nan
    gain = np.where(sexes == "F", 0.5, 2.5)[:, None]
    scores = rng.normal(size=(600, 2)) + gain * np.nan_to_num(targets)
    facts = zip(sexes.tolist(), ages.tolist(), rng.choice(["PA", "AP"], 600), strict=True)
    records = [
        Record(f"{i}.png", f"p{i // 2}", (), sex=sex, age=age, view=str(view))
        for i, (sex, age, view) in enumerate(facts)
    ]
    return scores, targets, records


def find(rows: list[subgroups.Subgroup], group: str, label: str) -> subgroups.Subgroup:
    return next(row for row in rows if (row.group, row.label) == (group, label))


def test_figures_equal_scikit_learn_and_p_values_the_left_out_patients() -> None:
    """The jackknife by hand, and one family of corrections for the means, one for the labels."""
    scores, targets, records = sample()
    women, targets = np.array([record.sex == "F" for record in records]), np.nan_to_num(targets)
    targets[50:, 1] = np.nan  # a label with few known targets
    rows = subgroups.measure_subgroups(PAIR, scores, targets, records)
    row = find(rows, "F", "Mass")
    here, rest = (roc_auc_score(targets[side, 0], scores[side, 0]) for side in (women, ~women))
    assert (row.auroc, row.difference) == (pytest.approx(here), pytest.approx(here - rest))
    assert row.interval[0] < here < row.interval[1]
    assert row.difference_interval[1] < 0
    assert row.p_value <= row.corrected < 0.05
    assert (row.images, row.positives) == (women.sum(), (targets[women, 0] == 1).sum())
    assert row.patients == women.sum() / 2
    assert find(rows, "F", MEAN).auroc == pytest.approx(here), "the other label has too few"
    assert find(rows, "M", "Mass").difference == pytest.approx(rest - here)
    codes = np.arange(600) // 2
    sides = ([side & (codes != patient) for patient in range(300)] for side in (women, ~women))
    aurocs = [[roc_auc_score(targets[x, 0], scores[x, 0]) for x in rows] for rows in sides]
    behind = [np.bincount(codes[side], weights=targets[side, 0]) for side in (women, ~women)]
    sizes = [each.sum() ** 2 / (each**2).sum() for each in behind]
    pooled, variance = np.average([here, rest], weights=sizes), 299 * np.var(np.subtract(*aurocs))
    for value, left, size in zip((here, rest), aurocs, sizes, strict=True):
        own, alike = 299 * np.var(left), pooled * (1 - pooled)
        variance += max(0, min(own * (alike / (value - value**2)) ** 1.5, alike / size) - own)
    deviation = np.sqrt(variance)
    assert row.p_value == pytest.approx(2 * t.sf(abs(row.difference) / deviation, min(sizes) - 1))
    for label in (MEAN, "Mass"):
        family = [each for each in rows if (each.label == MEAN) == (label == MEAN)]
        known = [each for each in family if not np.isnan(each.p_value)]
        theirs = false_discovery_control([each.p_value for each in known])
        assert [each.corrected for each in known] == pytest.approx(list(theirs))
    few = find(rows, "F", "Nodule")
    assert np.isnan([few.auroc, few.difference, few.p_value, few.corrected]).all()
    assert few.note == "fewer than 10 positives or negatives"
    assert few.to_json()["interval"] is None
    assert repr(subgroups.Subgroup.from_json(few.to_json())) == repr(few)


def by_pandas(dimension: str, label: str, least: np.ndarray) -> pd.DataFrame:
    """As ``fairlearn.metrics.MetricFrame`` takes rates: a group's rows, then their mean."""
    scores, targets, records = sample()
    chosen = [PAIR.index(label)] if label in PAIR else [0, 1]
    truth, called = targets[:, chosen], (scores >= least)[:, chosen].any(axis=1)
    table = pd.DataFrame({
        "group": group_records(records)[dimension],
        "missed": np.where((truth == 1).any(axis=1), ~called, np.nan),
        "false_alarms": np.where((truth == 0).all(axis=1), called, np.nan),
        "seen": np.nansum(truth, axis=1),
        "told": np.where(np.isnan(truth), 0, expit(scores[:, chosen])).sum(axis=1),
    })  # fmt: skip
    sums = table.groupby("group")[["seen", "told"]].sum()
    rates = table.groupby("group")[["missed", "false_alarms"]].mean()
    return rates.assign(ratio=sums["seen"] / sums["told"], seen=sums["seen"])


@pytest.mark.parametrize("label", [ANY, *PAIR])
@pytest.mark.parametrize("dimension", ["sex", "age", "sex and age", "images of the patient"])
def test_rates_equal_those_of_pandas(dimension: str, label: str) -> None:
    women = np.array([record.sex == "F" for record in sample()[2]])
    own = np.tile([1.0, 1.5], (600, 1))
    theirs = by_pandas(dimension, label, own)
    own[women & (dimension == "sex"), 0] = 0.2  # men, and women's nodules, have the label's
    others = by_pandas(dimension, label, own)
    rows, _ = measure_groups(PAIR, *sample(), POINTS, dict.fromkeys(PAIR, expit))
    rows = [row for row in rows if (row.dimension, row.label) == (dimension, label)]
    assert [row.group for row in rows] == theirs.index.tolist()
    for row in rows:
        found = row.rate, row.false_alarms.rate, row.observed_to_expected.rate
        assert found == pytest.approx(theirs.loc[row.group, ["missed", "false_alarms", "ratio"]])
        found = row.missed_own.rate, row.false_alarms_own.rate, row.observed_to_expected.images
        assert found == pytest.approx(others.loc[row.group, ["missed", "false_alarms", "seen"]])
        for share in (row, row.false_alarms, row.missed_own, row.observed_to_expected):
            assert share.interval[0] <= share.rate <= share.interval[1] > share.interval[0]
        assert subgroups.GroupErrors.from_json(row.to_json()) == row


def test_the_largest_gaps() -> None:
    scores, targets, records = sample()
    rows, gaps = measure_groups(PAIR, scores, targets, records, POINTS, {})
    errors = {(row.dimension, row.group): row.rate for row in rows if row.label == "Mass"}
    aurocs, known = {}, ~np.isnan(targets[:, 0])
    for dimension, group in errors:
        side = known & (group_records(records)[dimension] == group)
        aurocs[dimension, group] = roc_auc_score(targets[side, 0], scores[side, 0])
    by_kind = {row.kind: row for row in gaps if row.label == "Mass"}
    assert {row.kind for row in gaps if row.label == ANY} == set(by_kind) - {"auroc"}
    for kind, figures in (("missed", errors), ("auroc", aurocs)):
        row = by_kind[kind]
        assert (row.pairs, len(row.gaps)) == (1 + 3 + 1 + 15 + 6 + 15, 6)
        for gap in row.gaps:
            high, low = (figures[gap.dimension, group] for group in gap.groups)
            assert gap.gap == pytest.approx(high - low)
            own = [value for place, value in figures.items() if place[0] == gap.dimension]
            assert gap.gap == pytest.approx(max(own) - min(own))
            assert gap.interval[0] < gap.gap < gap.interval[1]
            assert gap.detectable > gap.gap - gap.interval[0]
            assert row.finest.detectable <= gap.detectable
            assert row.gaps[0].gap >= gap.gap
    women, men = by_kind["missed"].clearest.groups
    assert (women[0], men[0]) == ("F", "M")
    assert by_kind["missed"].clearest.interval[0] > 0 < by_kind["missed"].shown


def test_of_one_pair_the_interval_is_students(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is picked: Welch's interval of the difference, but for the error of the draws."""
    monkeypatch.setattr("xray_lightning.metrics.subgroups.COMPARED", ("view",))
    rows, gaps = measure_groups(PAIR, *sample(), POINTS, {}, draws=4000)
    (row,) = [row for row in gaps if (row.kind, row.label) == ("missed", ANY)]
    sides = [row for row in rows if (row.dimension, row.label) == ("view", ANY)]
    error = np.sqrt(sum(side.rate * (1 - side.rate) / side.images for side in sides))
    reach = t.isf(0.025, sum(side.images for side in sides)) * error
    assert row.pairs == 1
    assert np.diff(row.gaps[0].interval) / 2 == pytest.approx(reach, rel=0.08)


@pytest.mark.parametrize("called", [0.0, 2.0])
def test_where_all_agree_and_where_few_are(called: float) -> None:
    _, targets, records = sample()
    scores, points = np.full_like(targets, called), SimpleNamespace(thresholds=USUAL, groups={})
    rows, gaps = measure_groups(PAIR, scores, targets, records, points, {})
    row = next(row for row in rows if (row.group, row.label) == ("F", "Mass"))
    assert row.rate == (called < 1)
    assert row.interval[0] < row.interval[1], "exact"
    assert row.missed_own is row.false_alarms_own is None
    row = next(row for row in gaps if (row.kind, row.label) == ("missed", "Mass"))
    assert (row.gaps[0].gap, row.shown, row.clearest) == (0, 0, None)
    assert 0 < row.gaps[0].detectable < 1
    rows, gaps = measure_groups(PAIR, scores[:30], targets[:30], records[:30], points, {})
    assert {row.pairs for row in gaps if row.kind == "missed"} == {0}
    assert np.isnan(next(row for row in rows if row.label == "Mass").rate)
    assert measure_groups(PAIR, scores[:0], targets[:0], [], points, {}) == ([], [])


def cohort(rng: np.random.Generator, patients: int, loss: float):
    """Findings and errors run in patients of 1 to 30 images; men of 18 to 39 score lower."""
    sizes = np.floor(np.exp(rng.uniform(0, np.log(31), size=patients))).astype(int)
    codes = np.repeat(np.arange(patients), sizes)
    own = rng.normal(size=(patients, 2))[codes]
    sick, errors = (0.7 * (own[:, k] + rng.normal(size=len(codes))) for k in (0, 1))
    sex, age = rng.integers(2, size=patients), rng.choice(4, p=(0.1, 0.3, 0.4, 0.2), size=patients)
    targets = sick > norm.isf(0.08, scale=0.98**0.5)
    seen = errors + (1.2 - loss * ((sex == 1) & (age == 1))[codes]) * targets
    places = zip(codes.tolist(), sex[codes], age[codes], rng.random(len(codes)) < 0.4, strict=True)
    return seen[:, None], targets[:, None].astype(float), [
        Record(str(i), str(c), (), sex="FM"[s], age=10.0 + 20 * a, view="AP" if v else "PA")
        for i, (c, s, a, v) in enumerate(places)
    ]  # fmt: skip


def told(seen: np.ndarray) -> np.ndarray:
    return expit(logit(0.08) + (1.2 * seen - 0.72) / 0.98)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("patients", "loss", "stated"),
    [
        (80, 0.0, (32, 0.969, 0.031, 200, 0.975, 0.035, 32, 0.938, 0.062, 32, 0.969, 0.031)),
        (170, 0.0, (195, 0.974, 0.036, 200, 0.985, 0.03, 195, 0.979, 0.021, 195, 0.99, 0.01)),
        (1700, 0.0, (100, 0.99, 0.02, 100, 0.97, 0.05, 100, 0.97, 0.03, 100, 1.0, 0.01)),
        (170, 0.9, (195, 0.964, 0.077, 200, 0.99, 0.03, 195, 0.985, 0.021, 195, 0.985, 0.036)),
        (1700, 0.9, (100, 1.0, 1.0, 100, 0.97, 0.05, 100, 0.97, 0.03, 100, 1.0, 1.0)),
    ],
)
def test_the_interval_of_the_largest_gap(patients: int, loss: float, stated: tuple) -> None:
    """Whether it holds the true gap of the pair that seems largest; how often a gap is shown."""
    seen, targets, records = cohort(np.random.default_rng(99), 30_000, loss)
    truth, positive = {}, targets == 1
    for dimension, groups in group_records(records).items():
        for group in np.unique(groups) if dimension in subgroups.COMPARED else ():
            y, x = positive[groups == group], seen[groups == group]
            shares = (x[y] < 0.6).mean(), (x[~y] >= 0.6).mean(), y.sum() / told(x).sum()
            values = zip(SIMULATED, (*shares, roc_auc_score(y, x)), strict=True)
            truth |= {(kind, dimension, group): value for kind, value in values}
    rng, points = np.random.default_rng(5), SimpleNamespace(thresholds={"a": 0.6}, groups={})
    held, sick = {kind: [] for kind in SIMULATED}, []
    for seed in range(200 if patients < 1000 else 100):
        seen, targets, records = cohort(rng, patients, loss)
        sick.append(len({r.patient_id for r, y in zip(records, targets, strict=True) if y}))
        how = {"draws": 300, "seed": seed}
        _, gaps = measure_groups(("a",), seen, targets, records, points, {"a": told}, **how)
        for row in [row for row in gaps if row.label == "a" and row.pairs]:
            gap = row.gaps[0]
            one, two = (truth[row.kind, gap.dimension, group] for group in gap.groups)
            right = one - two if loss else 0.0
            held[row.kind].append((gap.interval[0] <= right <= gap.interval[1], row.shown > 0))
    found = [(len(rows), *np.mean(rows or [(0, 0)], axis=0)) for rows in held.values()]
    print(f"{np.mean(sick):.0f} positive patients of {patients}, loss {loss}: {found}")
    assert np.ravel(found) == pytest.approx(stated, abs=0.006)
    assert min(share for _, share, _ in found) >= 0.93
    assert loss or max(shown for _, _, shown in found) <= 0.065
