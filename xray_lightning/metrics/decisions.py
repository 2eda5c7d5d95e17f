"""From figures to decisions: net benefit over thresholds, and what calls mean at a prevalence."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from xray_lightning.errors import ConfigError
from xray_lightning.metrics.bootstrap import PatientBootstrap
from xray_lightning.metrics.intervals import (
    Array,
    Band,
    Estimate,
    Floats,
    Mask,
    Spread,
    divided,
    effective_patients,
    exact_interval,
    rarer_class,
    share_interval,
)
from xray_lightning.metrics.ranks import Codes
from xray_lightning.records import is_known
from xray_lightning.results import Result

THRESHOLDS = tuple((np.arange(1, 51) / 100).tolist())
PREVALENCES = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5)


@dataclass(frozen=True)
class DecisionCurve(Result):
    """Net benefit for each image at each threshold; calling no image has 0."""

    thresholds: list[float]  # probabilities from which a finding would be acted on, rising
    model: Band
    call_all: Band  # of calling every image
    above_all: Band  # the first less the second, on the same draws
    useful: list[float]  # thresholds at which the model's lower ends are above all and none


@dataclass(frozen=True)
class PrevalenceCurve(Result):
    """What calls mean at each prevalence; NaN where that is unknown."""

    prevalences: list[float]
    ppv: Band
    npv: Band
    alarms: Band  # calls in 100 images
    images: Band  # how many hold one finding that is called


def require_shares(name: str, shares: Sequence[float]) -> list[float]:
    """Refuse anything but probabilities inside (0, 1), rising; ``name`` is what they are."""
    if not shares or list(shares) != sorted({share for share in shares if 0 < share < 1}):
        given = ", ".join(f"{share:g}" for share in shares) or "none"
        raise ConfigError(f"{name} must lie between 0 and 1 and rise, got {given}")
    return list(shares)


def read_shares(name: str, text: str, usual: Sequence[float]) -> list[float]:
    """Numbers between 0 and 1: a list, or LOW:HIGH for both and the usual ones between them."""
    try:
        shares = [float(part) for part in text.strip("[]").replace(":", ",").split(",") if text]
    except ValueError:
        message = f"{name} must be numbers such as 0.01,0.05 or 0.01:0.5, got {text!r}"
        raise ConfigError(message) from None
    between = [share for share in usual if shares[0] < share < shares[1]] if ":" in text else []
    return require_shares(name, sorted([*shares, *between]) if shares else usual)


def draw_net_benefit(
    bootstrap: PatientBootstrap,  # of the n images
    probabilities: Array,  # (n,); an image is called from a threshold on
    positive: Mask,  # (n,)
    thresholds: Sequence[float],  # K
) -> Floats:
    """Net benefit of the sample and each draw, (1 + D, K) (Vickers and Elkin 2006, eq. 1)."""
    # True positives less false ones times the odds of the threshold, over images. Of each patient
    # the images at or above each threshold are counted once; whole numbers, exact in float32.
    lines = np.asarray(thresholds, dtype=np.float64)
    shape = bootstrap.patients, len(lines) + 1
    place = bootstrap.codes * shape[1] + np.searchsorted(lines, probabilities, side="right")
    true, false = (
        bootstrap.counts @ _reach(place, side, shape).astype(np.float32)
        for side in (positive, ~positive)
    )
    gains = true[:, 1:] - false[:, 1:] * (lines / (1 - lines))
    return np.asarray(gains * divided(1, true[:, :1] + false[:, :1]))


def _reach(place: Codes, side: Mask, shape: tuple[int, int]) -> Floats:
    """How many images of each patient reach each threshold, the lowest is 0, (P, 1 + K)."""
    counts = np.bincount(place, side, shape[0] * shape[1]).reshape(shape)
    return np.asarray(counts[:, ::-1].cumsum(axis=1)[:, ::-1])


def measure_net_benefit(
    bootstrap: PatientBootstrap,
    probabilities: Array,  # (N,)
    targets: Array,  # (N,), NaN where unknown (left out)
    thresholds: Sequence[float] = THRESHOLDS,
) -> DecisionCurve:
    """Decision curve of one label. Bands are Student's and hold at one threshold at a time."""
    known = is_known(targets)
    positive, side = targets[known] == 1, bootstrap.subset(known)
    kinds = probabilities[known], np.ones(len(positive))
    model, everyone = (draw_net_benefit(side, kind, positive, thresholds) for kind in kinds)
    both = model, everyone, model - everyone
    own, others, above = (_band(draws, side.codes, positive) for draws in both)
    useful = np.minimum(own.low, above.low) > 0
    lines = np.asarray(thresholds)[useful].tolist()
    return DecisionCurve(list(thresholds), own, others, above, lines)


def compare_net_benefit(
    bootstrap: PatientBootstrap,
    targets: Array,  # (N,), NaN where unknown (left out)
    first: Array,  # (N,) probabilities of one model
    second: Array,  # (N,) of the other
    thresholds: Sequence[float] = THRESHOLDS,
) -> Band:
    """Net benefit of one model less that of another, both on each draw of patients."""
    known = is_known(targets)
    positive, side = targets[known] == 1, bootstrap.subset(known)
    one, two = (draw_net_benefit(side, p[known], positive, thresholds) for p in (first, second))
    return _band(one - two, side.codes, positive)


def _band(draws: Floats, codes: Codes, positive: Mask) -> Band:
    """Student's intervals of figures of the sample and each draw, (1 + D, K)."""
    effective = effective_patients(np.bincount(codes, rarer_class(positive)))
    ends = [Spread.of(column[1:], effective).around(float(column[0])) for column in draws.T]
    return Band(draws[0].tolist(), *np.transpose(ends).tolist())


def measure_at_prevalence(
    bootstrap: PatientBootstrap,
    called: Mask,  # (N,)
    targets: Array,  # (N,), NaN where unknown (left out)
    prevalences: Sequence[float] = PREVALENCES,
) -> PrevalenceCurve:
    """What the calls of one label would mean, if only its prevalence changed (Bayes).

    Intervals are Student's on the logit scale, linear in the draws of sensitivity and specificity
    (Mercaldo 2007, for patients): of predictive values only their middle moves with prevalence.
    """
    known, share = is_known(targets), np.asarray(prevalences)
    positive, told, side = targets[known] == 1, called[known], bootstrap.subset(known)
    masks = positive & told, positive, ~positive & ~told, ~positive
    sums = side.sums(np.column_stack(masks))
    rates = divided(sums[:, ::2], sums[:, 1::2])  # (1 + D, 2)
    (sensitivity, specificity), (more, fewer) = rates[0], (rates[1:] - rates[0]).T[:, :, None]
    found, cleared = sensitivity * share, specificity * (1 - share)
    alarms = found + (1 - specificity) * (1 - share)
    quiet = cleared + (1 - sensitivity) * share
    ppv, npv = divided(found, alarms), divided(cleared, quiet)
    hits = more * divided(1, sensitivity) + fewer * divided(1, 1 - specificity)  # of log ratios
    rests = more * divided(1, 1 - sensitivity) + fewer * divided(1, specificity)
    shares = (
        (ppv, ppv * (1 - ppv) * hits),
        (npv, npv * (1 - npv) * rests),
        (alarms, more * share - fewer * (1 - share)),
        (found, more * share),
    )
    effective = min(effective_patients(np.bincount(side.codes, mask)) for mask in masks[1::2])
    rows = [_shares(value, moved, effective) for value, moved in shares]
    rows[2:] = [100 * rows[2], divided(1, rows[3])[[0, 2, 1]]]
    return PrevalenceCurve(list(prevalences), *(Band(*each.tolist()) for each in rows))


def _shares(values: Floats, moved: Floats, effective: float) -> Floats:
    """Shares (K,) with both ends of their intervals, of how far draws (D, K) move them, (3, K)."""
    spreads = (Spread.of(column, effective) for column in moved.T)
    pairs = zip(values.tolist(), spreads, strict=True)
    ends = [share_interval(value, spread) for value, spread in pairs]
    return np.vstack([values, np.transpose(ends)])


@dataclass(frozen=True)
class Violation(Result):
    """How often a finding scores above a wider one of which it is a kind."""

    label: str
    wider: str
    share: Estimate  # of the images
    contradicted: int  # images known to have the finding, and known to be without the wider one


def count_violations(
    bootstrap: PatientBootstrap,  # of the N images
    labels: Sequence[str],
    scores: Array,  # (N, L)
    targets: Array,  # (N, L), NaN where unknown
    ancestors: Mapping[str, Sequence[str]],  # label -> wider ones
) -> list[Violation]:
    """A row for each label and wider one: scores that cannot both be probabilities."""
    place, every = {label: column for column, label in enumerate(labels)}, np.ones(len(scores))
    pairs, rows = [(label, wider) for label in ancestors for wider in ancestors[label]], []
    effective = effective_patients(np.bincount(bootstrap.codes))
    for label, wider in pairs:
        own, other = place[label], place[wider]
        draws = bootstrap.ratio(scores[:, own] > scores[:, other], every)
        value = float(draws[0])
        ends = share_interval(value, Spread.of(draws[1:], effective))
        bound = exact_interval(value, bootstrap.patients)
        share = Estimate(value, *(ends if np.isnan(bound).any() else bound), exact=value in (0, 1))
        against = int(((targets[:, own] == 1) & (targets[:, other] == 0)).sum())
        rows.append(Violation(label, wider, share, against))
    return rows
