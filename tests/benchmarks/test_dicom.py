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
from pydicom.uid import JPEGBaseline8Bit

from xray_lightning.data.dicom import read_dicom, read_dicom8
from xray_lightning.data.dicom.header import read_layout, split_file
from xray_lightning.data.dicom.pixels import decode_frame, join_fragments

pytestmark = [pytest.mark.benchmark, pytest.mark.usefixtures("one_thread")]

TURNS = 3
PLUG_INS = {"gdcm": "gdcm", "pylibjpeg": "libjpeg"}  # pydicom's name, module

Rates = Callable[..., dict[str, list[float]]]
Over = Callable[[list[float], list[float]], float]


@pytest.fixture
def files() -> list[Path]:
    folder = Path(__file__).parents[3] / "shared/data/rsna-sample"
    found = sorted(folder.rglob("*.dcm"))
    if not found:
        pytest.skip(f"real data: {folder} is absent")
    return found


@pytest.fixture(autouse=True)
def _no_flood() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pydicom's, of each file's PatientAge
        yield


@pytest.fixture
def _pillow_only() -> Iterator[None]:
    """Where gdcm and pylibjpeg are installed pydicom would take them first, which is slower."""
    decoder = pydicom.pixels.get_decoder(JPEGBaseline8Bit)
    others = [name for name in decoder.available_plugins if name != "pillow"]
    for name in others:
        decoder.remove_plugin(name)
    yield
    for name in others:
        decoder.add_plugin(name, (f"pydicom.pixels.decoders.{name}", "_decode_frame"))


def over_all(files: list[Path], read: Callable[[Path], Any]) -> Callable[[], int]:
    def work() -> int:
        for path in files:
            read(path)
        return len(files)

    return work


def installed(remark: Any, *modules: str) -> list[str]:
    found = []
    for module in modules:
        try:
            import_module(module)
            found.append(module)
        except ImportError:
            remark(f"{module} is not installed: left out")
    return found


@pytest.mark.usefixtures("_pillow_only")
def test_reader(files: list[Path], rates: Rates, over: Over, remark: Any, ratio: Any) -> None:
    works: dict[str, Callable[[Path], Any]] = {
        "ours": read_dicom,
        "ours8": read_dicom8,
        "pydicom": lambda path: pydicom.dcmread(path).pixel_array,
    }
    if installed(remark, "torchxrayvision"):
        works["torchxrayvision"] = import_module("torchxrayvision").utils.read_xray_dcm
    found = rates(TURNS, **{name: over_all(files, read) for name, read in works.items()})
    shown = ", ".join(f"{name} {median(found[name]):.0f}" for name in works)
    remark(f"images a second of {len(files)} files: {shown}")
    per_cpu = over(found["ours_cpu"], found["pydicom_cpu"])
    ratio("dicom_reader_vs_bare_pydicom_per_cpu_second", per_cpu, ">=0.9")
    ratio("dicom_reader_vs_bare_pydicom", over(found["ours"], found["pydicom"]), ">=0.9")
    ratio("dicom_reader8_vs_bare_pydicom", over(found["ours8"], found["pydicom"]), ">=0.9")
    if "torchxrayvision" in works:
        value = over(found["ours"], found["torchxrayvision"])
        ratio("dicom_reader_vs_torchxrayvision", value, ">=1.8")


def test_plug_ins(files: list[Path], rates: Rates, over: Over, remark: Any, ratio: Any) -> None:
    """The decoder alone, on frames in memory; the others through pydicom's plug-in interface."""
    files = files[:60]
    datasets = {path: pydicom.dcmread(path) for path in files}
    parts = {path: split_file(path.read_bytes()) for path in files}
    layouts = {path: read_layout(elements) for path, (elements, _) in parts.items()}
    frames = {path: join_fragments(pixels.data, 0, 1) for path, (_, pixels) in parts.items()}

    def ours(path: Path) -> Any:
        return decode_frame(frames[path], parts[path][0].syntax, layouts[path])

    def through_pydicom(name: str) -> Callable[[Path], Any]:
        return lambda path: pydicom.pixels.pixel_array(datasets[path], decoding_plugin=name)

    works: dict[str, Callable[[Path], Any]] = {
        "imagecodecs": ours,
        "pillow alone": lambda path: Image.open(io.BytesIO(frames[path])).load(),
        "pillow": through_pydicom("pillow"),
    }
    there = installed(remark, *PLUG_INS.values())
    works |= {name: through_pydicom(name) for name, module in PLUG_INS.items() if module in there}
    found = rates(TURNS, **{name: over_all(files, read) for name, read in works.items()})
    shown = ", ".join(f"{name} {median(found[name]):.0f}" for name in works)
    remark(f"frames a second: {shown}")
    for name in list(works)[1:]:
        value = over(found["imagecodecs"], found[name])
        ratio(f"dicom_imagecodecs_vs_{name.replace(' ', '_')}", value, ">=0.9")
