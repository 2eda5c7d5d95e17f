"""Area under the ROC curve per label, NaN where it is undefined."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor
from torchmetrics.classification import MultilabelAUROC
from torchmetrics.functional.classification import multilabel_auroc
from torchmetrics.utilities import dim_zero_cat


def auroc_per_label(scores: Tensor, targets: Tensor) -> Tensor:
    """AUROC of each label.

    torchmetrics gives 0 for a label without a positive or without a negative; here it is NaN.

    Args:
        scores: (N, L) in [0, 1]. torchmetrics applies a sigmoid to anything outside.
        targets: (N, L), 1 present, 0 absent, NaN unknown (left out).

    Returns:
        (L,) float.

    Raises:
        ValueError: a score is not in [0, 1].

    >>> scores = torch.tensor([[0.1, 0.5], [0.9, 0.5]])
    >>> auroc_per_label(scores, torch.tensor([[0.0, 0.0], [1.0, 0.0]]))
    tensor([1., nan])
    """
    if not bool(((scores >= 0) & (scores <= 1)).all()):
        raise ValueError("scores must lie in [0, 1]: apply the sigmoid before, and mend NaN")
    known = torch.where(torch.isnan(targets), -1, targets).long()
    count = scores.shape[1]
    with _without_remarks():
        values = multilabel_auroc(
            scores, known, count, average=None, thresholds=None, ignore_index=-1
        )
    return _defined(values.reshape(count), known)


def defined_mean(values: Tensor) -> tuple[float, int]:
    """Mean over the defined values and how many they are; (NaN, 0) if there are none."""
    defined = values[~torch.isnan(values)]
    return (float(defined.double().mean()), len(defined)) if len(defined) else (float("nan"), 0)


class PerLabelAUROC(MultilabelAUROC):
    """torchmetrics' MultilabelAUROC with NaN for undefined labels and NaN targets left out.

    Args:
        labels: number of labels L.
    """

    def __init__(self, labels: int) -> None:
        super().__init__(
            labels, average=None, thresholds=None, ignore_index=-1, validate_args=False
        )

    def update(self, preds: Tensor, target: Tensor) -> None:
        """Add scores (B, L) in [0, 1] and targets (B, L), NaN where unknown."""
        super().update(preds, torch.where(torch.isnan(target), -1, target).long())

    def compute(self) -> Tensor:  # type: ignore[override]  # torchmetrics' own subclass differs too
        """AUROC of each label over everything seen, (L,)."""
        known = dim_zero_cat(self.target)
        with _without_remarks():
            values = super().compute()
        return _defined(values.reshape(self.num_labels), known)


@contextmanager
def _without_remarks() -> Iterator[None]:
    """Silence the warning about a label without positives or negatives: it is NaN here."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "No (positive|negative) samples in targets")
        yield


def _defined(values: Tensor, known: Tensor) -> Tensor:
    both = (known == 1).any(dim=0) & (known == 0).any(dim=0)
    return torch.where(both, values, torch.nan)
