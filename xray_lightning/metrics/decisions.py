"""Net benefit, what calls mean at a prevalence, which images and labels a person must see."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from xray_lightning.errors import ConfigError
from xray_lightning.metrics import intervals
from xray_lightning.metrics.bootstrap import PatientBootstrap, number_patients
from xray_lightning.metrics.intervals import ROUNDING, Array, Band, Estimate, Floats, Mask, divided
from xray_lightning.metrics.ranks import Codes
from xray_lightning.records import is_known
from xray_lightning.results import Result
from xray_lightning.wording import fault

THRESHOLDS = tuple((np.arange(1, 51) / 100).tolist())
PREVALENCES = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5)
ALL_LABELS, SIZE, ALL_IMAGES = "all labels", "in the set", "all images"  # of conformal sets
SENSITIVITIES = (0.9, 0.95, 0.99)
ALPHA, NEIGHBOURS, BLOCK = 0.8, 10, 512  # of doubts: weight of the last, images, at a time
PLACES = 100  # quantiles of certainty, of all images and of missed ones, where images are counted


@dataclass(frozen=True)
class DecisionCurve(Result):
    """Net benefit for each image at each threshold; calling no image has 0."""

    thresholds: list[float]  # probabilities from which a finding would be acted on, rising
    model: Band
    call_all: Band  # of calling every image
    above_all: Band  # the first less the second, on the same draws
    useful: list[float]  # thresholds where lower ends are above all and none by a patient's weight


@dataclass(frozen=True)
class PrevalenceCurve(Result):
    """What calls mean at each prevalence; NaN where that is unknown."""

    prevalences: list[float]
    ppv: Band
    npv: Band
    alarms: Band  # calls in 100 images
    images: Band  # how many hold one finding that is called


@dataclass(frozen=True)
class Selection(Result):
    """Calls of the images that are kept where the least certain ones are handed to a person."""

    coverage: list[float]  # shares of the images that are kept, falling from 1
    risk: Band  # share of wrong calls among these
    area: Estimate  # under the risk over the coverage (AURC): that of the mean share
    gain: Estimate  # risk of all less the area; 0 where certainty tells nothing
    # sensitivity of model and person, who misses nothing -> least share of images to hand over
    handed: dict[str, Estimate]


def require_shares(name: str, shares: Sequence[float]) -> list[float]:
    """Refuse anything but probabilities inside (0, 1), rising; ``name`` is what they are."""
    if not shares or list(shares) != sorted({share for share in shares if 0 < share < 1}):
        raise ConfigError(fault("shares", name, [f"{share:g}" for share in shares]))
    return list(shares)


def read_shares(name: str, text: str, usual: Sequence[float]) -> list[float]:
    """Numbers between 0 and 1: a list, or LOW:HIGH for both and the usual ones between them."""
    try:
        shares = [float(part) for part in text.strip("[]").replace(":", ",").split(",") if text]
    except ValueError:
        raise ConfigError(fault("no_shares", name, text)) from None
    between = [share for share in usual if shares[0] < share < shares[1]] if ":" in text else []
    return require_shares(name, sorted([*shares, *between]) if shares else usual)


def draw_net_benefit(
    bootstrap: PatientBootstrap,  # of the n images
    probabilities: Array,  # (n,); an image is called from a threshold on
    positive: Mask,  # (n,)
    thresholds: Sequence[float],  # K
) -> Floats:
    """Net benefit of the sample and each draw, (1 + D, K) (Vickers and Elkin 2006, eq. 1)."""
    # True positives less false ones times the odds of the threshold, over images.
    lines = np.asarray(thresholds, dtype=np.float64)
    place = np.searchsorted(lines, probabilities, side="right")
    true, false = bootstrap.count_beyond(place, len(lines), (positive, ~positive))
    gains = true[:, 1:] - false[:, 1:] * (lines / (1 - lines))
    return np.asarray(gains * divided(1, true[:, :1] + false[:, :1]))


def measure_net_benefit(
    bootstrap: PatientBootstrap,
    probabilities: Array,  # (N,)
    targets: Array,  # (N,), NaN where unknown (left out)
    thresholds: Sequence[float] = THRESHOLDS,
) -> DecisionCurve:
    """Decision curve of one label. Bands and ``useful`` hold at one threshold at a time."""
    # Where few images lie on one side, all alike, no draw tells against the model; a patient would.
    known = is_known(targets)
    positive, side = targets[known] == 1, bootstrap.subset(known)
    kinds = probabilities[known], np.ones(len(positive))
    model, everyone = (draw_net_benefit(side, kind, positive, thresholds) for kind in kinds)
    effective = _count_rarer(side, positive)
    own, others, above = (_band(each, effective) for each in (model, everyone, model - everyone))
    lines, patients = np.asarray(thresholds), len(np.unique(side.codes))
    useful = np.minimum(above.low, own.low * (1 / lines - 1)) * patients > 1
    return DecisionCurve(list(thresholds), own, others, above, lines[useful].tolist())


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
    return _band(one - two, _count_rarer(side, positive))


def _band(draws: Floats, effective: float, *, share: bool = False) -> Band:
    """Student's intervals of figures of the sample and each draw, (1 + D, K), or of shares."""
    pairs = [(float(column[0]), intervals.Spread.of(column[1:], effective)) for column in draws.T]
    ends = [intervals.share_interval(*pair) if share else pair[1].around(pair[0]) for pair in pairs]
    return Band(draws[0].tolist(), *np.transpose(ends).tolist())


def _count_rarer(side: PatientBootstrap, mask: Mask) -> float:
    """Effective number of patients with an image of the rarer kind."""
    return intervals.effective_patients(np.bincount(side.codes, intervals.rarer_class(mask)))


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
    moves = ppv * (1 - ppv) * hits, npv * (1 - npv) * rests, more * share - fewer * (1 - share)
    shares = zip((ppv, npv, alarms, found), (*moves, more * share), strict=True)
    counts = (np.bincount(side.codes, mask) for mask in masks[1::2])
    effective = min(map(intervals.effective_patients, counts))
    draws = (np.vstack([value, value + moved]) for value, moved in shares)
    bands = [_band(each, effective, share=True) for each in draws]
    alarms, images = (np.array([*vars(band).values()]) for band in bands[2:])
    rows = 100 * alarms, divided(1, images)[[0, 2, 1]]
    return PrevalenceCurve(list(prevalences), *bands[:2], *(Band(*row.tolist()) for row in rows))


@dataclass(frozen=True)
class Violation(Result):
    """How often a finding scores above a wider one of which it is a kind."""

    label: str
    wider: str
    share: Estimate  # of the images
    contradicted: int  # images known to have the finding, and known to be without the wider one


def count_violations(
    codes: Codes,  # number of each image's patient, (N,)
    labels: Sequence[str],
    scores: Array,  # (N, L)
    targets: Array,  # (N, L), NaN where unknown
    ancestors: Mapping[str, Sequence[str]],  # label -> wider ones
) -> list[Violation]:
    """A row for each label and wider one: scores that cannot both be probabilities."""
    columns, rows = dict(zip(labels, zip(scores.T, targets.T, strict=True), strict=True)), []
    for label, wider in ((own, above) for own, those in ancestors.items() for above in those):
        (own, present), (other, absent) = columns[label], columns[wider]
        share = intervals.estimate_ratio(own > other, np.ones(len(own)), codes)
        rows.append(Violation(label, wider, share, int(((present == 1) & (absent == 0)).sum())))
    return rows


def measure_selection(
    bootstrap: PatientBootstrap,
    certainty: Array,  # (N,): the least certain images are handed over first, equal ones together
    called: Mask,  # (N,)
    targets: Array,  # (N,), NaN where unknown (left out)
    sensitivities: Sequence[float] = SENSITIVITIES,
) -> Selection:
    """Risk-coverage curve of one label (El-Yaniv and Wiener 2010), its area (Geifman 2019).

    Whom to hand over is told on these very images: a limit of certainty for others is not.
    """
    known = is_known(targets)
    positive, told, sure = targets[known] == 1, called[known], certainty[known]
    side, wrong, missed = bootstrap.subset(known), told != positive, positive & ~told
    parts, grid = [part for part in (sure, sure[missed]) if len(part)], np.linspace(0, 1, PLACES)
    cuts = np.unique([np.quantile(part, grid, method="inverted_cdf") for part in parts])
    masks, place = (np.ones_like(wrong), wrong, missed), np.searchsorted(cuts, sure)
    kept, errors, misses = side.count_beyond(place, len(cuts), masks)
    coverage, risk = kept * divided(1, kept[:, :1]), divided(errors, kept)
    between = divided(errors[:, :-1] + errors[:, 1:], kept[:, :-1] + kept[:, 1:])
    steps = between * -np.diff(coverage)
    area = np.nansum(steps, axis=1, keepdims=True) * coverage[:, :1]  # which is 1, or NaN
    reached = 1 - misses * divided(1, side.sums(positive[:, None]))
    first = [(reached < wanted - ROUNDING).sum(axis=1) for wanted in sensitivities]
    handed = (1 - np.take_along_axis(coverage, np.transpose(first), 1)) * reached[:, -1:]
    shown = np.unique(np.linspace(0, max(len(cuts) - 1, 0), 51).astype(int))
    shares = _band(handed, _count_rarer(side, positive), share=True)
    effective = _count_rarer(side, wrong)
    return Selection(
        coverage[0, shown].tolist(),
        _band(risk[:, shown], effective, share=True),
        _band(area, effective, share=True).at(0),
        _band(risk[:, :1] - area, effective).at(0),
        {f"{share:g}": shares.at(place) for place, share in enumerate(sensitivities)},
    )


def fit_set(scores: Array, targets: Array, codes: Codes, risk: float) -> float:
    """The highest threshold that conformal risk control allows, of K labels; scores (N, K).

    Angelopoulos et al. 2022, eq. 4: (n R + 1) / (n + 1) <= risk, where R is the mean loss and 1 its
    bound. Images of a patient are not exchangeable, patients are: a loss is that of a patient, the
    mean over his images with a finding of the share that is left out, n the patients with any.
    NaN if these are too few for any threshold; 0, with every image in the set, if none above is.
    """
    present = targets == 1
    order = np.argsort(scores[present])
    ranked, weights = scores[present][order], weigh_findings(present, codes)[present][order]
    missed = np.append(0, np.cumsum(weights))[np.searchsorted(ranked, ranked)]  # below each score
    patients = len(np.unique(codes[present.any(axis=1)]))
    allowed = risk * (patients + 1) - 1 + ROUNDING
    return float(ranked[missed <= allowed].max(initial=0)) if allowed >= 0 else np.nan


def weigh_findings(present: Mask, codes: Codes) -> Floats:
    """Weight of each finding in its patient's loss, (N, K): of images alike, in an image alike."""
    count = present.sum(axis=1)
    images = np.bincount(codes, count > 0)[codes]
    return np.asarray(present / np.maximum(count * images, 1)[:, None])


def measure_set(
    scores: Array, targets: Array, codes: Codes, threshold: float, groups: Mapping[str, Mask]
) -> dict[str, Estimate]:
    """Share of images, (N, K), in a set; share of a patient's findings left out, by group (N,)."""
    inside, every = scores >= threshold, np.ones(len(scores))
    shares = {SIZE: intervals.estimate_ratio(inside.mean(axis=1), every, codes)}
    for group, mask in groups.items():
        weights = weigh_findings((targets == 1) & mask[:, None], codes)
        lost = (weights * ~inside).sum(axis=1)
        shares[group] = intervals.estimate_ratio(lost, weights.sum(axis=1), codes)
    return shares


def share_among_neighbours(
    features: Array,
    targets: Array,
    patients: npt.ArrayLike,
    count: int = NEIGHBOURS,
    *,
    learned: int = 0,  # so many, the first, are neighbours of the others; 0: all of one another
) -> Floats:
    """Share of positives, (N, L), among the ``count`` images of other patients that are most alike.

    Exact, by the cosine of features (N, C); fewer where a patient leaves no more. Targets (N, L)
    that are NaN do not count. With ``learned`` the shares are those of the others, (N - learned,
    L). Raises a ConfigError where all images are of one patient.
    """
    codes, beside = number_patients(patients), learned or len(targets)
    count = min(count, beside - int(np.bincount(codes[:beside]).max(initial=0)))
    if count < 1:
        raise ConfigError("no neighbours: they are images of other patients, and there is one here")
    unit = features / np.linalg.norm(features, axis=1, keepdims=True).clip(1e-12)
    shares, rows = list[Floats](), np.arange(learned, len(codes))
    for block in np.array_split(rows, len(rows) // BLOCK + 1):
        own = codes[block, None] == codes[:beside]
        alike = np.where(own, -np.inf, unit[block] @ unit[:beside].T)
        nearest = np.argpartition(-alike, count - 1, axis=1)[:, :count]
        shares.append(intervals.mean_of_defined(targets[nearest.T].astype(np.float64)))
    return np.concatenate(shares)


def doubt_labels(probabilities: Array, targets: Array, neighbours: Array) -> tuple[Floats, Floats]:
    """How far each label, (N, L), and each image, (N,), is doubted, 0 to 1; NaN: nothing is known.

    1 less cleanlab's scores (Thyagarajan et al. 2022): of a label self-confidence, which for its
    two answers is the normalised margin too; of an image the exponential moving average over its
    labels, the most doubted last, by ``ALPHA``. Ours: a probability (N, L) is averaged with the
    share of positives among the neighbours (N, L), NaN where there are none, and targets (N, L)
    that are NaN are left out.
    """
    told = intervals.mean_of_defined(np.stack([probabilities, neighbours]))
    doubts = np.where(is_known(targets), np.abs(targets - told), np.nan)
    whole, *others = np.sort(doubts, axis=1).T  # NaN last
    for doubt in others:
        whole = np.where(np.isnan(doubt), whole, ALPHA * doubt + (1 - ALPHA) * whole)
    return doubts, whole


def measure_doubts(
    codes: Codes, doubts: Array, targets: Array, truth: Array, most: int
) -> dict[str, Estimate]:
    """Share of labels that a better ``truth`` contradicts: of the ``most`` doubted, of random ones.

    Also of random ones of which as many say present, where labels may be wrong more often. All are
    (N,), codes of patients; a label that one of the two does not know, NaN, is left out.
    """
    known = is_known(targets) & is_known(truth)
    patients, positive = codes[known], (targets[known] == 1).astype(np.intp)
    top, every = np.zeros(len(positive)), np.ones(len(positive))
    top[np.argsort(-doubts[known], kind="stable")[:most]] = 1
    alike = divided(np.bincount(positive, top), np.bincount(positive))[positive]
    wrong, kinds = targets[known] != truth[known], {"doubted": top, "random": every, "alike": alike}
    shares = {k: intervals.estimate_ratio(wrong * own, own, patients) for k, own in kinds.items()}
    return {**shares, "present": intervals.estimate_ratio(positive * top, top, patients)}
