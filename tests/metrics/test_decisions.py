"""Net benefit and predictive values against formulas written out, dcurves and worked examples.

MAPIE tests conformal sets where it is installed (``pip install --no-deps mapie``). dcurves 1.1.7
asks for pandas below 3, so it is no dependency, as cleanlab is under the AGPL
(``pip install --no-deps cleanlab termcolor tqdm``): ``pip install --no-deps dcurves
lifelines autograd autograd-gamma statsmodels patsy formulaic`` runs its test.
"""

from dataclasses import replace
from itertools import product

import numpy as np
import pandas as pd
import pytest
from scipy.special import expit, logit
from scipy.stats import t

from xray_lightning import ConfigError, PatientBootstrap
from xray_lightning.metrics import decisions
from xray_lightning.metrics.decisions import count_violations, doubt_labels, share_among_neighbours
from xray_lightning.metrics.intervals import Band, Spread, effective_patients, share_interval
from xray_lightning.wording import tell

LINES = [0.05, 0.25, 0.5, 0.8]


def sample(patients: int = 80, each: int = 4) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Probabilities, targets, patients, who have as many images each."""
    rng = np.random.default_rng(0)
    odds = np.repeat(rng.normal(size=patients), each) + rng.normal(size=patients * each) - 1
    targets = (rng.random(len(odds)) < expit(odds)).astype(float)
    return np.round(expit(1.3 * odds), 2), targets, np.repeat(np.arange(patients), each)


def written_out(scores: np.ndarray, targets: np.ndarray) -> list[float]:
    """As in Vickers and Elkin 2006, threshold by threshold."""
    gains = (np.where(targets == 1, 1, -line / (1 - line)) * (scores >= line) for line in LINES)
    return [float(gain.mean()) for gain in gains]


def test_net_benefit_of_draws_is_that_of_repeated_rows() -> None:
    scores, targets, patients = sample()
    bootstrap = PatientBootstrap(patients, 5, 0)
    found = decisions.draw_net_benefit(bootstrap, scores, targets == 1, LINES)
    for row, counts in zip(found, bootstrap.counts, strict=True):
        rows = np.repeat(np.arange(len(scores)), counts[patients].astype(int))
        np.testing.assert_allclose(row, written_out(scores[rows], targets[rows]), atol=1e-12)


def test_net_benefit_is_that_of_dcurves() -> None:
    dca = pytest.importorskip("dcurves").dca
    scores, targets, patients = sample()
    table = pd.DataFrame({"y": targets == 1, "p": scores})
    theirs = dca(data=table, outcome="y", modelnames=["p"], thresholds=list(decisions.THRESHOLDS))
    found = decisions.measure_net_benefit(PatientBootstrap(patients, 2), scores, targets)
    for name, band in (("p", found.model), ("all", found.call_all)):
        expected = theirs.loc[theirs["model"] == name, "net_benefit"]
        np.testing.assert_allclose(band.value, expected, atol=1e-12)


def test_bands_are_those_of_patients_left_out() -> None:
    """The jackknife, as net benefit is nearly linear; unknown targets are left out."""
    scores, targets, patients = sample()
    more = np.append(scores, 0.9), np.append(targets, np.nan), np.append(patients, 0)
    found = decisions.measure_net_benefit(PatientBootstrap(more[2], 4000), *more[:2], LINES)
    without = [patients != one for one in range(80)]
    for band, told in ((found.model, scores), (found.call_all, np.ones(320))):
        np.testing.assert_allclose(band.value, written_out(told, targets), atol=1e-12)
        parts = [written_out(told[rows], targets[rows]) for rows in without]
        sick = np.bincount(patients, targets)
        reach = np.sqrt(79 * np.var(parts, axis=0))
        reach *= t.ppf(0.975, sick.sum() ** 2 / (sick**2).sum() - 1)
        np.testing.assert_allclose(np.subtract(band.high, band.low), 2 * reach, rtol=0.06)
    rows = zip(LINES, found.model.low, found.above_all.low, strict=True)  # less one of 80 patients
    worse = {x: min(own - x / (1 - x) / 80, above - 1 / 80) for x, own, above in rows}
    assert found.useful == [line for line, low in worse.items() if low > 0]
    assert type(found).from_json(found.to_json()) == found


def test_useless_scores_are_not_shown_to_help_where_nothing_could_tell() -> None:
    """No finding lies below 1 %, in any draw; good scores are shown to help."""
    targets = (np.arange(3000) % 20 == 0).astype(float)
    useless = np.where(np.arange(3000) % 500 == 1, 0.001, 0.05)
    bootstrap = PatientBootstrap(np.arange(3000), 200)
    found = decisions.measure_net_benefit(bootstrap, useless, targets)
    assert found.above_all.low[0] > 0
    assert found.useful == []
    good = decisions.measure_net_benefit(bootstrap, useless + targets / 2, targets)
    assert good.useful == found.thresholds[5:]
    curves = {"a": found, "b": good, "c": replace(found, call_all=Band([0], [np.nan], [np.nan]))}
    shown, idle, unknown = tell("xray_lightning.report", "net_benefit", curves, {})
    assert "each threshold alone" in shown
    assert (idle[-2:], unknown[-2:]) == (" a", " c")


def test_two_models_on_the_same_draws() -> None:
    scores, targets, patients = sample()
    bootstrap = PatientBootstrap(patients, 300)
    found = decisions.compare_net_benefit(bootstrap, targets, scores, 1 - scores, LINES)
    expected = np.subtract(written_out(scores, targets), written_out(1 - scores, targets))
    np.testing.assert_allclose(found.value, expected, atol=1e-12)
    same = decisions.compare_net_benefit(bootstrap, targets, scores, scores, LINES)
    assert same.value == [0.0] * 4
    assert np.isnan([same.low, same.high]).all(), "no interval without width"


def test_images_for_a_person_by_brute_force() -> None:
    """Every draw image by image; the area is Geifman's mean over the images that are kept."""
    scores, targets, patients = sample(20)
    scores += np.arange(80) * 1e-5  # no ties: an order of images
    certainty, called, wanted = np.abs(scores - 0.5), scores >= 0.5, [0.5, 0.9, 1.0]
    bootstrap, wrong = PatientBootstrap(patients, 200, 0), called != (targets == 1)
    found = decisions.measure_selection(bootstrap, certainty, called, targets, wanted)
    draws, order = [], np.argsort(-certainty)  # the surest first
    lost, errors, sick = (targets > called)[order], wrong[order], targets[order]
    for times in bootstrap.counts[:, patients[order]]:
        kept, missed = times.cumsum(), (times * lost).cumsum() / (times @ sick)
        shares = [1 - kept[missed <= 1 - share + 1e-9].max(initial=0) / 80 for share in wanted]
        half = (times - 1).clip(0) / 2  # an image drawn twice stands at the middle of its copies
        risks = ((times * errors).cumsum() - half * errors) / np.maximum(kept - half, 1)
        draws.append([*shares, times @ risks / 80])
    draws = np.array(draws)
    assert 0 < draws[0, 0] < draws[0, 1] < draws[0, 2]
    shown, masks = [*found.handed.values(), found.area], [targets] * 3 + [wrong]
    for estimate, column, mask in zip(shown, draws.T, masks, strict=True):
        spread = Spread.of(column[1:], effective_patients(np.bincount(patients, mask)))
        ends = share_interval(column[0], spread)
        assert (estimate.value, *estimate.interval) == pytest.approx((column[0], *ends), abs=0.003)
    assert found.gain.value == pytest.approx(wrong.mean() - found.area.value)
    kept = [errors[: round(80 * share)].mean() for share in found.coverage]
    assert found.risk.value == pytest.approx(kept)
    unknown = decisions.measure_selection(bootstrap, certainty, called, targets * np.nan, [0.9])
    assert np.isnan([unknown.area.value, unknown.handed["0.9"].value, *unknown.risk.value]).all()


def test_predictive_values_of_altman_and_bland() -> None:
    """BMJ 1994;309:102: a liver scan, 231 of 258 and 54 of 86 right; at 25 % 0.45 and 0.95."""
    targets = np.repeat([1.0, 0.0], [258, 86])
    called = np.concatenate([np.arange(258) < 231, np.arange(86) >= 54])
    bootstrap = PatientBootstrap(np.arange(344), 4000)
    found = decisions.measure_at_prevalence(bootstrap, called, targets, [0.25, 258 / 344])
    assert [round(value, 2) for value in found.ppv.value] == [0.45, 0.88]
    assert [round(value, 2) for value in found.npv.value] == [0.95, 0.67]
    assert found.alarms.value[0] == pytest.approx(100 * (231 / 258 * 0.25 + 32 / 86 * 0.75))
    assert found.images.value[0] == pytest.approx(258 / 231 / 0.25)
    # of independent images the variances on the logit scale are known (Mercaldo 2007)
    variances = 27 / 231 / 258 + 54 / 32 / 86, 231 / 27 / 258 + 32 / 54 / 86
    for band, variance in zip((found.ppv, found.npv), variances, strict=True):
        reach = t.ppf(0.975, 85) * np.sqrt(variance * 86 / 85)
        np.testing.assert_allclose(logit(band.high) - logit(band.low), 2 * reach, rtol=0.05)
    assert type(found).from_json(found.to_json()) == found


def test_what_is_unknown_at_a_prevalence() -> None:
    targets, bootstrap = np.array([1.0, 1, 0, 0, np.nan]), PatientBootstrap(np.arange(5), 50)
    perfect = decisions.measure_at_prevalence(bootstrap, targets == 1, targets, [0.1])
    assert (perfect.ppv.value, perfect.npv.value) == ([1.0], [1.0])
    assert np.isnan([perfect.ppv.low, perfect.alarms.low, perfect.images.high]).all()
    silent = decisions.measure_at_prevalence(bootstrap, targets > 1, targets, [0.1])
    assert np.isnan([silent.ppv.value, silent.images.value]).all()
    assert silent.npv.value == [pytest.approx(0.9)]
    alone = decisions.measure_at_prevalence(bootstrap, targets == 1, targets * 0, [0.1])
    assert np.isnan([alone.ppv.value, alone.alarms.value]).all()
    empty = decisions.measure_net_benefit(bootstrap, targets, targets * np.nan, [0.1])
    assert np.isnan(empty.model.value).all()
    assert empty.useful == []


@pytest.mark.parametrize("shares", [[], [0.0, 0.1], [0.5, 1.0], [0.2, 0.1], [0.1, 0.1]])
def test_shares_are_refused(shares) -> None:
    with pytest.raises(ConfigError, match=r"thresholds must lie between 0 and 1 and rise, got "):
        decisions.require_shares("thresholds", shares)


def test_scores_above_those_of_a_wider_finding() -> None:
    """The share and, patients having as many images each, its interval by their means."""
    scores, targets, patients = sample()
    both, kind = np.column_stack([scores, np.roll(scores, 1)]), {"Edema": ("Opacity",)}
    names, known = ("Edema", "Opacity"), np.column_stack([targets, 1 - targets])
    (row,) = count_violations(patients, names, both, known, kind)
    above = pd.Series(both[:, 0] > both[:, 1])
    assert (row.share.value, row.contradicted) == (above.mean(), int((targets == 1).sum()))
    means, share = above.groupby(patients).mean(), above.mean()
    reach = t.ppf(0.975, 79) * means.std() / np.sqrt(80) / (share * (1 - share))
    assert row.share.interval == pytest.approx(expit(logit(share) + np.array([-reach, reach])))
    (never,) = count_violations(patients, names, both * (0, 1), known, kind)
    assert never.share.interval == pytest.approx((0, 1 - 0.025 ** (1 / 80)))
    assert never.share.exact
    assert count_violations(patients, names, both, known, {}) == []


def lose(inside: np.ndarray, targets: np.ndarray, codes: np.ndarray) -> pd.Series:
    """Of each patient with a finding: the mean over his images of the share left out."""
    images = pd.DataFrame(~inside).astype(float).where(targets == 1).mean(axis=1)
    return images.groupby(codes).mean().dropna()


@pytest.mark.parametrize(("risk", "labels"), [(0.01, 1), (0.1, 1), (0.1, 3), (0.3, 3), (0.9, 1)])
def test_conformal_sets_by_brute_force(risk: float, labels: int) -> None:
    scores, targets, codes = (array.reshape(-1, 3)[:, :labels] for array in sample(60, 9))
    codes = codes[:, 0]
    targets[0, 0] = np.nan
    losses = {line: lose(scores >= line, targets, codes) for line in [0.0, *np.unique(scores)]}
    allowed = [k for k, lost in losses.items() if lost.sum() + 1 <= risk * (len(lost) + 1) + 1e-9]
    wanted = max(allowed, default=np.nan)
    np.testing.assert_equal(decisions.fit_set(scores, targets, codes, risk), wanted)
    assert (wanted > 0) == (risk > 0.01), "60 patients cannot promise 1 %"
    calls = (np.arange(300) % 4 > 0)[:, None] * 1.0  # miss a quarter of the findings
    assert decisions.fit_set(calls, np.ones_like(calls), np.arange(300), 0.1) == 0
    groups = {"all": codes >= 0, "F": np.arange(len(codes)) % 3 > 0}
    found = decisions.measure_set(scores, targets, codes, 0.5, groups)
    for name, rows in groups.items():
        lost = lose(scores[rows] >= 0.5, targets[rows], codes[rows])
        mean, reach = lost.mean(), t.ppf(0.975, len(lost) - 1) * lost.sem()
        assert found[name].value == pytest.approx(mean)
        assert np.diff(logit(found[name].interval)) == pytest.approx(2 * reach / mean / (1 - mean))
    assert found["in the set"].value == pytest.approx((scores >= 0.5).mean())


def test_conformal_sets_are_those_of_mapie() -> None:
    """One image a patient, a finding in each: MAPIE's sets lie above a limit, these reach it."""
    control = pytest.importorskip("mapie.risk_control").MultiLabelClassificationController
    scores, targets, _ = (array.reshape(-1, 3) for array in sample(60, 9))
    scores, targets = scores[targets.any(axis=1)], targets[targets.any(axis=1)]
    for risk in (0.05, 0.1, 0.3):
        grid = {"target_level": 1 - risk, "predict_params": np.arange(0.005, 1, 0.01)}
        theirs = control(lambda _: scores, "recall", "crc", **grid).calibrate(scores, targets)
        threshold = decisions.fit_set(scores, targets, np.arange(len(scores)), risk)
        assert threshold == pytest.approx(theirs.best_predict_param[0] + 0.005)


def test_doubts_are_those_of_cleanlab(rng) -> None:
    ranking = pytest.importorskip("cleanlab.multilabel_classification.rank")
    told, targets = rng.random((200, 5)), rng.integers(0, 2, (200, 5)).astype(float)
    ones = [np.flatnonzero(row).tolist() for row in targets]
    labels, images = doubt_labels(told, targets, targets * np.nan)
    for method in ("self_confidence", "normalized_margin"):
        theirs = ranking.get_label_quality_scores_per_class(ones, told, method=method)
        np.testing.assert_allclose(labels, 1 - theirs, atol=1e-12)
        theirs = ranking.get_label_quality_scores(ones, told, method=method)
        np.testing.assert_allclose(images, 1 - theirs, atol=1e-12)


def test_doubts_and_neighbours_by_a_loop() -> None:
    rng = np.random.default_rng(1)
    features, patients = rng.normal(size=(60, 4)), rng.integers(0, 20, 60)
    told, targets = rng.random((60, 3)), rng.choice([0, 1, np.nan], (60, 3), p=[0.4, 0.3, 0.3])
    targets[0] = np.nan
    beside = share_among_neighbours(features, targets, patients, 3)
    labels, images = doubt_labels(told, targets, beside)
    unit = features / np.linalg.norm(features, axis=1)[:, None]
    for i, own in enumerate(unit):
        order = [k for k in np.argsort(-unit @ own) if patients[k] != patients[i]]
        doubts, whole = np.full(3, np.nan), np.nan
        for c in np.flatnonzero(~np.isnan(targets[i])):
            known = [targets[k, c] for k in order[:3] if targets[k, c] >= 0]
            says = (told[i, c] + (np.mean(known) if known else told[i, c])) / 2
            doubts[c] = 1 - says if targets[i, c] else says
        for number, doubt in enumerate(sorted(doubts[~np.isnan(doubts)])):
            whole = 0.8 * doubt + 0.2 * whole if number else doubt
        assert [*labels[i], images[i]] == pytest.approx([*doubts, whole], nan_ok=True)
    with pytest.raises(ConfigError, match="neighbours"):
        share_among_neighbours(features, targets, np.zeros(60))


def test_labels_that_a_better_source_contradicts() -> None:
    targets, truth = np.array([1, 1, 1, 0, 0, 0, 0, np.nan]), np.array([0, 0, 1, 1, 0, 0, 0, 1])
    doubts = np.array([0.9, 0.8, 0.1, 0.7, 0.2, 0.1, 0.1, np.nan])
    shares = decisions.measure_doubts(np.arange(8), doubts, targets, truth, 3)
    alike = (2 * 2 / 3 + 1 / 4) / 3  # two of three that say present, one of four that say absent
    assert [one.value for one in shares.values()] == pytest.approx([1, 3 / 7, alike, 2 / 3])


@pytest.mark.slow
def test_planted_flips_are_doubted() -> None:
    """50 of each side flipped among 2,000: how many of the 100 that are doubted most are those?"""
    rows, patients = [], np.repeat(np.arange(500), 4)
    for seed, noise in product(range(50), (1.0, 2.0)):
        rng = np.random.default_rng(seed)
        odds = 1.5 * (rng.normal(size=500)[patients] + rng.normal(size=2000)) - 2.5
        truth = (rng.random(2000) < expit(odds)).astype(float)
        flipped = [rng.choice(np.flatnonzero(truth == side), 50, replace=False) for side in (0, 1)]
        targets = truth[:, None].copy()
        targets[flipped] = 1 - targets[flipped]
        features = odds[:, None] + 2.5 + 3 * rng.normal(size=(2000, 8))
        told = expit(odds + noise * rng.normal(size=2000))[:, None]
        for beside in (targets * np.nan, share_among_neighbours(features, targets, patients)):
            doubts = doubt_labels(told, targets, beside)[1]
            shares = decisions.measure_doubts(patients, doubts, targets[:, 0], truth, 100)
            rows.append([one.value for one in shares.values()])
    means = np.reshape(rows, (50, 2, 2, 4)).mean(axis=0)
    print("a model, with neighbours; a worse model, with neighbours:", *means.round(3), sep="\n")
    assert (means[..., 0] > 2 * means[..., 2]).all()
    assert (means[..., 2] > 2 * means[..., 1]).all()
