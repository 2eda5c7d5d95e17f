import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score
from toy import toy_net

from xray_lightning import PatientBootstrap, XrayNet
from xray_lightning.audit import occlusion
from xray_lightning.audit.occlusion import CLEAR, FLAGGED, UNDECIDED, find_body, mask_elsewhere
from xray_lightning.audit.shortcuts import decide, pool_features
from xray_lightning.models.batches import run_batches

SIZE = 48
N, PATIENTS = 400, 150


def net() -> XrayNet:
    return toy_net(("Mass", "Nodule"), size=SIZE).eval()


def test_answers_come_in_batches() -> None:
    images = torch.rand(occlusion.BATCH + 3, 1, SIZE, SIZE)
    with torch.no_grad():
        logits, features = net()(images), net().forward_features(images)
    np.testing.assert_allclose(run_batches(net(), images), logits, atol=1e-5)
    np.testing.assert_allclose(pool_features(net(), images), features.mean((2, 3)), atol=1e-5)


def test_what_the_network_is_shown() -> None:
    """Region by region and image by image against covering one image by hand."""
    pixels = np.random.default_rng(0).integers(0, 256, (occlusion.BATCH + 2, SIZE, SIZE), np.uint8)
    images = torch.from_numpy(pixels).unsqueeze(1) / 255
    exact = np.zeros(pixels.shape, np.bool_)
    exact[1, 40:44, 2:6] = True
    found = occlusion.occlude(net(), images, exact, seed=5)
    assert list(found) == ["corners", "border", "letters", "planted marker"]
    assert list(occlusion.occlude(net(), images[:2], None, seed=5)) == list(found)[:3]
    row, mask = occlusion.BATCH + 1, occlusion.mask_corners((SIZE, SIZE))
    other = mask_elsewhere(mask, find_body(pixels[row])[0], np.random.default_rng((5, row)))
    for values, region in ((found["corners"].logits, mask), (found["corners"].control, other)):
        shown = torch.from_numpy(occlusion.cover(pixels[row], region))[None, None] / 255
        np.testing.assert_allclose(values[row], run_batches(net(), shown)[0], atol=1e-5)
    np.testing.assert_allclose(found["corners"].area, mask.mean())
    marker, plain = found["planted marker"], run_batches(net(), images).double().numpy()
    assert np.flatnonzero(marker.area).tolist() == [1]
    assert np.flatnonzero(np.abs(marker.logits - plain).max(axis=1) > 1e-5).tolist() == [1]


def sample(gain: float, other: float) -> tuple[np.ndarray, occlusion.Occlusion, np.ndarray]:
    """Logits that a region gives ``gain`` to positives and the body ``other``; targets.

    Half of the positives get double the gain. What the logits keep when both are covered tells the
    label too, by 1 standard deviation.
    """
    draw = np.random.default_rng(1)
    draw.integers(0, PATIENTS, N)  # CODES
    targets = (draw.random(N) < 0.2).astype(float)
    rest = targets + draw.normal(size=N)
    given = 2 * gain * (draw.random(N) < 0.5)
    shown = rest + (given + other) * targets, rest + other * targets, rest + given * targets
    logits, region, control = (np.stack([values, values], axis=1) for values in shown)
    return logits, occlusion.Occlusion(region, control, np.full(N, 0.1)), targets


CODES = np.random.default_rng(1).integers(0, PATIENTS, N)  # as sample draws them
BOOTSTRAP = PatientBootstrap.of(CODES, PatientBootstrap(np.arange(PATIENTS), 300).counts)


def test_falls_are_what_scikit_learn_says() -> None:
    logits, hidden, targets = sample(1.0, 0.5)
    targets[::9] = np.nan
    known = ~np.isnan(targets)
    drop = occlusion.measure_drop(logits, hidden, 0, targets, BOOTSTRAP)
    whole, region, control = (
        roc_auc_score(targets[known], values[known, 0])
        for values in (logits, hidden.logits, hidden.control)
    )
    assert drop.auroc.region.value == pytest.approx(whole - region)
    assert drop.auroc.control.value == pytest.approx(whole - control)
    assert drop.auroc.excess.value == pytest.approx(control - region)
    lost = (logits - hidden.logits)[:, 0] / logits[:, 0].std()
    wanted = lost[targets == 1].mean() - lost[targets == 0].mean()
    assert drop.logit.region.value == pytest.approx(wanted)
    assert drop.logit.control.value == pytest.approx(0.5 / logits[:, 0].std())
    assert (drop.images, drop.area) == (N, pytest.approx(0.1))


def test_gaps_of_draws() -> None:
    _, _, targets = sample(1.0, 0.5)
    values = np.random.default_rng(2).normal(size=N)
    gaps = occlusion.measure_gap(values, targets, BOOTSTRAP)
    for gap, row in zip(gaps, BOOTSTRAP.counts[:4], strict=False):
        rows = np.repeat(np.arange(N), row[CODES].astype(int))
        positive = targets[rows] == 1
        assert gap == pytest.approx(values[rows][positive].mean() - values[rows][~positive].mean())


@pytest.mark.parametrize(
    ("gain", "other", "verdict"),
    [
        (2.0, 0.0, FLAGGED),  # the region carries the label
        (0.0, 0.0, CLEAR),
        (0.0, 2.0, CLEAR),  # the body does
        (1.5, 3.0, CLEAR),  # both: covering the body costs more
        (0.3, 0.0, UNDECIDED),  # at the margin
    ],
)
def test_verdicts(gain: float, other: float, verdict: str) -> None:
    logits, hidden, targets = sample(gain, other)
    assert occlusion.measure_drop(logits, hidden, 1, targets, BOOTSTRAP).verdict == verdict


def test_logits_see_what_a_saturated_auroc_hides() -> None:
    logits, hidden, targets = sample(8.0, 0.0)
    for values in (logits, hidden.logits, hidden.control):
        values[targets == 1] += 9
    drop = occlusion.measure_drop(logits, hidden, 0, targets, BOOTSTRAP)
    assert (drop.auroc.region.value, drop.auroc.verdict) == (0, CLEAR)
    assert drop.logit.verdict == drop.verdict == FLAGGED


def test_few_patients_are_undecided_and_at_most_is_an_upper_end() -> None:
    logits, hidden, targets = sample(0.0, 0.0)
    few = np.where(np.cumsum(targets) > 9, 0, targets)
    drop = occlusion.measure_drop(logits, hidden, 0, few, BOOTSTRAP)
    verdict, reason = decide({"corners": drop}, {}, 0.8)
    assert (drop.verdict, verdict, reason[:28]) == (
        UNDECIDED,
        UNDECIDED,
        "no interval: fewer than ten ",
    )
    hidden.logits[:, 0] += np.random.default_rng(0).normal(0, 0.1, N)
    drop = occlusion.measure_drop(logits, hidden, 0, targets, BOOTSTRAP)
    upper = drop.auroc.region.interval[1]
    assert f"at most {upper:.3f} of its" in decide({"corners": drop}, {}, 0.8)[1]


def test_undefined_is_undecided() -> None:
    logits, hidden, _ = sample(1.0, 0.0)
    drop = occlusion.measure_drop(logits, hidden, 0, np.zeros(N), BOOTSTRAP)
    assert np.isnan(drop.auroc.region.value)
    assert drop.verdict == UNDECIDED
    nowhere = occlusion.Occlusion(logits, logits, np.zeros(N))
    drop = occlusion.measure_drop(logits, nowhere, 0, (np.arange(N) % 2).astype(float), BOOTSTRAP)
    assert drop.images == 0
    assert np.isnan(drop.area)
    assert drop.verdict == CLEAR


@pytest.mark.parametrize(
    ("shift", "verdict"), [(0.3, FLAGGED), (-0.3, CLEAR), (0.0, UNDECIDED), (np.nan, UNDECIDED)]
)
def test_the_interval_and_the_margin(shift: float, verdict: str) -> None:
    draws = np.concatenate([[0.1 + shift], 0.1 + shift + np.linspace(-0.1, 0.1, 201)])
    check = occlusion.Check.of(draws, 0.1)
    assert (check.verdict, check.value) == (verdict, pytest.approx(0.1 + shift, nan_ok=True))
    assert check.interval == pytest.approx((0.005 + shift, 0.195 + shift), nan_ok=True)
