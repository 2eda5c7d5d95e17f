"""How much of a score is agreement with a text miner? The same scores against several truths."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from xray_lightning.data.nih_expert import NihExperts, Truth
from xray_lightning.errors import ConfigError
from xray_lightning.evaluation.predictions import Predictions
from xray_lightning.metrics.compare import Difference, compare_truths
from xray_lightning.metrics.delong import holm
from xray_lightning.metrics.intervals import Floats
from xray_lightning.results import Result
from xray_lightning.wording import tell
from xray_lightning.writing import Json

FINDINGS = {  # finding -> labels of a network whose largest score is that of the finding
    "Pneumothorax": ("Pneumothorax",),
    "Nodule or mass": ("Nodule", "Mass"),
    "Pneumonia": ("Pneumonia",),
}
NEEDED = tuple(label for labels in FINDINGS.values() for label in labels)


@dataclass(frozen=True)
class TruthRow(Result):
    """One finding by two truths, on the images that both tell of."""

    finding: str
    scores: tuple[str, ...]  # labels whose largest score is the finding's
    readers: str  # whose truth is compared with the text miner's
    images: int
    patients: int
    positives: int  # by the readers
    text_positives: int
    both: int
    auroc: Difference  # against the readers, against the text miner, and the first less the second

    @property
    def sentence(self) -> str:
        """What the difference says, and what it does not."""
        return tell(__package__, "truths", self.finding, self.readers, self.auroc)[0]


@dataclass(frozen=True)
class ExpertTruth(Result):
    """Scores against readers and against the text miner."""

    rows: tuple[TruthRow, ...]  # of each finding and readers that can be compared
    left_out: dict[str, str]  # finding -> why it was not
    images: int  # that have a score
    draws: int  # of the bootstrap of patients

    def to_json(self) -> Json:
        """Plain values, and the sentences."""
        return {**super().to_json(), "sentences": [row.sentence for row in self.rows]}


def score_truths(
    predictions: Predictions, source: NihExperts, *, draws: int = 2000, seed: int = 0
) -> ExpertTruth:
    """Score a model against every truth of the images, paired with the text miner's.

    Args:
        predictions: scores of some of the images; their targets are not used.
        source: the images and their truths.
        draws: of the bootstrap of patients.
        seed: of the draws.

    Raises:
        ConfigError: there is no score of a finding that two truths tell of.
    """
    text, *others = source.truths
    rows, left_out = [], {}
    for finding, labels in FINDINGS.items():
        if not set(labels) <= set(predictions.labels):
            left_out[finding] = f"no scores of {' and '.join(labels)}"
            continue
        told = [truth for truth in others if finding in truth.labels]
        if not told:
            left_out[finding] = "only the text miner tells it here (data.rsna= and data.nih_map=)"
        rows += [
            row
            for truth in told
            if (row := _compare(predictions, finding, labels, truth, text, draws, seed))
        ]
    if not rows:
        why = "; ".join(f"{finding}: {reason}" for finding, reason in left_out.items())
        raise ConfigError(f"nothing to compare: {why or 'no scored image has two truths'}")
    corrected = holm([row.auroc.p_value for row in rows])
    rows = [
        replace(row, auroc=replace(row.auroc, corrected=float(p_value)))
        for row, p_value in zip(rows, corrected, strict=True)
    ]
    return ExpertTruth(tuple(rows), left_out, len(predictions.image_ids), draws)


def _compare(
    predictions: Predictions,
    finding: str,
    labels: Sequence[str],
    truth: Truth,
    text: Truth,
    draws: int,
    seed: int,
) -> TruthRow | None:
    """One row; None where no scored image has both truths."""
    images = predictions.image_ids
    columns = [predictions.labels.index(label) for label in labels]
    scores = predictions.scores[:, columns].max(axis=1)  # (N,)
    first, second = (_targets(one, finding, images) for one in (truth, text))
    both = ~np.isnan(first) & ~np.isnan(second)
    if not both.any():
        return None
    patients = np.asarray(predictions.patient_ids)
    return TruthRow(
        finding,
        tuple(labels),
        truth.name,
        int(both.sum()),
        len(set(patients[both])),
        int((first[both] == 1).sum()),
        int((second[both] == 1).sum()),
        int(((first == 1) & (second == 1)).sum()),
        compare_truths(scores, first, second, patients, draws=draws, seed=seed),
    )


def _targets(truth: Truth, finding: str, images: Sequence[str]) -> Floats:
    return np.array([truth.tell(finding, image) for image in images])
