"""Settings for every test: few threads that sleep while they wait, and where the real data lies."""

import gc
import logging
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

os.environ.setdefault("GOMP_SPINCOUNT", "10000")  # before torch is imported
if "PYTEST_XDIST_WORKER" in os.environ:  # a core for each of the two test processes
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import pytest
from pydicom.config import disable_value_validation
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.sequence import Sequence
from pydicom.uid import UID, ExplicitVRLittleEndian, SecondaryCaptureImageStorage, generate_uid

# The one place that says where the real data lies; test files read the variable.
os.environ.setdefault("XRAY_DATA", str(Path(__file__).parents[2] / "shared" / "data"))
SHARED = Path(os.environ["XRAY_DATA"])


# Files that take longest, so that a process begins with them while the other does the rest.
LONGEST = ("test_end_to_end", "test_shortcuts", "test_coverage", "test_privacy", "test_experiments")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files first; xdist would begin with those of most tests."""
    items.sort(key=lambda item: item.path.stem not in LONGEST)


def pytest_collection_finish() -> None:
    """What was imported is never garbage, and takes long to look through again and again."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def _no_handler_stays() -> Iterator[None]:
    """A command run in a test logs to a stream that is closed once the test is over."""
    yield
    for handler in [*logging.root.handlers]:
        if type(handler) is logging.StreamHandler:
            logging.root.removeHandler(handler)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real radiographs beside the checkout."""
    if not SHARED.is_dir():
        pytest.skip(f"the real data is not at {SHARED}")
    return SHARED


@pytest.fixture(scope="session")
def tables() -> Path:
    """Label tables of other hospitals, each laid out as a data root; never committed."""
    if not (place := os.environ.get("XRAY_TABLES")):
        pytest.skip("XRAY_TABLES does not name the folder of other hospitals' label tables")
    return Path(place)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty folder that the tests of a file share."""
    return tmp_path_factory.mktemp("folder")


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """40 PNG files, never changed, beside their table.csv; a Mass is a bright square."""
    import cv2

    root = tmp_path_factory.mktemp("data").resolve() / "scans"
    root.mkdir()
    rng = np.random.default_rng(0)
    lines = ["image,patient,Mass,Nodule"]
    for number in range(40):
        pixels = rng.integers(0, 120, (36 + number % 5, 40), dtype=np.uint8)
        pixels[8:20, 8:20] += 100 * (number % 2)
        cv2.imwrite(str(root / f"{number:02d}.png"), pixels)
        lines.append(f"{number:02d}.png,{number},{number % 2},{number // 2 % 2}")
    (root.parent / "table.csv").write_text("\n".join(lines) + "\n")
    return root


@pytest.fixture
def rng() -> np.random.Generator:
    """Of seed 0."""
    return np.random.default_rng(0)


@pytest.fixture(scope="session")
def at_80_columns() -> Callable[[list], str]:
    """Prints tables and lines at 80 columns and checks that nothing is cut off."""
    from rich.console import Console

    def fit(lines: list) -> str:
        console = Console(width=80)
        with console.capture() as captured:
            console.print(*lines, sep="\n")
        assert "…" not in captured.get()
        return captured.get()

    return fit


@disable_value_validation()  # tests want invalid values
def make_dicom(
    values: np.ndarray | list[list[int]],
    *,
    syntax: str = ExplicitVRLittleEndian,
    frames: list[bytes] | None = None,
    without: tuple[str, ...] = (),
    pixel_bytes: bytes | None = None,
    **attributes: object,
) -> bytes:
    """A MONOCHROME2 file of (H, W) values, 16 bits; attributes overwrite or add.

    Args:
        values: the pixels.
        syntax: transfer syntax.
        frames: compressed frames, to be encapsulated in place of the values.
        without: attributes to leave out.
        pixel_bytes: pixel data in place of the values.
        attributes: by keyword.
    """
    pixels = np.asarray(values)
    little = UID(syntax) != "1.2.840.10008.1.2.2"
    dataset, bits = Dataset(), attributes.get("BitsAllocated", 16)
    usual = {"SOPClassUID": SecondaryCaptureImageStorage, "SOPInstanceUID": "1.2.3"}
    usual |= {"SamplesPerPixel": 1, "PhotometricInterpretation": "MONOCHROME2"}
    usual |= dict(zip(("Rows", "Columns"), pixels.shape[:2], strict=True))
    usual |= {"BitsAllocated": bits, "BitsStored": bits, "PixelRepresentation": 0}
    for keyword, value in (usual | attributes).items():
        of_items = keyword.endswith("Sequence") and not isinstance(value, str)  # a text may be too
        setattr(dataset, keyword, Sequence(value) if of_items else value)
    if "HighBit" not in attributes:
        dataset.HighBit = dataset.BitsStored - 1
    if frames is not None:
        dataset.PixelData = encapsulate(frames)
    else:
        word = f"{'<' if little else '>'}{'i' if dataset.PixelRepresentation else 'u'}{bits // 8}"
        data = pixels.astype(word).tobytes() if pixel_bytes is None else pixel_bytes
        dataset.PixelData = data + bytes(len(data) % 2)
    dataset["PixelData"].VR = "OW" if bits == 16 and frames is None else "OB"
    for keyword in without:
        delattr(dataset, keyword)
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = syntax
    buffer = BytesIO()
    dataset.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


@pytest.fixture(scope="session")
def dicom() -> Callable[..., bytes]:
    """See ``make_dicom``."""
    return make_dicom


@pytest.fixture(scope="session")
def write_dicom() -> Callable[..., Path]:
    """Writes a DICOM file of (H, W) uint8 or uint16 pixels, with attributes by keyword."""

    def write(path: Path, pixels: np.ndarray, **attributes: object) -> Path:
        uid = generate_uid(entropy_srcs=[path.name])
        more = {"BitsAllocated": 8 * pixels.itemsize, "Modality": "CR", "SOPInstanceUID": uid}
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(make_dicom(pixels, **more | attributes))
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
        self._write(f"{self.stage}_train_labels.csv", "patientId,x,y,width,height,Target", *rows)

    def classes(self, *rows: str) -> None:
        self._write(f"{self.stage}_detailed_class_info.csv", "patientId,class", *rows)

    def nih_map(self, first_patient: int = 1) -> Path:
        numbers = ((image, int(image[-2]) + first_patient, image[-1]) for image in self.ids)
        rows = [f"{image},{patient:08d}_00{k}.png" for image, patient, k in numbers]
        return self._write("map.csv", "patientId,Image Index", *rows)

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

    def _write(self, name: str, *lines: str) -> Path:
        (self.root / name).write_text("\n".join(lines) + "\n")
        return self.root / name


@pytest.fixture
def empty_rsna(tmp_path: Path, write_dicom: Callable[..., Path]) -> RsnaFolder:
    return RsnaFolder(tmp_path, write_dicom)


@pytest.fixture
def rsna_folder(empty_rsna: RsnaFolder) -> RsnaFolder:
    """27 images of 9 patients, complete."""
    return empty_rsna.complete()


@pytest.fixture(scope="session")
def made_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run on the phantom, its scores drawn instead of trained.

    Hernia has no positive test image, one Mass target of test is unknown.
    """
    from omegaconf import OmegaConf

    import xray_lightning as xl
    from xray_lightning.cli.config import compose_settings
    from xray_lightning.data.partition import describe_split
    from xray_lightning.evaluation.predict import summarise
    from xray_lightning.evaluation.predictions import Origin, SplitName, write_predictions
    from xray_lightning.records import target_matrix
    from xray_lightning.writing import write_json

    folder = tmp_path_factory.mktemp("runs") / "a_run"
    folder.mkdir()
    settings = compose_settings(["data.patients=150", "draws=40", "split.fractions=[0.4,0.3,0.3]"])
    OmegaConf.resolve(settings)  # as every run saves them
    OmegaConf.save(settings, folder / "config.yaml")
    source = xl.Phantom(patients=150)
    split = xl.patient_split(source.records, None, fractions=(0.4, 0.3, 0.3))
    rng = np.random.default_rng(0)
    found, metrics = {}, {}
    for subset in ("val", "test"):
        records = [source.records[row] for row in split.subsets[subset]]
        targets = target_matrix(records)
        scores = (0.5 * rng.random(targets.shape) + 0.3 * targets).astype(np.float32)
        if subset == "test":
            targets[:, source.labels.index("Hernia")] = 0
            targets[0, source.labels.index("Mass")] = np.nan
        found[subset] = xl.Predictions.of(records, source.labels, scores, targets)
        metrics[subset] = summarise(found[subset], split.subset_fingerprints[subset])
        write_predictions(found[subset], folder / f"predictions_{subset}.csv")
    named = SplitName(split.name, split.fingerprint)
    origin = Origin("phantom", len(source.records), named, "test", tta="none")
    points = xl.fit_operating_points(found["val"], draws=40)
    evaluation = xl.evaluate(found["test"], records, origin, operating_points=points, draws=40)
    environment = {"command": ["train.py", "data.patients=150"], "seed": 0, "device": "cpu"}
    environment |= {"data": {"name": "phantom", "title": "phantom"}, "split": describe_split(split)}
    environment |= {"versions": {"torch": "2.0"}, "git_commit": "c0ffee", "threads": 2}
    write_json(environment, folder / "environment.json")
    write_json(evaluation.to_json(), folder / "evaluation.json")
    write_json(metrics, folder / "metrics.json")
    rows = ["epoch,train/loss,val/loss,val/auroc", "0,0.5,0.4,0.6", "1,0.3,0.35,0.7", "2,0.2,0.4,"]
    (folder / "metrics.csv").write_text("\n".join(rows))
    return folder


@pytest.fixture
def run_folder(made_run: Path, tmp_path: Path) -> Path:
    """A copy of the finished run, to be spoilt."""
    return shutil.copytree(made_run, tmp_path / "a_run")
