from datetime import datetime
from pathlib import Path

import pytest

from xray_lightning.cli import settings as locate
from xray_lightning.errors import ConfigError, DataNotFoundError


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


def test_name_of_a_run() -> None:
    folder = locate.name_run(None, "my net", "patient", now=datetime(2026, 1, 2, 3, 4, 5))
    assert folder == "outputs/2026-01-02_03-04-05_my_net_patient"


def test_tasks_of_slurm_agree_on_the_name(monkeypatch: pytest.MonkeyPatch) -> None:
    names = set()
    for rank, second in (("0", 5), ("1", 6)):
        step = {"SLURM_JOB_ID": "77", "SLURM_STEP_ID": "2", "SLURM_NTASKS": "2"}
        for name, value in (step | {"SLURM_PROCID": rank}).items():
            monkeypatch.setenv(name, value)
        now = datetime(2026, 1, 2, 3, 4, second)
        names.add(locate.name_run(None, "net", "patient", now=now))
    assert names == {"outputs/slurm-77.2_net_patient"}
    monkeypatch.setenv("SLURM_NTASKS", "1")
    assert "2026" in locate.name_run(None, "net", "patient", now=datetime(2026, 1, 2))


def test_resumed_run(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no config\.yaml there"):
        locate.name_run(str(tmp_path), "a", "b")
    (tmp_path / "config.yaml").touch()
    assert locate.name_run(str(tmp_path), "a", "b") == str(tmp_path)
