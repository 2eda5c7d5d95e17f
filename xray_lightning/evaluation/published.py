"""Published results on ChestX-ray14: AUROCs, the official split and own splits apart; boxes.

The official test set is far sicker than its training set, so the same model scores several points
lower on it than on a split of one's own, and own splits differ among themselves: most are not
published. A rank across the two, or a rank of our run among own splits, would mean nothing.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]

from xray_lightning.evaluation.predictions import Origin
from xray_lightning.records import CHEST_XRAY14
from xray_lightning.results import Result
from xray_lightning.wording import tell

OFFICIAL, OWN = "official", "own"
IMAGES, TEST_IMAGES = 112_120, 25_596  # of ChestX-ray14, and of its official test list


@dataclass(frozen=True)
class _Work(Result):
    """What every row says of the work it is of."""

    work: str  # authors and network
    year: int | None  # of publication, None if unknown
    primary: bool  # read in the work itself; otherwise quoted from another one
    note: str  # what to know about it
    labels: dict[str, float]  # the figure of each finding, where published


@dataclass(frozen=True)
class Published(_Work):
    """A published AUROC of each finding."""

    split: str  # "official", or "own": a split that only its authors know
    mean: float  # mean AUROC over the 14 findings


def read_published() -> list[Published]:
    """All results of the package's table, best first within each split, the official one first."""
    rows = [Published.from_json(row) for row in _read()["auroc"]]
    return sorted(rows, key=lambda row: (row.split != OFFICIAL, -row.mean))


def comparable(origin: Origin, labels: Sequence[str], scored: int) -> list[Published]:
    """The published rows that a score of ``scored`` images may stand beside."""
    # Only NIH's 14 findings on NIH's images: official rows for the official test set, rows of own
    # splits for any other by patient; none for a leaky split, another part or data set, or a few.
    if incomparable(origin, labels, scored):
        return []
    kind = OFFICIAL if origin.split and origin.split.name == OFFICIAL else OWN
    return [row for row in read_published() if row.split == kind]


def incomparable(origin: Origin, labels: Sequence[str], scored: int) -> str:
    """Why no published row may stand beside such a score, "" if some may; see ``comparable``."""
    findings = tuple(labels) == CHEST_XRAY14
    reasons = tell(__package__, "incomparable", origin, findings, scored, IMAGES, TEST_IMAGES)
    return next(iter(reasons), "")


@dataclass(frozen=True)
class PublishedBoxes(_Work):
    """A published figure of localisation against all 984 boxes of NIH, on 880 test images.

    A figure from fewer or other boxes may stand beside these rows only with its number of boxes.
    """

    measure: str  # "t_iobb" or "afp" (both at an overlap of 0.1), or "pointing_game"
    method: str  # of the maps
    mean: float | None  # over the findings, None where not published


def published_boxes(data: str) -> list[PublishedBoxes]:
    """The published rows that figures on a data set's boxes may stand beside: NIH's own only."""
    rows = _read()["boxes"] if data == "nih" else []
    return [PublishedBoxes.from_json(row) for row in rows]


@cache
def _read() -> Any:
    """The rows of the package's two tables."""
    return yaml.safe_load(Path(__file__).with_suffix(".yaml").read_bytes())
