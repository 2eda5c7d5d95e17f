"""Means over images with intervals, and the rules that make verdicts of them.

Chance is the similarity of maps of different patients' images: what maps share because all chests
are built alike, or all maps of a method. Halfway was set before anything was measured. Later came,
after noise images, ``LEAST`` and that an excess must be shown to count; after the phantom's
effusions, that a flat map is the random order and that the centre alone fails none.

- A similarity is high if the 95 % interval of its distance to halfway, the middle between chance
  and 1 (equal maps), lies entirely above 0, low if it lies entirely below; else it is neither.
- A map is better than a control if the interval of its paired advantage, in units of the score,
  lies entirely above ``LEAST``, worse if it lies entirely below -``LEAST``.
- With fewer than ``FEWEST`` patients whose value is defined, or with values for fewer than half of
  the images, there is no interval, and the verdict is "undecided".
- Of several measures or tests together: "fails" if one fails, "passes" if all pass, else
  "undecided". One that is defined for no image is "not run" and left out; so are all, if all are.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from xray_lightning.errors import ConfigError
from xray_lightning.metrics.bootstrap import (
    ROUNDING,
    Codes,
    Counts,
    Floats,
    Interval,
    divided,
    patient_codes,
    patient_draws,
    percentile_interval,
    sums_over,
)

PASSES, FAILS, UNDECIDED, NOT_RUN = "passes", "fails", "undecided", "not run"
FEWEST = 10
MARGIN = 0.1  # of similarity: an excess over two random networks up to this does not count
LEAST = 0.01  # of the score: a smaller advantage does not count
UNDEFINED = "the maps are flat, too small or not finite for every image"

Facts = dict[str, Any]


@dataclass(frozen=True)
class Estimate:
    """A mean over images; NaN where undefined.

    Attributes:
        value: on the sample.
        interval: 95 %, percentile; patients resampled, and networks where there are several.
        undefined: share of the values that are NaN.
    """

    value: float
    interval: Interval
    undefined: float

    def side(self, threshold: float = 0.0) -> int:
        """1 if the interval lies entirely above the threshold, -1 entirely below, else 0."""
        low, high = self.interval
        return int(low > threshold) - int(high < threshold)

    @property
    def has_width(self) -> bool:
        """Whether the interval may be printed: one of no width says nothing of other images."""
        low, high = self.interval
        return high - low > ROUNDING

    def facts(self) -> Facts:
        """As plain values."""
        return {
            "value": number(self.value),
            "interval": [number(end) for end in self.interval] if self.has_width else [None, None],
            "undefined": self.undefined,
        }


@dataclass(frozen=True)
class Sample:
    """The patients of N images and the draws of them.

    Attributes:
        codes: patient of each image, (N,).
        partners: for each image one of another patient, (N,).
        counts: how often each draw took each patient, first the sample itself, (1 + D, P).
        seed: of the draws.
    """

    codes: Codes
    partners: Codes
    counts: Counts
    seed: int

    @classmethod
    def of(cls, patients: npt.ArrayLike, draws: int, seed: int) -> "Sample":
        """Draws, and a random partner for each image.

        Raises:
            ConfigError: fewer than two patients or one draw.
        """
        codes = patient_codes(patients)
        clusters = int(codes.max(initial=-1)) + 1
        if clusters < 2:
            raise ConfigError(f"maps are compared between patients: give two, got {clusters}")
        generator = np.random.default_rng(seed)
        partners = [generator.choice(np.flatnonzero(codes != code)) for code in codes]
        counts = patient_draws(codes, draws, seed)
        return cls(codes, np.asarray(partners, dtype=np.intp), counts, seed)

    def estimate(self, values: Floats) -> Estimate:
        """Mean of values (N,), or (R, N) of R networks drawn like the patients, over the known."""
        values = np.atleast_2d(values)
        known = ~np.isnan(values)
        sums = sums_over(self.counts, self.codes, np.vstack([np.where(known, values, 0), known]).T)
        shares = self._shares(len(values))
        total, count = ((shares * part).sum(axis=1) for part in np.split(sums, 2, axis=1))
        drawn = divided(total, count)
        interval = percentile_interval(drawn[1:], constant=True)
        patients = len(np.unique(self.codes[known.any(axis=0)]))
        if patients < FEWEST or known.mean() < 0.5:
            interval = math.nan, math.nan
        return Estimate(float(drawn[0]), interval, float(1 - known.mean()))

    def _shares(self, networks: int) -> Floats:
        """Share of each network in the sample and in each draw, (1 + D, R)."""
        even = np.full(networks, 1 / networks)
        generator = np.random.default_rng(self.seed)
        drawn = generator.multinomial(networks, even, size=len(self.counts) - 1) / networks
        return np.vstack([even, drawn])


def similarity_facts(
    similarity: Floats, chance: Floats, sample: Sample, *, high: bool, control: Floats | None = None
) -> Facts:
    """Verdict on a similarity, (N,) or (R, N).

    Args:
        similarity: of maps of one image.
        chance: of maps of different patients' images.
        sample: the patients.
        high: if true a high similarity passes and a low one fails; else the other way round.
        control: if the interval of the similarity's excess over it lies entirely above ``MARGIN``,
            the similarity does not pass.
    """
    value, halfway = sample.estimate(similarity), sample.estimate(similarity - (1 + chance) / 2)
    verdict = {1: PASSES, 0: UNDECIDED, -1: FAILS}[halfway.side() if high else -halfway.side()]
    facts = {"chance": sample.estimate(chance).facts(), "from_halfway": halfway.facts()}
    if control is not None:
        excess = sample.estimate(similarity - control)
        facts |= {"control": sample.estimate(control).facts(), "excess": excess.facts()}
        if verdict == PASSES and excess.side(MARGIN) > 0:
            verdict = UNDECIDED
    if np.isnan(similarity).all():
        return {**value.facts(), **facts, "verdict": NOT_RUN, "reason": UNDEFINED}
    return {**value.facts(), **facts, "verdict": verdict}


def of_measures(measures: Mapping[str, Facts]) -> Facts:
    """The measures of a test and their verdict together."""
    verdict = together(each["verdict"] for each in measures.values())
    reason = {"reason": UNDEFINED} if verdict == NOT_RUN else {}
    return {"verdict": verdict, **reason, "measures": dict(measures)}


def better_or_worse(advantage: Estimate) -> str:
    """Verdict on an advantage over a control."""
    if advantage.side(LEAST) > 0:
        return PASSES
    return FAILS if advantage.side(-LEAST) < 0 else UNDECIDED


def together(verdicts: Iterable[str]) -> str:
    """One verdict of several.

    >>> together(["passes", "not run", "passes"]), together(["passes", "fails", "undecided"])
    ('passes', 'fails')
    """
    run = {verdict for verdict in verdicts if verdict != NOT_RUN}
    if not run:
        return NOT_RUN
    if FAILS in run:
        return FAILS
    return PASSES if run == {PASSES} else UNDECIDED


def number(value: float) -> float | None:
    """For JSON: None where undefined."""
    return None if math.isnan(value) else float(value)
