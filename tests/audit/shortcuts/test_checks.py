import numpy as np
import pytest

from xray_lightning.audit.shortcuts.checks import CLEAR, FLAGGED, RISING, UNDECIDED, Check


@pytest.mark.parametrize(
    ("shift", "verdict"), [(0.3, FLAGGED), (-0.3, CLEAR), (0.0, UNDECIDED), (np.nan, UNDECIDED)]
)
def test_the_interval_and_the_margin(shift: float, verdict: str) -> None:
    draws = np.concatenate([[0.1 + shift], 0.1 + shift + np.linspace(-0.1, 0.1, 201)])
    check = Check.of(draws, 0.1)
    assert check.verdict == verdict
    assert check.value == pytest.approx(0.1 + shift, nan_ok=True)
    assert check.interval == pytest.approx((0.005 + shift, 0.195 + shift), nan_ok=True)


@pytest.mark.parametrize(
    ("verdicts", "all_of", "any_of"),
    [
        ([FLAGGED], FLAGGED, FLAGGED),
        ([FLAGGED, UNDECIDED], UNDECIDED, FLAGGED),
        ([FLAGGED, CLEAR], CLEAR, FLAGGED),
        ([CLEAR, UNDECIDED], CLEAR, UNDECIDED),
        ([CLEAR], CLEAR, CLEAR),
    ],
)
def test_together(verdicts: list[str], all_of: str, any_of: str) -> None:
    together = [take(verdicts, key=RISING.index) for take in (min, max)]
    assert together == [all_of, any_of]
