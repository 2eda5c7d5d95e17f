"""Which process of a run this is, what it may say and how it stops, before anything heavy loads."""

import _thread
import logging
import os
import signal
import sys
import threading
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

RANKS = ("RANK", "SLURM_PROCID", "LOCAL_RANK", "NODE_RANK")  # torchrun, Slurm, Lightning, by hand
STOPPED = 128  # and the number of the signal: an exit code
STOPS = (signal.SIGTERM, signal.SIGHUP)  # exit codes 143 and 129; Ctrl-C: 130
DEADLINE = 5.0  # seconds that schedulers are sure to leave
STOPPED_BY: list[int] = []  # the signals that came
PUT_OFF: list[int] = []  # those that came where nothing can be stopped, and come again
REMARKS = (
    ".*does not have many workers.*",  # on a CPU they would fight with the compute threads
    ".*smaller than the logging interval.*",  # figures are logged once an epoch
    ".*isinstance.treespec, LeafSpec.*",  # inside Lightning
    ".*Checkpoint directory .* exists and is not empty.*",  # a resumed run
)


def first_process() -> bool:
    """Whether this process writes, logs and prints: the first of a run, or the only one."""
    return all(int(os.environ.get(name, "0")) == 0 for name in RANKS)


def started_outside() -> bool:
    """Whether Slurm's srun or torchrun started the processes, and Lightning must not."""
    return "SLURM_PROCID" in os.environ or "RANK" in os.environ


def slurm_step() -> str | None:
    """``slurm-<job>.<step>`` or ``torchrun-<id>.<port>``, the same in each task; otherwise None."""
    if "TORCHELASTIC_RUN_ID" in os.environ:
        return "torchrun-{TORCHELASTIC_RUN_ID}.{MASTER_PORT}".format(**os.environ)
    if int(os.environ.get("SLURM_NTASKS", "1")) == 1 or "SLURM_JOB_ID" not in os.environ:
        return None
    return f"slurm-{os.environ['SLURM_JOB_ID']}.{os.environ.get('SLURM_STEP_ID', '0')}"


def number_lines(run: int) -> None:
    """Say in every line on the terminal, which several runs may share, whose it is."""
    form = f"%(asctime)s %(levelname)s #{run} %(message)s"
    for handler in logging.getLogger().handlers:
        if type(handler) is logging.StreamHandler:  # a file is one too
            handler.setFormatter(logging.Formatter(form, "%H:%M:%S"))
    logging.getLogger("submitit").propagate = False  # has a log of its own; train.log is the run's


def quieten() -> None:
    """Silence libraries' remarks about our considered choices, and all processes but the first."""
    if not first_process():
        logging.disable(logging.ERROR)
    for name in ("pytorch_lightning", "lightning.pytorch", "lightning_fabric", "httpx", "httpcore"):
        logging.getLogger(name).setLevel(logging.WARNING)
    logging.captureWarnings(True)
    for message in REMARKS:
        warnings.filterwarnings("ignore", message)
    warnings.formatwarning = lambda message, *_, **__: str(message)


@contextmanager
def stop_on_signals(kept: str) -> Iterator[None]:
    """Within it SIGTERM and SIGHUP stop as Ctrl-C does; what does not stop in time is ended."""
    STOPPED_BY.clear()
    PUT_OFF.clear()
    heard = [it for it in (signal.SIGINT, *STOPS) if signal.getsignal(it) is not signal.SIG_IGN]
    before = {number: signal.signal(number, _stop) for number in heard}
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    wakeup, over, usual = signal.set_wakeup_fd(writer), threading.Event(), sys.unraisablehook
    sys.unraisablehook = lambda lost: (  # what is raised in a __del__ goes no further
        _put_off(signal.SIGINT) if lost.exc_type is KeyboardInterrupt else usual(lost)
    )
    threading.Thread(target=_end_in_time, args=(reader, over, kept), daemon=True).start()
    try:
        yield
    finally:
        over.set()
        PUT_OFF.clear()
        sys.unraisablehook = usual
        signal.set_wakeup_fd(wakeup)
        os.close(writer)
        for number, handler in before.items():
            signal.signal(number, handler)


def _stop(number: int, frame: FrameType | None) -> None:
    """Not where ``threading`` takes or frees a lock, for 0.5 s at most: it would stay locked."""
    # "gotit" is a local of Condition.wait once it only waits, its lock freed: that may be stopped
    inside = frame and frame.f_code.co_filename == threading.__file__
    if frame and inside and "gotit" not in frame.f_locals and len(PUT_OFF) < 50:
        return _put_off(number)
    if number in STOPS:
        signal.signal(number, signal.SIG_IGN)  # some schedulers send it twice
    STOPPED_BY.append(number)
    raise KeyboardInterrupt


def _put_off(number: int) -> None:
    PUT_OFF.append(number)
    _thread.start_new_thread(_send_again, (number,))


def _send_again(number: int) -> None:
    time.sleep(0.01)
    if PUT_OFF:  # else all is over
        signal.pthread_kill(threading.main_thread().ident or 0, number)


def _end_in_time(reader: int, over: threading.Event, kept: str) -> None:
    """Wait for a signal, which the system writes here even while torch computes; then exit hard."""
    with open(reader, "rb", buffering=0) as signals:
        while number := signals.read(1):
            if number[0] in STOPS and not over.wait(DEADLINE):
                os.write(2, f"\nstopped in the middle{kept}\n".encode())
                os._exit(STOPPED + number[0])
