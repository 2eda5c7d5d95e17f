"""Groups of images and the AUROC in each, against scikit-learn."""

import numpy as np
import pytest
from scipy.stats import false_discovery_control
from scipy.stats import t as student
from sklearn.metrics import roc_auc_score

from xray_lightning.metrics import subgroups
from xray_lightning.metrics.subgroups import MEAN, Subgroup, group_records, measure_subgroups
from xray_lightning.records import NAN, Record

LABELS = ("Mass", "Nodule")


def record(number: int, **facts: object) -> Record:
    return Record(f"{number}.png", f"p{number}", (0.0,), **facts)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("facts", "dimension", "group"),
    [
        ({"sex": "F"}, "sex", "F"),
        ({}, "sex", "unknown"),
        ({"age": 17.9}, "age", "0-17"),
        ({"age": 18.0}, "age", "18-39"),
        ({"age": 80.0}, "age", "80+"),
        ({"age": NAN}, "age", "unknown"),
        ({"view": "AP"}, "view", "AP"),
        ({"follow_up": 0.0}, "follow-up", "first"),
        ({"follow_up": 4.0}, "follow-up", "1-4"),
        ({"follow_up": 20.0}, "follow-up", "20+"),
        ({"sex": "M", "age": 30.0}, "sex and age", "M 18-39"),
        ({"sex": "M"}, "sex and age", "unknown"),
        ({"sex": "M", "view": "PA"}, "sex and view", "M PA"),
    ],
)
def test_groups(facts: dict[str, object], dimension: str, group: str) -> None:
    assert group_records([record(0, **facts)])[dimension].tolist() == [group]


def test_images_of_the_patient() -> None:
    records = [Record(f"{i}.png", "a" if i < 5 else "b", (0.0,)) for i in range(6)]
    assert group_records(records)["images of the patient"].tolist() == ["5-9"] * 5 + ["1"]


def sample() -> tuple[np.ndarray, np.ndarray, list[Record]]:
    """A model that is worse for women; 300 patients of two images."""
    rng = np.random.default_rng(0)
    sexes = np.repeat(rng.choice(["F", "M"], 300), 2)
    targets = (rng.random((600, 2)) < 0.3).astype(np.float32)
    targets[50:, 1] = np.nan  # a label with few known targets
    gain = np.where(sexes == "F", 0.5, 2.5)[:, None]
    scores = (rng.normal(size=(600, 2)) + gain * np.nan_to_num(targets)).astype(np.float32)
    records = [Record(f"{i}.png", f"p{i // 2}", (0.0,), sex=str(s)) for i, s in enumerate(sexes)]
    return scores, targets, records


def find(rows: list[Subgroup], group: str, label: str) -> Subgroup:
    return next(row for row in rows if (row.group, row.label) == (group, label))


def test_figures_equal_scikit_learn_and_the_worse_group_is_found() -> None:
    scores, targets, records = sample()
    rows = measure_subgroups(LABELS, scores, targets, records)
    women = np.array([record.sex == "F" for record in records])
    row = find(rows, "F", "Mass")
    here, rest = (roc_auc_score(targets[side, 0], scores[side, 0]) for side in (women, ~women))
    assert (row.auroc, row.difference) == (pytest.approx(here), pytest.approx(here - rest))
    assert row.interval[0] < here < row.interval[1]
    assert row.difference_interval[1] < 0
    assert row.p_value <= row.corrected < 0.05
    assert (row.images, row.positives) == (women.sum(), (targets[women, 0] == 1).sum())
    assert row.patients == women.sum() / 2
    mean = find(rows, "F", MEAN)
    assert mean.auroc == pytest.approx(here), "the other label has too few"
    assert find(rows, "M", "Mass").difference == pytest.approx(rest - here)


def test_p_values_are_those_of_the_left_out_patients() -> None:
    """The jackknife by hand, and one family of corrections for the means, one for the labels."""
    scores, targets, records = sample()
    rows = measure_subgroups(LABELS, scores, targets, records)
    women = np.array([record.sex == "F" for record in records])
    codes = np.arange(600) // 2
    left_out = []
    for patient in range(300):
        kept = codes != patient
        here, rest = (
            roc_auc_score(targets[kept & side, 0], scores[kept & side, 0])
            for side in (women, ~women)
        )
        left_out.append(here - rest)
    behind = [np.bincount(codes[side], weights=targets[side, 0]) for side in (women, ~women)]
    freedom = min(each.sum() ** 2 / (each**2).sum() for each in behind) - 1
    row, deviation = find(rows, "F", "Mass"), np.sqrt(299 * np.var(left_out))
    assert row.p_value == pytest.approx(2 * student.sf(abs(row.difference) / deviation, freedom))
    for label in (MEAN, "Mass"):
        family = [each for each in rows if (each.label == MEAN) == (label == MEAN)]
        known = [each for each in family if not np.isnan(each.p_value)]
        theirs = false_discovery_control([each.p_value for each in known])
        assert [each.corrected for each in known] == pytest.approx(list(theirs))


def test_too_few_is_a_word() -> None:
    scores, targets, records = sample()
    row = find(measure_subgroups(LABELS, scores, targets, records), "F", "Nodule")
    assert np.isnan([row.auroc, row.difference, row.p_value, row.corrected]).all()
    assert row.note == "fewer than 10 positives or negatives"
    assert row.to_json()["interval"] is None
    assert repr(Subgroup.from_json(row.to_json())) == repr(row)


def missed(records, thresholds, place):
    scores, targets, _ = sample()
    rows = subgroups.measure_underdiagnosis(LABELS, scores, targets, records, thresholds, draws=200)
    return next(row for row in rows if (row.dimension, row.group) == place)


def test_misses_and_false_alarms_of_a_group_by_hand() -> None:
    scores, targets, records = sample()
    row = missed(records, {"Mass": 1.0, "Nodule": float("nan")}, ("sex", "F"))
    women = np.array([record.sex == "F" for record in records])
    sick, normal = (targets == 1).any(axis=1) & women, (targets == 0).all(axis=1) & women
    assert (row.images, row.false_alarms.images) == (sick.sum(), normal.sum())
    assert row.rate == pytest.approx((scores[sick, 0] < 1).mean())
    assert row.false_alarms.rate == pytest.approx((scores[normal, 0] >= 1).mean())
    for share in (row, row.false_alarms):
        assert share.interval[0] < share.rate < share.interval[1]
    men = missed(records, {"Mass": 1.0}, ("sex", "M"))
    assert row.rate > men.rate
    assert subgroups.Underdiagnosis.from_json(row.to_json()) == row


def test_underdiagnosis_of_few_images() -> None:
    records = [r if i else record(0, view="LL") for i, r in enumerate(sample()[2])]
    row = missed(records, {}, ("view", "LL"))
    assert np.isnan(row.rate)
    assert row.images <= 1
