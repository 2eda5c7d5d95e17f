"""Every option of every group composes, and builds what it says."""

import re
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf
from pytorch_lightning.callbacks import EarlyStopping
from pytorch_lightning.callbacks import ModelCheckpoint as Best
from torch import nn

import xray_lightning as xl
from xray_lightning.cli.build import data_from, run_callbacks, task_from, trainer_from
from xray_lightning.cli.config import compose_settings, make, read_config
from xray_lightning.cli.settings import Settings, require_settings, to_container
from xray_lightning.report.gallery import Panel
from xray_lightning.training.losses import effective_number_weights

CONF = Path(__file__).parents[1] / "conf"
OPTIONS = sorted(f"{path.parent.name}={path.stem}" for path in CONF.glob("*/*.yaml"))

EXTRA = {  # what the user must give
    f"data={path.stem}": re.findall(r"^  (\w+): \?\?\?", path.read_text(), re.MULTILINE)
    for path in CONF.glob("data/*.yaml")
}


@pytest.mark.parametrize("option", OPTIONS)
def test_every_option_says_what_it_is_and_resolves(option: str) -> None:
    group, name = option.split("=")
    text = (CONF / group / f"{name}.yaml").read_text()
    assert "#" in text, "a comment tells a newcomer what this is"
    extra = [f"data.{name}=x" for name in EXTRA.get(option, [])]
    extra += ["data=phantom"] if option.startswith("experiment=") else []
    config = compose_settings([option, *extra])
    OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    assert group != "augment" or callable(make(config.augment))


def test_the_table_of_contents_is_complete() -> None:
    text = (CONF / "train.yaml").read_text()
    for option in OPTIONS:
        group, name = option.split("=")
        line = next(line for line in text.splitlines() if line.strip().startswith(f"- {group}:"))
        assert group == "experiment" or name in line, f"{option} is not in train.yaml"


def small_task(*overrides: str) -> xl.XrayTask:
    small = ["data.patients=60", "model=resnet50", "model.backbone=resnet10t", "image_size=32"]
    config = compose_settings([*small, *overrides])
    return task_from(config, data_from(config))


@pytest.mark.parametrize(
    ("overrides", "loss", "schedule"),
    [
        ([], "BCE", xl.Cosine),
        (["loss=weighted_bce", "schedule=plateau"], "WeightedBCE", xl.Plateau),
        (["optim=sgd", "schedule=step"], "BCE", xl.Step),
        (["optim=adam", "schedule=constant", "optim.layer_decay=0.75"], "BCE", xl.Constant),
    ],
)
def test_task_of_a_configuration(overrides: list[str], loss: str, schedule: type) -> None:
    task = small_task(*overrides)
    assert type(task.loss).__name__ == loss
    assert type(task.schedule) is schedule


def loss_of(*overrides: str) -> tuple[nn.Module, xl.XrayDataModule]:
    """The loss of a configuration, and data that has a label without positives."""
    config = compose_settings(["data.patients=12", "image_size=32", *overrides])
    data = data_from(config)
    assert data.labels_without_positives("train")
    return data.complete_loss(make(config.loss)), data


@pytest.mark.parametrize(
    "name", sorted({p.stem for p in (CONF / "loss").glob("*.yaml")} - {"conditional"})
)
def test_losses_build_and_train(name: str) -> None:
    loss, data = loss_of(f"loss={name}")
    targets = torch.from_numpy(data.subset_targets("train"))
    logits = torch.zeros_like(targets).requires_grad_()
    value = loss(logits, targets)
    (gradient,) = torch.autograd.grad(value, logits)
    assert value > 0
    assert torch.isfinite(value)
    assert (gradient[targets == 1] < 0).all()


def test_a_conditional_loss_gets_the_hierarchy() -> None:
    sets = ["data=several", "data.sets=[phantom]", "data.phantom.patients=12", "image_size=32"]
    config = compose_settings(["loss=conditional", "data.labels=[Mass,Nodule,Nodule/Mass]", *sets])
    loss = data_from(config).complete_loss(make(config.loss))
    assert loss.ancestors.int().tolist() == [[0, 0, 1], [0, 0, 1], [0, 0, 0]]


def test_a_partial_loss_gets_what_it_asks_for() -> None:
    weighted, data = loss_of("loss=weighted_bce")
    assert isinstance(weighted, xl.WeightedBCE)
    torch.testing.assert_close(
        weighted.positive_weight, data.positive_weight(), rtol=0, atol=0, equal_nan=True
    )
    balanced, data = loss_of("loss=class_balanced", "loss.beta=0.9")
    assert isinstance(balanced, xl.ClassBalanced)
    assert balanced.weights.equal(effective_number_weights(data.class_counts(), 0.9))


@pytest.mark.parametrize("name", sorted(p.stem for p in (CONF / "sampler").glob("*.yaml")))
def test_samplers_draw(name: str) -> None:
    data = data_from(compose_settings([f"sampler={name}", "data.patients=60"]))
    if name == "hospital_balanced":
        with pytest.raises(xl.DataError, match="data=several"):
            data.draw_targets()
        return
    drawn = data.draw_targets()
    patients = {record.patient_id for record in data.subset_records("train")}
    expected = len(patients if name == "patient_balanced" else data.subset_records("train"))
    assert drawn.shape == (expected, 14)


@pytest.mark.parametrize("sign", ["", "+"])
def test_head_and_blocks_of_a_configuration(sign: str) -> None:
    blocks = ["model.cbam_after=[layer2.0,layer4]", "model.cbam=spatial"]
    head = ["model.head=csra", f"{sign}model.head_options={{temperatures:[1,99],residual:0.2}}"]
    net = small_task("model.backbone=test_resnet", *blocks, *head).net
    assert (net.head.temperatures, net.head.residual) == ([1, 99], 0.2)
    assert list(net.attention) == ["layer2-0", "layer4"]
    assert type(net.config["cbam_after"]) is list
    assert type(net.config["head_options"]["temperatures"]) is list


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("seed=1.5", "seed must be an integer"),
        ("seed=-1", "seed must be an integer"),
        ("threads=0", "threads must be an integer of at least 1"),
        ("epochs=0", "epochs must be an integer of at least 1"),
        ("epochs=1.5", "epochs must be an integer of at least 1, got 1.5"),
        ("freeze_epochs=-1", "freeze_epochs must be an integer of at least 0"),
        *(("operating_point.rule=best", "got 'best'"), ("operating_point.value=1.5", "got 1.5")),
        *(("calibration=sigmoid", "got 'sigmoid'"), ("draws=0", "got 0")),
        ("trainer.devices=0", "trainer.devices must be at least 1, or -1 .*got 0"),
        ("trainer.devices=-2", "trainer.devices must be at least 1, or -1 .*got -2"),
    ],
)
def test_settings_are_refused_before_training(override: str, message: str) -> None:
    config = compose_settings([override])
    with pytest.raises(xl.ConfigError, match=message):
        require_settings(config)
    require_settings(compose_settings(["calibration=null"]))


def test_callbacks_of_a_configuration(tmp_path: Path) -> None:
    data = data_from(compose_settings(["data.patients=60"]))

    def of(config: Settings) -> list[object]:
        return run_callbacks(config, tmp_path, nn.Identity(), data)

    plain = compose_settings([])
    assert not {"EMA", "FreezeBackbone"} & {type(each).__name__ for each in of(plain)}
    config = compose_settings(["freeze_epochs=2", "ema_decay=0.99"])
    found = {type(callback): callback for callback in of(config)}
    assert found[xl.FreezeBackbone].epochs == 2  # type: ignore[attr-defined]
    assert found[xl.EMA].decay == 0.99  # type: ignore[attr-defined]
    loss = compose_settings(["monitor=val/loss"])
    del (saved := to_container(plain))["monitor"], saved["tolerance"]
    OmegaConf.save(OmegaConf.create(saved), tmp_path / "config.yaml")  # of an earlier version
    plain = OmegaConf.create(read_config(tmp_path))
    for config, wanted in ((plain, ("val/auroc", "max")), (loss, ("val/loss", "min"))):
        kinds = Best, EarlyStopping
        best, stop = (next(c for c in of(config) if isinstance(c, k)) for k in kinds)
        assert (best.monitor, best.mode) == (stop.monitor, stop.mode) == wanted
        assert best.lowest is None


def test_results_figure() -> None:
    assert Panel(**compose_settings([]).panel) == Panel(None, "confident", 4, 0)
    config = compose_settings(["panel.label=Edema", "panel.rule=random", "panel.seed=3"])
    assert Panel(**config.panel) == Panel("Edema", "random", 4, 3)


def test_what_a_trainer_cannot_be(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    config = compose_settings(["trainer=gpu", "logger=none"])
    with pytest.raises(xl.ConfigError, match="torch sees no GPU"):
        trainer_from(config, Path())
    for setting, message in (
        ("strategy=fsdp", "trainer: .*fsdp.* requires a GPU"),
        ("precision=bf16-true", r"trainer\.precision must be one of auto, .*, got 'bf16-true'"),
    ):
        config = compose_settings(["trainer=cpu", f"trainer.{setting}", "logger=none"])
        with pytest.raises(xl.ConfigError, match=message):
            trainer_from(config, Path())


def test_cudnn_tries_its_algorithms(monkeypatch: pytest.MonkeyPatch) -> None:
    """To train on a GPU, unless every run is to be the same; scores always are."""
    for flag in ("benchmark", "deterministic", "allow_tf32"):
        monkeypatch.setattr(torch.backends.cudnn, flag, False)
    for more, callbacks, tries in (
        ([], [], True),
        ([], None, False),
        (["+trainer.benchmark=false"], [], False),
        (["+trainer.deterministic=true"], [], False),
    ):
        trainer_from(compose_settings(["trainer=cpu", "logger=none", *more]), Path(), callbacks)
        assert torch.backends.cudnn.benchmark == tries
        torch.use_deterministic_algorithms(mode=False)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["optim.optimizer.lr=-1"], r"^optim\.optimizer: Invalid learning rate"),
        (["optim.optimizer.lr=-1", "optim.layer_decay=2.0"], r"^optim\.layer_decay must be"),
        (["batch_size=1"], "batch_size=1: at image_size=32 a batch norm of resnet10t"),
        (
            ["model.backbone=vit_tiny_patch16_224", "image_size=100"],
            r"image_size=100: vit_tiny_patch16_224 .* 7.8% of the image never; use 96 or 112",
        ),
    ],
)
def test_what_cannot_be_trained(overrides: list[str], message: str) -> None:
    with pytest.raises(xl.ConfigError, match=message):
        small_task(*overrides)
