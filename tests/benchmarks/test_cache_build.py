"""Building the cache against OpenCV's decode and area resize on one thread, times the cores.

The 40 radiographs are listed 25 times each, so that 1,000 images are decoded: the fixed costs
(folder, syncing, spot check) then weigh about as little as they do for a real data set. Ours checks
every PNG's checksums and writes to the disk; OpenCV's side does neither.
"""

import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from statistics import median

import cv2
import pytest

from xray_lightning import CsvTable, open_cache
from xray_lightning.data.decoding import available_cores

pytestmark = [pytest.mark.benchmark, pytest.mark.usefixtures("one_thread")]

SIZE = 224
COPIES = 25
TURNS = 4


def listed(radiographs: Path, folder: Path) -> CsvTable:
    """The radiographs with a table; a record for each copy, of the same file."""
    files = sorted(radiographs.glob("*.png"))
    table = folder / "table.csv"
    table.write_text("\n".join(["image,finding", *(f"{file.resolve()},0" for file in files)]))
    source = CsvTable(table)
    source.records = [
        replace(record, image_id=f"{copy}_{record.image_id}")
        for copy in range(COPIES)
        for record in source.records
    ]
    return source


def opencv_square(file: Path) -> None:
    image = cv2.imread(str(file), cv2.IMREAD_GRAYSCALE)
    assert cv2.resize(image, (SIZE, SIZE), interpolation=cv2.INTER_AREA).shape == (SIZE, SIZE)


def test_cache_build_vs_opencv(radiographs, tmp_path, rates, over, remark, ratio) -> None:
    source = listed(radiographs, tmp_path)
    files = sorted(radiographs.glob("*.png"))
    cores = available_cores()

    root = tmp_path / "cache"

    def ours() -> int:
        cache = open_cache(source, source.records, size=SIZE, root=root, progress=False)
        assert len(cache.images) == COPIES * len(files)
        return len(source.records)

    def one_thread() -> int:
        for file in files * 3:
            opencv_square(file)
        return len(files) * 3

    def all_cores() -> int:
        with ThreadPoolExecutor(cores) as pool:
            return len(list(pool.map(opencv_square, files * 3)))

    def tidy() -> None:
        shutil.rmtree(root, ignore_errors=True)

    found = rates(TURNS, after=tidy, ours=ours, one=one_thread, all=all_cores)
    remark(
        f"images a second to {SIZE} px on {cores} cores: cache build {median(found['ours']):.1f}; "
        f"OpenCV on one thread {median(found['one']):.1f}, on a thread per core "
        f"{median(found['all']):.1f} (cache build is {over(found['ours'], found['all']):.2f} of it)"
    )
    per_cpu = over(found["ours_cpu"], found["one_cpu"])
    ratio("cache_build_vs_opencv_per_cpu_second", per_cpu, ">=0.9")
    value = over(found["ours"], [rate * cores for rate in found["one"]])
    remark(f"against one thread times the cores {value:.2f}, which falls beside other load")
    ratio("cache_build_vs_opencv", over(found["ours"], found["all"]), ">=0.9")
