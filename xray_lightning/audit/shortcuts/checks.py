"""When a number is a shortcut: one rule for all tests."""

from dataclasses import dataclass

from xray_lightning.metrics.intervals import Floats, Interval, percentile_interval
from xray_lightning.results import Result

FLAGGED, CLEAR, UNDECIDED = "flagged", "not flagged", "undecided"
RISING = (CLEAR, UNDECIDED, FLAGGED)  # of several verdicts: the least if all must be flagged, the
# greatest if one is enough


@dataclass(frozen=True)
class Check(Result):
    """A number, its 95 % interval by patients, and on which side of its margin it lies."""

    value: float  # on the sample
    interval: Interval  # percentile interval, patients resampled; NaN where all draws are equal
    margin: float  # what an honest model may reach
    verdict: str  # flagged: the whole interval lies above the margin; not flagged: below

    @classmethod
    def of(cls, draws: Floats, margin: float) -> "Check":
        """From the number of the sample and of each draw, (1 + D,); undecided without interval."""
        low, high = percentile_interval(draws[1:], constant=True)
        verdict = FLAGGED if low > margin else CLEAR if high < margin else UNDECIDED
        return cls(float(draws[0]), percentile_interval(draws[1:]), margin, verdict)
