import json

import numpy as np
import pytest
from sklearn.metrics import recall_score

from xray_lightning.errors import ConfigError
from xray_lightning.metrics.calibration import METHODS, fit_calibration
from xray_lightning.metrics.operating_points import (
    RULES,
    SEPARATED,
    Fitted,
    choose_threshold,
    fit_on_validation,
)

LABELS = ("common", "rare", "gaps")


def sample() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Scores, targets and patients of 400 images: a common label, a rare one, one with gaps."""
    rng = np.random.default_rng(0)
    targets = (rng.random((400, 3)) < [0.3, 0.01, 0.3]).astype(np.float64)
    scores = (0.5 * rng.random((400, 3)) + 0.3 * targets).astype(np.float32)
    targets[::4, 2] = np.nan
    return scores, targets, np.arange(400) // 3


@pytest.mark.parametrize("rule", RULES)
def test_points_of_labels(rule: str) -> None:
    scores, targets, patients = sample()
    found = fit_on_validation(LABELS, scores, targets, patients, rule=rule, value=0.8, draws=200)
    for index, label in ((0, "common"), (2, "gaps")):
        known = ~np.isnan(targets[:, index])
        truth, kept = targets[known, index], scores[known, index]
        each = found[label]
        assert each.threshold == choose_threshold(kept, truth, rule, value=0.8)
        called = kept >= each.threshold
        assert each.sensitivity == pytest.approx(recall_score(truth, called))
        assert each.specificity == pytest.approx(recall_score(truth, called, pos_label=0))
        low, high = each.sensitivity_interval
        assert low < each.sensitivity < high or (each.sensitivity == 1 and np.isnan(low))
        assert each.specificity_interval[0] < each.specificity <= each.specificity_interval[1]
        assert (each.positives, each.prevalence) == (truth.sum(), truth.mean())
        assert each.note == ""
        assert each.calibration == fit_calibration(kept, truth == 1, "platt")


def test_a_label_with_too_few_positives_gets_nothing() -> None:
    each = fit_on_validation(LABELS, *sample(), draws=20)["rare"]
    assert 0 < each.positives < 10
    assert np.isnan([each.threshold, each.sensitivity, *each.specificity_interval]).all()
    assert each.calibration is None
    assert each.note == "fewer than 10 positives or negatives"
    few = fit_on_validation(LABELS, *sample(), minimum_positives=1, draws=20)["rare"]
    assert np.isfinite(few.threshold)


def test_no_score_will_do() -> None:
    scores, targets = np.array([[0.1], [0.2], [0.9]]), np.array([[1], [1], [0.0]])
    settings = {"rule": "specificity", "value": 1.0, "minimum_positives": 1, "draws": 9}
    each = fit_on_validation(("a",), scores, targets, [0, 1, 2], **settings)["a"]
    assert np.isnan(each.threshold)
    assert each.note == "no score has a specificity of 1.0"
    assert each.calibration is not None


@pytest.mark.parametrize("method", [*METHODS, None])
def test_plain_values_come_back(method: str | None) -> None:
    found = fit_on_validation(LABELS, *sample(), calibration=method, draws=20)
    for each in found.values():
        plain = each.to_plain()
        assert json.loads(json.dumps(plain, allow_nan=False)) == plain
        again = Fitted.from_plain(plain)
        assert repr(again) == repr(each)  # NaN is not equal to itself
        if each.calibration is not None and again.calibration is not None:
            scores = np.linspace(0, 1, 9)
            np.testing.assert_array_equal(again.calibration(scores), each.calibration(scores))


@pytest.mark.parametrize("method", METHODS)
def test_a_perfect_model_is_calibrated_without_complaint(method: str) -> None:
    scores = np.linspace(0, 1, 60)[:, None]
    found = fit_on_validation(
        ("a",), scores, (scores > 0.5).astype(float), np.arange(60), calibration=method, draws=20
    )
    assert found["a"].calibration is not None
    assert found["a"].note == SEPARATED
    values = found["a"].calibration(scores[:, 0])
    assert np.isfinite(values).all()
    assert (np.diff(values) >= 0).all()


def test_bad_settings() -> None:
    with pytest.raises(ConfigError, match=r"rule must be one of youden, f1, .*, got 'best'"):
        fit_on_validation(LABELS, *sample(), rule="best")
    with pytest.raises(
        ConfigError, match=r"calibration must be one of temperature, platt, .*'sigm"
    ):
        fit_on_validation(LABELS, *sample(), calibration="sigmoid")


@pytest.mark.parametrize(
    ("key", "odd"),
    [
        *(("threshold", odd) for odd in ("x", [0.5], {})),
        *(("sensitivity_interval", odd) for odd in (0.5, [0.1], [0.1, 0.2, 0.3], "ab")),
        *(("calibration", odd) for odd in ("platt", [], {"method": "platt"}, {"method": 3})),
        (
            "calibration",
            {"method": "x", "slope": 1, "intercept": 0, "shift": 0, "knots": [], "values": []},
        ),
        ("novelty", 1),
    ],
)
def test_an_odd_point_is_refused(key: str, odd: object) -> None:
    plain = {"threshold": 0.5, "sensitivity": None, "sensitivity_interval": None}
    plain |= {"specificity": None, "specificity_interval": None, "positives": 3, "note": ""}
    plain |= {"prevalence": 0.1, "calibration": None}
    assert Fitted.from_plain(plain).threshold == 0.5
    with pytest.raises((KeyError, TypeError, ValueError)):
        Fitted.from_plain(plain | {key: odd})
