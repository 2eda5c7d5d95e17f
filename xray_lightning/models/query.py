"""A transformer decoder as head: each label asks the feature map."""

import torch
from torch import Tensor, nn

from xray_lightning.errors import ConfigError
from xray_lightning.models.pooling import require_count


class QueryDecoder(nn.Module):
    """One decoder layer without self-attention, with one fixed query for each label.

    Ridnik et al., ML-Decoder (WACV 2023; arXiv 2021), section 2.4: the places are embedded by a
    linear layer and a ReLU; the queries, which are not learned, attend to them; a feed-forward
    part follows; each label's linear unit reads its own query (the paper's group-wise layer with
    groups of one). The maps are the attention weights, averaged over the attention's heads; they
    say where the head looks, also for an absent finding, and the logit is no function of them.

    Args:
        channels: C of the feature map.
        labels: number of labels L.
        dropout: inside the decoder layer.
        width: D of the embedded places and the queries.
        attention_heads: of the attention.
        feedforward: units of the feed-forward part.

    Raises:
        ConfigError: an option is no integer above 0, or the width no multiple of the heads.
    """

    queries: Tensor  # (L, D)

    def __init__(
        self,
        channels: int,
        labels: int,
        *,
        dropout: float = 0.0,
        width: int = 768,
        attention_heads: int = 8,
        feedforward: int = 2048,
    ) -> None:
        super().__init__()
        if require_count("width", width) % require_count("attention_heads", attention_heads):
            raise ConfigError(
                f"model.head_options.width must be a multiple of attention_heads={attention_heads}"
                f", got {width}"
            )
        self.embedding = nn.Linear(channels, width)
        self.register_buffer("queries", torch.randn(labels, width))
        self.attention = nn.MultiheadAttention(
            width, attention_heads, dropout=dropout, batch_first=True
        )
        self.expand = nn.Linear(width, require_count("feedforward", feedforward))
        self.contract = nn.Linear(feedforward, width)
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(3))
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(width, labels)

    def forward(self, features: Tensor) -> Tensor:
        """Logits (B, L) of a feature map (B, C, H, W)."""
        asked, places = self._asked(features), self._places(features)
        answer, _ = self.attention(asked, places, places, need_weights=False)
        asked = self.norms[1](asked + self.dropout(answer))
        hidden = self.dropout(torch.relu(self.expand(asked)))
        asked = self.norms[2](asked + self.dropout(self.contract(hidden)))  # (B, L, D)
        logits: Tensor = asked * self.classifier.weight
        return logits.sum(dim=2) + self.classifier.bias

    def maps(self, features: Tensor) -> Tensor:
        """Attention weights (B, L, H, W); those of a label sum to 1."""
        asked, places = self._asked(features), self._places(features)
        weights: Tensor = self.attention(asked, places, places)[1]  # (B, L, H * W)
        return weights.reshape(*weights.shape[:2], *features.shape[2:])

    def _places(self, features: Tensor) -> Tensor:
        return torch.relu(self.embedding(features.flatten(2).transpose(1, 2)))  # (B, H * W, D)

    def _asked(self, features: Tensor) -> Tensor:
        # not len(features), which torch.export takes for a constant
        queries = self.queries.expand(features.shape[0], -1, -1)
        asked: Tensor = self.norms[0](queries + self.dropout(queries))  # (B, L, D)
        return asked
