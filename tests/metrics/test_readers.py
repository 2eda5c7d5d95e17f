"""Readers against published worked examples, scikit-learn, patients left out one by one, samples.

Of the data of Van Dyke (1993), which are in R's MRMCaov and not here, what OR-DBM MRMC 2.5 printed
(RJafroc, inst/obumrm2/VanDyke-traparea-jackknife-obuch-anova.txt) and MRMCaov prints (docs/jss).
"""

import os

import numpy as np
import pytest
from scipy.stats import norm
from sklearn.metrics import cohen_kappa_score, roc_auc_score, roc_curve

from xray_lightning.metrics.bootstrap import PatientBootstrap
from xray_lightning.metrics.readers import (
    ModalityTest,
    compare_modalities,
    compare_reader,
    draw_sensitivity,
    measure_agreement,
    measure_modalities,
    take_majority,
)

NAN = float("nan")
AUROCS = np.array([
    [0.91964573, 0.85877617, 0.90386473, 0.97310789, 0.82979066],
    [0.94782609, 0.90531401, 0.92173913, 0.99935588, 0.92995169],
])  # fmt: skip
COVARIANCES = (0.00034661, 0.00034407, 0.00023903)
FLEISS = {  # 1971, table 1: how many of 6 psychiatrists saw each of 30 patients so; its kappa
    "depression": ("000002022011010035010002104010", 0.245),
    "schizophrenia": ("004004430000300500020000000050", 0.520),
    "neurosis": ("600030014054053010400514410400", 0.471),
}


def is_published(test: ModalityTest) -> None:
    assert (round(test.f_value, 2), round(test.p_value, 4)) == (4.46, 0.0517)
    assert round(test.freedom, 2) == 15.26
    ends = [test.difference.value, *test.difference.interval]
    assert ends == pytest.approx([-0.04380, -0.08796, 0.00036], abs=5e-6)
    singles = [end for mean in test.means for end in (mean.value, *mean.interval)]
    published = [0.89703704, 0.82522360, 0.96885048, 0.94083736, 0.89413783, 0.98753689]
    assert singles == pytest.approx(published, abs=2e-6)
    assert (test.variance, *test.covariances) == pytest.approx((0.00080229, *COVARIANCES), abs=6e-9)


def test_two_modalities_as_published() -> None:
    """The published AUROCs and covariances give the published test."""
    blocks = np.empty((2, 2, 5, 5))
    for one, two in np.ndindex(2, 2):
        other = (0.00048396, 0.00020419)[one] if one == two else COVARIANCES[2]
        blocks[one, two] = np.where(np.eye(5), 0.00080229 if one == two else COVARIANCES[0], other)
    is_published(compare_modalities(AUROCS, blocks.transpose(0, 2, 1, 3)))


@pytest.mark.skipif("XRAY_VANDYKE" not in os.environ, reason="XRAY_VANDYKE: MRMCaov's data as CSV")
def test_two_modalities_from_the_data() -> None:
    rows = np.genfromtxt(os.environ["XRAY_VANDYKE"], delimiter=",", names=True)
    rows = rows[np.lexsort((rows["case"], rows["reader"], rows["treatment"]))]
    ratings, truth = rows["rating"].reshape(2, 5, 114), rows["truth"][:114]
    found = measure_modalities(ratings, truth, np.arange(114))
    assert found[0] == pytest.approx(AUROCS, abs=5e-9)
    is_published(compare_modalities(*found))


def test_covariances_leave_patients_out() -> None:
    rng = np.random.default_rng(0)
    patients, truth = rng.integers(30, size=80), (rng.random(80) < 0.4).astype(float)
    ratings = np.round(truth + rng.normal(size=(2, 3, 80)) + rng.normal(size=80), 1)
    aurocs, covariance = measure_modalities(ratings, truth, patients)
    kept = [np.full(80, True), *(patients != patient for patient in np.unique(patients))]
    rows = ratings.reshape(6, 80)
    found = np.array([[roc_auc_score(truth[k], row[k]) for row in rows] for k in kept])
    assert aurocs.ravel() == pytest.approx(found[0])
    gaps, count = found[1:] - found[1:].mean(axis=0), len(found) - 1
    assert covariance.reshape(6, 6) == pytest.approx(gaps.T @ gaps * (count - 1) / count)


@pytest.mark.parametrize("diagnosis", FLEISS)
def test_fleiss_kappa_as_published(diagnosis: str) -> None:
    counts, kappa = FLEISS[diagnosis]
    marks = (np.arange(6) < np.array([[*map(int, counts)]]).T).astype(float)
    found = measure_agreement(PatientBootstrap(np.arange(30), 200), marks)
    assert round(found.kappa.value, 3) == kappa
    assert found.images == 30
    assert found.prevalence == pytest.approx(sum(map(int, counts)) / 180)


def test_agreement_of_readers_who_saw_some_images() -> None:
    """What irrCAC 0.4.4 (Gwet's own) gives of this table, rows of one reader left out."""
    rng = np.random.default_rng(3)
    marks = (rng.normal(size=(60, 1)) + rng.normal(size=(60, 4)) > 0.7).astype(float)
    marks[rng.random(marks.shape) < 0.4] = NAN
    found = measure_agreement(PatientBootstrap(np.arange(60), 200), marks)
    assert (found.images, found.agreed.value) == (45, pytest.approx(0.68888889))
    assert (found.kappa.value, found.ac1.value) == pytest.approx((0.25925926, 0.46360153))


def test_two_readers() -> None:
    """Cohen's kappa by scikit-learn; the interval against the large-sample one of each image."""
    rng = np.random.default_rng(1)
    marks = (rng.normal(size=(4000, 1)) + rng.normal(size=(4000, 2)) > [1.2, 1.8]).astype(float)
    found = measure_agreement(PatientBootstrap(np.arange(4000), 1000), marks)
    assert found.kappa.value == pytest.approx(cohen_kappa_score(*marks.T))
    kept = np.arange(4000)[:, None] != np.arange(0, 4000, 10)
    left = [cohen_kappa_score(*marks[keep].T) for keep in kept.T]
    error = np.std(left) * 3999 / np.sqrt(4000)
    width = found.kappa.high - found.kappa.low
    assert width == pytest.approx(2 * norm.ppf(0.975) * error, rel=0.1)


def test_agreement_that_cannot_be_told() -> None:
    alone = measure_agreement(PatientBootstrap(np.arange(3), 50), np.array([[1, NAN]] * 3))
    assert (alone.images, np.isnan(alone.kappa.value)) == (0, True)
    absent = measure_agreement(PatientBootstrap(np.arange(30), 50), np.zeros((30, 3)))
    assert np.isnan(absent.kappa.value)
    assert (absent.agreed.exact, absent.ac1.value, absent.agreed.low < 0.9) == (True, 1, True)


def test_a_reader_and_a_model_against_a_truth() -> None:
    """Sensitivity, specificity and AUROC counted; the model's ROC curve by scikit-learn."""
    rng = np.random.default_rng(2)
    patients, truth = rng.integers(60, size=200), (rng.random(200) < 0.3).astype(float)
    scores = np.round(truth + rng.normal(size=200), 1)
    marks = (truth + rng.normal(size=200) > 0.8).astype(float)
    marks[:20], truth[20:30], scores[30:35] = NAN, NAN, NAN
    bootstrap = PatientBootstrap(patients, 100)
    found = compare_reader(bootstrap, marks, truth, scores)
    marks, truth, scores = (column[35:] for column in (marks, truth, scores))
    assert (found.images, found.positives) == (165, truth.sum())
    assert found.sensitivity.value == pytest.approx(marks[truth == 1].mean())
    assert found.specificity.value == pytest.approx(1 - marks[truth == 0].mean())
    assert found.auroc.value == pytest.approx(roc_auc_score(truth, scores))
    side = bootstrap.subset(slice(35, None))
    rate = side.ratio((truth == 0) & (marks == 0), truth == 0)
    drawn = draw_sensitivity(side, scores, truth == 1, rate)
    for counts, specificity, value in zip(side.counts, rate, drawn, strict=True):
        weights = counts[side.codes]
        curve = roc_curve(truth, scores, sample_weight=weights, drop_intermediate=False)[:2]
        steps = curve[0] + 1e-12 * np.arange(len(curve[0]))  # of equal ones the last
        assert value == pytest.approx(np.interp(1 - specificity + 1e-10, steps, curve[1]), abs=1e-6)
    assert found.model_sensitivity.value == drawn[0]
    assert found.difference.value == pytest.approx(drawn[0] - found.sensitivity.value)
    assert found.difference.low < found.difference.value < found.difference.high
    nobody = compare_reader(bootstrap, np.full(200, NAN), np.zeros(200), np.zeros(200))
    assert (nobody.images, np.isnan(nobody.auroc.value)) == (0, True)


def test_majority() -> None:
    marks = np.array([[1, 1, 0], [0, 0, 1], [1, 0, NAN], [NAN, NAN, NAN], [1, NAN, NAN]])
    assert take_majority(marks) == pytest.approx([1, 0, NAN, NAN, 1], nan_ok=True)


def read_films(rng, patients: int, share: float, readers: int):
    """Marks (N, R) of films, 1 to 20 a patient, whose findings and errors run in patients."""
    sizes = np.exp(rng.uniform(0, np.log(21), size=patients)).astype(int)
    codes = np.repeat(np.arange(patients), sizes)
    own = rng.normal(size=(patients, readers + 2))[codes]
    films = rng.normal(size=(len(codes), readers + 2))
    sick = (own[:, :1] + films[:, :1]) / np.sqrt(2) > norm.isf(share)
    errors = (own[:, 1:2] + films[:, 1:2] + own[:, 2:] + films[:, 2:]) / 2
    line = norm.isf(share / 2) + np.linspace(-0.2, 0.2, readers)
    return (errors + (line.mean() + 1) * sick > line).astype(float), codes


@pytest.mark.slow
@pytest.mark.parametrize(("positives", "patients"), [(20, 60), (50, 150), (500, 1500)])
@pytest.mark.parametrize("readers", [2, 4])
def test_coverage_of_agreement(positives: int, patients: int, readers: int) -> None:
    share = positives / (patients * 6.06)
    rng = np.random.default_rng(9)
    marks, codes = read_films(rng, 40_000, share, readers)
    truth = measure_agreement(PatientBootstrap(codes, 1), marks)
    held, films = [], []
    for seed in range(400):
        marks, codes = read_films(rng, patients, share, readers)
        found = measure_agreement(PatientBootstrap(codes, 300, seed), marks)
        films.append(found.prevalence * found.images)
        pairs = [(found.kappa, truth.kappa), (found.ac1, truth.ac1), (found.agreed, truth.agreed)]
        held.append([one.low <= right.value <= one.high for one, right in pairs])
    kappa, ac1, agreed = np.mean(held, axis=0)
    print(f"\n{readers} readers, {np.mean(films):.0f} positive films of {patients} patients: "
          f"kappa {truth.kappa.value:.2f} {kappa:.3f}, AC1 {truth.ac1.value:.2f} {ac1:.3f}, "
          f"{agreed:.3f}")  # fmt: skip
    assert min(kappa, ac1, agreed) > 0.88


@pytest.mark.slow
@pytest.mark.parametrize("readers", [3, 4, 5])
@pytest.mark.parametrize(("patients", "share"), [(80, 0.25), (200, 0.25), (1000, 0.5)])
def test_false_alarms_of_two_equal_modalities(readers: int, patients: int, share: float) -> None:
    """Roe and Metz' design (1997), each patient with 1 to 3 films: rejected at 5 %."""
    rng, alarms = np.random.default_rng(4), []
    for _ in range(1000):
        codes = np.repeat(np.arange(patients), rng.integers(1, 4, size=patients))
        truth = (rng.random(patients) < share).astype(float)[codes]
        skill = (
            1.2 + 0.2 * rng.normal(size=(1, readers, 1)) + 0.1 * rng.normal(size=(2, readers, 1))
        )
        parts = (1, 1, 1), (2, 1, 1), (1, readers, 1), (2, readers, 1)
        own = sum(rng.normal(size=(*shape[:2], patients))[:, :, codes] for shape in parts)
        ratings = truth * skill * 2 + own / np.sqrt(2) + rng.normal(size=(2, readers, len(codes)))
        alarms.append(compare_modalities(*measure_modalities(ratings, truth, codes)).p_value < 0.05)
    print(f"\n{readers} readers, {patients} patients, {share:.0%} positive: {np.mean(alarms):.3f}")
    assert np.mean(alarms) < 0.09
