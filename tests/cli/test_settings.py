"""A key that no setting has is an error that names the nearest ones, however it was given.

Simple errors come before torch is loaded; where settings lie, and runs.
"""

import sys
import time
from pathlib import Path

import pytest
from omegaconf import OmegaConf
from running import LIGHT, run

from xray_lightning.cli import settings as locate
from xray_lightning.cli.config import compose_settings
from xray_lightning.cli.settings import read_known_keys, require_known_keys
from xray_lightning.cli.train import free_moved, train
from xray_lightning.errors import ConfigError, DataNotFoundError

WATCHED = """
import sys
from xray_lightning.cli.app import main
try:
    main()
finally:
    print("torch" if "torch" in sys.modules else "light")
"""
OF_A_CHECKPOINT = ("evaluate", "explain", "shortcuts")
OF_A_TABLE = ("score ", "train data=csv data.table=", "data data=csv data.table=")


@pytest.fixture(scope="module", autouse=True)
def started(tmp_path_factory: pytest.TempPathFactory) -> None:
    """The server's own imports, some of scipy's, are no part of a command's seconds."""
    run([sys.executable, "-c", "pass"], tmp_path_factory.mktemp("started"), imports=LIGHT)


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("train seed=abc", "seed must be a number"),
        ("train lr=0.1", "optim.optimizer.lr"),
        ("train model=xcepton", "Could not find 'model/xcepton'"),
        ("train model=nothing", "Available options in 'model'"),
        ("train image_sise=3", "unknown setting image_sise: image_size"),
        ("train data=nih data.root=nowhere", "nowhere does not exist"),
        ("train trainer.devices=0", "trainer.devices must be at least 1"),
        *((f"train resume=none{m}", "no config.yaml there") for m in ("", " hydra.run.dir=new")),
        ("compare any.ckpt any.ckpt", "any.ckpt is a checkpoint, which holds no scores"),
        ("train -m +lr=0.1 seed=0,1", "optim.optimizer.lr"),
        *((f"{verb} none.ckpt", "no checkpoint at none.ckpt") for verb in OF_A_CHECKPOINT),
        ("evaluate any.ckpt loss=focal", "loss: an evaluation can change only data, split"),
        ("evaluate any.ckpt tta=flop", "tta must be none or flip, got 'flop'"),
        ("evaluate any.ckpt draws=many", "draws must be an integer of at least 1, got 'many'"),
        ("explain any.ckpt method=cam", "clahe, cache_dir, cache_local, resident; methods?"),
        ("explain any.ckpt certainty=gate", "clahe, cache_dir, cache_local, resident\n"),
        ("shortcuts any.ckpt seed=3", "seed: an evaluation can change only"),
        ("predict none.ckpt any.ckpt --out new", "no checkpoint at none.ckpt"),
        ("predict any.ckpt none.png --out new", "none.png: no such file or folder"),
        *((words, "none holds no run") for words in ("report none", "card none", "push none me/x")),
        ("sweep none", "none holds no runs"),
        ("compare none none", "none names no run"),
        *((f"{words}none.csv", "there is no table none.csv") for words in OF_A_TABLE),
        ("score any.ckpt subst=test", "unknown setting subst: subset"),
        ("audit predictions=none draws=few", "draws must be an integer of at least 1, got 'few'"),
        ("convert none new", "none does not exist"),
        ("probe data=nih data.root=none", "none does not exist"),
        ("external nope.ckpt data=rsna", "no checkpoint at nope.ckpt"),
        ("external any.ckpt data=[phantom]", "any.ckpt is damaged or no checkpoint"),
        ("external zip.ckpt", "name the test sets"),
        ("external zip.ckpt data=[rsan]", "Could not find 'data/rsan'"),
        ("external zip.ckpt data=[rsna,csv] data.labels=x", "of which data set? data.rsna.labels="),
        ("external zip.ckpt data=[rsna] model=vit", "model=vit: an external validation reads only"),
        ("external zip.ckpt data=[rsna]", "rsna needs more: data.rsna.root="),
        ("external zip.ckpt data=[rsna] data.rsna.root=gone", "gone does not exist"),
    ],
)
def test_errors_before_torch(command: str, message: str, tmp_path) -> None:
    (tmp_path / "any.ckpt").write_bytes(b"not looked at")
    (tmp_path / "zip.ckpt").write_bytes(b"PK\x05\x06" + bytes(18))  # an archive of nothing
    started = time.monotonic()
    text = run([sys.executable, "-c", WATCHED, *command.split()], tmp_path, 2, imports=LIGHT)
    assert message in text
    assert text.split()[-1] == "light", text
    assert "Traceback" not in text
    assert not (tmp_path / "nowhere").exists()
    assert time.monotonic() - started < 20, "0.5 s on an idle machine"


def test_conf_of_the_repository_inside_the_package_or_nowhere(tmp_path, monkeypatch) -> None:
    assert locate.find_conf() == Path(__file__).parents[2] / "conf"
    monkeypatch.setattr(locate, "__file__", str(tmp_path / "package/cli/locate.py"))
    with pytest.raises(DataNotFoundError, match="install it again"):
        locate.find_conf()
    for place in ("package/conf", "conf"):
        (tmp_path / place).mkdir(parents=True)
        (tmp_path / place / "train.yaml").touch()
    assert locate.find_conf() == tmp_path / "package/conf", "the package's own comes first"


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
        *("~callbacks.early_stopping", "~trainer.gradient_clip_val"),
        *("model.head_options={power:3}", "trainer.devices=auto", "optim.head_lr=null"),
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
        *("+lr=0.1 +modle=xception", "-m +lr=0.1 seed=0,1"),
        *("lr=0.1", "-m lr=0.1,0.2", "experiment=mine"),
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


def test_a_resumed_run_has_data_settings_of_its_own() -> None:
    moved = free_moved(["resume=RUN", "data.root=DIR"])
    require_known_keys(compose_settings(moved))  # the phantom, the default, has no root
    with pytest.raises(ConfigError, match=r"unknown setting data\.root"):
        require_known_keys(compose_settings(moved[1:]))
