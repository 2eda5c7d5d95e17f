"""What a report is unsure of, and what it does not mention: from codes of a labeler to targets.

CheXpert's labeler and NegBio write 1 present, 0 absent, -1 uncertain, blank not mentioned.

=========  =========================================================================================
uncertain  ``zeros`` absent, ``ones`` present, ``ignore`` unknown (U-Zeros, U-Ones and U-Ignore of
           Irvin 2019, "CheXpert", section 3.1); ``smooth`` a share drawn from a range, by default
           0.55 to 0.85 (U-Ones + LSR of Pham 2019, "Interpreting chest X-rays via CNNs that exploit
           hierarchical disease dependencies and uncertainty labels", section 3.3; its U-Zeros + LSR
           is 0 to 0.3)
blank      ``negative`` absent, as the labeler's authors train; ``unknown``
=========  =========================================================================================

Either is a word, or a word for each label: ``{default: ignore, Edema: ones}``. A share trains the
losses and is unknown to every metric.
"""

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from xray_lightning.data.tables import Table
from xray_lightning.errors import ConfigError
from xray_lightning.records import NAN
from xray_lightning.wording import fault

WORDS = {"uncertain": ("zeros", "ones", "ignore", "smooth"), "blank": ("negative", "unknown")}
TARGETS = {"zeros": 0.0, "ones": 1.0, "ignore": NAN, "negative": 0.0, "unknown": NAN}
SMOOTH = (0.55, 0.85)
LEVELS = 1 << 16  # of a draw: fewer than float32 tells apart, so that no share becomes 0 or 1

Choice = str | Mapping[str, str]
Codes = npt.NDArray[np.float64]  # 1, 0, -1, NaN where blank


def parse_code(cell: str) -> float:
    """A labeler's code: 1, 0, -1, or NaN where blank; a KeyError or ValueError for another."""
    return {1.0: 1.0, 0.0: 0.0, -1.0: -1.0}[float(cell)] if cell else NAN


def code_matrix(table: Table, labels: Sequence[str]) -> Codes:
    """The codes of a table, (N, L); NaN where a label has no column."""
    wanted = "1 (present), 0 (absent), -1 (uncertain) or blank"
    columns = [table.parse_distinct(label, parse_code, wanted) for label in labels]
    return np.array([np.array(parsed)[rows] for rows, parsed in columns]).T


def count_codes(codes: Codes, labels: Sequence[str]) -> dict[str, dict[str, int]]:
    """How often each label has each code: {"uncertain": {"Edema": 12_984, ...}, ...}."""
    told = {"uncertain": codes == -1, "absent": codes == 0, "present": codes == 1}
    told["blank"] = np.isnan(codes)
    sums = {name: where.sum(axis=0).tolist() for name, where in told.items()}
    return {name: dict(zip(labels, own, strict=True)) for name, own in sums.items()}


@dataclass(frozen=True)
class Coding:
    """What a labeler's codes say of L labels; a ConfigError for a bad word or range."""

    labels: Sequence[str]  # the L labels
    uncertain: Choice = "ignore"  # what -1 means
    blank: Choice = "negative"  # what NaN means
    smooth: Sequence[float] = SMOOTH  # the range of a share, 0 <= low < high <= 1
    seed: int = 0  # of the shares

    @cached_property
    def words(self) -> dict[str, tuple[str, ...]]:
        """The word of each label for "uncertain" and for "blank", (L,)."""
        choices = {"uncertain": self.uncertain, "blank": self.blank}
        return {name: _choose_words(name, choices[name], self.labels) for name in choices}

    def describe(self) -> dict[str, str]:
        """A source's ``choices``: every setting that its targets depend on."""
        choices = {}
        for name, words in self.words.items():  # the commonest, and the labels that have another
            usual, pairs = Counter(words).most_common(1)[0][0], zip(self.labels, words, strict=True)
            others = [f"{label} {word}" for label, word in pairs if word != usual]
            choices[name] = usual + (f" but {' and '.join(others)}" if others else "")
        if "smooth" in self.words["uncertain"]:
            choices |= {"smooth": f"{self.smooth[0]} to {self.smooth[1]}", "seed": str(self.seed)}
        return choices

    def read(self, codes: Codes, image_ids: Sequence[str]) -> npt.NDArray[np.float64]:
        """Targets of N images, (N, L): 1, 0, NaN, or a share by seed, label and image id alone."""
        ends = [end for end in self.smooth or () if isinstance(end, int | float)]
        if len(ends) != 2 or not 0 <= ends[0] < ends[1] <= 1:
            raise ConfigError(fault("smooth", self.smooth))
        low, high = map(float, ends)
        targets = codes.copy()
        for index, (unsure, absent) in enumerate(zip(*self.words.values(), strict=True)):
            column = targets[:, index]
            column[np.isnan(column)] = TARGETS[absent]
            rows = np.flatnonzero(column == -1)
            if unsure == "smooth":
                start = f"{self.seed}/{self.labels[index]}/"
                texts = [start + image_ids[row] for row in rows.tolist()]
                digests = [hashlib.blake2b(text.encode(), digest_size=2).digest() for text in texts]
                draws = (np.frombuffer(b"".join(digests), ">u2") + 0.5) / LEVELS  # from 0 to 1
                column[rows] = low + (high - low) * draws
            else:
                column[rows] = TARGETS[unsure]
        return targets


def _choose_words(name: str, choice: Choice, labels: Sequence[str]) -> tuple[str, ...]:
    words = choice if isinstance(choice, Mapping) else {"default": choice}
    if unknown := [label for label in words if label not in (*labels, "default")]:
        raise ConfigError(fault("unknown_labels", name, unknown, labels))
    chosen = tuple(str(words.get(label, words.get("default"))) for label in labels)
    if wrong := sorted(set(chosen) - set(WORDS[name])):
        raise ConfigError(fault("coding", name, WORDS[name], wrong[0], choice))
    return chosen
