"""A key that no setting has is an error that names the nearest ones, however it was given."""

import pytest
from omegaconf import OmegaConf

from xray_lightning.cli.config import compose_settings
from xray_lightning.cli.settings import read_known_keys, require_known_keys
from xray_lightning.cli.train import train
from xray_lightning.errors import ConfigError

UNKNOWN = [
    *((f"{plus}lr=0.1", "unknown setting lr: optim.optimizer.lr?") for plus in ("", "+", "++")),
    *((f"{plus}modle=xception", "unknown setting modle: .*model") for plus in ("", "+")),
    ("data.patiens=3", "unknown setting data.patiens: data.patients"),
    ("+data.patiens=3", "unknown setting data.patiens: data.patients"),
    ("+optim.lr=3", "unknown setting optim.lr: optim.optimizer.lr"),
    ("+optim.optimizer.bettas=[0,0]", "bettas: optim.optimizer.betas"),
    ("+trainer.max_epoch=3", "unknown setting trainer.max_epoch: trainer.max_epochs"),
    ("+panel.lable=Mass", "unknown setting panel.lable: panel.label"),
    ("+callbacks.heat_map=null", "unknown setting callbacks.heat_map: callbacks.heat_maps"),
    ("+callbacks.heat_maps.evry=2", "unknown setting callbacks.heat_maps.evry: .*every"),
    ("split.fld=1", r"unknown setting split.fld: split.fractions or split.seed\?"),
    ("+nothing_like_it=1", "unknown setting nothing_like_it: .*--help"),
    # a value that must be given does not hide the key
    ("data=csv data.table=labels.csv audit=false", "unknown setting audit: .*--help"),
]
DELETED = [(f"~{k}", f"the setting {k} is missing") for k in ("seed", "sampler", "batch_size")]
WRONG = [
    ("seed=abc", "seed must be a number, such as 0, got 'abc'"),
    ("optim.optimizer.lr=nan", "optim.optimizer.lr must be a number, .*got nan"),
    ("ema_decay=inf", "ema_decay must be a finite number, got inf"),
    ("report=no", "report must be true or false, got 'no'"),
    ("batch_size=true", "batch_size must be a number, .*got True"),
    ("logger=null", "name a file of conf/GROUP"),
    ("+callbacks.x=3", "callbacks.x must be null or have a _target_, got 3"),
    ("callbacks.early_stopping=true", "callbacks.early_stopping must be null or .*got True"),
    ("+logger.a.b=1", r"logger.a must be null or .*got \{'b': 1\}"),
]


@pytest.mark.parametrize(("override", "message"), [*UNKNOWN, *DELETED, *WRONG])
def test_refused(override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        compose_settings(override.split())


@pytest.mark.parametrize(
    "override",
    [
        "+optim.optimizer.betas=[0.9,0.99]",  # an argument of the constructor
        "+trainer.deterministic=true",
        "+callbacks.mine={_target_:my.Callback,anything:1}",
        "+logger.csv._target_=pytorch_lightning.loggers.CSVLogger",
        "model.head_options={power:3}",
        "~callbacks.early_stopping",
        "~trainer.gradient_clip_val",
        "trainer.devices=auto",
        "optim.head_lr=null",
    ],
)
def test_what_may_be_added_or_left_out(override: str) -> None:
    compose_settings([override])


def test_known_keys_are_those_of_the_files() -> None:
    known = read_known_keys()
    assert {"seed", "model", "run_dir", "batch_size"} <= set(known[""])
    assert not {"defaults", "hydra", "experiment", "sweep"} & set(known[""])
    assert set(known["optim"]) == {"optimizer", "head_lr", "layer_decay"}


def test_a_saved_configuration_is_looked_at_as_well() -> None:
    config = compose_settings([])
    OmegaConf.set_struct(config, False)
    del config["trust"], config["monitor"]  # which no run keeps, and no earlier one had
    require_known_keys(config)
    config.old_name = 1
    with pytest.raises(ConfigError, match="unknown setting old_name"):
        require_known_keys(config)


@pytest.mark.parametrize(
    "command",
    [
        "+lr=0.1 +modle=xception",
        "lr=0.1",
        "-m +lr=0.1 seed=0,1",
        "-m lr=0.1,0.2",
        "experiment=mine",
    ],
)
def test_nothing_is_trained(command, tmp_path, monkeypatch, capsys) -> None:
    (tmp_path / "conf/experiment").mkdir(parents=True)
    (tmp_path / "conf/experiment/mine.yaml").write_text("# @package _global_\nlr: 0.1\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["train.py"])
    options = [f"hydra.{kind}.dir={tmp_path / 'out'}" for kind in ("run", "sweep")]
    assert train([*command.split(), *options, "--config-dir", str(tmp_path / "conf")]) == 2
    assert "error: unknown setting lr: optim.optimizer.lr?" in capsys.readouterr().err
    assert not list(tmp_path.glob("out/*/*"))
