"""Is a model as good for some patients as for the others?

Every patient is left out once (the jackknife: Efron and Stein 1981; for AUROC an exact form of the
clustered variance of Obuchowski 1997), so that no p value hangs on a number of draws. Gaps between
groups are picked out of many, which draws of patients account for.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain, combinations, product
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy  # .stats, a second's import, loads at its first use

from xray_lightning.metrics import intervals
from xray_lightning.metrics.bootstrap import PatientBootstrap, number_patients
from xray_lightning.metrics.calibration import Calibration
from xray_lightning.metrics.compare import POWER, benjamini_hochberg
from xray_lightning.metrics.intervals import Array, Floats, Interval, Mask, Spread, divided
from xray_lightning.metrics.operating_points import OperatingPoints
from xray_lightning.metrics.ranks import Codes, Ranking, auroc_left_out, sum_patients
from xray_lightning.records import NAN, Record, patient_ids, patients_known, read_column
from xray_lightning.results import Json, Result

MINIMUM = 10  # positives and negatives of a group, below which there is a word and no number
UNKNOWN = "unknown"
MEAN = "mean"
ANY = "any finding"
RATIO = "observed_to_expected"
KINDS = {  # of figures that are compared between groups
    "missed": "missed findings",
    "false_alarms": "false alarms",
    "missed_own": "missed findings, own points",
    "false_alarms_own": "false alarms, own points",
    RATIO: "observed/expected",
    "auroc": "AUROC",
}
COMPARED = ("sex", "age", "view", "sex and age", "sex and view", "age and view")  # pair by pair

_AGES = (("0-17", 18), ("18-39", 40), ("40-59", 60), ("60-79", 80), ("80+", np.inf))
_FOLLOW_UPS = (("first", 1), ("1-4", 5), ("5-19", 20), ("20+", np.inf))
_COUNTS = (("1", 2), ("2-4", 5), ("5-9", 10), ("10+", np.inf))

Groups = npt.NDArray[np.str_]  # (N,)
Side = tuple[Floats, Floats]  # AUROC, then with each patient left out, (L, 1 + P); images, (L, P)


@dataclass(frozen=True)
class Subgroup(Result):
    """AUROC of one label (or the mean) in one group of images; NaN, None where undefined."""

    dimension: str  # "sex", "age", ..
    group: str  # "F", "60-79", ..
    label: str  # a label, or "mean"
    images: int  # of the group
    patients: int | None  # of the group; None where they are not known
    positives: int  # of the label in the group; of the mean, images with any finding
    auroc: float  # in the group
    interval: Interval | None  # 95 %, see ``share_interval``
    difference: float  # AUROC of the group less that of all other images of known group
    difference_interval: Interval | None  # 95 %, Student's t
    p_value: float  # two-sided, of the difference; NaN where all positives are one patient's
    # for the rate of false discoveries; the rows of the mean are one family, those of single labels
    # another
    corrected: float
    note: str  # why there is no number; "" if there is one


def group_records(records: Sequence[Record]) -> dict[str, Groups]:
    """The group of each image in each dimension, (N,); "unknown" where the record does not say."""
    codes, alone = number_patients(patient_ids(records)), 0 if patients_known(records) else NAN
    columns = (read_column(records, name) for name in ("sex", "view", "hospital"))
    sex, view, hospital = (np.array([word or UNKNOWN for word in column]) for column in columns)
    single = {"sex": sex, "age": _band(read_column(records, "age"), _AGES), "view": view}
    pairs = combinations(single.items(), 2)
    return single | {
        "follow-up": _band(read_column(records, "follow_up"), _FOLLOW_UPS),
        "images of the patient": _band(np.bincount(codes)[codes] + alone, _COUNTS),
        **{f"{one} and {two}": _cross(own, other) for (one, own), (two, other) in pairs},
        "hospital": hospital,
    }


def iterate_groups(records: Sequence[Record]) -> Iterator[tuple[str, str, Groups]]:
    """Every dimension and known group with the groups of the images."""
    for dimension, groups in (group_records(records) if len(records) else {}).items():
        for group in np.unique(groups[groups != UNKNOWN]).tolist():
            yield dimension, group, groups


def _band(values: npt.ArrayLike, bands: Sequence[tuple[str, float]]) -> Groups:
    """The first band whose end lies above the value."""
    numbers = np.asarray(values, dtype=np.float64)
    place = np.searchsorted([end for _, end in bands[:-1]], numbers, side="right")
    names = np.array([name for name, _ in bands])[place]
    return np.where(np.isnan(numbers), UNKNOWN, names)


def _cross(first: Groups, second: Groups) -> Groups:
    both = np.char.add(np.char.add(first, " "), second)
    return np.where((first != UNKNOWN) & (second != UNKNOWN), both, UNKNOWN)


def measure_subgroups(
    labels: Sequence[str], scores: Array, targets: Array, records: Sequence[Record]
) -> list[Subgroup]:
    """A row for each label and the mean in each group; scores and targets (N, L), NaN unknown."""
    codes, told = number_patients(patient_ids(records)), patients_known(records)
    rows: list[Subgroup] = []
    for dimension, group, groups in iterate_groups(records):
        inside, outside = groups == group, (groups != group) & (groups != UNKNOWN)
        sides = [_aurocs(scores, targets, codes, side) for side in (inside, outside)]
        both = ~np.isnan([aurocs[:, 0] for aurocs, _ in sides]).any(axis=0)  # the mean: of the same
        chosen, positive = [*np.eye(len(labels), dtype=np.bool_), both], targets[inside] == 1
        counts = [*positive.sum(axis=0).tolist(), int(positive.any(axis=1).sum())]
        patients = len(np.unique(codes[inside])) if told else None
        for label, count, mask in zip((*labels, MEAN), counts, chosen, strict=True):
            (here, behind), (there, beside) = (_over(side, mask) for side in sides)
            value, difference = float(here[0]), float(here[0] - there[0])
            spread = Spread.left_out(here[1:], behind)
            apart = Spread.left_out(here[1:] - there[1:], min(behind, beside))
            pair = np.array([spread.deviation, Spread.left_out(there[1:], beside).deviation])
            own, aurocs = np.nan_to_num(pair) ** 2, np.array([value, there[0]])
            more = (intervals.pool_variances(aurocs, own, np.array([behind, beside])) - own).sum()
            apart = replace(apart, deviation=float(np.sqrt(apart.deviation**2 + more)))
            rows.append(Subgroup(
                *(dimension, group, label, len(positive), patients, count),
                auroc=value,
                interval=intervals.drop_undefined(intervals.share_interval(value, spread)),
                difference=difference,
                difference_interval=intervals.drop_undefined(apart.around(difference, most=1)),
                p_value=apart.p_value(difference),
                corrected=NAN,
                note="" if not np.isnan(value) else f"fewer than {MINIMUM} positives or negatives",
            ))  # fmt: skip
    p_values = np.array([row.p_value for row in rows])
    of_mean = np.array([row.label == MEAN for row in rows], dtype=np.bool_)
    for family in (of_mean, ~of_mean):
        p_values[family] = benjamini_hochberg(p_values[family])
    return [replace(row, corrected=p) for row, p in zip(rows, p_values.tolist(), strict=True)]


def _aurocs(scores: Array, targets: Array, codes: Codes, side: Mask) -> Side:
    """AUROC among some images, each patient left out; images of the rarer class."""
    labels, patients = targets.shape[1], int(codes.max(initial=-1)) + 1
    aurocs, rarer = np.full((labels, 1 + patients), np.nan), np.zeros((labels, patients))
    for label in range(labels):
        ranking = Ranking.of(scores[side, label], targets[side, label], codes[side])
        few = intervals.rarer_class(ranking.positive)
        if few.sum() >= MINIMUM:
            aurocs[label] = auroc_left_out(ranking, patients)
            rarer[label] = sum_patients(ranking.codes, few, patients)
    return aurocs, rarer


def _over(side: Side, chosen: Mask) -> tuple[Floats, float]:
    """Mean over some labels, (1 + P,), and the effective number of patients behind it."""
    aurocs, rarer = (part[chosen] for part in side)
    mean = aurocs.sum(axis=0) / len(aurocs) if len(aurocs) else np.full(aurocs.shape[1], np.nan)
    return mean, intervals.effective_patients(rarer.sum(axis=0))


@dataclass(frozen=True)
class WrongShare(Result):
    """Share of some images that is called wrongly; NaN, None of fewer than ten images."""

    rate: float
    interval: Interval | None  # 95 %, of this group alone; exact where all patients agree
    images: int


@dataclass(frozen=True)
class GroupErrors(WrongShare):
    """Images with a finding that are not called, in one group, and what else goes wrong there."""

    # Of any finding: called is what any label calls, and false alarms are of images where every
    # label is known to be absent.
    dimension: str
    group: str
    false_alarms: WrongShare
    label: str = ANY
    missed_own: WrongShare | None = None  # by the thresholds of the group; None: there are no such
    false_alarms_own: WrongShare | None = None
    # observed positives over those that scores tell, and the images of the first
    observed_to_expected: WrongShare | None = None


@dataclass(frozen=True)
class Gap(Result):
    """A figure of one group less that of another."""

    dimension: str
    groups: tuple[str, str]  # higher, lower
    gap: float
    interval: Interval  # knows that the pair was picked, see ``measure_groups``
    detectable: float  # smallest true gap of these two that such images show in 80 % of cases


@dataclass(frozen=True)
class Gaps(Result):
    """Gaps of a kind between all pairs with ten images of ten effective patients on both sides."""

    kind: str  # of ``KINDS``
    label: str  # a label, or "any finding"
    pairs: int  # how many
    shown: int  # of them, whose interval leaves out 0
    gaps: list[Gap]  # the largest of each dimension, the largest of all first
    clearest: Gap | None  # of those that are shown the one farthest from 0
    finest: Gap | None  # whose detectable gap is the smallest


@dataclass(frozen=True)
class _Drawn:
    """A figure in G groups, of the sample and each draw, and the images it rests on."""

    drawn: Floats  # (1 + D, G)
    behind: Floats  # images of each patient that it rests on, (P, G)
    share: bool = True  # whether it lies in [0, 1]

    def describe(self, group: int) -> WrongShare:
        """Of one group."""
        behind, value = self.behind[:, group], float(self.drawn[0, group])
        if behind.sum() < MINIMUM:
            return WrongShare(NAN, None, int(behind.sum()))
        spread = Spread.of(self.drawn[1:, group], intervals.effective_patients(behind))
        ends = spread.around(value)
        if self.share:
            ends = intervals.share_interval(value, spread, patients=int((behind > 0).sum()))
        return WrongShare(value, intervals.drop_undefined(ends), int(behind.sum()))

    def compare(self, pairs: Codes) -> tuple[Codes, Floats, Floats, Floats]:
        """Those pairs that can be, (K, 2), their differences (1 + D, K), deviation, freedom."""
        # The draws' variance is corrected as in ``Spread``; that of a share is one with one more of
        # either kind (cf. Agresti and Caffo 2000), also where all patients agree.
        value, raw = self.drawn[0], self.drawn[1:].var(axis=0)
        count = np.array([*map(intervals.effective_patients, self.behind.T)])
        variance = raw * divided(count, count - 1)
        if self.share:
            near, even = (value * count + 1) / (count + 2), value * (1 - value)
            odd = near * (1 - near)
            variance = np.where(even > 0, variance * divided(odd, even), divided(odd, count))
        # not fewer images, undefined draws, or figures that cannot stray
        images = self.behind.sum(axis=0)
        known = (images >= MINIMUM) & (count >= MINIMUM) & (variance > intervals.ROUNDING)
        kept = pairs[known[pairs].all(axis=1)]
        apart = self.drawn[:, kept[:, 0]] - self.drawn[:, kept[:, 1]]
        whole = apart[1:].var(axis=0) + (variance - raw)[kept].sum(axis=1)
        own, others = variance[kept], count[kept] - 1  # Welch 1947
        freedom = own.sum(axis=1) ** 2 / (own**2 / others).sum(axis=1)
        return kept, apart, np.sqrt(whole), freedom


@dataclass(frozen=True)
class _Groups:
    """G groups of N images of P patients."""

    names: Sequence[tuple[str, str]]  # dimension and name, G
    members: Mask  # (N, G)
    codes: Codes  # number of each image's patient, (N,)
    counts: Floats  # of patients in the sample and each draw, (1 + D, P)

    def sums(self, weights: npt.NDArray[Any]) -> Floats:
        """Of each patient's images, of weights (N, 1 or G), (P, G)."""
        columns, patients = (weights * self.members).T, self.counts.shape[1]
        return np.column_stack([sum_patients(self.codes, each, patients) for each in columns])

    def share(self, part: npt.NDArray[Any], whole: npt.NDArray[Any]) -> _Drawn:
        """Sum of a mask (N, 1 or G) over that of one, or over expected numbers, which hold it."""
        some, every = self.sums(part), self.sums(whole)
        drawn = divided(self.counts @ some, self.counts @ every)
        return _Drawn(drawn, every) if whole.dtype == np.bool_ else _Drawn(drawn, some, share=False)

    def call(
        self, labels: Sequence[str], scores: Array, points: OperatingPoints
    ) -> dict[str, dict[str, Mask]]:
        """Of each label that has an operating point, and any: whether images are called, (N, G)."""
        # by the points, "", and by a group's own where there are such, "_own"
        found: dict[str, dict[str, Mask]] = {}
        for ending in ("", "_own")[: 1 + bool(points.groups)]:
            chosen = points.groups if ending else {}
            for column, label in enumerate(labels):
                if (usual := points.thresholds.get(label)) is not None:
                    lines = [chosen.get(d, {}).get(n, {}).get(label, usual) for d, n in self.names]
                    found.setdefault(label, {})[ending] = scores[:, [column]] >= np.array(lines)
            if own := [calls[ending] for calls in found.values() if ending in calls]:
                found.setdefault(ANY, {})[ending] = np.any(own, axis=0)
        return found

    def auroc(self, scores: Array, targets: Array) -> _Drawn:
        """AUROC of a label, (N, 1); NaN in groups that are not compared or too small."""
        # Draws are taken as sums of what leaving each of their patients out changes.
        sides = [
            _aurocs(scores, targets, self.codes, side & (dimension in COMPARED))
            for (dimension, _), side in zip(self.names, self.members.T, strict=True)
        ]
        left, rarer = (np.vstack(part).T for part in zip(*sides, strict=True))
        return _Drawn(left[0] + self.counts @ (left[1:].mean(axis=0) - left[1:]), rarer)

    def compare(self, kind: str, figures: Mapping[str, _Drawn]) -> list[Gaps]:
        """The gaps of a family of labels."""
        some = combinations(range(len(self.names)), 2)
        alike = [(i, j) for i, j in some if self.names[i][0] == self.names[j][0] in COMPARED]
        pairs, peaks = np.array(alike, np.intp).reshape(-1, 2), np.zeros(len(self.counts) - 1)
        parts = {label: figure.compare(pairs) for label, figure in figures.items()}
        for _, apart, _, _ in parts.values():
            moved = np.abs(apart[1:] - apart[0]) * np.sqrt(divided(1, apart[1:].var(axis=0)))
            peaks = np.fmax(peaks, np.fmax.reduce(moved, axis=1, initial=0))  # NaN: none differs
        level = 2 * scipy.stats.norm.sf(np.quantile(peaks, 0.95))
        return [self._pick(kind, label, level, *part) for label, part in parts.items()]

    def _pick(self, kind: str, label: str, level: float, pairs: Codes, *figures: Floats) -> Gaps:
        """The gaps of one label: differences (1 + D, K), deviation and freedom of K pairs."""
        apart, deviation, freedom = figures
        reach = scipy.stats.t.isf(level / 2, freedom) * deviation
        seen = reach + scipy.stats.t.ppf(POWER, freedom) * deviation
        every, top = [], np.inf if kind == RATIO else 1.0
        columns = np.column_stack([apart[0], reach, seen]).tolist()
        for pair, (gap, half, detectable) in zip(pairs.tolist(), columns, strict=True):
            (dimension, high), (_, low) = (self.names[k] for k in pair[:: 1 if gap > 0 else -1])
            ends = abs(gap) - half, min(abs(gap) + half, top)
            every.append(Gap(dimension, (high, low), abs(gap), ends, detectable))
        ranked = sorted(every, key=lambda gap: -gap.gap)
        shown = [gap for gap in ranked if gap.interval[0] > 0]
        largest = {gap.dimension: gap for gap in ranked[::-1]}
        return Gaps(
            *(kind, label, len(every), len(shown)),
            [gap for gap in ranked if gap is largest[gap.dimension]],
            max(shown, key=lambda gap: gap.interval[0], default=None),
            min(every, key=lambda gap: gap.detectable, default=None),
        )


def measure_groups(
    labels: Sequence[str],  # the L labels
    scores: Array,  # (N, L)
    targets: Array,  # (N, L), NaN where unknown
    records: Sequence[Record],  # N
    points: OperatingPoints | None,  # chosen on other images; a group without own has the label's
    calibrations: Mapping[str, Calibration | None],  # likewise; a label without has raw scores
    *,
    draws: int = 500,
    seed: int = 0,
) -> tuple[list[GroupErrors], list[Gaps]]:
    """Misses, false alarms, observed to expected positives in each group, and the largest gaps.

    The interval of a gap knows that its pair was picked: it is Student's t of the pair's difference
    at that level at which all pairs hold at once in 95 % of samples, the quantile of the largest
    studentised deviation over draws of patients, each of which moves all groups (Romano and Wolf
    2005). So it covers the true gap of whatever pair is picked, which need not be the pair that is
    truly farthest apart. The pairs of any finding are one family, those of all labels another.

    Seyyed-Kalantari 2021 measures underdiagnosis by a "No Finding" output; without one an image is
    called free when every score lies below its operating point.
    """
    every = [((dimension, name), own == name) for dimension, name, own in iterate_groups(records)]
    if not every:
        return [], []
    names, members = zip(*every, strict=True)
    bootstrap = PatientBootstrap(patient_ids(records), draws, seed)
    counts = bootstrap.counts.astype(float)
    groups = _Groups(names, np.column_stack(members), bootstrap.codes, counts)
    figures: dict[str, dict[str, _Drawn]] = {kind: {} for kind in KINDS}
    present, absent, told = targets == 1, targets == 0, np.zeros(targets.shape)
    calls = groups.call(labels, scores, points) if points else {}
    for index, label in enumerate(labels):
        column, sick, well = scores[:, [index]], present[:, [index]], absent[:, [index]]
        calibrate = calibrations.get(label) or np.float64
        told[:, index] = np.where(sick | well, calibrate(column), 0)[:, 0]
        figures[RATIO][label] = groups.share(sick, told[:, [index]])
        figures["auroc"][label] = groups.auroc(column, targets[:, [index]])
    figures[RATIO][ANY] = groups.share(*(x.sum(axis=1, keepdims=True) for x in (present, told)))
    for label, called in calls.items():
        chosen = np.isin(labels, labels if label == ANY else [label])
        sick, well = present[:, chosen].any(axis=1)[:, None], absent[:, chosen].all(axis=1)[:, None]
        for ending, own in called.items():
            figures["missed" + ending][label] = groups.share(sick & ~own, sick)
            figures["false_alarms" + ending][label] = groups.share(well & own, well)
    gaps = [
        groups.compare(kind, {label: drawn[label] for label in family if label in drawn})
        for kind, drawn in figures.items()
        for family in ([ANY], labels)
    ]
    return [*_describe(names, figures)], [*chain(*gaps)]


def _describe(
    names: Sequence[tuple[str, str]], figures: Mapping[str, Mapping[str, _Drawn]]
) -> Iterator[GroupErrors]:
    """A row for each label that has an operating point, or any, in each group."""
    for label, (group, (dimension, name)) in product(figures["missed"], enumerate(names)):
        told: Json = {k: by[label].describe(group) for k, by in figures.items() if label in by}
        told.pop("auroc", None)  # it stands in :class:`Subgroup`
        told |= vars(told.pop("missed")) | {"dimension": dimension, "group": name, "label": label}
        yield GroupErrors(**told)
