"""``prior=``: what can be asked for, and what it does to calibrated scores."""

from dataclasses import replace

import numpy as np
import pytest
from sklearn.metrics import brier_score_loss

from xray_lightning import ConfigError, OperatingPoints, Predictions, fit_operating_points
from xray_lightning.cli.config import read_value
from xray_lightning.evaluation.priors import correct_priors, require_prior
from xray_lightning.report.page import say

LABELS = ("Mass", "Nodule", "Hernia")


def predictions(shares: tuple[float, ...], seed: int, images: int = 4000) -> Predictions:
    """Scores that are calibrated at a prevalence of 0.3, whatever the shares are."""
    rng = np.random.default_rng(seed)
    targets = (rng.random((images, 3)) < shares).astype(np.float32)
    odds = 2 * rng.standard_normal((images, 3)) + 4 * (targets - 0.5)  # ratio: 2 x odds / 2
    scores = 1 / (1 + np.exp(-(odds + np.log(0.3 / 0.7))))
    ids = tuple(map(str, range(images)))
    return Predictions(LABELS, ids, ids, targets, scores.astype(np.float32))


@pytest.fixture(scope="module")
def points() -> OperatingPoints:
    """Mass and Nodule calibrated at 0.3; Hernia has too few positives."""
    return fit_operating_points(predictions((0.3, 0.3, 0.001), 0), draws=2)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        *((word, word) for word in ("validation", "estimate", "force_estimate")),
        ("0.02", 0.02),
        ("{Mass: 0.05,Lung Opacity:0.2}", {"Mass": 0.05, "Lung Opacity": 0.2}),
    ],
)
def test_what_can_be_asked_for(text: str, value) -> None:
    assert require_prior(read_value("prior", text)) == require_prior(value) == value


@pytest.mark.parametrize(
    "text",
    ["often", "0", "1", "1.0", "-0.1", "true", "{}", "{Mass: often}", "[0.1]", "{Mass", "nan"],
)
def test_what_cannot(text: str) -> None:
    with pytest.raises(ConfigError, match="prior"):
        require_prior(read_value("prior", text))


def test_pairs(points: OperatingPoints) -> None:
    assert say("priors", {"Mass": (0.3, 0.05)})[0].endswith("prevalence: Mass 0.300 to 0.050")
    here = predictions((0.05, 0.6, 0.001), 1)
    before = {label: points.labels[label].prevalence for label in LABELS}
    assert correct_priors("validation", here, points)[0] == {}
    wanted = {label: (before[label], 0.1) for label in ("Mass", "Nodule")}
    assert correct_priors(0.1, here, points)[0] == wanted
    assert correct_priors({"Nodule": 0.2}, here, points)[0] == {"Nodule": (before["Nodule"], 0.2)}
    told = correct_priors("estimate", here, points)[0]
    for label, share in (("Mass", 0.05), ("Nodule", 0.6)):
        assert told[label][0] == before[label]
        assert told[label][1] == pytest.approx(share, abs=0.03)


def test_corrected_scores_mean_the_true_prevalence(points: OperatingPoints) -> None:
    here = predictions((0.05, 0.6, 0.001), 2)
    for label, pair in correct_priors({"Mass": 0.05, "Nodule": 0.6}, here, points)[0].items():
        chosen = points.labels[label].calibration
        column = LABELS.index(label)
        mean = chosen.at_prior(*pair)(here.scores[:, column]).mean()
        assert mean == pytest.approx(here.targets[:, column].mean(), abs=0.02)
        assert abs(chosen(here.scores[:, column]).mean() - mean) > 0.05


def test_what_has_no_calibration(points: OperatingPoints) -> None:
    here = predictions((0.3, 0.3, 0.001), 1, 20)
    with pytest.raises(ConfigError, match=r"is there for Hernia \(fewer than 10 positives"):
        correct_priors({"Hernia": 0.01}, here, points)
    with pytest.raises(ConfigError, match="prior=estimate corrects calibrated scores, and no cal"):
        correct_priors("estimate", here, None)
    labels = {k: replace(v, calibration=None) for k, v in points.labels.items()}
    bare = replace(points, labels=labels)
    with pytest.raises(ConfigError, match="is there for all: xray score fits one with points=val"):
        correct_priors(0.1, here, bare)
    with pytest.raises(ConfigError, match="'Edema' is not a label here"):
        correct_priors({"Edema": 0.1}, here, points)


def test_an_estimate_that_known_targets_refute_is_not_applied(points: OperatingPoints) -> None:
    """Mass: the images changed, not the prevalence. Nodule: the prevalence alone did."""
    other = predictions((0.1, 0.05, 0.5), 1)
    scores = other.scores.copy()
    scores[:, 0] = 1 / (1 + np.exp(-(np.log(scores[:, 0] / (1 - scores[:, 0])) + 3)))
    moved = replace(other, scores=scores.astype(np.float32))
    pairs, tests = correct_priors("estimate", moved, points)
    assert list(pairs) == ["Nodule"]
    assert [test.applied for test in tests.values()] == [False, True]
    for column, label in enumerate(("Mass", "Nodule")):
        calibration, truth = points.labels[label].calibration, moved.targets[:, column]
        plain = calibration(scores[:, column].astype(np.float32))
        before, now = correct_priors("force_estimate", moved, points)[0][label]
        odds = plain / (1 - plain) * now / (1 - now) / before * (1 - before)  # eq. 4 as odds
        test = tests[label]
        assert test.brier == pytest.approx(brier_score_loss(truth, plain))
        assert test.corrected == pytest.approx(brier_score_loss(truth, odds / (1 + odds)))
        assert test.prevalence == pytest.approx(truth.mean())
    head, line = say("refuted_priors", tests)
    assert "NOT applied for 1 of 2 labels" in head
    assert f"Mass: prevalence {tests['Mass'].estimate:.3f} (known: 0.1" in line
    assert f"Brier {tests['Mass'].brier:.3f} to {tests['Mass'].corrected:.3f}" in line

    forced, tests = correct_priors("force_estimate", moved, points)
    assert forced == correct_priors("force_estimate", moved, points)[0]
    assert "applied all the same for 1 of 2" in say("refuted_priors", tests)[0]


def test_unknown_targets_refute_nothing(points: OperatingPoints) -> None:
    blind = predictions((0.1, 0.05, 0.5), 1)
    blind = replace(blind, targets=np.full_like(blind.targets, np.nan))
    pairs, tests = correct_priors("estimate", blind, points)
    assert (pairs, tests) == (correct_priors("force_estimate", blind, points)[0], {})
    assert say("refuted_priors", tests) == []
