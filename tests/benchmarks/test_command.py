"""How long ``xray --help`` takes, from the shell's view."""

import subprocess
import sys
from pathlib import Path
from time import perf_counter
from typing import Any

import pytest

pytestmark = pytest.mark.benchmark

TURNS = 5


def test_xray_help(remark: Any, ratio: Any) -> None:
    command = Path(sys.executable).parent / "xray"
    if not command.is_file():
        pytest.skip(f"{command} is absent: pip install -e .")
    seconds = []
    for _ in range(TURNS):
        start = perf_counter()
        done = subprocess.run([command, "--help"], capture_output=True, text=True, check=True)
        seconds.append(perf_counter() - start)
        assert "train" in done.stdout
    remark(f"best of {TURNS}: {min(seconds):.3f} s, worst {max(seconds):.3f} s")
    ratio("xray_help_seconds", min(seconds), "<=0.7")
