"""How a benchmark measures and what it prints.

    pytest tests/benchmarks -m benchmark -s -n 0

Two sides are timed in turns, and the median of the ratios of the turns counts, so that other load
on the machine meets both sides alike. A ratio that misses its bound by more than ``SLACK`` fails.
"""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from time import perf_counter, process_time

import cv2
import pytest
import torch

SLACK = 1.5  # what other load on a shared machine was seen to do to a median of ratios
SHARED = Path(os.environ["XRAY_DATA"])

Work = Callable[[], int]  # does some work and returns how many items it did
Rates = dict[str, list[float]]
Ratio = Callable[[str, float, str], None]  # name, value, bound such as ">=30" or "<=1.05"


@pytest.fixture
def remark(capsys: pytest.CaptureFixture[str]) -> Callable[[str], None]:
    """Prints a line ``# ...`` with absolute figures, with or without ``-s``."""

    def show(text: str) -> None:
        with capsys.disabled():
            print(f"\n# {text}", end="", flush=True)

    return show


@pytest.fixture
def ratio(capsys: pytest.CaptureFixture[str], remark: Callable[[str], None]) -> Ratio:
    """Prints ``ratio NAME VALUE target BOUND`` on a line of its own; fails far outside it."""

    def show(name: str, value: float, bound: str) -> None:
        load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
        remark(f"load average {load} on {os.cpu_count()} cores")
        with capsys.disabled():
            print(f"\nratio {name} {value:.4g} target {bound}", flush=True)
        assert within(value, bound), f"{name} is {value:.4g}, which misses {bound} by far"

    return show


def within(value: float, bound: str) -> bool:
    """Whether a value keeps a bound such as ">=30", or misses it by no more than ``SLACK``."""
    most = float(bound[2:])
    return value <= most * SLACK if bound.startswith("<=") else value >= most / SLACK


@pytest.fixture
def rates() -> Callable[..., Rates]:
    """Items per second of several pieces of work, done in turns: name -> one rate a turn.

    Under ``NAME_cpu`` stand items per CPU second of this process, which other load hardly touches.
    ``after`` tidies up after each piece of work, off the clock.
    """

    def measure(turns: int, after: Callable[[], object] = int, **works: Work) -> Rates:
        found: Rates = {f"{name}{end}": [] for name in works for end in ("", "_cpu")}
        for turn in range(turns + 1):
            for name, work in works.items():
                start, cpu = perf_counter(), process_time()
                items = work()
                seconds, cpu_seconds = perf_counter() - start, process_time() - cpu
                after()
                if turn:  # the first warms up: imports, page cache, allocator
                    found[name].append(items / seconds)
                    found[f"{name}_cpu"].append(items / cpu_seconds)
        return found

    return measure


@pytest.fixture
def over() -> Callable[[list[float], list[float]], float]:
    """Median over the turns of one side's rate over the other's."""

    def divide(ours: list[float], theirs: list[float]) -> float:
        return median(a / b for a, b in zip(ours, theirs, strict=True))

    return divide


@pytest.fixture
def one_thread() -> Iterator[None]:
    """OpenCV and torch on one thread, as in a loader process."""
    before = cv2.getNumThreads(), torch.get_num_threads()
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    yield
    cv2.setNumThreads(before[0])
    torch.set_num_threads(before[1])


def needed(folder: str) -> Path:
    """A folder of the real data; skips where it is absent."""
    path = SHARED / folder
    if not path.is_dir():
        pytest.skip(f"real data: {path} is absent")
    return path


@pytest.fixture
def metadata() -> Path:
    """The full label table of ChestX-ray14, no images."""
    return needed("nih-metadata")


@pytest.fixture
def radiographs() -> Path:
    """40 radiographs at 1024 px."""
    return needed("nih-1024")
