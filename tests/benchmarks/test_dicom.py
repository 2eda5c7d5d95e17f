"""Reading RSNA's 338 DICOM files (JPEG baseline, 1024 px), in turns on one thread.

Against bare pydicom, which only decodes, and torchxrayvision's reader, both with Pillow, which
decodes by the same libjpeg-turbo as ours; and our decoder against the plug-ins that were passed
over. A package that is not installed is left out and named:

    pip install torchxrayvision python-gdcm pylibjpeg pylibjpeg-libjpeg
"""

import io
import warnings
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from statistics import median
from typing import Any

import pydicom
import pytest
from PIL import Image

from xray_lightning.data.dicom import read_dicom, read_dicom8
from xray_lightning.data.dicom.header import read_layout, split_file
from xray_lightning.data.dicom.pixels import decode_frame, join_fragments

pytestmark = [pytest.mark.benchmark, pytest.mark.usefixtures("one_thread")]

TURNS = 3
PLUG_INS = {"gdcm": "gdcm", "pylibjpeg": "libjpeg"}  # pydicom's name, module

Read = Callable[[Path], Any]


@pytest.fixture
def files(shared_data: Path) -> Iterator[list[Path]]:
    """The files; pydicom's warnings, of each one's PatientAge, are dropped."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield sorted((shared_data / "rsna-sample").rglob("*.dcm"))


def over_all(files: list[Path], reads: dict[str, Read]) -> dict[str, Callable[[], int]]:
    return {name: lambda read=read: len([*map(read, files)]) for name, read in reads.items()}


def with_pydicom(name: str) -> Read:
    """By one of its plug-ins: it would take gdcm and pylibjpeg first, which are slower."""
    return lambda path: pydicom.pixels.pixel_array(pydicom.dcmread(path), decoding_plugin=name)


def installed(bench: Any, *modules: str) -> list[str]:
    present = []
    for module in modules:
        try:
            import_module(module)
            present.append(module)
        except ImportError:
            bench.remark(f"{module} is not installed: left out")
    return present


def test_reader(files: list[Path], bench: Any) -> None:
    reads: dict[str, Read] = {
        "ours": read_dicom,
        "ours8": lambda path: read_dicom8(path.read_bytes()),
        "pydicom": with_pydicom("pillow"),
    }
    if installed(bench, "torchxrayvision"):
        reads["torchxrayvision"] = import_module("torchxrayvision").utils.read_xray_dcm
    rate = bench.rates(TURNS, **over_all(files, reads))
    shown = ", ".join(f"{name} {median(rate[name]):.0f}" for name in reads)
    bench.remark(f"images a second of {len(files)} files: {shown}")
    per_cpu = bench.over(rate["ours_cpu"], rate["pydicom_cpu"])
    bench.ratio("dicom_reader_vs_bare_pydicom_per_cpu_second", per_cpu, ">=0.9")
    bench.ratio("dicom_reader_vs_bare_pydicom", bench.over(rate["ours"], rate["pydicom"]), ">=0.9")
    bench.ratio(
        "dicom_reader8_vs_bare_pydicom", bench.over(rate["ours8"], rate["pydicom"]), ">=0.9"
    )
    if "torchxrayvision" in reads:
        value = bench.over(rate["ours"], rate["torchxrayvision"])
        bench.ratio("dicom_reader_vs_torchxrayvision", value, ">=1.8")


def test_plug_ins(files: list[Path], bench: Any) -> None:
    """The decoder alone, on frames in memory; the others through pydicom's plug-in interface."""
    files = files[:60]
    datasets = {path: pydicom.dcmread(path) for path in files}
    parts = {path: split_file(path.read_bytes()) for path in files}
    layouts = {path: read_layout(header) for path, (header, _) in parts.items()}
    frames = {path: join_fragments(pixels.data, 0, 1) for path, (_, pixels) in parts.items()}

    def through_pydicom(name: str) -> Read:
        return lambda path: pydicom.pixels.pixel_array(datasets[path], decoding_plugin=name)

    reads: dict[str, Read] = {
        "imagecodecs": lambda at: decode_frame(frames[at], parts[at][0].syntax, layouts[at]),
        "pillow_alone": lambda at: Image.open(io.BytesIO(frames[at])).load(),
        "pillow": through_pydicom("pillow"),
    }
    present = installed(bench, *PLUG_INS.values())
    reads |= {name: through_pydicom(name) for name, mod in PLUG_INS.items() if mod in present}
    rate = bench.rates(TURNS, **over_all(files, reads))
    bench.remark(
        "frames a second: " + ", ".join(f"{name} {median(rate[name]):.0f}" for name in reads)
    )
    for name in list(reads)[1:]:
        value = bench.over(rate["imagecodecs"], rate[name])
        bench.ratio(f"dicom_imagecodecs_vs_{name}", value, ">=0.9")
