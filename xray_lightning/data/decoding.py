"""Decode many images in threads, a few ahead of a reader."""

import os
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

Item = TypeVar("Item")
Decoded = TypeVar("Decoded")


def available_cores() -> int:
    """Cores this process may use."""
    affine = hasattr(os, "sched_getaffinity")  # not on macOS and Windows
    return len(os.sched_getaffinity(0)) if affine else os.cpu_count() or 1


@contextmanager
def single_threaded_opencv() -> Iterator[None]:
    """Keep OpenCV from starting a thread per core inside each of the decoding threads."""
    import cv2  # takes long, and many come for the function above

    before = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        yield
    finally:
        cv2.setNumThreads(before)


def decode_ahead(
    decode: Callable[[Item], Decoded], items: Iterable[Item], *, workers: int, ahead: int
) -> Generator[Decoded, None, None]:
    """What ``decode`` returns of every item, in order; up to ``ahead`` wait to be taken."""
    pool = ThreadPoolExecutor(workers, thread_name_prefix="decode")
    pending: deque[Future[Decoded]] = deque()
    try:
        for item in items:
            pending.append(pool.submit(decode, item))
            if len(pending) > ahead:
                yield pending.popleft().result()
        for future in pending:
            yield future.result()
    finally:  # Ctrl-C and errors come here with items still pending; each thread finishes its own
        pool.shutdown(wait=True, cancel_futures=True)
