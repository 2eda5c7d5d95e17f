"""What a network says of many images, a batch at a time."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from xray_lightning.metrics.clusters import Floats
from xray_lightning.models.network import XrayNet

BATCH = 64


def answers(net: XrayNet, ask: Callable[[Tensor], Any], images: Tensor) -> Floats:
    """What ``ask`` gives for images (N, 1, H, W) on the network's device, (N, ...)."""
    device = next(net.parameters()).device
    starts = range(0, len(images), BATCH)
    parts = [torch.as_tensor(ask(images[start : start + BATCH].to(device))) for start in starts]
    return np.asarray(torch.cat(parts).detach().cpu().double().numpy())


@torch.no_grad()
def logits_of(net: XrayNet, images: Tensor) -> Floats:
    """Logits (N, L); the network is in evaluation mode."""
    return answers(net, net, images)


@torch.no_grad()
def pooled_features(net: XrayNet, images: Tensor) -> Floats:
    """Mean over the feature map, (N, C); the network is in evaluation mode."""
    return answers(net, lambda batch: net.forward_features(batch).mean(dim=(2, 3)), images)
