"""Images per second on the CPU: PyTorch, and onnxruntime in float32 and in 8 bits, in one run."""

from statistics import median

import numpy as np
import pytest
import torch

from xray_lightning.checkpoint import KEY, Description
from xray_lightning.deploy.classifier import load_classifier
from xray_lightning.deploy.export import export_checkpoint, open_onnx, write_int8
from xray_lightning.models.network import XrayNet

pytestmark = pytest.mark.benchmark
BATCH, SIZE, TURNS = 8, 224, 5


@pytest.mark.parametrize("backbone", ["densenet121", "resnet50", "mobilenetv2_100"])
def test_images_per_second(backbone, tmp_path, rates, over, remark, ratio) -> None:
    net, checkpoint = XrayNet(("Mass", "Nodule"), backbone, image_size=SIZE), tmp_path / "a.ckpt"
    description = Description(net.config, {"image_size": SIZE, "clahe": False}, {})
    state = {f"net.{name}": tensor for name, tensor in net.state_dict().items()}
    torch.save({KEY: description.to_plain(), "state_dict": state, "epoch": 0}, checkpoint)
    films = np.random.default_rng(0).integers(0, 256, (BATCH, SIZE, SIZE), dtype=np.uint8)
    paths = [tmp_path / f"{name}.onnx" for name in ("float", "int8")]
    export_checkpoint(checkpoint, paths[0])
    write_int8(*paths, iter([films]))
    runs = load_classifier(checkpoint, device="cpu").score, *map(open_onnx, paths)
    names = "pytorch", "onnx", "int8"
    works = {
        name: lambda run=run: len(run(films)) and BATCH
        for name, run in zip(names, runs, strict=True)
    }
    found = rates(TURNS, **works)
    each = {
        n: f"{median(found[n]):.1f} ({median(found[f'{n}_cpu']):.1f} a CPU second)" for n in names
    }
    speeds = ", ".join(f"{name} {each[name]}" for name in names)
    remark(f"{backbone}, batches of {BATCH} at {SIZE} px: {speeds} images a second")
    for name, bound in (("onnx", ">=0.9"), ("int8", ">=1.0")):
        ratio(f"{backbone}_{name}_to_pytorch", over(found[name], found["pytorch"]), bound)
