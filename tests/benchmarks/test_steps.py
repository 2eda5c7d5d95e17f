"""What losses, heads, attention blocks and averaged weights add to a step of DenseNet-121.

One thread, random images in memory; a step is forward, loss and backward. A loss costs a thousandth
of it, far less than two steps differ under other load: losses are timed without the network, in
turns with the step, and the ratio is (step with BCE - BCE + loss) / (step with BCE). A head or
block takes turns with the average pool, and CPU seconds are compared. Memory is what a step holds
apart from temporary buffers: parameters, their gradients and the tensors that autograd saves.

Grad-CAM of all 14 labels stands against pytorch-grad-cam and captum, which are called for each
label: 8 images at 224 px, random weights. Both libraries do the same work for every label, so they
are timed for 2 labels and counted as maps a second.
"""

from statistics import median
from types import SimpleNamespace

import pytest
import torch
from captum.attr import LayerGradCam
from pytorch_grad_cam import GradCAM
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from torch import Tensor, nn
from torch.optim import AdamW
from toy import toy_net

import xray_lightning as xray
from xray_lightning import class_maps
from xray_lightning.models.heads import HEADS
from xray_lightning.records import CHEST_XRAY14

pytestmark = [pytest.mark.benchmark, pytest.mark.usefixtures("one_thread")]

BACKBONE, SIZE, BATCH = "densenet121", 64, 16
LABELS = len(CHEST_XRAY14)
PLACE = f"{BACKBONE}, {SIZE} px, batch {BATCH}, 1 thread"
COUNTS = torch.tensor([[86_000] * LABELS, [500] * LABELS])
LOSSES: dict[str, nn.Module] = {
    "bce": xray.BCE(),
    "weighted_bce": xray.WeightedBCE(COUNTS[0] / COUNTS[1]),
    "focal": xray.Focal(alpha=0.25),
    "asymmetric": xray.Asymmetric(),
    "class_balanced": xray.ClassBalanced(COUNTS),
    "auc": xray.PairwiseAUC(),
}
BLOCKS = ("features.denseblock3", "features.denseblock4")
VARIANTS: dict[str, dict[str, object]] = {
    **{f"head_{name}": {"head": name} for name in HEADS if name != "average"},
    "head_csra_4_temperatures": {"head": "csra", "head_options": {"temperatures": [1, 2, 4, 99]}},
    **{f"cbam_{subset}": {"cbam_after": BLOCKS, "cbam": subset} for subset in ("both", "channel")},
    "cbam_spatial": {"cbam_after": BLOCKS, "cbam": "spatial"},
}


def new_net(**settings) -> xray.XrayNet:
    return toy_net(CHEST_XRAY14, BACKBONE, SIZE, **settings).train()


@pytest.fixture(scope="module")
def plain() -> xray.XrayNet:
    """Average pool, no blocks."""
    return new_net()


@pytest.fixture(scope="module")
def batch() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(BATCH, 1, SIZE, SIZE, generator=generator)
    return images, torch.rand(BATCH, LABELS, generator=generator).gt(0.9).float()


def step_of(net: nn.Module, batch: tuple[Tensor, Tensor]):
    """Forward, BCE and backward of a batch."""
    loss_of = xray.BCE()

    def step() -> int:
        net.zero_grad(set_to_none=True)
        loss_of(net(batch[0]), batch[1]).backward()
        return 1

    return step


def alone(loss: nn.Module, targets: Tensor, times: int = 20):
    """Forward and backward of a loss without a network."""
    logits = torch.randn(BATCH, LABELS, generator=torch.Generator().manual_seed(0)).requires_grad_()

    def work() -> int:
        for _ in range(times):
            loss(logits, targets).backward()
        return times

    return work


def saved_bytes(forward, *apart: Tensor) -> int:
    """Bytes kept for the backward pass, a shared storage once, those of ``apart`` not."""
    kept: dict[int, object] = {}  # the storages stay alive, so no address recurs

    def note(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        forward()
    known = {tensor.untyped_storage().data_ptr() for tensor in apart}
    return sum(storage.nbytes() for place, storage in kept.items() if place not in known)


def held_bytes(net: xray.XrayNet, batch: tuple[Tensor, Tensor]) -> int:
    """Saved tensors, parameters and gradients of one step."""
    weights = {p.untyped_storage().data_ptr(): p.untyped_storage() for p in net.parameters()}
    saved = saved_bytes(lambda: xray.BCE()(net(batch[0]), batch[1]), *net.parameters())
    return saved + 2 * sum(storage.nbytes() for storage in weights.values())


def test_losses(plain: xray.XrayNet, batch: tuple[Tensor, Tensor], bench) -> None:
    works = {name: alone(loss, batch[1]) for name, loss in LOSSES.items()}
    rates = bench.rates(8, step=step_of(plain, batch), **works)
    bench.remark(f"{PLACE}: {1000 / median(rates['step']):.0f} ms a step with BCE")
    for name, loss in LOSSES.items():
        logits = torch.randn(BATCH, LABELS).requires_grad_()
        kept = saved_bytes(lambda: loss(logits, batch[1])) / 1024  # noqa: B023 - called at once
        each = 1000 / median(rates[name])
        bench.remark(f"{name}: {each:.3f} ms alone, {kept:.1f} KiB kept for backward")
        turns = zip(rates["step"], rates["bce"], rates[name], strict=True)
        cost = median(1 + (1 / ours - 1 / bce) * step for step, bce, ours in turns)
        if name != "bce":
            bench.ratio(f"step_with_{name}_vs_bce", cost, "<=1.05")


@pytest.mark.parametrize("name", VARIANTS)
def test_heads_and_blocks(name, plain, batch, bench) -> None:
    net = new_net(**VARIANTS[name])
    rates = bench.rates(7, average=step_of(plain, batch), other=step_of(net, batch))
    base, ours = held_bytes(plain, batch), held_bytes(net, batch)
    extra = sum(p.numel() for p in net.parameters()) - sum(p.numel() for p in plain.parameters())
    bench.remark(
        f"{name}: {PLACE}: {1000 / median(rates['average']):.0f} ms a step with average pool, "
        f"{1000 / median(rates['other']):.0f} ms; {base / 2**20:.1f} and {ours / 2**20:.1f} MiB; "
        f"{extra:+,} parameters"
    )
    bound = "<=1.5" if name == "head_query" else "<=1.1"  # a decoder nearly as large as DenseNet
    value = bench.over(rates["average_cpu"], rates["other_cpu"])
    bench.ratio(f"{name}_step_vs_average", value, bound)
    bench.ratio(f"{name}_memory_vs_average", ours / base, bound)


def test_averaged_weights_and_a_frozen_backbone(batch: tuple[Tensor, Tensor], bench) -> None:
    """Steps with the optimiser."""
    task = xray.XrayTask(new_net()).train()
    optimizer = AdamW(task.parameters(), lr=1e-4)
    trainer = SimpleNamespace(current_epoch=0, global_step=0, model=task)
    freeze, ema = xray.FreezeBackbone(epochs=1), xray.EMA(decay=0.999)
    ema.on_fit_start(trainer, task)

    def step() -> int:
        optimizer.zero_grad()
        task.loss(task(batch[0]), batch[1]).backward()
        freeze.on_after_backward(trainer, task)
        optimizer.step()
        return 1

    def averaged() -> int:
        trainer.global_step += step()
        ema.on_train_batch_end(trainer, task, None, None, 0)
        return 1

    def in_epoch(epoch: int, work):
        def run() -> int:
            trainer.current_epoch = epoch
            freeze.on_train_epoch_start(trainer, task)
            return sum(work() for _ in range(4))

        return run

    works = {"plain": in_epoch(1, step), "averaged": in_epoch(1, averaged)}
    rates = bench.rates(8, **works, frozen=in_epoch(0, step))
    assert ema.updates == trainer.global_step > 0
    for name, bound in (("averaged", "<=1.02"), ("frozen", "<=0.6")):
        value = bench.over(rates["plain_cpu"], rates[f"{name}_cpu"])
        bench.ratio(f"step_{name}_vs_plain", value, bound)
    bench.remark(f"{PLACE}, CPU seconds")


SIDE, FILMS, FEW, MAP_TURNS = 224, 8, 2, 3
LAYERS = {"densenet121": "features", "legacy_xception": "act4"}  # what enters the pool
BOUNDS = {"by_hooks": ">=30", "by_captum": ">=10"}


@pytest.mark.parametrize(
    ("backbone", "head"),
    [("densenet121", "average"), ("densenet121", "attention"), ("legacy_xception", "average")],
)
def test_grad_cam_of_all_labels(backbone, head, bench) -> None:
    net = toy_net(CHEST_XRAY14, backbone, SIDE, head=head).eval()
    images, layer = torch.rand(FILMS, 1, SIDE, SIDE), net.backbone.get_submodule(LAYERS[backbone])

    def ours() -> int:
        return class_maps(net, images, method="gradcam").shape[:2].numel()

    def by_hooks() -> int:
        with GradCAM(net, [layer]) as theirs:
            for label in range(FEW):
                theirs(images, [ClassifierOutputTarget(label)] * FILMS)
        return FEW * FILMS

    def by_captum() -> int:
        theirs = LayerGradCam(net, layer)
        for label in range(FEW):
            theirs.attribute(images, label, relu_attributions=True).detach()
        return FEW * FILMS

    found = bench.rates(MAP_TURNS, ours=ours, by_hooks=by_hooks, by_captum=by_captum)
    maps = FILMS * len(CHEST_XRAY14)
    seconds = {name: maps / median(found[f"{name}_cpu"]) for name in ("ours", *BOUNDS)}
    listed = ", ".join(f"{name} {value:.2f}" for name, value in seconds.items())
    bench.remark(f"{backbone}, head {head}: CPU seconds for {maps} maps: {listed}")
    for name, bound in BOUNDS.items():
        value = bench.over(found["ours_cpu"], found[f"{name}_cpu"])
        bench.ratio(f"gradcam_{backbone}_{head}_vs_{name}", value, bound)
