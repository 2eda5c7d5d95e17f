"""``prior=``: what can be asked for, and what it does to calibrated scores."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from omegaconf import OmegaConf

from xray_lightning.cli.priors import prior_pairs, priors_line, read_prior, require_prior
from xray_lightning.errors import ConfigError
from xray_lightning.metrics.points import Fitted, fit_on_validation
from xray_lightning.predictions import Predictions

LABELS = ("Mass", "Nodule", "Hernia")


def predictions(shares: tuple[float, ...], seed: int, images: int = 4000) -> Predictions:
    """Scores that are calibrated at a prevalence of 0.3, whatever the shares are."""
    rng = np.random.default_rng(seed)
    targets = (rng.random((images, 3)) < shares).astype(np.float32)
    odds = 2 * rng.standard_normal((images, 3)) + 4 * (
        targets - 0.5
    )  # likelihood ratio: 2 x odds / 2
    scores = 1 / (1 + np.exp(-(odds + np.log(0.3 / 0.7))))
    ids = tuple(map(str, range(images)))
    return Predictions(LABELS, ids, ids, targets, scores.astype(np.float32))


@pytest.fixture(scope="module")
def fitted() -> dict[str, Fitted]:
    """Mass and Nodule calibrated at 0.3; Hernia has too few positives."""
    found = predictions((0.3, 0.3, 0.001), 0)
    columns = found.scores, found.targets, found.patient_ids
    return fit_on_validation(LABELS, *columns, draws=2)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("validation", "validation"),
        ("estimate", "estimate"),
        ("0.02", 0.02),
        ("{Mass: 0.05,Lung Opacity:0.2}", {"Mass": 0.05, "Lung Opacity": 0.2}),
    ],
)
def test_what_can_be_asked_for(text: str, value: Any) -> None:
    assert read_prior(text) == require_prior(value) == value
    config = OmegaConf.create({"prior": value})
    assert require_prior(config.prior) == value


@pytest.mark.parametrize(
    "text",
    ["often", "0", "1", "1.0", "-0.1", "true", "{}", "{Mass: often}", "[0.1]", "{Mass", "nan"],
)
def test_what_cannot(text: str) -> None:
    with pytest.raises(ConfigError, match="prior must be validation, estimate, a prevalence betw"):
        read_prior(text)


def test_pairs(fitted: dict[str, Fitted]) -> None:
    here = predictions((0.05, 0.6, 0.001), 1)
    before = {label: fitted[label].prevalence for label in LABELS}
    assert prior_pairs("validation", here, fitted) == {}
    wanted = {label: (before[label], 0.1) for label in ("Mass", "Nodule")}
    assert prior_pairs(0.1, here, fitted) == wanted
    assert prior_pairs({"Nodule": 0.2}, here, fitted) == {"Nodule": (before["Nodule"], 0.2)}
    told = prior_pairs("estimate", here, fitted)
    for label, share in (("Mass", 0.05), ("Nodule", 0.6)):
        assert told[label][0] == before[label]
        assert told[label][1] == pytest.approx(share, abs=0.03)


def test_corrected_scores_mean_the_true_prevalence(fitted: dict[str, Fitted]) -> None:
    here = predictions((0.05, 0.6, 0.001), 2)
    for label, pair in prior_pairs({"Mass": 0.05, "Nodule": 0.6}, here, fitted).items():
        chosen = fitted[label].calibration
        assert chosen is not None
        column = LABELS.index(label)
        mean = chosen.at_prior(*pair)(here.scores[:, column]).mean()
        assert mean == pytest.approx(here.targets[:, column].mean(), abs=0.02)
        assert abs(chosen(here.scores[:, column]).mean() - mean) > 0.05


def test_what_has_no_calibration(fitted: dict[str, Fitted]) -> None:
    here = predictions((0.3, 0.3, 0.001), 1, 20)
    with pytest.raises(ConfigError, match=r"is there for Hernia \(fewer than 10 positives"):
        prior_pairs({"Hernia": 0.01}, here, fitted)
    with pytest.raises(ConfigError, match="prior=estimate corrects calibrated scores, and no cal"):
        prior_pairs("estimate", here, {})
    bare = {label: replace(each, calibration=None) for label, each in fitted.items()}
    with pytest.raises(ConfigError, match="is there for all: xray score fits one with points=val"):
        prior_pairs(0.1, here, bare)
    with pytest.raises(ConfigError, match="'Edema' is no label here; there are Mass, Nodule, Hern"):
        prior_pairs({"Edema": 0.1}, here, fitted)


def test_the_line() -> None:
    line = priors_line({"Mass": (0.3, 0.05)})
    assert line.endswith("corrected to another prevalence: Mass 0.300 to 0.050")
