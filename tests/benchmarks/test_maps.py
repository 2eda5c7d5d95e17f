"""Grad-CAM of all 14 labels against pytorch-grad-cam and captum, which are called for each label.

8 images at 224 px, one thread, random weights. Both libraries do the same work for every label, so
they are timed for 2 labels and counted as maps a second.
"""

from statistics import median

import pytest
import torch
from captum.attr import LayerGradCam
from pytorch_grad_cam import GradCAM
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

from xray_lightning import XrayNet, class_maps
from xray_lightning.records import CHEST_XRAY14

pytestmark = [pytest.mark.benchmark, pytest.mark.usefixtures("one_thread")]

SIZE, BATCH, FEW, TURNS = 224, 8, 2, 3
LAYERS = {"densenet121": "features", "legacy_xception": "act4"}  # what enters the pool
BOUNDS = {"by_hooks": ">=30", "by_captum": ">=10"}


@pytest.mark.parametrize(
    ("backbone", "head"),
    [("densenet121", "average"), ("densenet121", "attention"), ("legacy_xception", "average")],
)
def test_grad_cam_of_all_labels(backbone, head, bench) -> None:
    torch.manual_seed(0)
    net = XrayNet(CHEST_XRAY14, backbone, head=head, image_size=SIZE).eval()
    images, layer = torch.rand(BATCH, 1, SIZE, SIZE), net.backbone.get_submodule(LAYERS[backbone])

    def ours() -> int:
        return class_maps(net, images, method="gradcam").shape[:2].numel()

    def by_hooks() -> int:
        with GradCAM(net, [layer]) as theirs:
            for label in range(FEW):
                theirs(images, [ClassifierOutputTarget(label)] * BATCH)
        return FEW * BATCH

    def by_captum() -> int:
        theirs = LayerGradCam(net, layer)
        for label in range(FEW):
            theirs.attribute(images, label, relu_attributions=True).detach()
        return FEW * BATCH

    found = bench.rates(TURNS, ours=ours, by_hooks=by_hooks, by_captum=by_captum)
    maps = BATCH * len(CHEST_XRAY14)
    seconds = {name: maps / median(found[f"{name}_cpu"]) for name in ("ours", *BOUNDS)}
    listed = ", ".join(f"{name} {value:.2f}" for name, value in seconds.items())
    bench.remark(f"{backbone}, head {head}: CPU seconds for {maps} maps: {listed}")
    for name, bound in BOUNDS.items():
        value = bench.over(found["ours_cpu"], found[f"{name}_cpu"])
        bench.ratio(f"gradcam_{backbone}_{head}_vs_{name}", value, bound)
