"""From a feature map to one logit per label."""

from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812


class AveragePool(nn.Module):
    """Mean over space, then one linear layer: the head of Xception, DenseNet and CheXNet.

    Args:
        channels: C of the feature map.
        labels: number of labels L.
        dropout: probability of dropping a pooled feature.
    """

    def __init__(self, channels: int, labels: int, *, dropout: float = 0.0) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(channels, labels)

    def forward(self, features: Tensor) -> Tensor:
        """Logits (B, L) of a feature map (B, C, H, W)."""
        pooled = features.mean(dim=(2, 3))  # (B, C)
        logits: Tensor = self.classifier(self.dropout(pooled))
        return logits

    def maps(self, features: Tensor) -> Tensor:
        """The linear layer at every place: logits (B, L, H, W), a class activation map."""
        return F.conv2d(features, self.classifier.weight[:, :, None, None], self.classifier.bias)
