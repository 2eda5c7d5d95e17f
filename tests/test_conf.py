"""Every option of every group composes, and builds what it says."""

from pathlib import Path

import pytest
from omegaconf import OmegaConf

from xray_lightning.cli.build import data_from, prepare_process, task_from
from xray_lightning.cli.overrides import composed, make
from xray_lightning.errors import ConfigError
from xray_lightning.losses import WeightedBCE
from xray_lightning.optim import Cosine, Plateau

CONF = Path(__file__).parents[1] / "conf"
OPTIONS = sorted(f"{path.parent.name}={path.stem}" for path in CONF.glob("*/*.yaml"))


@pytest.mark.parametrize("option", OPTIONS)
def test_every_option_composes_and_resolves(option: str) -> None:
    extra = {
        "data=nih": ["data.root=x"],
        "data=csv": ["data.table=x.csv"],
        "data=rsna": ["data.root=x"],
    }.get(option, [])
    config, _ = composed([option, *extra])
    OmegaConf.to_container(config, resolve=True, throw_on_missing=True)


@pytest.mark.parametrize("option", OPTIONS)
def test_every_option_says_what_it_is(option: str) -> None:
    group, name = option.split("=")
    text = (CONF / group / f"{name}.yaml").read_text()
    assert "#" in text, "a comment tells a newcomer what this is"


def test_the_table_of_contents_is_complete() -> None:
    text = (CONF / "train.yaml").read_text()
    for option in OPTIONS:
        group, name = option.split("=")
        line = next(line for line in text.splitlines() if line.strip().startswith(f"- {group}:"))
        assert group == "experiment" or name in line, f"{option} is not in train.yaml"


@pytest.mark.parametrize("name", sorted(p.stem for p in (CONF / "augment").glob("*.yaml")))
def test_augmentations_build(name: str) -> None:
    config, _ = composed([f"augment={name}"])
    assert callable(make(config.augment))


@pytest.mark.parametrize(
    ("overrides", "loss", "schedule"),
    [([], "BCE", Cosine), (["loss=weighted_bce", "optim=adamw_plateau"], "WeightedBCE", Plateau)],
)
def test_task_of_a_configuration(overrides: list[str], loss: str, schedule: type) -> None:
    small = ["data.patients=60", "model=resnet50", "model.backbone=resnet10t", "image_size=32"]
    config, _ = composed([*small, *overrides])
    data = data_from(config)
    task = task_from(config, data)
    assert type(task.loss).__name__ == loss
    assert isinstance(task.schedule, schedule)
    if isinstance(task.loss, WeightedBCE):
        assert task.loss.positive_weight.equal(data.positive_weight()) or len(
            data.labels_without_positives("train")
        )


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("seed=x", "seed must be an integer"),
        ("seed=-1", "seed must be an integer"),
        ("threads=0", "threads must be an integer of at least 1"),
        ("epochs=0", "epochs must be an integer of at least 1"),
    ],
)
def test_bad_numbers(override: str, message: str) -> None:
    config, _ = composed([override])
    with pytest.raises(ConfigError, match=message):
        prepare_process(config)


def test_bad_optimiser() -> None:
    config, _ = composed(
        ["data.patients=60", "model.backbone=resnet10t", "optim.optimizer.lr=-1", "image_size=32"]
    )
    with pytest.raises(ConfigError, match=r"optim\.optimizer: Invalid learning rate"):
        task_from(config, data_from(config))


def test_gpu_demanded_where_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    from xray_lightning.cli import build

    monkeypatch.setattr(build.torch.cuda, "is_available", lambda: False)
    config, _ = composed(["trainer=gpu", "logger=none"])
    with pytest.raises(ConfigError, match="torch sees no GPU"):
        build.trainer_from(config, [], fit=False)
