"""Which images are drawn: by a rule, never by hand."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from xray_lightning.data.datamodule import XrayDataModule
from xray_lightning.errors import ConfigError, require_integer

Floats = npt.NDArray[np.float32]
Rows = npt.NDArray[np.int64]
Place = tuple[int, str]  # row of a subset, and the finding whose map is shown

RULES = {  # of a finding's heat maps
    "fixed": "the first images with the finding",
    "confident": "the highest scores of the finding",
    "errors": "the lowest scores with the finding and the highest without, in turn",
    "boxes": "the first images with a box of the finding",
}
LOWEST_FIRST = ("true negatives", "false negatives")


def choose(
    kinds: Mapping[str, Rows],
    rule: str = "fixed",
    *,
    count: int | None = None,
    scores: Floats | None = None,
    seed: int = 0,
) -> dict[str, Rows]:
    """At most ``count`` rows of each kind.

    Rule "fixed" keeps the table's order; "confident" takes the highest of the scores (n,) first, of
    ``LOWEST_FIRST`` the lowest, equal ones in table order; "random" draws with ``seed``.
    """
    generator = np.random.default_rng(seed)
    chosen = {}
    for kind, rows in kinds.items():
        if rule == "random":
            rows = generator.permutation(rows)
        elif rule == "confident" and scores is not None:
            keys = scores[rows] if kind in LOWEST_FIRST else -scores[rows]
            rows = rows[np.argsort(keys, kind="stable")]
        chosen[kind] = rows[:count]
    return chosen


def order_rows(
    rule: str, scores: Floats, targets: Floats, has_box: npt.NDArray[np.bool_]
) -> npt.NDArray[np.int64]:
    """Rows of one finding in the order one of ``RULES`` takes them.

    Scores, targets (NaN unknown) and ``has_box`` are (n,).

    >>> order_rows("errors", np.array([0.9, 0.1, 0.8, 0.2]), np.array([1, 1, 0, 0]), np.zeros(4))
    array([1, 2, 0, 3])
    """
    scored = ~np.isnan(scores)
    if rule == "fixed":
        return np.flatnonzero(targets == 1)
    if rule == "boxes":
        return np.flatnonzero(has_box)
    if rule == "confident":
        return choose({"": np.flatnonzero(scored)}, rule, scores=scores)[""]
    kinds = {
        "false negatives": np.flatnonzero((targets == 1) & scored),
        "false positives": np.flatnonzero((targets == 0) & scored),
    }
    missed, false = choose(kinds, "confident", scores=scores).values()
    turns = np.concatenate([2 * np.arange(len(missed)), 2 * np.arange(len(false)) + 1])
    return np.concatenate([missed, false])[np.argsort(turns, kind="stable")]


@dataclass(frozen=True)
class Choice:
    """Which images heat maps are drawn of.

    Raises:
        ConfigError: an unknown rule, or a number out of range.
    """

    rule: str = "fixed"  # a key of ``RULES``
    images: int = 2  # of each finding
    labels: tuple[str, ...] | None = None  # the findings; None: all of the data

    def __post_init__(self) -> None:
        if self.rule not in RULES:
            raise ConfigError(f"rule must be one of {', '.join(RULES)}, got {self.rule!r}")
        require_integer("images", self.images, 1)

    def require_labels(self, known: Sequence[str]) -> None:
        """Refuse findings the data does not have with a ConfigError."""
        if unknown := sorted(set(self.labels or ()) - set(known)):
            raise ConfigError(f"labels must be of {', '.join(known)}, got {', '.join(unknown)}")

    def places(self, data: XrayDataModule, subset: str, scores: Floats) -> list[Place]:
        """The images of a subset by the rule, finding by finding; fewer where there are no more."""
        self.require_labels(data.labels)
        targets, places = data.subset_targets(subset), []
        boxed = [{box.label for box in record.boxes} for record in data.subset_records(subset)]
        for label in self.labels or data.labels:
            column = data.labels.index(label)
            has_box = np.array([label in labels for labels in boxed], dtype=np.bool_)
            rows = order_rows(self.rule, scores[:, column], targets[:, column], has_box)
            places += [(row, label) for row in rows[: self.images].tolist()]
        return places
