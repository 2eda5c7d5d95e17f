"""Data, a network and a trainer for trainings of seconds, and what a data set says."""

import gzip
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
import yaml
from pytorch_lightning import Trainer

from xray_lightning import Phantom, Record, Source, XrayDataModule, XrayNet
from xray_lightning.checkpoint import KEY, Description
from xray_lightning.models.backbones import read_pretrainings

# settings to backbones; of those that come as a file one small one, of a kind of its own
MODELS = {
    path.stem: yaml.safe_load(path.read_text())["backbone"]
    for path in sorted((Path(__file__).parents[1] / "conf/model").glob("*.yaml"))
    if path.stem not in read_pretrainings().keys() - {"eva_x_tiny"}
}

# The real header: names split over columns.
NIH_HEADER = (
    "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position,"
    "OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y]"
)
NIH_ROWS = (
    "00000001_000.png,Cardiomegaly,0,1,57,M,PA,2682,2749,0.143,0.143",
    "00000001_001.png,Cardiomegaly|Emphysema,1,1,58,M,PA,2894,2729,0.143,0.143",
    "00000002_000.png,No Finding,0,2,80,F,AP,2500,2048,0.171,0.171",
    "00000003_000.png,Infiltration,0,3,45,F,PA,2582,2991,0.143,0.143",
    "00000003_001.png,Hernia|Pleural_Thickening,1,3,46,F,AP,2500,2048,0.168,0.168",
)
# The header line is the real one: nameless columns at the end.
BOX_HEADER = "Image Index,Finding Label,Bbox [x,y,w,h],,,"
BOX_ROWS = (
    "00000003_000.png,Infiltrate,225.08,547.02,86.78,79.19",
    "00000003_000.png,Mass,10,20,30.5,40,,,",
)


class Findings(Source):
    """Noise of 32 px with chosen targets (N, L)."""

    name, missing = "findings", ()

    def __init__(self, labels: Sequence[str], targets: np.ndarray) -> None:
        self.labels, rows = tuple(labels), enumerate(targets.tolist())
        self.records = [Record(f"{i}.png", f"p{i}", tuple(r), Path(f"{i}.png")) for i, r in rows]

    def read(self, record: Record) -> np.ndarray:
        rng = np.random.default_rng(int(record.patient_id[1:]))
        return rng.integers(0, 256, (32, 32), dtype=np.uint8)

    def identity(self) -> dict[str, str | int | float | bool]:
        return {"labels": len(self.labels)}


def toy_data(cache: Path, of: int | Source, size: int = 32, **settings: Any) -> XrayDataModule:
    """Images of a source or of so many patients of the phantom at 32 px, eight a batch."""
    source = of if isinstance(of, Source) else Phantom(of, size=size)
    usual = {"image_size": 32, "batch_size": 8, "cache_dir": cache}
    return XrayDataModule(source, **usual | settings)


def data_fixture(of: int | Source, **settings: Any) -> Any:
    """The fixture ``data`` of a test file: `toy_data` with a cache of its own."""

    @pytest.fixture(scope="module")
    def data(tmp_path_factory: pytest.TempPathFactory) -> XrayDataModule:
        return toy_data(tmp_path_factory.mktemp("cache"), of, **settings)

    return data


def run_lengths(mask: np.ndarray) -> str:
    """SIIM's: how far it is from each border between columns' pixels to the next."""
    borders = np.flatnonzero(np.diff(mask.T.ravel().astype(int), prepend=0, append=0))
    return " ".join(map(str, np.diff(borders, prepend=0)))


def toy_net(
    labels: Sequence[str], backbone: str = "test_resnet", size: int = 32, **settings: Any
) -> XrayNet:
    """A network of seed 0, a small one if none is named."""
    torch.manual_seed(0)
    return XrayNet(labels, backbone, image_size=size, **settings)


def save_net(
    net: XrayNet,
    path: Path,
    entry: dict[str, Any] | None = None,
    *,
    clahe: bool = False,
    points: dict[str, Any] | None = None,
    **config: Any,
) -> Path:
    """A checkpoint as a run leaves it, with this entry or with what else is told."""
    steps = {"image_size": net.config["image_size"], "clahe": clahe}
    split = {"name": "patient", "fingerprint": "0123456789abcdef"}
    split["subsets"] = dict.fromkeys(("train", "val", "test"), "0")
    entry = entry or Description(net.config, steps, split, config, points or {}).to_plain()
    state = {f"net.{name}": tensor for name, tensor in net.state_dict().items()}
    torch.save({KEY: entry, "state_dict": state, "epoch": 0}, path)
    return path


def quiet_trainer(folder: Path, **settings: Any) -> Trainer:
    """On the CPU, without a logger, bars and a summary."""
    quiet = dict.fromkeys(("logger", "enable_progress_bar", "enable_model_summary"), False)
    return Trainer(accelerator="cpu", default_root_dir=folder, **quiet | settings)


def write_image(path: Path, pixels: np.ndarray) -> None:
    """An image file, in folders that are made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), pixels)


def write_lines(path: Path, *lines: str, end: str = "\n") -> Path:
    """A text file, gzip-compressed if it is named so, in folders that are made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    data = ("\n".join(lines) + end).encode()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


def write_lists(folder: Path, **lists: str) -> dict[str, Path]:
    """The list of each subset as a file, whose last line may be open."""
    files = ((subset, folder / f"{subset}.txt") for subset in lists)
    return {subset: write_lines(path, lists[subset], end="") for subset, path in files}


@dataclass
class NihFolder:
    """Writes a folder as NIH publishes it; each method replaces one part of it."""

    root: Path
    header: str = NIH_HEADER
    rows: Sequence[str] = NIH_ROWS

    def table(
        self, *rows: str, name: str = "Data_Entry_2017_v2020.csv", header: str = NIH_HEADER
    ) -> None:
        write_lines(self.root / name, header, *rows)

    def boxes(self, *rows: str, name: str = "BBox_List_2017.csv", header: str = BOX_HEADER) -> None:
        write_lines(self.root / name, header, *rows)

    def lists(self, train_val: Sequence[str], test: Sequence[str]) -> None:
        for name, ids in (("train_val_list", train_val), ("test_list", test)):
            write_lines(self.root / f"{name}.txt", *ids, end="")  # as NIH's

    def images(self, *ids: str, folder: str = "images") -> None:
        for image in ids:
            write_image(self.root / folder / image, np.full((8, 8), len(image), np.uint8))


def present(source: Source) -> dict[str, set[str]]:
    """The findings that each image is known to show."""
    rows = ((r.image_id, zip(source.labels, r.targets, strict=True)) for r in source.records)
    return {image: {label for label, target in row if target == 1} for image, row in rows}


def listed_patients(source: Source) -> dict[str, set[str]]:
    """The patients of each official list; none is in two."""
    lists = (source.official or {}).items()
    found = {k: {r.patient_id for r in source.records if r.image_id in ids} for k, ids in lists}
    assert sum(map(len, found.values())) == len(set().union(*found.values()))
    return found


def aurocs_of_labels(scores: np.ndarray, targets: np.ndarray) -> list[float]:
    """AUROC of each column (N, L) by scikit-learn; NaN where the known targets are of one kind."""
    from sklearn.metrics import roc_auc_score

    values = []
    for score, target in zip(np.asarray(scores).T, np.asarray(targets).T, strict=True):
        known = ~np.isnan(target)
        both = len(np.unique(target[known])) == 2
        values.append(float(roc_auc_score(target[known], score[known])) if both else np.nan)
    return values
