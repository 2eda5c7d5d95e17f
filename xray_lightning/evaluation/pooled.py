"""What pooling hospitals does to a score: AUROC over all can be won by telling them apart."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from xray_lightning.evaluation.predictions import Predictions
from xray_lightning.metrics.bootstrap import PatientBootstrap
from xray_lightning.metrics.intervals import Estimate
from xray_lightning.records import Record, is_known
from xray_lightning.results import Result


@dataclass(frozen=True)
class Pooled(Result):
    """Beside the figures of several hospitals together; AUROC in each stands in the subgroups."""

    # AUROC of a score that is the prevalence of the image's hospital and nothing else, by label;
    # those that one hospital alone tells are not pooled
    hospital_alone: dict[str, Estimate]
    # AUROC at which the network's features tell a hospital from all others, of patients held out
    probe: dict[str, Estimate]


def describe_pooled(
    predictions: Predictions,
    records: Sequence[Record],
    probe: Mapping[str, Estimate],
    *,
    draws: int,
    seed: int,
) -> Pooled | None:
    """What can be won by telling hospitals apart; None for images of one."""
    hospitals = np.array([record.hospital for record in records], dtype=np.str_)
    names = np.unique(hospitals)
    if len(names) < 2:
        return None
    alone, bootstrap = {}, PatientBootstrap(predictions.patient_ids, draws, seed)
    for label, targets in zip(predictions.labels, predictions.targets.T, strict=True):
        known = is_known(targets)
        scores = np.zeros(len(targets))
        told = [name for name in names if known[hospitals == name].any()]
        for name in told:
            scores[hospitals == name] = targets[(hospitals == name) & known].mean()
        if len(told) > 1:
            alone[label] = Estimate.of_draws(bootstrap.auroc(scores, targets))
    return Pooled(alone, dict(probe))
