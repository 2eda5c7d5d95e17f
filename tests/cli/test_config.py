from pathlib import Path
from typing import Any

import pytest
from hydra.errors import InstantiationException, OverrideParseException
from omegaconf import OmegaConf

from xray_lightning.cli.config import change_settings, compose_settings, make, split_run_dir
from xray_lightning.cli.request import choose_labels
from xray_lightning.errors import ConfigError

SAVED = {
    "data": {"_target_": "xray_lightning.data.phantom.Phantom", "patients": 4, "seed": 0},
    "split": {"_target_": "x", "seed": 1},
    "image_size": 32,
    "seed": 0,
}


def test_composed_with_the_folder_for_results() -> None:
    config, folder = compose_settings(["data.patients=7", "hydra.run.dir=a/b"])
    assert (config.data.patients, folder, config.model.weights) == (7, Path("a/b"), "none")
    assert compose_settings([])[1] is None


def test_make_gives_plain_containers() -> None:
    config, _ = compose_settings([])
    assert type(make(config.split).keywords["fractions"]) is list


def test_value_and_group_overrides() -> None:
    config = change_settings(SAVED, ["seed=3", "split=official", "split.val_fraction=0.2"])
    assert (config.seed, config.split._target_) == (3, "xray_lightning.official_split")
    assert (config.split.val_fraction, config.image_size) == (0.2, 32)


def test_another_data_set() -> None:
    config = change_settings(SAVED, ["data=nih", "data.root=/x"])
    assert config.data.root == "/x"
    assert "patients" not in config.data
    assert config.image_size == 32, "the data group's image_size must not leak into a saved run"


@pytest.mark.parametrize("text", ["+a=1", "~seed", "seed=1,2"])
def test_only_plain_changes(text: str) -> None:
    with pytest.raises(ConfigError, match="only KEY=VALUE"):
        change_settings(SAVED, [text])


@pytest.mark.parametrize("text", ["sed=1", "data.root=x", "nothing.at.all=1"])
def test_unknown_setting(text: str) -> None:
    with pytest.raises(ConfigError, match=f"unknown setting {text.partition(chr(61))[0]}"):
        change_settings(SAVED, [text])


def test_malformed() -> None:
    with pytest.raises(OverrideParseException):
        change_settings(SAVED, ["seed"])


def test_last_folder_wins() -> None:
    values, folder = split_run_dir(["hydra.run.dir=a", "x=1", "hydra.run.dir=b"])
    assert (values, folder) == (["x=1"], Path("b"))


class Holder:
    def __init__(self, size: int, labels: tuple[str, ...]) -> None:
        self.size, self.labels = size, labels


def test_text_from_data_is_never_evaluated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DEMO_SECRET", "hunter2")
    node = OmegaConf.create({"_target_": f"{__name__}.Holder", "size": "${oc.decode:'3'}"})
    labels = ("${oc.env:DEMO_SECRET}", "???", "${seed}")
    made = make(node, labels=labels)
    assert (made.size, made.labels) == (3, labels)


def test_what_a_constructor_raises_keeps_its_place() -> None:
    node = OmegaConf.create({"_target_": f"{__name__}.Holder", "length": 3})
    with pytest.raises(InstantiationException, match="Holder") as caught:
        make(node, labels=())
    assert isinstance(caught.value.__cause__, TypeError)


def test_a_table_of_its_own_brings_its_split(tmp_path: Path) -> None:
    saved, _ = compose_settings([])
    plain: Any = OmegaConf.to_container(saved)
    table = ["data=csv", f"data.table={tmp_path}/t.csv"]
    assert change_settings(plain, table).split._target_.endswith("auto_split")
    assert change_settings(plain, [*table, "split=kfold"]).split._target_.endswith("kfold_split")
    assert change_settings(plain, [*table, "split.seed=3"]).split._target_.endswith("patient_split")
    assert change_settings(plain, ["data=nih"]).split == saved.split
    assert compose_settings(table)[0].split._target_.endswith("auto_split")
    assert compose_settings([*table, "split=patient"])[0].split._target_.endswith("patient_split")


def test_labels_asked() -> None:
    assert choose_labels("shared", ["Mass", "Edema"], ["Edema", "Hernia", "Mass"]) == (
        "Mass",
        "Edema",
    )
    assert choose_labels("[Edema, Mass]", ["Mass", "Edema"]) == ("Edema", "Mass")
    for text, known in (("Hernia", "Mass"), ("shared", "Edema"), ("[]", "Mass")):
        with pytest.raises(ConfigError, match=r"these are shared: (Mass|none)"):
            choose_labels(text, ["Mass"], [known])
