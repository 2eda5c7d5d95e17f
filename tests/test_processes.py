"""Several processes: who writes and prints, what each may use, what cannot be shared out."""

import os
import signal
import threading
import time
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest
import torch
from hydra.types import RunMode
from toy import toy_data, toy_net

from xray_lightning import ConfigError, XrayNet, XrayTask, processes
from xray_lightning.cli import build, config, fit
from xray_lightning.cli.config import compose_settings
from xray_lightning.report.terminal import show
from xray_lightning.training.environment import count_processes
from xray_lightning.training.run import stop_together, train
from xray_lightning.training.sharding import FSDP


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*processes.RANKS, "SLURM_NTASKS", "SLURM_JOB_ID", "SLURM_CPUS_PER_TASK"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(processes, "STOPPED_BY", [])  # left as it was


@pytest.mark.parametrize("name", processes.RANKS)
def test_only_the_first_prints(name, monkeypatch, capsys) -> None:
    assert not processes.started_outside()
    assert processes.slurm_step() is None
    for rank, first in ((None, True), ("0", True), ("1", False)):
        if rank is not None:
            monkeypatch.setenv(name, rank)
        assert processes.first_process() == first
        show("a line")
        assert capsys.readouterr().out == "a line\n" * first


def test_cores_are_shared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build, "available_cores", lambda: 8)
    assert [build.own_cores(count) for count in (1, 2, 3, 8, 20)] == [8, 4, 2, 1, 1]
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", "5")
    assert build.own_cores(4) == 5


@pytest.mark.parametrize(
    ("devices", "gpus", "expected"),
    [("1", 4, 1), ("3", 4, 3), ("-1", 4, 4), ("auto", 4, 4), ("auto", 0, 1), ("[0,2]", 4, 2)],
)
def test_processes_of_a_machine(devices, gpus, expected, monkeypatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    asked = compose_settings(["trainer=ddp", f"trainer.devices={devices}"]).trainer.devices
    assert count_processes(asked, on_gpu=gpus > 0) == expected


def sweep(monkeypatch: pytest.MonkeyPatch, mode: RunMode) -> None:
    hydra: Any = SimpleNamespace(initialized=lambda: True, get=lambda: SimpleNamespace(mode=mode))
    monkeypatch.setattr(config, "HydraConfig", hydra)


def test_a_sweep_starts_no_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    sweep(monkeypatch, RunMode.MULTIRUN)
    two: Any = SimpleNamespace(world_size=2)
    with pytest.raises(ConfigError, match=r"a sweep \(-m\) cannot start 2 processes for each run"):
        fit.require_own_processes(two)
    one: Any = SimpleNamespace(world_size=1)
    fit.require_own_processes(one)
    monkeypatch.setenv("SLURM_PROCID", "0")
    fit.require_own_processes(two)
    monkeypatch.delenv("SLURM_PROCID")
    sweep(monkeypatch, RunMode.RUN)
    fit.require_own_processes(two)


def test_a_failure_ends_the_processes_it_started() -> None:
    stopped: list[int] = []
    for launcher in (SimpleNamespace(kill=stopped.append), None):
        trainer: Any = SimpleNamespace(strategy=SimpleNamespace(launcher=launcher), world_size=1)
        with pytest.raises(KeyError), stop_together(trainer, Path(), 32, bool):
            raise KeyError
    assert stopped == [9]


@pytest.mark.parametrize(
    ("precision", "size", "room", "said"),
    [
        ("32-true", 32, 16, "=32-true: batch_size=16 trainer.acc.*=4 has room, as tried; or take"),
        ("bf16-mixed", 30, 6, "mixed: batch_size=3 .*=20 has room, as tried; or take resident"),
        ("bf16-mixed", 30, 1, "mixed: not even 2 images have room; take resident=false or a sm"),
        ("bf16-mixed", 2, None, "mixed: take resident"),
        ("32-true", 8, None, "true: take batch_size=4 .*=4 or trainer.precision=bf16-mixed or res"),
    ],
)
def test_a_full_gpu(precision: str, size: int, room: int | None, said: str) -> None:
    """The largest half of the batch that has room; not tried where shares lie in all processes."""
    trainer: Any = SimpleNamespace(precision=precision, accumulate_grad_batches=2)
    trainer.strategy = Mock(FSDP if room is None else object, launcher=None)
    with (
        pytest.raises(ConfigError, match=said),
        stop_together(trainer, Path(), size, lambda size: size <= room),
    ):
        raise torch.cuda.OutOfMemoryError


def test_what_has_room_is_tried(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By steps of a training on a device that holds four images and the optimiser's memory."""
    data = toy_data(folder, 24, batch_size=16)
    task, features = XrayTask(toy_net(data.labels)), XrayNet.forward_features
    empty, sizes = torch.empty_like, list[int]()

    def forward_features(net: XrayNet, images: torch.Tensor) -> torch.Tensor:
        if len(images) > 4:
            raise torch.cuda.OutOfMemoryError
        sizes.append(len(images))
        return features(net, images)

    kept = Mock(side_effect=empty)
    monkeypatch.setattr(XrayNet, "forward_features", forward_features)
    monkeypatch.setattr(torch, "empty_like", kept)
    with pytest.raises(ConfigError, match=r"batch_size=4 trainer\.acc.*=4 has room, as tried"):
        train(task, data, folder / "full", epochs=1)
    assert sizes == [4]
    asked = [one.args[0] for one in kept.call_args_list]
    assert all(sum(one is it for it in asked) >= 2 for one in task.net.parameters())


def test_ctrl_c_leaves_no_lock_that_nobody_frees() -> None:
    """Amid Condition.__enter__ it left one, and a stop then waited for its threads for ever."""
    send, freed = partial(signal.raise_signal, signal.SIGINT), Mock(return_value=None)
    lock: Any = SimpleNamespace(acquire=None, release=None, __enter__=send, __exit__=freed)
    with pytest.raises(KeyboardInterrupt), processes.stop_on_signals(""), threading.Condition(lock):
        time.sleep(9)
    assert freed.called
    timer = threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT))
    begun = time.monotonic()
    with pytest.raises(KeyboardInterrupt), processes.stop_on_signals(""):
        timer.start() or threading.Event().wait(9)  # inside threading, but holding no lock
    assert time.monotonic() - begun < 5


def test_ctrl_c_within_a_del_is_not_lost() -> None:
    """Python swallows what is raised there."""

    class Gone:
        def __del__(self) -> None:
            signal.raise_signal(signal.SIGINT)

    def command() -> None:
        Gone()
        time.sleep(9)

    begun = time.monotonic()
    with pytest.raises(KeyboardInterrupt), processes.stop_on_signals(""):
        command()
    assert time.monotonic() - begun < 5
