import os
import shutil
import subprocess
import sys
import time
from datetime import datetime
from pathlib import Path
from unittest.mock import Mock

import pytest
from running import kill, start

from xray_lightning import ConfigError, OutputError, folders
from xray_lightning.folders import OWNER, LockedError, lock_folder, name_run, prepare_folder
from xray_lightning.writing import HOST


def test_a_folder_is_made_and_stays_empty(tmp_path: Path) -> None:
    folder = prepare_folder(tmp_path / "run" / "explain")
    assert folder.is_dir()
    assert not list(folder.iterdir())
    assert prepare_folder(folder) == folder


def test_a_file_where_a_folder_should_be(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("")
    for folder in (tmp_path / "run", tmp_path / "run" / "explain"):
        with pytest.raises(ConfigError, match=rf"cannot write to the folder {folder} \("):
            prepare_folder(folder)


def test_a_folder_without_the_right_to_write(tmp_path, monkeypatch) -> None:
    refuse = Mock(side_effect=PermissionError(13, "Permission denied"))
    monkeypatch.setattr(folders, "TemporaryFile", refuse)
    with pytest.raises(ConfigError, match=r"\(Permission denied\): make it writable, or name"):
        prepare_folder(tmp_path)


HOLD = """
import os, sys, time
from pathlib import Path
from xray_lightning.folders import lock_folder
with lock_folder(Path(sys.argv[1])):
    child = os.fork() if sys.argv[2] == "forks" else 1
    if child:
        print("held", flush=True)
    time.sleep(60 if child else 3)
"""


def holder(folder: Path, what: str = "alone") -> subprocess.Popen[str]:
    """A process that holds a folder."""
    command = [sys.executable, "-c", HOLD, folder, what]
    return start(command, lambda process: process.stdout.readline() == "held\n")


def test_a_folder_belongs_to_one_process_until_it_is_dead(tmp_path: Path) -> None:
    process = holder(tmp_path / "run")
    begun = time.monotonic()
    held = pytest.raises(LockedError, match=rf"run is being .*\({process.pid} on {HOST}\)")
    with held, lock_folder(tmp_path / "run"):
        pass
    assert time.monotonic() - begun < 1
    kill(process)
    with lock_folder(tmp_path / "run"):
        assert (tmp_path / "run" / OWNER).read_text() == f"{HOST} {os.getpid()}"
    assert not (tmp_path / "run" / OWNER).exists()


def test_children_of_a_dead_owner_are_waited_for(tmp_path: Path) -> None:
    process = holder(tmp_path, "forks")
    process.kill()
    process.wait()
    with lock_folder(tmp_path):
        pass
    process.communicate()


def test_an_owner_on_another_host_is_named_and_not_waited_for(tmp_path: Path) -> None:
    process = holder(tmp_path)
    (tmp_path / OWNER).write_text("node17 1")
    with pytest.raises(LockedError, match=r"1 on node17"), lock_folder(tmp_path):
        pass
    (tmp_path / OWNER).unlink()  # between the lock and the name
    with pytest.raises(LockedError, match="a process on a host unknown"), lock_folder(tmp_path):
        pass
    kill(process)


def test_a_claimed_folder_that_vanished(tmp_path: Path) -> None:
    gone = pytest.raises(OutputError, match="run was removed or renamed")
    with gone, lock_folder(tmp_path / "run"):
        shutil.rmtree(tmp_path / "run")


def test_a_claim_cleans_up_what_the_dead_left(tmp_path: Path) -> None:
    (tmp_path / f".a.csv.{HOST}.{2**22 + 1}.partial").write_text("half")  # above any process id
    with lock_folder(tmp_path):
        assert {path.name for path in tmp_path.iterdir()} == {".lock", OWNER}


def test_name_of_a_run() -> None:
    folder = name_run(None, "my net", "patient", now=datetime(2026, 1, 2, 3, 4, 5))
    assert folder == "outputs/2026-01-02_03-04-05_my_net_patient"


def test_tasks_of_slurm_agree_on_the_name(monkeypatch: pytest.MonkeyPatch) -> None:
    names = set()
    for rank, second in (("0", 5), ("1", 6)):
        step = {"SLURM_JOB_ID": "77", "SLURM_STEP_ID": "2", "SLURM_NTASKS": "2"}
        for name, value in (step | {"SLURM_PROCID": rank}).items():
            monkeypatch.setenv(name, value)
        names.add(name_run(None, "net", "patient", now=datetime(2026, 1, 2, 3, 4, second)))
    assert names == {"outputs/slurm-77.2_net_patient"}
    monkeypatch.setenv("SLURM_NTASKS", "1")
    assert "2026" in name_run(None, "net", "patient", now=datetime(2026, 1, 2))


def test_resumed_run(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no config\.yaml there"):
        name_run(str(tmp_path), "a", "b")
    (tmp_path / "config.yaml").touch()
    assert name_run(str(tmp_path), "a", "b") == str(tmp_path)
