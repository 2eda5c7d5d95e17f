"""What a user sees when something goes wrong, and the exit code."""

import atexit
import gc
import os
import signal
import sys
import threading
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from xray_lightning.errors import XrayError

USER_ERROR, PARTIAL = 2, 3
STOPPED = 128  # and the number of the signal
STOPS = (signal.SIGTERM, signal.SIGHUP)  # exit codes 143 and 129; Ctrl-C: 130
KEPT = "; what was written is kept"
GO_ON = f"{KEPT}; start it again to go on"
DEADLINE = 5.0  # seconds that schedulers are sure to leave
STOPPED_BY: list[int] = []  # the signals that came


class PartialError(XrayError):
    """Some files could not be done, all others are: the command ends with exit code 3."""


def run_guarded(command: Callable[[], object], kept: str = GO_ON) -> int:
    """The exit code: 0, 2 for a user's error, 3 for a part, 128 + N for a signal, then ``kept``."""
    gc.set_threshold(10_000)  # imports make a million objects, none of them garbage: looking for it
    atexit.register(gc.freeze)  # among them, also at the end, was a third of the time of a start
    wants_traceback = os.environ.get("HYDRA_FULL_ERROR") == "1"  # a fault of ours always has one
    warnings.formatwarning = lambda message, *_, **__: f"warning: {message}\n"
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra then raises instead of printing and exiting
    try:
        with _stop_on_signals(kept):
            command()
    except BaseException as error:  # re-raised unless the user can act on it
        stops = error, error.__context__  # Lightning makes an exit of Ctrl-C while it handles it
        if STOPPED_BY or any(isinstance(stop, KeyboardInterrupt) for stop in stops):
            number = STOPPED_BY[0] if STOPPED_BY else signal.SIGINT
            print(f"\nstopped by {signal.Signals(number).name}{kept}", file=sys.stderr)
            return STOPPED + number
        from xray_lightning.cli.config import explain_error

        message = explain_error(error) if isinstance(error, Exception) else None
        if message is None:
            raise
        if wants_traceback:
            traceback.print_exc()
        print(f"error: {message}", file=sys.stderr)
        return PARTIAL if isinstance(error, PartialError) else USER_ERROR
    finally:
        if not wants_traceback:
            del os.environ["HYDRA_FULL_ERROR"]
    return 0


@contextmanager
def _stop_on_signals(kept: str) -> Iterator[None]:
    """Within it SIGTERM and SIGHUP stop as Ctrl-C does; what does not stop in time is ended."""
    STOPPED_BY.clear()
    heard = [number for number in STOPS if signal.getsignal(number) is not signal.SIG_IGN]  # nohup
    before = {number: signal.signal(number, _stop) for number in heard}
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    wakeup, over = signal.set_wakeup_fd(writer), threading.Event()
    threading.Thread(target=_end_in_time, args=(reader, over, kept), daemon=True).start()
    try:
        yield
    finally:
        over.set()
        signal.set_wakeup_fd(wakeup)
        os.close(writer)
        for number, handler in before.items():
            signal.signal(number, handler)


def _stop(number: int, _frame: Any) -> None:
    signal.signal(number, signal.SIG_IGN)  # some schedulers send it twice
    STOPPED_BY.append(number)
    raise KeyboardInterrupt


def _end_in_time(reader: int, over: threading.Event, kept: str) -> None:
    """Wait for a signal, which the system writes here even while torch computes; then exit hard."""
    with open(reader, "rb", buffering=0) as signals:
        while number := signals.read(1):
            if number[0] in STOPS and not over.wait(DEADLINE):
                os.write(2, f"\nstopped in the middle{kept}\n".encode())
                os._exit(STOPPED + number[0])
