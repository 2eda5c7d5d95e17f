"""How a benchmark measures and what it prints.

    pytest tests/benchmarks -m benchmark -s -n 0

Two sides are timed in turns, and the median of the ratios of the turns counts, so that other load
on the machine meets both sides alike. A ratio that misses its bound by more than ``SLACK`` fails.
"""

import importlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from time import perf_counter, process_time
from unittest.mock import MagicMock

import cv2
import pytest
import torch

SLACK = 1.5  # what other load on a shared machine was seen to do to a median of ratios
DOWNLOADS = ("requests", "imageio")  # what torchxrayvision imports and no benchmark calls
DOWNLOADS += ("skimage", "skimage.transform", "skimage.io", "skimage.filters")


class Bench:
    """Times pieces of work, prints figures and holds ratios to their bounds."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self.capsys = capsys

    def remark(self, text: str) -> None:
        """Print a line ``# ...`` with absolute figures, with or without ``-s``."""
        with self.capsys.disabled():
            print(f"\n# {text}", end="", flush=True)

    def ratio(self, name: str, value: float, bound: str) -> None:
        """Print ``ratio NAME VALUE target BOUND`` on a line of its own; fail far outside it.

        A bound is such as ">=30" or "<=1.05".
        """
        load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
        self.remark(f"load average {load} on {os.cpu_count()} cores")
        with self.capsys.disabled():
            print(f"\nratio {name} {value:.4g} target {bound}", flush=True)
        most = float(bound[2:])
        within = value <= most * SLACK if bound.startswith("<=") else value >= most / SLACK
        assert within, f"{name} is {value:.4g}, which misses {bound} by far"

    def rates(self, turns, after=int, **works):
        """Items per second of several pieces of work, done in turns: name -> one rate a turn.

        Under ``NAME_cpu`` stand items per CPU second of this process, which other load hardly
        touches. ``after`` tidies up after each piece of work, off the clock.
        """
        rates: dict[str, list[float]] = {f"{k}{end}": [] for k in works for end in ("", "_cpu")}
        for turn in range(turns + 1):
            for name, work in works.items():
                start, cpu = perf_counter(), process_time()
                items = work()
                seconds, cpu_seconds = perf_counter() - start, process_time() - cpu
                after()
                if turn:  # the first warms up: imports, page cache, allocator
                    rates[name].append(items / seconds)
                    rates[f"{name}_cpu"].append(items / cpu_seconds)
        return rates

    def over(self, ours: list[float], theirs: list[float]) -> float:
        """Median over the turns of one side's rate over the other's."""
        return median(a / b for a, b in zip(ours, theirs, strict=True))


@pytest.fixture
def bench(capsys: pytest.CaptureFixture[str]) -> Bench:
    return Bench(capsys)


@pytest.fixture
def one_thread() -> Iterator[None]:
    """OpenCV and torch on one thread, as in a loader process."""
    before = cv2.getNumThreads(), torch.get_num_threads()
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    yield
    cv2.setNumThreads(before[0])
    torch.set_num_threads(before[1])


@pytest.fixture
def metadata(shared_data: Path) -> Path:
    """The full label table of ChestX-ray14, no images."""
    return shared_data / "nih-metadata"


@pytest.fixture
def radiographs(shared_data: Path) -> list[Path]:
    """40 radiographs at 1024 px."""
    return sorted((shared_data / "nih-1024").glob("*.png"))


@pytest.fixture
def xrv(monkeypatch: pytest.MonkeyPatch):
    """torchxrayvision; what it imports for downloads and pictures alone may be absent."""
    for name in DOWNLOADS:
        try:
            importlib.import_module(name)
        except ImportError:
            monkeypatch.setitem(sys.modules, name, MagicMock())
    return pytest.importorskip("torchxrayvision")
