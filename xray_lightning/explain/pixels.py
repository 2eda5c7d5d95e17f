"""Maps as large as the image: input gradient, integrated gradients, occlusion.

Each takes the network as a function of the images, images (B, 1, H, W) that no graph holds, and
the columns of K labels, and gives (B, K, H, W). A label's gradient is that of its logit, one label
at a time, from one forward pass.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from xray_lightning.errors import ConfigError

Score = Callable[[Tensor], Tensor]  # images (B, 1, H, W) -> logits (B, L)


def label_gradients(logits: Tensor, inputs: Tensor, columns: Sequence[int]) -> Iterator[Tensor]:
    """Gradients (B, ...) of some logits (B, L) on the leaf they come from, a column at a time.

    For DenseNet-121's features and 14 labels that is as fast, within 15 %, as one batched backward
    pass (``is_grads_batched``) for most heads, with the memory of one label.
    """
    for number, column in enumerate(columns, start=1):
        keep = number < len(columns)
        yield torch.autograd.grad(logits[:, column].sum(), inputs, retain_graph=keep)[0]


def head_gradients(net: Any, features: Tensor, columns: Sequence[int]) -> Iterator[Tensor]:
    """Gradients (B, C, h, w) of some logits on the feature map, a column at a time.

    A head that says ``linear``, the average pool, needs no backward pass: w / (h w) at each place.
    """
    if getattr(net.head, "linear", False):
        weight = net.head.classifier.weight / (features.shape[2] * features.shape[3])  # (L, C)
        yield from (weight[column, :, None, None].expand_as(features) for column in columns)
    else:
        features = features.detach().requires_grad_()
        yield from label_gradients(net.forward_head(features), features, columns)


def input_gradient(score: Score, images: Tensor, columns: Sequence[int]) -> Tensor:
    """Absolute gradient of each logit on each pixel.

    Simonyan et al., Deep Inside Convolutional Networks (2013), section 3.1.
    """
    images = images.detach().requires_grad_()
    gradients = label_gradients(score(images), images, columns)
    return torch.stack([gradient[:, 0].abs() for gradient in gradients], dim=1)


def integrated_gradients(
    score: Score, images: Tensor, columns: Sequence[int], *, steps: int = 50
) -> Tensor:
    """Integrated gradients from the black image, signed; computed by captum.

    Sundararajan et al., Axiomatic Attribution for Deep Networks (ICML 2017), eq. 1, by
    Gauss-Legendre. They sum to the logit less that of the black image (completeness), the better
    the more steps: 50 were 3 % off for a random ResNet-18, 200 were 1 %, and for a ViT 0.
    """
    from captum.attr import IntegratedGradients  # half a second, for this method alone

    images = images.detach().requires_grad_()
    captum = IntegratedGradients(score)
    maps = [
        captum.attribute(
            images, target=column, n_steps=steps, internal_batch_size=len(images)
        ).detach()
        for column in columns
    ]
    return torch.cat(maps, dim=1)


@torch.no_grad()
def occlusion(
    score: Score,
    images: Tensor,
    columns: Sequence[int],
    *,
    patch: int | None = None,
    stride: int | None = None,
) -> Tensor:
    """How far each logit falls under a grey patch.

    Zeiler and Fergus, Visualizing and Understanding Convolutional Networks (ECCV 2014), section
    4.2. The patch has the mean of its image; a pixel gets the mean fall over the patches that
    cover it. One forward pass for each place serves all labels.

    ``patch`` is its side in pixels, an eighth of the image's shorter side unless given; ``stride``
    from patch to patch, half a patch.
    """
    shorter = min(images.shape[2:])
    patch = max(shorter // 8, 1) if patch is None else patch
    stride = max(patch // 2, 1) if stride is None else stride
    if not 1 <= stride <= patch <= shorter:
        raise ConfigError(
            f"occlusion needs 1 <= stride <= patch <= {shorter}, the image's shorter side, got "
            f"stride={stride} and patch={patch}"
        )
    grey, whole = images.mean(dim=(2, 3), keepdim=True), score(images)[:, columns]  # (B, K)
    falls = images.new_zeros(*whole.shape, *images.shape[2:])
    covered = torch.zeros_like(falls)
    for rows, across in _patches(images.shape[2], images.shape[3], patch, stride):
        occluded = images.clone()
        occluded[:, :, rows, across] = grey
        falls[:, :, rows, across] += (whole - score(occluded)[:, columns])[:, :, None, None]
        covered[:, :, rows, across] += 1
    return falls / covered


def _patches(height: int, width: int, patch: int, stride: int) -> Iterator[tuple[slice, slice]]:
    """Rows and columns of each patch; the last ones are cut at the edge."""
    for top in range(0, height - patch + stride, stride):
        for left in range(0, width - patch + stride, stride):
            yield slice(top, top + patch), slice(left, left + patch)


PIXELS: dict[str, Callable[[Score, Tensor, Sequence[int]], Tensor]] = {
    "gradient": input_gradient,
    "integrated": integrated_gradients,
    "occlusion": occlusion,
}
