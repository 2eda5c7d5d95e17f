"""When a number is a shortcut: one rule for all tests."""

from collections.abc import Collection
from dataclasses import dataclass

from xray_lightning.metrics.intervals import Floats, Interval, percentile_interval
from xray_lightning.results import Result

FLAGGED, CLEAR, UNDECIDED = "flagged", "not flagged", "undecided"


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


def all_flagged(verdicts: Collection[str]) -> str:
    """Flagged if all are, not flagged if one is not, undecided otherwise.

    >>> all_flagged([FLAGGED, UNDECIDED]), all_flagged([UNDECIDED, CLEAR])
    ('undecided', 'not flagged')
    """
    return next((verdict for verdict in (CLEAR, UNDECIDED) if verdict in verdicts), FLAGGED)


def any_flagged(verdicts: Collection[str]) -> str:
    """Flagged if one is, not flagged if none is and all are decided, undecided otherwise.

    >>> any_flagged([FLAGGED, UNDECIDED]), any_flagged([UNDECIDED, CLEAR])
    ('flagged', 'undecided')
    """
    return next((verdict for verdict in (FLAGGED, UNDECIDED) if verdict in verdicts), CLEAR)
