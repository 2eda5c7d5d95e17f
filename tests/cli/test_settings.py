"""Simple errors come before torch is loaded; where settings lie, and runs."""

import sys
import time
from pathlib import Path

import pytest
from running import LIGHT, run

from xray_lightning.cli import settings as locate
from xray_lightning.errors import DataNotFoundError

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
        ("train optim.optimizer.lr=nan", "optim.optimizer.lr must be a number"),
        ("train resume=none", "no config.yaml there"),
        ("train -m +lr=0.1 seed=0,1", "optim.optimizer.lr"),
        *((f"{verb} none.ckpt", "no checkpoint at none.ckpt") for verb in OF_A_CHECKPOINT),
        ("evaluate any.ckpt loss=focal", "loss: an evaluation can change only data, split"),
        ("evaluate any.ckpt tta=flop", "tta must be none or flip, got 'flop'"),
        ("evaluate any.ckpt draws=many", "draws must be an integer of at least 1, got 'many'"),
        ("explain any.ckpt method=cam", "method: an evaluation can change only"),
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
        ("external zip.ckpt data=[rsna,csv] data.root=x", "of which data set?"),
        ("external zip.ckpt data=[rsna] data.labels=shared", "set? data.rsna.labels="),
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


def test_conf_of_the_repository() -> None:
    assert locate.find_conf() == Path(__file__).parents[2] / "conf"


def test_conf_inside_the_package_comes_first(tmp_path, monkeypatch) -> None:
    for place in ("package/conf", "conf"):
        (tmp_path / place).mkdir(parents=True)
        (tmp_path / place / "train.yaml").touch()
    monkeypatch.setattr(locate, "__file__", str(tmp_path / "package/cli/locate.py"))
    assert locate.find_conf() == tmp_path / "package/conf"


def test_broken_installation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locate, "__file__", str(tmp_path / "package/cli/locate.py"))
    with pytest.raises(DataNotFoundError, match="install the package again"):
        locate.find_conf()
