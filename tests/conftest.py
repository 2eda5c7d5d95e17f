"""Settings for every test: few threads that sleep while they wait, and where the real data lies."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

os.environ.setdefault("GOMP_SPINCOUNT", "10000")  # before torch is imported

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, SecondaryCaptureImageStorage, generate_uid

SHARED = Path(__file__).parents[1].parent / "shared" / "data"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real radiographs beside the checkout."""
    if not SHARED.is_dir():
        pytest.skip(f"the real data is not at {SHARED}")
    return SHARED


@pytest.fixture(scope="session")
def write_dicom() -> Callable[..., Path]:
    """Writes a DICOM file of (H, W) uint8 or uint16 pixels, with attributes by keyword."""

    def write(path: Path, pixels: np.ndarray, **attributes: object) -> Path:
        data = Dataset()
        data.file_meta = FileMetaDataset()
        data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        data.SOPClassUID = SecondaryCaptureImageStorage
        data.SOPInstanceUID = generate_uid(entropy_srcs=[path.name])
        data.Modality = "CR"
        data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
        data.Rows, data.Columns = pixels.shape
        data.BitsAllocated = data.BitsStored = 8 * pixels.itemsize
        data.HighBit, data.PixelRepresentation = data.BitsStored - 1, 0
        data.PixelData = pixels.tobytes()
        for name, value in attributes.items():
            setattr(data, name, value)
        path.parent.mkdir(parents=True, exist_ok=True)
        pydicom.dcmwrite(path, data, enforce_file_format=True)
        return path

    return write


@dataclass
class RsnaFolder:
    """Writes a folder as Kaggle packs it; each method replaces one part of it.

    Image ``id-PK`` is image K of patient P; K = 0 is positive, with P % 3 + 1 boxes; K = 1 is
    abnormal without opacity, K = 2 normal.
    """

    root: Path
    write_dicom: Callable[..., Path]
    stage: str = "stage_2"
    patients: int = 9

    @property
    def ids(self) -> list[str]:
        return [f"id-{patient}{k}" for patient in range(self.patients) for k in range(3)]

    @property
    def label_rows(self) -> list[str]:
        rows = []
        for image in self.ids:
            patient, k = int(image[-2]), int(image[-1])
            boxes = range(patient % 3 + 1) if k == 0 else ()
            rows += [f"{image},{10.0 + box},20.0,300.0,400.0,1" for box in boxes]
            rows += [f"{image},,,,,0"] if k else []
        return rows

    @property
    def class_rows(self) -> list[str]:
        names = ("Lung Opacity", "No Lung Opacity / Not Normal", "Normal")
        ids = [row.split(",")[0] for row in self.label_rows]
        return [f"{image},{names[int(image[-1])]}" for image in ids]

    def table(self, *rows: str) -> None:
        self._write("train_labels", "patientId,x,y,width,height,Target", rows)

    def classes(self, *rows: str) -> None:
        self._write("detailed_class_info", "patientId,class", rows)

    def nih_map(self, first_patient: int = 1) -> Path:
        path = self.root / "map.csv"
        numbers = ((image, int(image[-2]) + first_patient, image[-1]) for image in self.ids)
        rows = [f"{image},{patient:08d}_00{k}.png" for image, patient, k in numbers]
        path.write_text("\n".join(["patientId,Image Index", *rows]))
        return path

    def images(self, *ids: str, folder: str | None = None, **attributes: object) -> None:
        for image in ids:
            pixels = np.random.default_rng(sum(image.encode())).integers(0, 99, (32, 32), np.uint8)
            pixels[8:20, 8:20] += np.uint8(120 if image.endswith("0") else 0)
            place = self.root / (f"{self.stage}_train_images" if folder is None else folder)
            self.write_dicom(place / f"{image}.dcm", pixels, ViewPosition="PA", **attributes)

    def complete(self, **attributes: object) -> "RsnaFolder":
        self.table(*self.label_rows)
        self.classes(*self.class_rows)
        self.images(*self.ids, **attributes)
        return self

    def _write(self, name: str, header: str, rows: tuple[str, ...]) -> None:
        text = "\n".join([header, *rows]) + "\n"
        (self.root / f"{self.stage}_{name}.csv").write_text(text)


@pytest.fixture
def empty_rsna(tmp_path: Path, write_dicom: Callable[..., Path]) -> RsnaFolder:
    return RsnaFolder(tmp_path, write_dicom)


@pytest.fixture
def rsna_folder(empty_rsna: RsnaFolder) -> RsnaFolder:
    """27 images of 9 patients, complete."""
    return empty_rsna.complete()
