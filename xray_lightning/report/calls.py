"""Which images the results figure shows: right and wrong calls of a finding at a threshold."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from xray_lightning.errors import ConfigError

Floats = npt.NDArray[np.float32]
Rows = npt.NDArray[np.int64]

RULES = {
    "confident": "the most confident calls of each kind",
    "random": "drawn at random, seed {seed}",
}


@dataclass(frozen=True)
class Panel:
    """What the results figure shows.

    Args:
        label: the finding; None: the data's only label, no figure if it has several.
        rule: "confident" (furthest from the threshold) or "random".
        columns: images of each kind.
        seed: of the random rule.

    Raises:
        ConfigError: an unknown rule, or a number that is none or out of range.
    """

    label: str | None = None
    rule: str = "confident"
    columns: int = 4
    seed: int = 0

    def __post_init__(self) -> None:
        if self.rule not in RULES:
            raise ConfigError(f"panel.rule must be one of {', '.join(RULES)}, got {self.rule!r}")
        for name, value, low in (("columns", self.columns, 1), ("seed", self.seed, 0)):
            if not isinstance(value, int) or value < low:
                raise ConfigError(f"panel.{name} must be an integer of at least {low}: {value!r}")

    def finding(self, labels: Sequence[str]) -> str | None:
        """The label to draw, None for no figure.

        Raises:
            ConfigError: the data has no such label.
        """
        if self.label is not None and self.label not in labels:
            raise ConfigError(f"panel.label must be one of {', '.join(labels)}: {self.label!r}")
        return labels[0] if self.label is None and len(labels) == 1 else self.label


def outcomes(scores: Floats, targets: Floats, threshold: float) -> dict[str, Rows]:
    """The images of each kind of ``PLACES``, in table order; unknown targets are of no kind."""
    called, present, absent = scores >= threshold, targets == 1, targets == 0
    return {
        "true positives": np.flatnonzero(called & present),
        "true negatives": np.flatnonzero(~called & absent),
        "false negatives": np.flatnonzero(~called & present),
        "false positives": np.flatnonzero(called & absent),
    }


def chosen(found: Mapping[str, Rows], scores: Floats, panel: Panel) -> dict[str, Rows]:
    """At most ``panel.columns`` images of each kind by the panel's rule, never by hand."""
    generator = np.random.default_rng(panel.seed)
    picked = {}
    for kind, rows in found.items():
        if panel.rule == "random":
            rows = generator.permutation(rows)
        else:
            called = kind in ("true positives", "false positives")
            rows = rows[np.argsort(-scores[rows] if called else scores[rows], kind="stable")]
        picked[kind] = rows[: panel.columns]
    return picked
