import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from xray_lightning.audit.shortcuts.verdicts import (
    CLEAR,
    FLAGGED,
    UNDECIDED,
    Check,
    all_flagged,
    any_flagged,
    auroc_over,
)
from xray_lightning.metrics.bootstrap import patient_draws


@pytest.mark.parametrize(
    ("shift", "verdict"), [(0.3, FLAGGED), (-0.3, CLEAR), (0.0, UNDECIDED), (np.nan, UNDECIDED)]
)
def test_the_interval_and_the_margin(shift: float, verdict: str) -> None:
    draws = np.concatenate([[0.1 + shift], 0.1 + shift + np.linspace(-0.1, 0.1, 201)])
    check = Check.of(draws, 0.1)
    assert check.verdict == verdict
    assert check.value == pytest.approx(0.1 + shift, nan_ok=True)
    ends = (0.005 + shift, 0.195 + shift)
    assert check.interval == pytest.approx(ends, nan_ok=True)


def test_together() -> None:
    assert [all_flagged(pair) for pair in ([FLAGGED], [FLAGGED, UNDECIDED], [FLAGGED, CLEAR])] == [
        FLAGGED,
        UNDECIDED,
        CLEAR,
    ]
    assert [any_flagged(pair) for pair in ([CLEAR], [CLEAR, UNDECIDED], [CLEAR, FLAGGED])] == [
        CLEAR,
        UNDECIDED,
        FLAGGED,
    ]


def test_auroc_of_the_sample_and_of_draws() -> None:
    draw = np.random.default_rng(0)
    codes = draw.integers(0, 20, 100)
    scores, targets = draw.normal(size=100), (draw.random(100) < 0.3).astype(float)
    counts = patient_draws(np.arange(20), 5, 0)
    found = auroc_over(scores, targets, codes, counts)
    for value, row in zip(found, counts, strict=True):
        rows = np.repeat(np.arange(100), row[codes].astype(int))
        assert value == pytest.approx(roc_auc_score(targets[rows], scores[rows]))
    assert (counts[0] == 1).all()
