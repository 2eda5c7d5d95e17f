"""How long whole commands take, from the shell's view: start, imports and all."""

import subprocess
import sys
from pathlib import Path
from time import perf_counter

import pytest
from running import XRAY

pytestmark = pytest.mark.benchmark


def seconds_of(*command: str | Path) -> float:
    start = perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    return perf_counter() - start


def test_xray_help(bench) -> None:
    command = Path(sys.executable).parent / "xray"
    if not command.is_file():
        pytest.skip(f"{command} is absent: pip install -e .")
    seconds = [seconds_of(command, "--help") for _ in range(5)]
    bench.remark(f"best of 5: {min(seconds):.3f} s, worst {max(seconds):.3f} s")
    bench.ratio("xray_help_seconds", min(seconds), "<=0.7")


def test_audit_of_the_nih_table(metadata: Path, tmp_path: Path, bench) -> None:
    settings = ["data=nih", f"data.root={metadata}", "split=official", f"hydra.run.dir={tmp_path}"]
    seconds = seconds_of(*XRAY, "audit", *settings)
    bench.remark(f"{(tmp_path / 'audit.html').stat().st_size / 1e3:.0f} kB of page")
    bench.ratio("audit_seconds", seconds, "<=60")
