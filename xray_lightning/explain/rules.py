"""From a feature map and a label's gradient on it to a map: the Grad-CAM family.

Each rule takes features and gradients, both (B, C, h, w), and gives (B, h, w).
"""

from collections.abc import Callable

import torch
from torch import Tensor


def grad_cam(features: Tensor, gradients: Tensor) -> Tensor:
    """Selvaraju et al., Grad-CAM (ICCV 2017), eq. 1 and 2: relu(sum_k mean(g_k) f_k)."""
    return _weighted(gradients.mean(dim=(2, 3)), features).relu()


def grad_cam_plus_plus(features: Tensor, gradients: Tensor) -> Tensor:
    """Chattopadhay et al., Grad-CAM++ (WACV 2018), eq. 19, of exp(logit).

    alpha = g^2 / (2 g^2 + sum(f) g^3), which is 1 / (2 + sum(f) g), and w_k = sum(alpha relu(g)).
    The paper's factor exp(logit), the same at each place, is left out. It takes features for
    non-negative; of others (ViT, SiLU) the sum counts the positive part, or alpha could change
    its sign at a pole.
    """
    total = features.relu().sum(dim=(2, 3), keepdim=True)
    rising = gradients.relu()
    return _weighted((rising / (2 + total * rising)).sum(dim=(2, 3)), features).relu()


def hires_cam(features: Tensor, gradients: Tensor) -> Tensor:
    """Draelos and Carin, HiResCAM (arXiv 2011.08891): sum_k g_k f_k, signed."""
    return (gradients * features).sum(dim=1)


def layer_cam(features: Tensor, gradients: Tensor) -> Tensor:
    """Jiang et al., LayerCAM (TIP 2021): relu(sum_k relu(g_k) f_k)."""
    return hires_cam(features, gradients.relu()).relu()


def _weighted(weights: Tensor, features: Tensor) -> Tensor:
    """(B, h, w) of weights (B, C)."""
    return torch.einsum("bc,bchw->bhw", weights, features)


RULES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "gradcam": grad_cam,
    "gradcam++": grad_cam_plus_plus,
    "hirescam": hires_cam,
    "layercam": layer_cam,
}
