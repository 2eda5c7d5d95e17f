"""Area under the ROC curve per label, NaN where it is undefined."""

import torch
from torch import Tensor
from torchmetrics.classification import MultilabelAUROC
from torchmetrics.functional.classification import multilabel_auroc
from torchmetrics.utilities import dim_zero_cat


def auroc_per_label(scores: Tensor, targets: Tensor) -> Tensor:
    """AUROC (L,) of scores (N, L) in [0, 1] against targets (N, L), NaN unknown; NaN: undefined."""
    _check_scores(scores)
    known = torch.where((targets == 0) | (targets == 1), targets, -1).long()  # a share is unknown
    # torchmetrics would give 0 without a positive or a negative, and an IndexError of no known one
    defined = (known == 1).any(dim=0) & (known == 0).any(dim=0)  # (L,)
    values = torch.full(defined.shape, torch.nan, device=scores.device)
    if count := int(defined.sum()):  # unchecked: its checks refuse a single label
        values[defined] = multilabel_auroc(
            *(scores[:, defined], known[:, defined], count),
            average=None, ignore_index=-1, validate_args=False,
        ).reshape(count)  # fmt: skip
    return values


def defined_mean(values: Tensor) -> tuple[float, int]:
    """Mean over the defined values and how many they are; (NaN, 0) if there are none."""
    defined = values[~torch.isnan(values)]
    return (float(defined.double().mean()), len(defined)) if len(defined) else (float("nan"), 0)


class PerLabelAUROC(MultilabelAUROC):
    """torchmetrics' MultilabelAUROC with NaN for undefined labels and NaN targets left out."""

    def __init__(self, labels: int) -> None:
        super().__init__(labels, average=None, thresholds=None, validate_args=False)

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
