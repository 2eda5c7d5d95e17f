"""Decode many images in threads: all of a list in any order, or a few ahead of a reader."""

import os
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from typing import TypeVar

Item = TypeVar("Item")
Decoded = TypeVar("Decoded")

GLANCE_SECONDS = 0.05  # the main thread takes the lock from the workers no oftener than this


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


def decode_all(
    decode: Callable[[Item], None], items: Sequence[Item], *, workers: int
) -> Generator[int, None, None]:
    """Call ``decode`` for every item in threads; give how many are done whenever there are more."""
    # an exception, here or in the caller (Ctrl-C), lets each thread finish the item it is at
    queue, done = iter(items), list[Item]()  # shared: next() and append() are atomic

    def work() -> None:
        for item in queue:
            decode(item)
            done.append(item)

    with ThreadPoolExecutor(workers, thread_name_prefix="decode") as pool:
        threads, told = {pool.submit(work) for _ in range(workers)}, 0
        try:
            while threads:
                over, threads = wait(threads, GLANCE_SECONDS, FIRST_EXCEPTION)
                for thread in over:
                    thread.result()
                if len(done) > told:
                    yield (told := len(done))
        finally:
            deque(queue, maxlen=0)  # nothing is left to decode


def decode_ahead(
    decode: Callable[[Item], Decoded], items: Iterable[Item], *, workers: int, ahead: int
) -> Generator[tuple[Item, Decoded], None, None]:
    """Every item, in order, with what ``decode`` returns; up to ``ahead`` wait to be taken."""
    pool = ThreadPoolExecutor(workers, thread_name_prefix="decode")
    pending: deque[tuple[Item, Future[Decoded]]] = deque()
    try:
        for item in items:
            pending.append((item, pool.submit(decode, item)))
            if len(pending) > ahead:
                first, future = pending.popleft()
                yield first, future.result()
        for item, future in pending:
            yield item, future.result()
    finally:  # Ctrl-C and errors come here with items still pending
        pool.shutdown(wait=True, cancel_futures=True)
