"""Fill the missing rows of a cache: decode in threads, set a row's flag once it is on disk."""

import logging
import os
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import ExitStack, contextmanager
from itertools import islice
from pathlib import Path

import cv2
import numpy as np
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from xray_lightning.data.dicom import tally
from xray_lightning.data.geometry import fit_square
from xray_lightning.data.images import noting
from xray_lightning.data.manifest import Arrays, open_arrays, row_sum
from xray_lightning.data.source import Source
from xray_lightning.errors import DataError
from xray_lightning.records import Record

logger = logging.getLogger(__name__)

ProgressHook = Callable[[int, int], None]  # images done, images in all
Decode = Callable[[int], str | None]

SYNC_SECONDS = 1.0  # about what a crash can lose
IN_FLIGHT = 16  # rows waiting per worker: enough to keep it busy, few enough to stop promptly
GLANCE_SECONDS = 0.05  # the main thread takes the lock from the workers no oftener than this


def decode_missing(
    source: Source,
    records: Sequence[Record],
    folder: Path,
    *,
    size: int,
    workers: int,
    progress: bool | ProgressHook,
) -> list[str]:
    """Decode every image whose flag is not set.

    Returns:
        One line for each unreadable image, in row order; all others are on disk.
    """
    arrays = open_arrays(folder, len(records), size, "r+")
    rows = np.flatnonzero(arrays.done == 0).tolist()
    if not rows:
        return []

    remarks: list[list[str]] = []

    def decode(row: int) -> str | None:
        with noting() as notes:
            failure = _decode(source, records[row], arrays, row)
        if notes:
            remarks.append(notes)
        return failure

    with ExitStack() as stack:
        report = stack.enter_context(_reporter(progress, len(records), len(rows)))
        stack.enter_context(_single_threaded_opencv())
        ledger = stack.enter_context(_Ledger(folder, arrays))
        _decode_all(decode, rows, workers, ledger, report)
        if line := tally(remarks):
            logger.warning("how images were read: %s", line)
        return [ledger.failures[row] for row in sorted(ledger.failures)]


def available_cores() -> int:
    """Cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


class _Ledger:
    """Sets the flags of decoded rows, always after their pixels have reached the disk.

    The syncing has a thread of its own: fsync waits for the disk and would hold up the decoding.
    (``memmap.flush`` keeps the interpreter lock while it waits, ``os.fsync`` does not.)
    """

    def __init__(self, folder: Path, arrays: Arrays) -> None:
        self.failures: dict[int, str] = {}
        self._done = arrays.done
        self._rows: list[int] = []
        self._files = [folder / f"{name}.bin" for name in ("images", "sizes", "sums", "done")]
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="sync")
        self._running: Future[None] | None = None
        self._last = time.monotonic()

    def __enter__(self) -> "_Ledger":
        return self

    def __exit__(self, *error: object) -> None:
        self._thread.shutdown(wait=True)
        self._sync(self._rows)
        if self._running is not None:
            self._running.result()  # raises what the last sync raised

    def enter(self, row: int, failure: str | None) -> None:
        """Note that a row is decoded, or why it cannot be."""
        if failure is None:
            self._rows.append(row)
        else:
            self.failures[row] = failure

    def sync_if_due(self) -> None:
        """Start a sync if the last one is over and a second old."""
        if time.monotonic() - self._last < SYNC_SECONDS:
            return
        if self._running is not None:
            if not self._running.done():
                return
            self._running.result()
        rows, self._rows = self._rows, []
        self._running = self._thread.submit(self._sync, rows)
        self._last = time.monotonic()

    def _sync(self, rows: list[int]) -> None:
        *pixels, flags = self._files
        for path in pixels:
            _flush(path)
        self._done[rows] = 1
        _flush(flags)


def _flush(path: Path) -> None:
    """Write the file's dirty pages to the disk, those of its memory maps included."""
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def _decode(source: Source, record: Record, arrays: Arrays, row: int) -> str | None:
    """Fill one row of the arrays; the reason if the image is unreadable."""
    try:
        image = source.read(record)
        square = fit_square(image, arrays.images.shape[1])
    except (DataError, OSError) as error:
        return f"{record.image_id}: {error}"
    arrays.images[row], arrays.sizes[row] = square, image.shape
    arrays.sums[row] = row_sum(row, square, image.shape)
    return None


def _decode_all(
    decode: Decode, rows: Sequence[int], workers: int, ledger: _Ledger, report: ProgressHook
) -> None:
    """Decode the rows in threads, a few in flight; what was done is entered, come what may."""
    pool = ThreadPoolExecutor(workers, thread_name_prefix="decode")
    pending: dict[Future[str | None], int] = {}
    queue = iter(rows)
    finished = 0
    try:
        while finished < len(rows):
            for row in islice(queue, workers * IN_FLIGHT - len(pending)):
                pending[pool.submit(decode, row)] = row
            ready = wait(pending, timeout=GLANCE_SECONDS).done
            for future in ready:
                ledger.enter(pending[future], future.result())
                del pending[future]
            finished += len(ready)
            ledger.sync_if_due()
            report(finished, len(rows))
    finally:  # Ctrl-C and errors come here with rows still pending
        pool.shutdown(wait=True, cancel_futures=True)
        for future, row in pending.items():
            if not future.cancelled() and future.exception() is None:
                ledger.enter(row, future.result())


@contextmanager
def _single_threaded_opencv() -> Iterator[None]:
    """Keep OpenCV from starting a thread per core inside each of the decoding threads."""
    before = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        yield
    finally:
        cv2.setNumThreads(before)


class _Rate(ProgressColumn):
    """Images per second."""

    def render(self, task: Task) -> Text:
        return Text(f"{task.speed or 0:,.0f} images/s")


@contextmanager
def _reporter(progress: bool | ProgressHook, count: int, missing: int) -> Iterator[ProgressHook]:
    """A function of (decoded now, to decode now) that reports images done of ``count``."""
    before = count - missing
    if callable(progress):
        hook = progress
        yield lambda finished, _: hook(before + finished, count)
        return
    columns = (
        TextColumn("decoding images"),
        BarColumn(),
        MofNCompleteColumn(),
        _Rate(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), disable=not progress) as bar:
        task = bar.add_task("decoding", total=count, completed=before)
        yield lambda finished, _: bar.update(task, completed=before + finished)
