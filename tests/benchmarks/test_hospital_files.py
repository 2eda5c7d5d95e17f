"""Files as PadChest and CheXpert have them into the cache, beside OpenCV's decode and resize."""

import shutil
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from statistics import median

import cv2
import numpy as np
import pytest

from xray_lightning.data.cache import open_cache
from xray_lightning.data.csv import CsvTable
from xray_lightning.data.decoding import available_cores
from xray_lightning.data.padchest import TABLE, PadChest
from xray_lightning.data.source import Source

pytestmark = pytest.mark.benchmark

TURNS = 3
SIZE = 224
FILES = 12  # different images, each decoded several times
COPIES = 4


def write_padchest(pictures: Sequence[np.ndarray], root: Path) -> Source:
    """Phantom rows around 16-bit files of 12 bits, flat."""
    columns = "ImageID,ImageDir,StudyDate_DICOM,StudyID,PatientID,PatientBirth,PatientSex_DICOM,"
    columns += "Projection,Pediatric,PhotometricInterpretation_DICOM,BitsStored_DICOM,MethodLabel"
    lines = [f"{columns},Labels"]
    for number, picture in enumerate(pictures):
        noise = np.random.default_rng(number).normal(0, 12, picture.shape)  # of a 12-bit detector
        values = np.clip(picture.astype(float) * 16 + noise, 0, 4095).astype(np.uint16)
        cv2.imwrite(str(root / f"{number}.png"), values)
        cells = f"{number}.png,0,20140101,{number},{number},1950,F,PA,No,MONOCHROME2,12,Physician"
        lines.append(f"{cells},['normal']")
    (root / TABLE).write_text("\n".join(lines))
    return PadChest(root)


def write_chexpert(pictures: Sequence[np.ndarray], root: Path) -> Source:
    """JPEG files of CheXpert's full size and quality, by a table."""
    for number, picture in enumerate(pictures):
        cv2.imwrite(str(root / f"{number}.jpg"), picture, [cv2.IMWRITE_JPEG_QUALITY, 95])
    rows = (f"{number}.jpg,0" for number in range(len(pictures)))
    (root / "table.csv").write_text("\n".join(["image,finding", *rows]))
    return CsvTable(root / "table.csv")


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("write", [write_padchest, write_chexpert])
def test_files_into_the_cache(write, radiographs, tmp_path, rates, over, remark, ratio) -> None:
    pictures = [
        cv2.resize(cv2.imread(str(file), cv2.IMREAD_GRAYSCALE), (2320, 2320))
        for file in sorted(radiographs.glob("*.png"))[:FILES]
    ]
    source = write(pictures, tmp_path)
    files = [record.path for record in source.records] * COPIES
    source.records = [
        replace(record, image_id=f"{copy}/{record.image_id}")
        for copy in range(COPIES)
        for record in source.records
    ]
    root = tmp_path / "cache"

    def ours() -> int:
        return len(open_cache(source, source.records, size=SIZE, root=root, progress=False).images)

    def opencv(file: Path) -> None:
        image = cv2.imread(str(file), cv2.IMREAD_ANYDEPTH | cv2.IMREAD_GRAYSCALE)
        cv2.resize(image, (SIZE, SIZE), interpolation=cv2.INTER_AREA)

    def all_cores() -> int:
        with ThreadPoolExecutor(available_cores()) as pool:
            return len(list(pool.map(opencv, files)))

    def tidy() -> None:
        shutil.rmtree(root, ignore_errors=True)

    found = rates(TURNS, after=tidy, ours=ours, all=all_cores)
    name = write.__name__.removeprefix("write_")
    remark(
        f"{name} files of 2320 px a second to {SIZE} px on {available_cores()} cores: cache "
        f"{median(found['ours']):.1f}, OpenCV {median(found['all']):.1f}"
    )
    per_cpu = over(found["ours_cpu"], found["all_cpu"])
    ratio(f"cache_of_{name}_vs_opencv_per_cpu_second", per_cpu, ">=0.9")
    assert per_cpu >= 0.9  # without slack: other load hardly touches it
    ratio(f"cache_of_{name}_vs_opencv", over(found["ours"], found["all"]), ">=0.9")
