"""What a user sees when something goes wrong, and the exit code."""

import atexit
import gc
import os
import signal
import sys
import traceback
import warnings
from collections.abc import Callable

from xray_lightning.errors import XrayError
from xray_lightning.processes import STOPPED, STOPPED_BY, stop_on_signals

USER_ERROR, PARTIAL = 2, 3
KEPT = "; what was written is kept"
GO_ON = f"{KEPT}; start it again to go on"


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
        with stop_on_signals(kept):
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
