"""Readers against published worked examples, scikit-learn, patients left out one by one, samples.

Of the data of Van Dyke (1993), which are in R's RJafroc and MRMCaov and not here, what OR-DBM MRMC
2.51 printed: RJafroc, inst/IowaResults/VanDyke_trap_area_jackknife_anova.txt.
"""

import numpy as np
import pytest
from scipy.stats import t
from sklearn.metrics import cohen_kappa_score, roc_auc_score, roc_curve

from xray_lightning.metrics import readers as metrics
from xray_lightning.metrics.bootstrap import PatientBootstrap

NAN = float("nan")
FIRST = np.array([0.91964573, 0.85877617, 0.90386473, 0.97310789, 0.82979066])  # AUROCs
SECOND = np.array([0.94782609, 0.90531401, 0.92173913, 0.99935588, 0.92995169])


def test_two_modalities_as_published() -> None:
    """AUROCs, variance and covariances give the published F, p and degrees of freedom."""
    shared = np.array([[0.00048396, 0.00023903], [0.00023903, 0.00020419]])  # of two readers
    own = np.array([[0.00080229, 0.00034661], [0.00034661, 0.00080229]])  # of one
    blocks = np.where(np.eye(5)[:, None, :], own[:, None, :, None], shared[:, None, :, None])
    test = metrics.compare_modalities(np.stack([FIRST, SECOND]), blocks, 114)
    rounded = round(test.f_value, 2), round(test.hillis, 4), round(test.freedom, 2)
    assert rounded == (4.46, 0.0517, 15.26)
    ends = [test.difference.value, *test.difference.interval]
    assert ends == pytest.approx([-0.04380, -0.09007, 0.00247], abs=5e-5)  # not -0.08796, 0.00036


@pytest.mark.parametrize(("readers", "rate"), [(2, 0.128), (3, 0.078), (5, 0.059)])
def test_the_bound_is_what_samples_give_at_the_worst(readers: int, rate: float) -> None:
    """Of many cases the covariances are known: the mean square alone is drawn."""
    assert metrics.bound_p_value(0.05, readers) == pytest.approx(rate, abs=1e-3)
    assert metrics.bound_p_value(metrics.find_level(readers), readers) == pytest.approx(0.05)
    rng, share, freedom = np.random.default_rng(0), 0.1, readers - 1  # of the variance, of cases
    square = (1 - share) * rng.chisquare(freedom, 200_000) / freedom
    beyond = abs(rng.normal(size=200_000)) / (square + share) ** 0.5
    p_values = 2 * t.sf(beyond, freedom * (1 + share / square) ** 2)
    assert np.mean(p_values < 0.05) == pytest.approx(rate, abs=2e-3)


def test_covariances_leave_patients_out() -> None:
    rng = np.random.default_rng(0)
    patients, truth = rng.integers(30, size=80), (rng.random(80) < 0.4).astype(float)
    ratings = np.round(truth + rng.normal(size=(2, 3, 80)) + rng.normal(size=80), 1)
    aurocs, covariance, _ = metrics.measure_modalities(ratings, truth, patients)
    kept = [patients != patient for patient in (-1, *np.unique(patients))]  # all, then all but one
    rows = np.concatenate(ratings)
    values = np.array([[roc_auc_score(truth[k], row[k]) for row in rows] for k in kept])
    assert aurocs.ravel() == pytest.approx(values[0])
    assert covariance.reshape(6, 6) == pytest.approx(np.cov(values[1:].T, ddof=0) * (len(kept) - 2))
    nothing = metrics.compare_modalities(*metrics.measure_modalities(ratings * NAN, truth, truth))
    assert np.isnan(nothing.p_value)


def test_agreement() -> None:
    """Fleiss' table 1 (1971), as published; irrCAC 0.4.4 (Gwet's own); scikit-learn."""
    depressed = [*map(int, "000002022011010035010002104010")]  # by how many of 6 psychiatrists
    marks = (np.arange(6) < np.array([depressed]).T).astype(float)
    assert round(metrics.measure_agreement(marks, np.arange(30)).kappa.value, 3) == 0.245
    rng = np.random.default_rng(3)
    marks = (rng.normal(size=(60, 1)) + rng.normal(size=(60, 4)) > 0.7).astype(float)
    marks[rng.random(marks.shape) < 0.4] = NAN
    one = metrics.measure_agreement(marks, np.arange(60))
    figures = one.agreed, one.kappa.value, one.ac1.value
    assert figures == pytest.approx((0.68888889, 0.25925926, 0.46360153))
    marks = (rng.normal(size=(300, 1)) + rng.normal(size=(300, 2)) > [1.2, 1.8]).astype(float)
    kappa = metrics.measure_agreement(marks, np.arange(300)).kappa
    left = [cohen_kappa_score(*np.delete(marks, k, 0).T) for k in range(300)]
    ends = cohen_kappa_score(*marks.T) + np.array([-2, 2]) * np.std(left) * np.sqrt(299)
    assert kappa.interval == pytest.approx(ends, abs=5e-3)
    for nothing in (np.array([[1, NAN]] * 3), np.zeros((3, 3))):
        assert np.isnan(metrics.measure_agreement(nothing, np.arange(3)).kappa.value)
    marks = np.array([[1, 1, 0], [0, 0, 1], [1, 0, NAN], [NAN, NAN, NAN], [1, NAN, NAN]])
    assert metrics.take_majority(marks) == pytest.approx([1, 0, NAN, NAN, 1], nan_ok=True)


def test_a_reader_and_a_model_against_a_truth() -> None:
    """Sensitivity, specificity and AUROC counted; the model's ROC curve by scikit-learn."""
    rng = np.random.default_rng(2)
    patients, truth = rng.integers(60, size=200), (rng.random(200) < 0.3).astype(float)
    scores = np.round(truth + rng.normal(size=200), 1)
    marks = (truth + rng.normal(size=200) > 0.8).astype(float)
    marks[:20], truth[20:30], scores[30:35] = NAN, NAN, NAN
    one = metrics.compare_reader(bootstrap := PatientBootstrap(patients, 20), marks, truth, scores)
    marks, truth, scores, side = (c[35:] for c in (marks, truth, scores, bootstrap.codes))
    rates = marks[truth == 1].mean(), 1 - marks[truth == 0].mean(), roc_auc_score(truth, scores)
    values = one.sensitivity.value, one.specificity.value, one.auroc, one.images
    assert values == pytest.approx((*rates, 165))
    at = np.linspace(0.01, 0.99, 21)
    drawn = metrics.draw_sensitivity(bootstrap.subset(slice(35, None)), scores, truth == 1, at)
    for counts, specificity, value in zip(bootstrap.counts, at, drawn, strict=True):
        false, true, _ = roc_curve(truth, scores, sample_weight=counts[side])
        assert value == pytest.approx(np.interp(1 - specificity, false, true), abs=1e-6)
    assert one.difference.value == pytest.approx(one.model_sensitivity - rates[0])
