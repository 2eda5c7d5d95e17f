from pathlib import Path

import pytest
from hydra.errors import OverrideParseException

from xray_lightning.cli.overrides import composed, make, overridden, split_run_dir
from xray_lightning.errors import ConfigError

SAVED = {
    "data": {"_target_": "xray_lightning.data.phantom.Phantom", "patients": 4, "seed": 0},
    "split": {"_target_": "x", "seed": 1},
    "image_size": 32,
    "seed": 0,
}


def test_composed_with_the_folder_for_results() -> None:
    config, folder = composed(["data.patients=7", "hydra.run.dir=a/b"])
    assert config.data.patients == 7
    assert folder == Path("a/b")
    assert config.model.weights == "none"
    assert composed([])[1] is None


def test_make_gives_plain_containers() -> None:
    config, _ = composed([])
    assert type(make(config.split).keywords["fractions"]) is list


def test_value_and_group_overrides() -> None:
    config = overridden(SAVED, ["seed=3", "split=official", "split.val_fraction=0.2"])
    assert config.seed == 3
    assert config.split._target_ == "xray_lightning.data.splits.official_split"
    assert config.split.val_fraction == 0.2
    assert config.image_size == 32


def test_another_data_set() -> None:
    config = overridden(SAVED, ["data=nih", "data.root=/x"])
    assert config.data.root == "/x"
    assert "patients" not in config.data
    assert config.image_size == 32, "the data group's image_size must not leak into a saved run"


@pytest.mark.parametrize("text", ["+a=1", "~seed", "seed=1,2"])
def test_only_plain_changes(text: str) -> None:
    with pytest.raises(ConfigError, match="only KEY=VALUE"):
        overridden(SAVED, [text])


@pytest.mark.parametrize("text", ["sed=1", "data.root=x", "nothing.at.all=1"])
def test_unknown_setting(text: str) -> None:
    with pytest.raises(ConfigError, match=f"unknown setting {text.partition(chr(61))[0]}"):
        overridden(SAVED, [text])


def test_malformed() -> None:
    with pytest.raises(OverrideParseException):
        overridden(SAVED, ["seed"])


def test_last_folder_wins() -> None:
    values, folder = split_run_dir(["hydra.run.dir=a", "x=1", "hydra.run.dir=b"])
    assert (values, folder) == (["x=1"], Path("b"))
