import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedGroupKFold

from xray_lightning import PatientBootstrap, XrayNet
from xray_lightning.audit.shortcuts import PENALTY, Probe, build_untrained, probe

N, PATIENTS = 300, 100
DRAW = np.random.default_rng(0)
CODES = np.sort(DRAW.integers(0, PATIENTS, N))
ATTRIBUTE = (CODES % 3 == 0).astype(float)  # of patients, as sex is
NOISE = DRAW.normal(size=(N, 12))
TOLD = NOISE + np.outer(ATTRIBUTE, np.eye(12)[2] * 2)
BOOTSTRAP = PatientBootstrap(CODES, 100)


def test_against_scikit_learn() -> None:
    """Fold by fold, standardised by hand."""
    found = Probe.of([TOLD, NOISE], ATTRIBUTE, BOOTSTRAP, seed=4)
    folds, scores = StratifiedGroupKFold(5, shuffle=True, random_state=4), np.zeros(N)
    for learned, held in folds.split(TOLD, ATTRIBUTE, CODES):
        features = (TOLD - TOLD[learned].mean(axis=0)) / TOLD[learned].std(axis=0)
        model = LogisticRegression(C=PENALTY, max_iter=1000)
        model.fit(features[learned], ATTRIBUTE[learned])
        scores[held] = features[held] @ model.coef_[0] + model.intercept_
    assert found.trained == pytest.approx(roc_auc_score(ATTRIBUTE, scores))
    assert found.interval[0] < found.trained < found.interval[1]
    assert found.trained > 0.85
    assert found.random_interval[0] < 0.5 < found.random_interval[1]
    assert (found.known, found.positive) == (N, int(ATTRIBUTE.sum()))


def test_patients_are_not_recognised() -> None:
    """Features that name the patient tell of patients only if their images are split up."""
    features = np.eye(PATIENTS)[CODES] + 0.01 * DRAW.normal(size=(N, PATIENTS))
    assert probe(features, ATTRIBUTE, BOOTSTRAP, seed=0).value < 0.65
    assert probe(features, ATTRIBUTE, PatientBootstrap(np.arange(N), 20), seed=0).value > 0.9


def test_unknown_attribute_are_left_out() -> None:
    attribute = np.where(CODES % 5 == 0, np.nan, ATTRIBUTE)
    known = ~np.isnan(attribute)
    found = Probe.of([TOLD, NOISE], attribute, BOOTSTRAP, seed=0)
    alone = probe(TOLD[known], attribute[known], BOOTSTRAP.subset(known), seed=0)
    assert found.trained == pytest.approx(alone.value)
    assert (found.known, found.positive) == (known.sum(), (attribute == 1).sum())


@pytest.mark.parametrize("value", [0.0, 1.0, np.nan])
def test_too_few_patients(value: float) -> None:
    attribute = np.full(N, value)
    attribute[CODES < 9] = 1 - value  # nine patients of the other kind
    found = Probe.of([TOLD, NOISE], attribute, BOOTSTRAP, seed=0)
    assert np.isnan([found.trained, *found.interval, found.random, *found.random_interval]).all()


def test_the_same_architecture_with_random_weights() -> None:
    torch.manual_seed(1)
    net = XrayNet(("Mass",), "test_resnet", head="pcam", image_size=32).eval()
    state = torch.get_rng_state()
    found, again = build_untrained(net, 0), build_untrained(net, 0)
    assert torch.equal(torch.get_rng_state(), state)
    assert found.config == net.config
    assert not found.training
    for name, tensor in found.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name])
    own = dict(net.named_parameters())
    assert any(not torch.equal(tensor, own[name]) for name, tensor in found.named_parameters())
