"""Other hospitals' label tables from the file to a split by patient, beside torchxrayvision."""

import importlib
import os
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from statistics import median
from time import process_time
from types import ModuleType
from typing import Any
from unittest.mock import MagicMock

import numpy as np
import pytest

from xray_lightning.data.chexpert import LABELS, CheXpert
from xray_lightning.data.padchest import TABLE, PadChest
from xray_lightning.data.source import Source
from xray_lightning.data.splits import patient_split

pytestmark = pytest.mark.benchmark

TURNS = 3
NEEDED = ("requests", "imageio", "skimage", "skimage.transform", "skimage.io", "skimage.filters")


def find_table(name: str, write: Callable[[Path], None], folder: Path) -> Path:
    """The folder of a real table under XRAY_TABLES, else one of the same size that is written."""
    real = Path(os.environ.get("XRAY_TABLES", "nowhere"), name)
    if real.is_dir():
        return real
    write(folder)
    return folder


def write_chexpert(folder: Path) -> None:
    """223,414 random rows of 64,540 patients."""
    rng = np.random.default_rng(0)
    patients = np.sort(rng.integers(64_540, size=223_414)) + 1
    cells = rng.choice(["", "1.0", "0.0", "-1.0"], p=[0.7, 0.15, 0.1, 0.05], size=(223_414, 14))
    rows = [
        f"CheXpert-v1.0-small/train/patient{patient:05d}/study{i}/view1_frontal.jpg,Male,"
        f"{18 + i % 70},Frontal,{'PA' if i % 6 else 'AP'},{','.join(labels)}"
        for i, (patient, labels) in enumerate(zip(patients.tolist(), cells.tolist(), strict=True))
    ]
    header = ",".join(["Path", "Sex", "Age", "Frontal/Lateral", "AP/PA", *LABELS])
    (folder / "train.csv").write_text("\n".join([header, *rows]) + "\n")


@pytest.fixture
def xrv(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """torchxrayvision; what it imports for downloads and pictures alone may be absent."""
    for name in NEEDED:
        try:
            importlib.import_module(name)
        except ImportError:
            monkeypatch.setitem(sys.modules, name, MagicMock())
    return pytest.importorskip("torchxrayvision")


def compare(name: str, make: Callable[[], Source], peer: Callable[[], Any], remark: Any) -> float:
    """CPU seconds of reading and splitting; prints them beside those of the peer's constructor."""
    ours, reading, theirs = [], [], []
    for _ in range(TURNS):
        start = process_time()
        source = make()
        read = process_time()
        split = patient_split(source.records, source.official)
        ours.append(process_time() - start)
        reading.append(read - start)
        assert sum(map(len, split.subsets.values())) == len(source.records)
        del source, split
        start = process_time()
        peer()
        theirs.append(process_time() - start)
    remark(
        f"{name}: read {median(reading):.2f} s, read and split {median(ours):.2f} s of CPU, "
        f"torchxrayvision {median(theirs):.2f} s; ratio {median(theirs) / median(ours):.2f} "
        f"(read alone {median(theirs) / median(reading):.2f})"
    )
    return median(theirs) / median(ours)


def test_chexpert(tmp_path: Path, xrv: ModuleType, remark: Any) -> None:
    root = find_table("chexpert", write_chexpert, tmp_path)
    table = str(CheXpert(root).root / "train.csv")
    settings = {"views": ["PA", "AP"], "unique_patients": False}
    compare(
        "CheXpert", lambda: CheXpert(root),
        lambda: xrv.datasets.CheX_Dataset(str(root), csvpath=table, **settings), remark,
    )  # fmt: skip


@pytest.mark.filterwarnings("ignore")  # torchxrayvision's own, of pandas 3
def test_padchest(tables: Path, xrv: ModuleType, remark: Any) -> None:
    root = tables / "padchest"
    settings = {"views": ["PA", "AP", "AP Supine"], "unique_patients": False}
    compare(
        "PadChest", lambda: PadChest(root),
        lambda: xrv.datasets.PC_Dataset(str(root), str(root / f"{TABLE}.gz"), **settings), remark,
    )  # fmt: skip


def test_padchest_in_seconds_and_memory(tables: Path, ratio: Any) -> None:
    """Peak memory by /proc: that of getrusage is the parent's at first."""
    program = (
        "import re, sys, time; import pandas; from pathlib import Path;"
        "from xray_lightning import PadChest, patient_split;"
        "start = time.process_time(); source = PadChest(sys.argv[1]);"
        "patient_split(source.records, None); print(time.process_time() - start,"
        "int(re.search(r'VmHWM:\\s+(\\d+)', Path('/proc/self/status').read_text())[1]) / 1e6)"
    )
    command = [sys.executable, "-c", program, str(tables / "padchest")]
    runs = [subprocess.check_output(command, text=True).split() for _ in range(TURNS)]
    ratio("padchest_table_and_split_gigabytes", max(float(peak) for _, peak in runs), "<=1")
    ratio("padchest_table_and_split_seconds", min(float(seconds) for seconds, _ in runs), "<=3")


def test_chexpert_in_seconds_and_memory(tmp_path: Path, remark: Any, ratio: Any) -> None:
    """In a process of its own, whose peak memory is that of the table, pandas and numpy."""
    root = find_table("chexpert", write_chexpert, tmp_path)
    program = (
        "import sys, time; import pandas; from xray_lightning import CheXpert, patient_split;"
        "start = time.perf_counter(); source = CheXpert(sys.argv[1]);"
        "patient_split(source.records, source.official); print(time.perf_counter() - start)"
    )
    seconds = [
        float(subprocess.check_output([sys.executable, "-c", program, str(root)], text=True))
        for _ in range(TURNS)
    ]
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1e6
    remark(f"peak memory {peak:.2f} GB")
    ratio("chexpert_table_and_split_gigabytes", peak, "<=1")
    ratio("chexpert_table_and_split_seconds", min(seconds), "<=3")
