"""SIGTERM and SIGHUP as schedulers and terminals send them: in time, said, with an exit code."""

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from running import TRAIN, XRAY, run, start

from xray_lightning.folders import lock_folder

pytestmark = pytest.mark.slow

TOY = ["data.patients=60", "image_size=32", "batch_size=8", "callbacks=none", "logger=none"]
TOY += ["model=resnet50", "model.backbone=resnet10t", "trainer=cpu", "threads=1", "report=false"]
LONG = [*TOY, "epochs=500"]


def restored() -> None:
    """A background job of a non-interactive shell inherits an ignored SIGINT."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


def stopped(
    command: list[str],
    folder: Path,
    ready: Callable[[subprocess.Popen[str]], object],
    number: int = signal.SIGTERM,
    **variables: str,
) -> str:
    """What a command says that gets a signal once it is ready; it must end within 5 s, alone."""
    session = {"start_new_session": True, "preexec_fn": restored, "env": os.environ | variables}
    process = start(command, ready, cwd=folder, **session)
    try:
        begun = time.monotonic()
        process.send_signal(number)
        text, _ = process.communicate(timeout=60)
        assert time.monotonic() - begun < 7  # 5 s, and 2 on a busy machine
        assert process.returncode == 128 + number, text[-3000:]
        assert f"stopped by {signal.Signals(number).name}; what was written is kept" in text
        assert "Traceback" not in text
        while time.monotonic() - begun < 15:  # no loader or other process lingers
            try:
                os.killpg(process.pid, 0)
            except ProcessLookupError:
                break
            time.sleep(0.1)
        else:
            pytest.fail("processes linger")
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    return text


def there(path: Path) -> Callable[[object], bool]:
    return lambda _: path.is_file()


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("stopping")
    run([*TRAIN, *TOY, "epochs=1", "hydra.run.dir=done"], folder)
    return folder


@pytest.mark.parametrize(
    ("number", "workers"), [(signal.SIGTERM, 0), (signal.SIGHUP, 0), (signal.SIGTERM, 2)]
)
def test_training(number: int, workers: int, tmp_path: Path) -> None:
    command = [*TRAIN, *LONG, f"workers={workers}", "hydra.run.dir=run"]
    text = stopped(command, tmp_path, there(tmp_path / "run/checkpoints/last.ckpt"), number)
    assert f"continue with: python train.py resume={tmp_path / 'run'}" in text
    assert not (tmp_path / "run/metrics.json").exists()


def test_the_first_epoch(tmp_path: Path) -> None:
    """The same command and resume= both go on after a stop before the first checkpoint."""
    command = [*TRAIN, *TOY, "epochs=1", "hydra.run.dir=run"]
    stopped(command, tmp_path, there(tmp_path / "run/montage.png"))
    assert not (tmp_path / "run/checkpoints/last.ckpt").exists()
    run(command, tmp_path)
    first = json.loads((tmp_path / "run/metrics.json").read_text())
    command[-1] = "hydra.run.dir=again"
    stopped(command, tmp_path, there(tmp_path / "again/montage.png"))
    run([*TRAIN, "resume=again"], tmp_path)
    assert json.loads((tmp_path / "again/metrics.json").read_text()) == first


@pytest.mark.parametrize(
    ("verb", "sign"),
    [
        (["evaluate", "done/checkpoints/best.ckpt", "draws=300000"], "out"),
        (["explain", "done/checkpoints/best.ckpt", "draws=300000"], "out"),
        (["shortcuts", "done/checkpoints/best.ckpt", "draws=300000"], "out"),
        (["score", "table.csv", "draws=300000", "subgroups=true"], "out"),
        (["audit", "data.patients=9000", "draws=20000"], "out"),
        (["compare", "table.csv", "table.csv", "--draws", "3000000"], ""),
        (["cache", "image_size=128", "data.patients=5000"], "outputs/cache/*/done.bin"),
    ],
    ids=lambda each: each[0] if isinstance(each, list) else "",
)
def test_verbs(verb: list[str], sign: str, finished: Path, tmp_path: Path) -> None:
    for name in ("done", "outputs"):
        if verb[0] != "cache":
            (tmp_path / name).symlink_to(finished / name)
    if sign == "out":
        verb = [*verb, f"hydra.run.dir={tmp_path / 'out'}"]
    (tmp_path / "table.csv").write_bytes((finished / "done/predictions_test.csv").read_bytes())
    if verb[0] == "score":
        verb += ["data.patients=60"]
    begun = time.monotonic()

    def ready(_: object) -> bool:
        return bool(list(tmp_path.glob(sign))) if sign else time.monotonic() - begun > 6

    assert "start it again to go on" in stopped([*XRAY, *verb], tmp_path, ready)


@pytest.mark.parametrize("launcher", [[], ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2"]])
def test_a_sweep_stops_as_a_whole(launcher: list[str], tmp_path: Path) -> None:
    command = [*TRAIN, "-m", "seed=0,1,2", *LONG, *launcher, "hydra.sweep.dir=sweep"]
    text = stopped(command, tmp_path, there(tmp_path / "sweep/0/checkpoints/last.ckpt"))
    assert "start the same command again: it runs only what is missing" in text
    assert not list(tmp_path.glob("sweep/*/failure.json"))
    assert not (tmp_path / "sweep/2").exists()
    assert not [path for path in tmp_path.rglob(".*") if path.is_dir()]
    for place in (tmp_path / "sweep").glob("[01]"):  # joblib kills its processes while they write
        with lock_folder(place):  # as the next start does
            assert not list(place.rglob(".*.partial"))


def test_slurm_requeues(tmp_path: Path) -> None:
    """SIGUSR1 asks Slurm to requeue, SIGTERM ends the job, and the same command goes on."""
    tools = tmp_path / "tools"
    tools.mkdir()
    (tools / "scontrol").write_text(f"#!/bin/sh\necho $@ >> {tmp_path}/asked\n")
    (tools / "scontrol").chmod(0o755)
    job = {"SLURM_JOB_ID": "4321", "SLURM_JOB_NAME": "train", "SLURM_NTASKS": "1"}
    job |= {"SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_NODEID": "0"}
    job |= {"SLURM_NODELIST": "127.0.0.1", "PATH": f"{tools}:{os.environ['PATH']}"}
    command = [*TRAIN, *TOY, "epochs=6", "hydra.run.dir=run"]
    asked = []

    def ready(process: subprocess.Popen[str]) -> bool:
        if (tmp_path / "run/checkpoints/last.ckpt").is_file() and not asked:
            asked.append(process.send_signal(signal.SIGUSR1))
        return (tmp_path / "asked").is_file()

    stopped(command, tmp_path, ready, **job)
    assert (tmp_path / "asked").read_text() == "requeue 4321\n"
    run(command, tmp_path, **job)
    command[-1] = "hydra.run.dir=uninterrupted"
    run(command, tmp_path)
    ours, theirs = (tmp_path / name / "metrics.json" for name in ("run", "uninterrupted"))
    assert ours.read_text() == theirs.read_text()
    assert not list(tmp_path.glob("run/hpc_ckpt*"))
