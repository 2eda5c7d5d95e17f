"""When a figure is a shortcut: one rule for all tests."""

from collections.abc import Collection
from dataclasses import dataclass

from xray_lightning.metrics.bootstrap import Codes, Counts, Floats, Interval, percentile_interval
from xray_lightning.metrics.ranks import Ranking, curves_over

FLAGGED, CLEAR, UNDECIDED = "flagged", "not flagged", "undecided"


@dataclass(frozen=True)
class Check:
    """A figure, its 95 % interval by patients, and on which side of its margin it lies.

    Attributes:
        value: on the sample.
        interval: percentile interval, patients resampled; NaN where all draws are equal.
        margin: what an honest model may reach.
        verdict: flagged where the whole interval lies above the margin, not flagged where it lies
            below, undecided otherwise, and where there is no interval.
    """

    value: float
    interval: Interval
    margin: float
    verdict: str

    @classmethod
    def of(cls, draws: Floats, margin: float) -> "Check":
        """From the figure of the sample and of each draw, (1 + D,)."""
        low, high = percentile_interval(draws[1:], constant=True)
        verdict = FLAGGED if low > margin else CLEAR if high < margin else UNDECIDED
        return cls(float(draws[0]), percentile_interval(draws[1:]), margin, verdict)


def all_flagged(verdicts: Collection[str]) -> str:
    """Flagged if all are, not flagged if one is not, undecided otherwise.

    >>> all_flagged([FLAGGED, UNDECIDED]), all_flagged([UNDECIDED, CLEAR])
    ('undecided', 'not flagged')
    """
    return next((each for each in (CLEAR, UNDECIDED) if each in verdicts), FLAGGED)


def any_flagged(verdicts: Collection[str]) -> str:
    """Flagged if one is, not flagged if none is and all are decided, undecided otherwise.

    >>> any_flagged([FLAGGED, UNDECIDED]), any_flagged([UNDECIDED, CLEAR])
    ('flagged', 'undecided')
    """
    return next((each for each in (FLAGGED, UNDECIDED) if each in verdicts), CLEAR)


def auroc_over(scores: Floats, targets: Floats, codes: Codes, counts: Counts) -> Floats:
    """AUROC of scores (N,) in each draw, (D,)."""
    return curves_over(Ranking.of(scores, targets, codes), counts)[0]
