"""Folders to write to: refused before the work that would be lost, and by one process at a time."""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from tempfile import TemporaryFile

from filelock import FileLock, Timeout

from xray_lightning.errors import ConfigError, OutputError
from xray_lightning.processes import slurm_step
from xray_lightning.wording import fault
from xray_lightning.writing import HOST, alive, remove_leftovers, write_file

LOCK, OWNER = ".lock", ".lock.owner"
GRACE = 15.0  # seconds: loader processes of a killed run notice within 5 that it is dead


class LockedError(ConfigError):
    """Another process is writing to the folder; the message says which, and where it runs."""


def name_run(resume: str | None, *names: str, now: datetime | None = None) -> str:
    """The resumed run's folder, or ``outputs/<date>_<time>_<model>_<split>``."""
    # Slurm's and torchrun's tasks each work it out, at their own time: their job's id replaces it
    if resume:
        if not (Path(resume) / "config.yaml").is_file():  # before Hydra makes the folder
            raise ConfigError(f"resume={resume}: no config.yaml there; name the folder of a run")
        return resume
    name = re.sub(r"[^\w.-]+", "_", "_".join(names))
    return f"outputs/{slurm_step() or f'{now or datetime.now():%Y-%m-%d_%H-%M-%S}'}_{name}"


def prepare_folder(folder: Path) -> Path:
    """The folder, made if need be, without what dead processes left half written."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise ConfigError(fault("not_writable", folder, error.strerror)) from error
    remove_leftovers(folder)
    return folder


@contextmanager
def lock_folder(folder: Path) -> Iterator[None]:
    """The folder, made if need be, for this process alone; the system frees it when that dies."""
    lock = FileLock(prepare_folder(folder) / LOCK)
    try:
        lock.acquire(timeout=GRACE if _owner(folder)[2] else 0)
    except Timeout as error:
        raise LockedError(fault("locked", folder, *_owner(folder)[:2])) from error
    except OSError as error:
        raise ConfigError(f"cannot lock the folder {folder} ({error.strerror})") from error
    try:
        write_file(folder / OWNER, f"{HOST} {os.getpid()}")
        yield
        if not (folder / OWNER).is_file():
            raise OutputError(fault("removed", folder))
    finally:
        (folder / OWNER).unlink(missing_ok=True)
        lock.release()


def _owner(folder: Path) -> tuple[str, str, bool]:
    """Host and process that have a folder, and whether it is one of this machine that is dead."""
    try:
        host, process = (folder / OWNER).read_text(encoding="utf-8").split()
        return host, process, host == HOST and not alive(int(process))
    except (OSError, ValueError):  # not there yet, or gone
        return "a host unknown", "a process", False
