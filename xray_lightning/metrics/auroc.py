"""Area under the ROC curve per label, NaN where it is undefined."""

import numpy as np
import torch
from torch import Tensor
from torchmetrics.classification import MultilabelAUROC
from torchmetrics.utilities import dim_zero_cat

from xray_lightning.metrics.bootstrap import PatientBootstrap


def auroc_per_label(scores: Tensor, targets: Tensor) -> Tensor:
    """AUROC (L,) of scores (N, L) in [0, 1] against targets (N, L), NaN unknown; NaN: undefined."""
    _check_scores(scores)
    alone = PatientBootstrap.of(np.arange(len(scores)), np.ones((1, len(scores)), np.float32))
    columns = zip(*(part.cpu().double().numpy().T for part in (scores, targets)), strict=True)
    aurocs = [alone.auroc(*column)[0] for column in columns]
    return torch.tensor(aurocs, dtype=torch.float32, device=scores.device)


def defined_mean(values: Tensor) -> tuple[float, int]:
    """Mean over the defined values and how many they are; (NaN, 0) if there are none."""
    defined = values[~torch.isnan(values)]
    return (float(defined.double().mean()), len(defined)) if len(defined) else (float("nan"), 0)


class PerLabelAUROC(MultilabelAUROC):
    """torchmetrics' MultilabelAUROC with NaN for undefined labels and NaN targets left out."""

    def __init__(self, labels: int) -> None:
        super().__init__(
            labels, average=None, thresholds=None, ignore_index=-1, validate_args=False
        )

    def update(self, preds: Tensor, target: Tensor) -> None:
        """Add scores (B, L) in [0, 1] and targets (B, L), NaN where unknown."""
        _check_scores(preds)
        self.preds.append(preds.detach())
        self.target.append(target)

    def compute(self) -> Tensor:  # type: ignore[override]  # torchmetrics' own subclass differs too
        """AUROC of each label over everything seen by all processes, (L,)."""
        return auroc_per_label(dim_zero_cat(self.preds), dim_zero_cat(self.target))


def _check_scores(scores: Tensor) -> None:
    if not bool(((scores >= 0) & (scores <= 1)).all()):
        raise ValueError("scores must lie in [0, 1]: apply the sigmoid before, and remove NaN")
