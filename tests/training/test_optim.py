"""Parameter groups against timm's, and schedules against formulas and PyTorch's schedulers."""

import math
import re
from functools import partial

import numpy as np
import pytest
import timm
import torch
from timm.optim import param_groups_layer_decay
from torch import nn
from torch.optim import LBFGS, SGD, AdamW, lr_scheduler
from torch.optim.lr_scheduler import CosineAnnealingLR, LambdaLR, LinearLR, MultiStepLR

import xray_lightning as xl
from xray_lightning import ConfigError, Constant, Cosine, Plateau, Step, XrayNet
from xray_lightning.training.optim import Schedule, fuse, make_optimizer, parameter_groups


@pytest.fixture(params=["test_resnet", "test_vit", "test_convnext"])
def net(request: pytest.FixtureRequest) -> XrayNet:
    """With a block of attention, which is new as the head is."""
    net = XrayNet(("a", "b"), request.param, image_size=32)
    net.attention = nn.ModuleDict({"block": nn.Conv2d(2, 1, 7)})
    return net


def test_every_parameter_once_frozen_or_not(net: XrayNet) -> None:
    net.backbone.requires_grad_(False)
    groups = parameter_groups(net)
    found = [id(parameter) for group in groups for parameter in group["params"]]
    assert len(found) == len(set(found))
    assert set(found) == {id(parameter) for parameter in net.parameters()}
    *others, head, rest = [group["name"] for group in groups]
    assert (head, rest) == ("head", "head_without_decay")
    assert all(name.startswith("backbone") for name in others)


def test_norms_and_biases_do_not_decay(net: XrayNet) -> None:
    optimizer = AdamW(parameter_groups(net), lr=1e-3, weight_decay=0.05)
    decay = each(optimizer.param_groups, "weight_decay")
    matrices = 0
    for module in net.modules():
        for name, parameter in module.named_parameters(recurse=False):
            if isinstance(module, nn.BatchNorm2d | nn.LayerNorm | nn.GroupNorm) or name == "bias":
                assert decay[id(parameter)] == [0.0], f"{type(module).__name__}.{name}"
            elif isinstance(module, nn.Linear | nn.Conv2d):
                assert decay[id(parameter)] == [0.05], f"{type(module).__name__}.{name}"
                matrices += 1
    assert matrices > 5


@pytest.mark.parametrize(("head_lr", "expected"), [(None, 1e-3), (5e-2, 5e-2)])
def test_learning_rate_of_the_head(net: XrayNet, head_lr: float | None, expected: float) -> None:
    optimizer = AdamW(parameter_groups(net, head_lr), lr=1e-3)
    rates = {group["name"]: group["lr"] for group in optimizer.param_groups}
    assert rates["head"] == rates["head_without_decay"] == expected
    assert {rate for name, rate in rates.items() if name.startswith("backbone")} == {1e-3}
    head = {id(p) for part in (net.head, net.attention) for p in part.parameters()}
    for group in optimizer.param_groups:
        assert {id(p) in head for p in group["params"]} == {group["name"].startswith("head")}


@pytest.mark.parametrize("name", ["test_resnet", "test_vit", "test_convnext", "legacy_xception"])
def test_layer_decay_equals_timm(name: str) -> None:
    """timm counts the layers of a network with its own head, which stands where ours does."""
    net = XrayNet(("a", "b"), name, image_size=64)
    theirs = timm.create_model(name, num_classes=2, in_chans=1)
    groups = param_groups_layer_decay(theirs, weight_decay=0.05, layer_decay=0.7)
    scales = each(groups, "lr_scale", "weight_decay")
    expected = {name: scales[id(parameter)] for name, parameter in theirs.named_parameters()}
    optimizer = make_optimizer(partial(AdamW, lr=2.0, weight_decay=0.05), net, 3.0, 0.7)
    rates = each(optimizer.param_groups, "lr", "weight_decay")
    found = {name: rates[id(parameter)] for name, parameter in net.named_parameters()}
    for parameter, (rate, decay) in found.items():
        place, _, rest = parameter.partition(".")
        scale, theirs_decay = expected[rest] if place == "backbone" else (1.5, decay)
        assert rate == pytest.approx(2.0 * scale), parameter
        assert decay == theirs_decay
    below = {rate for parameter, (rate, _) in found.items() if parameter.startswith("backbone")}
    assert len(below) > 3
    assert max(below) <= 2.0


def test_without_layer_decay_the_optimizer_is_that_of_its_groups(net: XrayNet) -> None:
    ours = make_optimizer(partial(AdamW, lr=1e-3), net, 1e-2)
    assert ours.state_dict() == AdamW(parameter_groups(net, 1e-2), lr=1e-3).state_dict()
    assert len(ours.param_groups) == 4


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        *(({"layer_decay": x}, rf"layer_decay must be .* got {x}") for x in (0.0, -0.5, 1.1)),
        *(
            ({"head_lr": x}, f"rate of head must be .*0, got {x}")
            for x in (math.nan, math.inf, -1e-3)
        ),
    ],
)
def test_rates_that_cannot_be(settings, match) -> None:
    with pytest.raises(ConfigError, match=match):
        make_optimizer(partial(AdamW, lr=1e-3), XrayNet(["a"], "test_resnet"), **settings)


@pytest.mark.parametrize("facts", [{}, {"classifier": "fc"}])
def test_layer_decay_of_unknown_layers(facts: dict[str, str]) -> None:
    net = nn.Module()
    net.backbone = nn.Linear(2, 2)
    net.backbone.pretrained_cfg = {"architecture": "mine", **facts}  # type: ignore[assignment]
    with pytest.raises(ConfigError, match=r"timm states no layers for 'mine'; use .*=null"):
        parameter_groups(net, layer_decay=0.5)


def each(groups, *keys: str) -> dict[int, list[object]]:
    """Some settings of each parameter, by its identity."""
    return {id(p): [group[key] for key in keys] for group in groups for p in group["params"]}


def optimizer_of(lr: float = 1.0) -> SGD:
    return SGD([nn.Parameter(torch.zeros(1))], lr=lr)


@pytest.mark.parametrize(
    ("schedule", "theirs"),
    [
        (Constant(warmup_epochs=3), partial(LinearLR, start_factor=1 / 16, total_iters=15)),
        (Step(milestones=[], factor=0.3), partial(MultiStepLR, milestones=[], gamma=0.3)),
        *(
            (Cosine(warmup_epochs=0, floor=x), partial(CosineAnnealingLR, T_max=500, eta_min=x))
            for x in (0.0, 0.01, 0.3, 1.0)
        ),
        *(
            (Step(milestones=x, factor=0.3), partial(MultiStepLR, milestones=by_step, gamma=0.3))
            for x, by_step in (([30, 60, 90], [150, 300, 450]), ([2, 3], [10, 15]), ([1], [5]))
        ),
    ],
)
def test_equals_torch(schedule: Schedule, theirs) -> None:
    """Over 100 epochs of 5 steps, at each of them."""
    schedule.start(500, 5)
    scheduler = theirs(optimizer := optimizer_of())
    for step in range(501):
        assert schedule(step) == pytest.approx(scheduler.get_last_lr()[0], abs=1e-12)
        optimizer.step()
        scheduler.step()
    assert schedule(10_000) == pytest.approx(schedule(500)), "and it stays there"


def test_cosine_with_warmup() -> None:
    schedule = Cosine(warmup_epochs=2, floor=0.1)
    schedule.start(100, 10)
    factors = np.array([schedule(step) for step in range(101)])
    np.testing.assert_allclose(factors[:21], np.arange(1, 22) / 21)
    rest = 0.1 + 0.9 * (1 + np.cos(np.pi * np.arange(81) / 80)) / 2
    np.testing.assert_allclose(factors[20:], rest)
    schedule = Cosine(warmup_epochs=50)  # for half a run at most
    schedule.start(20, 10)
    factors = [schedule(step) for step in range(21)]
    assert int(np.argmax(factors)) == 10
    assert (factors[10], factors[-1]) == (1, pytest.approx(0.01))


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        (Step(warmup_epochs=1, milestones=[2], factor=0.5), [0.25, 0.5, 0.75, 1, 1, 1, 0.5, 0.5]),
        (Plateau(warmup_epochs=1), [0.25, 0.5, 0.75, 1, 1, 1, 1, 1]),
        (Constant(), [1.0] * 8),
    ],
)
def test_warm_up(schedule, expected) -> None:
    schedule.start(100, 3)
    assert [schedule(step) for step in range(8)] == pytest.approx(expected)


@pytest.mark.parametrize("patience", [0, 1, 3])
def test_plateau_equals_torch(patience: int) -> None:
    schedule = Plateau(factor=0.5, patience=patience)
    optimizer = optimizer_of()
    theirs = lr_scheduler.ReduceLROnPlateau(optimizer, "max", 0.5, patience, threshold=0, eps=0)
    values = np.random.default_rng(0).integers(0, 20, 60) / 20  # with ties
    values[::7] = math.nan
    schedule.start(600, 10)
    cuts = set()
    for epoch, value in enumerate(values.tolist()):
        schedule.update(value)
        theirs.step(value)
        assert schedule(10 * epoch) == pytest.approx(optimizer.param_groups[0]["lr"])
        cuts.add(schedule(10 * epoch))
    assert len(cuts) > 3


@pytest.mark.parametrize(
    ("kind", "settings"),
    [(Constant, {}), (Cosine, {}), (Plateau, {}), (Step, {"milestones": [3], "factor": 0.5})],
)
def test_state_survives_a_checkpoint(kind, settings, tmp_path) -> None:
    def new() -> tuple[SGD, LambdaLR, Schedule]:
        schedule = kind(warmup_epochs=2.5, **settings)
        schedule.start(60, 10)
        optimizer = optimizer_of(0.1)
        return optimizer, LambdaLR(optimizer, schedule), schedule

    def advance(optimizer: SGD, scheduler: LambdaLR, schedule: Schedule) -> list[float]:
        rates = []
        for step in range(20):
            optimizer.step()
            scheduler.step()
            if isinstance(schedule, Plateau) and step % 2:
                schedule.update(0.5)
            rates += scheduler.get_last_lr()
        return rates

    first = new()
    advance(*first)
    torch.save([first[0].state_dict(), first[1].state_dict()], tmp_path / "state.ckpt")
    states = torch.load(tmp_path / "state.ckpt", weights_only=True)
    second = new()
    second[0].load_state_dict(states[0])
    second[1].load_state_dict(states[1])
    assert vars(second[2]) == vars(first[2])
    rates = advance(*second)
    assert rates == advance(*first)
    assert len(set(rates)) > 1


NAN, COUNTS = math.nan, torch.ones(2, 3)
WRONG: dict[tuple[object, str], tuple[object, ...]] = {  # values of a setting
    (Cosine, "warmup_epochs"): (-1, NAN),
    (Cosine, "floor"): (-0.1, 1.5),
    (Plateau, "factor"): (0.0,),
    (Plateau, "patience"): (-1, 1.5),
    (Step, "factor"): (1.5,),
    (Step, "milestones"): ([0, 3], [3, 3]),
    (xl.FreezeBackbone, "epochs"): (0, -1, 1.5, "2"),
    (xl.EMA, "decay"): (0.0, 1.0, -0.1, 2.0),
    (xl.FitGate, "films"): (15,),
    (xl.FitGate, "false_alarms"): (1,),
    (xl.BCE, "label_smoothing"): (1, -0.1),
    (xl.Focal, "gamma"): (-1, "x", math.inf, True),
    (xl.Focal, "alpha"): (2.0,),
    (xl.Focal, "scale"): (NAN,),
    (xl.Asymmetric, "gamma_positive"): (-1,),
    (xl.Asymmetric, "gamma_negative"): (-1,),
    (xl.Asymmetric, "clip"): (1.0,),
    (partial(xl.ClassBalanced, COUNTS), "beta"): (1.0,),
    (partial(xl.ClassBalanced, COUNTS), "gamma"): (-1.0,),
    (xl.PairwiseAUC, "margin"): (-0.1, 1.1, NAN, "x"),
    (xl.PairwiseAUC, "power"): (0, -1, 2.0, "x"),
}


@pytest.mark.parametrize(("make", "name", "value"), [(*k, x) for k in WRONG for x in WRONG[k]])
def test_settings_of_schedules_callbacks_and_losses(make, name: str, value) -> None:
    match = rf"(schedule\.|loss\.|gate: |freeze_|ema_){name} must be .*, got "
    with pytest.raises(ConfigError, match=f"^{match}{re.escape(repr(value))}"):
        make(**{name: value})


def test_a_fused_step_on_a_gpu_that_clips_nothing() -> None:
    plain, told = partial(AdamW, lr=0.1), partial(AdamW, fused=False)
    for given, device, clip, fused in (
        (plain, "cuda", None, True),
        (plain, "cuda", 1.0, False),
        (plain, "cpu", None, False),
        (told, "cuda", None, False),
        (partial(LBFGS, lr=0.1), "cuda", None, False),
    ):
        made = fuse(given, device, clip)
        assert made.keywords.get("fused", False) == fused
        assert made.func is given.func
