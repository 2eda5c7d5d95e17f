import numpy as np
import pytest
from sklearn.metrics import confusion_matrix, f1_score, roc_curve

from xray_lightning.errors import ConfigError
from xray_lightning.metrics.operating_points import choose_threshold, confusion, wrong_calls


def sample(images: int = 300) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    scores = np.round(rng.random(images), 2)
    return scores, (rng.random(images) < scores).astype(float)


def test_counts_equal_scikit_learn() -> None:
    scores, targets = sample()
    thresholds = [0.0, 0.3, 0.305, 1.1]
    found = confusion(scores, targets == 1, thresholds)
    for index, threshold in enumerate(thresholds):
        tn, fp, fn, tp = confusion_matrix(targets == 1, scores >= threshold).ravel()
        assert found.true_positive[index] == tp
        assert found.false_positive[index] == fp
        assert found.sensitivity[index] == tp / (tp + fn)
        assert found.specificity[index] == tn / (tn + fp)
        assert found.f1[index] == pytest.approx(f1_score(targets == 1, scores >= threshold))


def test_rules_against_scikit_learn() -> None:
    scores, targets = sample()
    false, true, thresholds = roc_curve(targets, scores, drop_intermediate=False)
    assert choose_threshold(scores, targets) == thresholds[np.argmax(true - false)]
    at = choose_threshold(scores, targets, "sensitivity", value=0.9)
    assert at == thresholds[np.argmax(true >= 0.9)]
    at = choose_threshold(scores, targets, "specificity", value=0.9)
    assert true[thresholds == at] == true[false <= 0.1].max()
    at = choose_threshold(scores, targets, "f1")
    best = max(f1_score(targets, scores >= each) for each in np.unique(scores))
    assert f1_score(targets, scores >= at) == best


def test_unknown_targets_do_not_count() -> None:
    scores, targets = sample()
    more = np.append(scores, 0.99), np.append(targets, np.nan)
    assert choose_threshold(*more) == choose_threshold(scores, targets)


def test_of_equal_points_the_highest() -> None:
    scores, targets = np.array([0.1, 0.2, 0.8, 0.9]), np.array([0, 1, 0, 1.0])
    assert choose_threshold(scores, targets, minimum_positives=1) == 0.9


@pytest.mark.parametrize("targets", [np.zeros(30), np.ones(30), np.full(30, np.nan)])
def test_no_threshold(targets: np.ndarray) -> None:
    assert np.isnan(choose_threshold(np.linspace(0, 1, 30), targets))


def test_too_few_positives() -> None:
    targets = np.arange(100) < 9
    assert np.isnan(choose_threshold(np.linspace(0, 1, 100), targets.astype(float)))
    targets = np.arange(100) < 10
    assert np.isfinite(choose_threshold(np.linspace(0, 1, 100), targets.astype(float)))


def test_no_score_will_do() -> None:
    """The highest score is a negative's: no threshold with a specificity of 1."""
    scores, targets = np.array([0.1, 0.2, 0.9]), np.array([1, 1, 0.0])
    assert np.isnan(
        choose_threshold(scores, targets, "specificity", value=1.0, minimum_positives=1)
    )


def test_bad_settings() -> None:
    with pytest.raises(ConfigError, match=r"rule must be one of youden, f1, .*, got 'best'"):
        choose_threshold(*sample(), "best")
    with pytest.raises(ConfigError, match=r"value must lie in \(0, 1\], got 0"):
        choose_threshold(*sample(), "sensitivity", value=0)


@pytest.mark.parametrize("levels", [2, 7, 1000])
@pytest.mark.parametrize("seed", range(5))
def test_youden_against_scikit_learn(seed: int, levels: int) -> None:
    """The first point of scikit-learn's curve, whose thresholds fall, with the largest J."""
    rng = np.random.default_rng(seed)
    scores = (rng.integers(0, levels, 90) / levels).astype(np.float32)
    targets = (rng.random(90) < 0.3).astype(np.float32)
    targets[:9] = np.nan
    known = ~np.isnan(targets)
    false, true, thresholds = roc_curve(targets[known], scores[known], drop_intermediate=False)
    found = choose_threshold(scores, targets, minimum_positives=1)
    gains = np.round((true - false)[1:], 12)  # scikit-learn's first point calls nothing positive
    assert found == thresholds[1:][np.argmax(gains)]


def test_youden_of_equals_is_the_highest() -> None:
    scores, targets = np.array([0.9, 0.8, 0.2, 0.1]), np.array([1, 0, 1, 0])
    assert choose_threshold(
        scores.astype("f4"), targets.astype("f4"), minimum_positives=1
    ) == np.float32(0.9)


@pytest.mark.parametrize("targets", [[0, 0, np.nan], [1, 1, np.nan], [np.nan] * 3])
def test_no_youden_threshold(targets: list[float]) -> None:
    scores = np.array([0.1, 0.2, 0.3], np.float32)
    assert np.isnan(choose_threshold(scores, np.array(targets, np.float32), minimum_positives=1))


def test_misses_and_false_alarms_by_hand() -> None:
    """The third label has no point and calls nothing; an unknown target is neither."""
    targets = np.array([[1, 0, 0], [1, 1, 0], [0, 0, 1], [0, 0, 0], [0, 0, 0], [0, np.nan, 0]])
    scores = np.array(
        [[0.2, 0.9, 0.9], [0.2, 0.1, 0.9], [0.1, 0.1, 0.9], [0.5, 0, 0], [0, 0, 0.9], [0.9, 0, 0]]
    )
    found = wrong_calls(("a", "b", "c"), scores, targets, {"a": 0.5, "b": 0.8})
    assert found["missed"] == [2, 3]  # the first is found by the wrong label: a miss of "a" below
    assert found["false_alarms"] == [1, 2]
    assert found["labels"] == {
        "a": {"missed": [2, 2], "false_alarms": [2, 4]},
        "b": {"missed": [1, 1], "false_alarms": [1, 4]},
    }
