"""What a user sees when something goes wrong, and the exit code."""

import errno
import os
import sys
import traceback
import warnings
from collections.abc import Callable

from xray_lightning.errors import XrayError

# What only the owner of the disk can mend: no right, no room, a file where a folder should be.
OF_THE_DISK = {"EACCES", "EPERM", "EROFS", "ENOSPC", "EDQUOT", "ENOTDIR", "EEXIST"}

USER_ERROR = 2
PARTIAL = 3
INTERRUPTED = 130


class PartialError(XrayError):
    """Some files could not be done, all others are; the message says how many and where it stands.

    The command has finished: this is how it ends with exit code 3.
    """


def guarded(command: Callable[[], object]) -> int:
    """Run a command; its exit code is 0, 2 for a user's error, 3 for a part, 130 for Ctrl-C.

    A user's error is printed without a traceback unless HYDRA_FULL_ERROR=1. Anything else is a
    fault of ours and keeps its traceback.
    """
    wants_traceback = os.environ.get("HYDRA_FULL_ERROR") == "1"
    warnings.formatwarning = lambda message, *_, **__: f"warning: {message}\n"
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra then raises instead of printing and exiting
    try:
        command()
    except (KeyboardInterrupt, SystemExit) as stop:
        if not _by_the_user(stop):
            raise
        print("\ninterrupted; what was written is kept", file=sys.stderr)
        return INTERRUPTED
    except Exception as error:  # re-raised unless the user can mend it
        message = user_message(error)
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


def _by_the_user(stop: BaseException) -> bool:
    """Whether a stop is Ctrl-C; Lightning turns it into an exit while it handles it."""
    return isinstance(stop, KeyboardInterrupt) or isinstance(stop.__context__, KeyboardInterrupt)


def user_message(error: BaseException) -> str | None:
    """The message for an error the user can mend; None for a fault of ours."""
    from hydra.errors import HydraException, InstantiationException
    from omegaconf.errors import OmegaConfBaseException

    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, XrayError):
            return str(cause)
        if isinstance(cause, OSError) and errno.errorcode.get(cause.errno or 0) in OF_THE_DISK:
            place = cause.filename or "a file or folder"
            return f"{place}: {cause.strerror}; mend that, or name another folder"
        cause = cause.__cause__
    if isinstance(error, InstantiationException):
        reason = error.__cause__
        detail = f"{type(reason).__name__}: {reason}" if reason else str(error)
        return f"{str(error).splitlines()[-1]}: {detail}"
    if isinstance(error, HydraException | OmegaConfBaseException):
        deeper = error.__cause__ if isinstance(error.__cause__, OmegaConfBaseException) else None
        return "\n".join(_trimmed(str(each)) for each in (error, deeper) if each is not None)
    return None


def _trimmed(text: str) -> str:
    """Without the internals that Hydra and OmegaConf add below the message."""
    kept = []
    for line in text.splitlines():
        if line.startswith("Config search path"):
            break
        if not line.lstrip().startswith(("full_key:", "object_type=", "reference_type=")):
            kept.append(line)
    return "\n".join(kept).rstrip()
