"""Is a model no worse than another, by a margin stated before? Non-inferiority and equivalence."""

import math
from dataclasses import dataclass

import numpy as np
import scipy  # .stats, a second's import, loads at its first use

from xray_lightning.errors import ConfigError
from xray_lightning.metrics.compare import POWER, AurocDifferences, holm
from xray_lightning.metrics.intervals import NAN, Floats, divided
from xray_lightning.results import Result

ERROR = 0.05  # of each one-sided test; of superior and inferior two-sided
CLAIMS = ("superior", "equivalent", "non-inferior", "inferior")  # the first that holds is told
UNDECIDED, UNTESTED = "undecided", "untested"


@dataclass(frozen=True)
class MarginTest(Result):
    """The difference of two models' AUROC, first less second, against a margin."""

    # one-sided 95 % bound, by the deviation there is where first is worse by the margin:
    # non-inferior above -margin
    lower: float
    upper: float  # likewise; equivalent where both bounds are within the margin
    # of the claims superior, equivalent (TOST), non-inferior, inferior; of labels corrected (Holm)
    p_values: dict[str, float]
    verdict: str  # one of the claims, "undecided" or "untested"
    # how many patients like these would decide in 80 % of cases were the true difference the
    # measured one; None where this is decided or the measured one is -margin, and of several seeds
    patients: int | None
    patients_if_equal: int | None  # likewise, were there no true difference


@dataclass(frozen=True)
class MarginTests(Result):
    """Of all labels and of the mean."""

    margin: float  # a difference of AUROC, stated before the scores were seen
    labels: dict[str, MarginTest]  # label -> its test
    mean: MarginTest  # not corrected for the labels


def require_margin(margin: object) -> None:
    """Refuse what is neither None nor a difference of AUROC."""
    if margin is not None and not (isinstance(margin, int | float) and 0 < margin < 1):
        raise ConfigError(f"margin must lie in (0, 1), such as 0.01, got {margin!r}")


def compare_with_margin(
    differences: AurocDifferences, margin: float, patients: int | None
) -> MarginTests:
    """Non-inferiority, equivalence (TOST) and their opposites, by Student's t of each difference.

    Superior: the 95 % interval lies above 0; inferior: below -margin; non-inferior: the one-sided
    95 % bound lies above -margin; equivalent: both lie within the margin (Schuirmann 1987; the
    words as in Piaggio 2012, JAMA 308:2594). Worse, but by how much undecided, is undecided.
    ``patients`` is how many the differences rest on; from it follows how many would decide, for the
    standard error falls as 1 / sqrt(patients). None where it does not, as with seeds.
    ConfigError: the margin is not in (0, 1).
    """
    require_margin(margin)
    rows = [*differences.labels.values(), differences.mean]
    figures = [(k.difference, k.deviation, k.freedom, k.first, k.second) for k in rows]
    value, deviation, freedom, first, second = np.array(figures).T
    # An AUROC's variance is taken to go as a (1 - a). The hypothesis that is to be refuted has its
    # own deviation (cf. Farrington and Manning 1990); what that mends stands in the README.
    aurocs = np.maximum(second - margin, 0), first, second
    worst, own, other = (a * (1 - a) for a in aurocs)
    null = deviation * np.fmax(1, np.sqrt(divided(worst + other, own + other)))
    apart = np.array([value, margin - value, -margin - value]) / deviation
    better, below, worse = scipy.stats.t.sf(apart, freedom)
    above = scipy.stats.t.sf((value + margin) / null, freedom)
    p_values = np.minimum([2 * better, np.maximum(above, below), above, 2 * worse], 1)  # (4, L + 1)
    p_values[:, :-1] = [holm(claim) for claim in p_values[:, :-1]]
    reach = scipy.stats.t.ppf(1 - ERROR, freedom)
    bounds = np.stack([value - reach * null, value + reach * deviation], axis=1)
    tested = max(int((~np.isnan(deviation[:-1])).sum()), 1)
    first = np.append(np.full(len(rows) - 1, ERROR / tested), ERROR)  # of Holm's steps
    power = scipy.stats.t.ppf(POWER, freedom)
    lower, worst = (scipy.stats.t.ppf(1 - e, freedom) + power for e in (first, first / 2))
    spread = np.where(value > -margin, lower * null, worst * deviation)
    count = NAN if patients is None else patients
    parts = divided(spread, np.abs(value + margin)), lower * null / margin
    needed = count * np.array(parts) ** 2
    tests = [*map(_test, bounds, p_values.T, *needed)]
    return MarginTests(margin, dict(zip(differences.labels, tests, strict=False)), tests[-1])


def _test(bounds: Floats, p_values: Floats, patients: float, if_equal: float) -> MarginTest:
    named = dict(zip(CLAIMS, p_values.tolist(), strict=True))
    holding = [claim for claim in CLAIMS if named[claim] < ERROR]
    verdict = (holding or [UNTESTED if np.isnan(p_values).any() else UNDECIDED])[0]
    counts = (patients, if_equal) if verdict == UNDECIDED else (NAN, NAN)
    needed = [None if math.isnan(count) else math.ceil(count) for count in counts]
    return MarginTest(float(bounds[0]), float(bounds[1]), named, verdict, *needed)
