"""Operating points of validation against scikit-learn, and their way into a checkpoint."""

import json

import numpy as np
import pytest
from sklearn.metrics import f1_score, recall_score, roc_curve

from xray_lightning.errors import CheckpointError, ConfigError
from xray_lightning.metrics import operating_points
from xray_lightning.metrics.bootstrap import PatientBootstrap
from xray_lightning.metrics.calibration import METHODS, Calibration, fit_calibration
from xray_lightning.metrics.operating_points import OperatingPoints, choose_threshold
from xray_lightning.wording import fault, tell


def sample(images: int = 300) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    scores = np.round(rng.random(images), 2)
    return scores, (rng.random(images) < scores).astype(float)


def fit(scores: np.ndarray, targets: np.ndarray, draws: int = 20, **settings):  # type: ignore[no-untyped-def]
    bootstrap = PatientBootstrap(np.arange(len(scores)) // 3, draws)
    return operating_points.fit_operating_point(scores, targets, bootstrap, **settings)


def test_rules_against_scikit_learn() -> None:
    scores, targets = sample()
    false, true, thresholds = roc_curve(targets, scores, drop_intermediate=False)
    at = choose_threshold(scores, targets, "sensitivity", value=0.9)
    assert at == thresholds[np.argmax(true >= 0.9)]
    at = choose_threshold(scores, targets, "specificity", value=0.9)
    assert true[thresholds == at] == true[false <= 0.1].max()
    at = choose_threshold(scores, targets, "f1")
    best = max(f1_score(targets, scores >= score) for score in np.unique(scores))
    assert f1_score(targets, scores >= at) == best
    more = np.append(scores, 0.99), np.append(targets, np.nan)  # an unknown target
    assert choose_threshold(*more) == choose_threshold(scores, targets)


@pytest.mark.parametrize("levels", [2, 7, 1000])
@pytest.mark.parametrize("seed", range(5))
def test_youden_against_scikit_learn(seed: int, levels: int) -> None:
    """The first point of scikit-learn's curve, whose thresholds fall, with the largest J.

    Of equal ones it is the highest threshold.
    """
    rng = np.random.default_rng(seed)
    scores = (rng.integers(0, levels, 90) / levels).astype(np.float32)
    targets = (rng.random(90) < 0.3).astype(np.float32)
    targets[:9] = np.nan
    known = ~np.isnan(targets)
    false, true, thresholds = roc_curve(targets[known], scores[known], drop_intermediate=False)
    gains = np.round((true - false)[1:], 12)  # scikit-learn's first point calls nothing positive
    threshold = choose_threshold(scores, targets, minimum_positives=1)
    assert threshold == thresholds[1:][np.argmax(gains)]


@pytest.mark.parametrize("positives", [0, 9, 10, 100])
def test_where_there_is_no_threshold(positives: int) -> None:
    """Too few positives, or only one class."""
    targets = (np.arange(100) < positives).astype(float)
    assert np.isnan(choose_threshold(np.linspace(0, 1, 100), targets)) == (positives != 10)
    assert np.isnan(choose_threshold(np.ones(3), np.full(3, np.nan), minimum_positives=1))


@pytest.mark.parametrize(
    ("settings", "value"),
    [({"rule": "best"}, "'best'"), ({"value": 0}, "got 0"), ({"calibration": "beta"}, "'beta'")],
)
def test_bad_settings(settings: dict[str, object], value: str) -> None:
    with pytest.raises(ConfigError, match=value):
        fit(*sample(), **settings)


def labelled(kind: str) -> tuple[np.ndarray, np.ndarray]:
    """400 images of a common label, a rare one, or one with gaps."""
    rng = np.random.default_rng(0)
    targets = (rng.random(400) < (0.01 if kind == "rare" else 0.3)).astype(np.float64)
    scores = (0.5 * rng.random(400) + 0.3 * targets).astype(np.float32)
    if kind == "gaps":
        targets[::4] = np.nan
    return scores, targets


@pytest.mark.parametrize("kind", ["common", "gaps"])
@pytest.mark.parametrize("rule", operating_points.RULES)
def test_the_point_of_a_label(rule: str, kind: str) -> None:
    scores, targets = labelled(kind)
    point = fit(scores, targets, 200, rule=rule, value=0.8)
    known = ~np.isnan(targets)
    truth, kept = targets[known], scores[known]
    assert point.threshold == choose_threshold(kept, truth, rule, value=0.8)
    called = kept >= point.threshold
    for name, side in (("sensitivity", 1), ("specificity", 0)):
        value, ends = getattr(point, name), getattr(point, f"{name}_interval")
        assert value == pytest.approx(recall_score(truth, called, pos_label=side))
        assert value == 1 if ends is None else ends[0] < value <= ends[1]
    assert (point.positives, point.prevalence, point.note) == (truth.sum(), truth.mean(), "")
    fitted = fit_calibration(kept, truth == 1, "platt")
    assert point.calibration(kept).tolist() == fitted(kept).tolist()
    low, high = point.calibration.slope_interval
    assert low < fitted.slope < high
    falling = fit(1 - scores, targets, rule=rule, value=0.8)  # with the finding: no map falls
    assert (falling.note, falling.calibration.slope_interval) == (fault("flat"), None)
    np.testing.assert_allclose(falling.calibration(scores), truth.mean())


def test_too_few_positives_and_scores_of_which_none_will_do() -> None:
    point = fit(*labelled("rare"))
    assert 0 < point.positives < 10
    assert np.isnan([point.threshold, point.sensitivity]).all()
    assert point.calibration is point.specificity_interval is None
    assert point.note == "fewer than 10 positives or negatives"
    assert np.isfinite(fit(*labelled("rare"), minimum_positives=1).threshold)
    # the highest score is a negative's: no threshold with a specificity of 1
    scores, targets = np.array([0.1, 0.2, 0.9]), np.array([1, 1, 0.0])
    point = fit(scores, targets, rule="specificity", value=1.0, minimum_positives=1)
    assert np.isnan(point.threshold)
    assert point.note == "no score has a specificity of 1.0"
    assert point.calibration is not None


@pytest.mark.parametrize("method", METHODS)
def test_a_perfect_model_is_calibrated_without_complaint(method: str) -> None:
    scores = np.linspace(0, 1, 60)
    point = fit(scores, (scores > 0.5).astype(float), calibration=method)
    assert point.note == fault("separated")
    assert (np.diff(point.calibration(scores)) >= 0).all()  # and none is NaN


@pytest.mark.parametrize("method", [*METHODS, None])
def test_there_and_back(method: str | None) -> None:
    labels = {kind: fit(*labelled(kind), calibration=method) for kind in ("common", "rare", "gaps")}
    points = OperatingPoints("youden", 0.9, "train", "f00d", labels, {"common": 0.25})
    values = json.loads(json.dumps(points.to_json(), allow_nan=False))
    again = OperatingPoints.from_json(values)
    assert repr(again) == repr(points)  # NaN is not equal to itself
    assert again.thresholds == points.thresholds != {}
    assert "rare" not in points.thresholds
    if (fitted := labels["gaps"].calibration) is not None:
        mapped, scores = again.labels["gaps"].calibration, np.linspace(0, 1, 9)
        np.testing.assert_array_equal(mapped(scores), fitted(scores))
    del values["part"], values["subset"]  # of a checkpoint from before it was named
    assert OperatingPoints.from_json(values).subset == "val"


@pytest.mark.parametrize(
    ("key", "odd"),
    [
        *(("threshold", odd) for odd in ("x", [0.5], {})),
        *(("sensitivity_interval", odd) for odd in (0.5, [0.1], [0.1, 0.2, 0.3], "ab")),
        *(("calibration", odd) for odd in ("platt", [], {"method": "platt"}, {"method": 3})),
        ("calibration", Calibration("x").to_json()),
    ],
)
def test_an_odd_point_is_refused(key: str, odd: object) -> None:
    values = fit(*sample()).to_json()
    points = {"rule": "f1", "value": 0.9, "fingerprint": "", "labels": {"a": values}}
    assert OperatingPoints.from_json(points).labels["a"].threshold == values["threshold"]
    with pytest.raises(CheckpointError):
        OperatingPoints.from_json(points | {"labels": {"a": values | {key: odd}}})


def test_misses_and_false_alarms_by_hand() -> None:
    """The third label has no point and calls nothing; an unknown target is neither."""
    targets = np.array([[1, 0, 0], [1, 1, 0], [0, 0, 1], [0, 0, 0], [0, 0, 0], [0, np.nan, 0]])
    scores = np.array(
        [[0.2, 0.9, 0.9], [0.2, 0.1, 0.9], [0.1, 0.1, 0.9], [0.5, 0, 0], [0, 0, 0.9], [0.9, 0, 0]]
    )
    calls = operating_points.count_wrong_calls("abc", scores, targets, {"a": 0.5, "b": 0.8})
    # the first is found by the wrong label: a miss of "a" below
    assert (calls.missed, calls.false_alarms) == ((2, 3), (1, 2))
    told = {label: (one.missed, one.false_alarms) for label, one in calls.labels.items()}
    assert told == {"a": ((2, 2), (2, 4)), "b": ((1, 1), (1, 4))}
    assert type(calls).from_json(calls.to_json()) == calls
    gaps = operating_points.count_wrong_calls("abc", scores, targets * [1, 1, np.nan], {"a": 0.5})
    assert tell("xray_lightning.report", "calls", gaps)[0].startswith("no image is known to be")


def test_why_there_is_no_conformal_set() -> None:
    points = OperatingPoints("f1", 0.9, "val", "", {}, {"a": np.nan, "b": 0.0, "c": 0.1})
    points = OperatingPoints.from_json(points.to_json())
    *_, few, whole = tell("xray_lightning.report", "selection", points, {}, {}, "margin")
    assert (few[:13], few[-3:]) == ("note: no set,", ": a")
    assert (whole[:32], whole[-3:]) == ("note: every image is in the set,", ": b")
