import os
import signal
import subprocess
import sys
import time
from unittest.mock import Mock

import pytest
from hydra.errors import ConfigCompositionException, InstantiationException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from running import start

from xray_lightning.cli.config import explain_error, make
from xray_lightning.cli.failures import PARTIAL, USER_ERROR, PartialError, run_guarded
from xray_lightning.errors import ConfigError, DataNotFoundError


@pytest.fixture(autouse=True)
def no_full_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HYDRA_FULL_ERROR", raising=False)


STOPPED = "\nstopped by SIGINT; what was written is kept; start it again to go on\n"


@pytest.mark.parametrize(
    ("outcome", "code", "said"),
    [
        (None, 0, ""),
        (DataNotFoundError("no table at x"), USER_ERROR, "error: no table at x\n"),
        (PartialError("2 of 9 files"), PARTIAL, "error: 2 of 9 files\n"),
        (KeyboardInterrupt(), 130, STOPPED),
    ],
)
def test_what_is_said_and_the_exit_code(outcome, code, said, capsys) -> None:
    assert (USER_ERROR, PARTIAL) == (2, 3)
    assert run_guarded(Mock(side_effect=outcome)) == code
    assert capsys.readouterr().err == said
    assert "HYDRA_FULL_ERROR" not in os.environ


def test_user_error_with_traceback_on_demand(monkeypatch, capsys) -> None:
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    assert run_guarded(Mock(side_effect=ConfigError("bad"))) == USER_ERROR
    assert "Traceback" in capsys.readouterr().err
    assert os.environ["HYDRA_FULL_ERROR"] == "1"


@pytest.mark.parametrize("fault", [ZeroDivisionError, SystemExit])
def test_our_own_fault_and_other_exits_pass(fault: type[BaseException]) -> None:
    with pytest.raises(fault):
        run_guarded(Mock(side_effect=fault))


def test_exit_that_lightning_makes_of_an_interrupt() -> None:
    def command() -> None:
        try:
            raise KeyboardInterrupt
        except KeyboardInterrupt:
            sys.exit(1)

    assert run_guarded(command) == 130


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_a_signal_stops_like_ctrl_c(number, code, capsys) -> None:
    before = signal.getsignal(number)

    def command() -> None:
        try:
            os.kill(os.getpid(), number)
            time.sleep(60)
        except KeyboardInterrupt:
            os.kill(os.getpid(), number)  # schedulers repeat it
            raise RuntimeError("a loader process died of it") from None

    assert run_guarded(command, "; go on") == code
    assert capsys.readouterr().err == f"\nstopped by {signal.Signals(number).name}; go on\n"
    assert signal.getsignal(number) is before
    assert run_guarded(Mock(side_effect=KeyboardInterrupt())) == 130, "a signal before is forgotten"


def test_nohup_is_respected() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        assert run_guarded(lambda: os.kill(os.getpid(), signal.SIGHUP)) == 0
    finally:
        signal.signal(signal.SIGHUP, before)


ENDS = """
import gc
from xray_lightning.cli.failures import run_guarded
class Garbage:
    def __init__(self): self.own = self
    def __del__(self): print("looked for")
run_guarded(lambda: print(gc.get_threshold()[0], Garbage() is None))
"""


def test_garbage_is_seldom_looked_for_and_not_at_the_end() -> None:
    done = subprocess.run([sys.executable, "-c", ENDS], capture_output=True, text=True, check=True)
    assert done.stdout == "10000 False\n"


STUCK = """
import signal, sys, time
from xray_lightning import processes
from xray_lightning.cli.failures import run_guarded
processes.DEADLINE = 0.3
def stuck():
    for second in range(30):
        try:
            print("ready", flush=True)
            time.sleep(30)
        except KeyboardInterrupt:
            pass  # as a library that waits for its threads
run_guarded(stuck)
"""


def test_what_does_not_stop_is_ended() -> None:
    command, said = [sys.executable, "-c", STUCK], subprocess.PIPE
    process = start(command, lambda it: it.stdout.readline() == "ready\n", stderr=said)
    begun = time.monotonic()
    process.terminate()
    _, errors = process.communicate(timeout=20)
    assert process.returncode == 143
    assert "stopped in the middle; what was written is kept" in errors
    assert time.monotonic() - begun < 10


@pytest.mark.parametrize(
    ("cause", "message"),
    [
        (ConfigError("patients must be 2 or more"), "patients must be 2 or more"),
        (TypeError("unexpected keyword"), "full_key: data: TypeError: unexpected keyword"),
        (None, "full_key: data: Error in call to target 'X'\nfull_key: data"),
    ],
)
def test_cause_inside_a_hydra_error(cause: Exception | None, message: str) -> None:
    outer = InstantiationException("Error in call to target 'X'\nfull_key: data")
    outer.__cause__ = cause
    assert explain_error(outer) == message


def test_internals_are_trimmed() -> None:
    error = ConfigCompositionException("Could not find 'model/foo'\n\nConfig search path:\n\tx")
    assert explain_error(error) == "Could not find 'model/foo'"
    with pytest.raises(OmegaConfBaseException) as caught:
        make(OmegaConf.create({"_target_": "xray_lightning.CsvTable", "table": "???"}))
    assert explain_error(caught.value) == "Missing mandatory value: table"
    error.__cause__ = caught.value
    assert str(explain_error(error)).endswith("Missing mandatory value: table")


def test_a_place_that_cannot_be_written(tmp_path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "file"
    file.touch()
    assert run_guarded((file / "run").mkdir) == USER_ERROR
    message = f"error: {file / 'run'}: Not a directory; change that, or name another folder\n"
    assert capsys.readouterr().err == message
    assert explain_error(OSError(28, "No space left on device")) == (
        "a file or folder: No space left on device; change that, or name another folder"
    )
    assert explain_error(FileNotFoundError(2, "No such file or directory")) is None
