"""Tiny fake data in the real on-disk layouts."""

import gzip
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from toy import NIH_HEADER, write_image

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


@dataclass
class NihFolder:
    """Writes a folder as NIH publishes it; each method replaces one part of it."""

    root: Path
    header: str = NIH_HEADER
    rows: Sequence[str] = NIH_ROWS

    def table(
        self, *rows: str, name: str = "Data_Entry_2017_v2020.csv", header: str = NIH_HEADER
    ) -> None:
        write_text(self.root / name, "\n".join([header, *rows]) + "\n")

    def boxes(self, *rows: str, name: str = "BBox_List_2017.csv", header: str = BOX_HEADER) -> None:
        write_text(self.root / name, "\n".join([header, *rows]) + "\n")

    def lists(self, train_val: Sequence[str], test: Sequence[str], suffix: str = "") -> None:
        for name, ids in (("train_val_list", train_val), ("test_list", test)):
            write_text(self.root / f"{name}{suffix}.txt", "\n".join(ids))  # no final newline

    def images(self, *ids: str, folder: str = "images") -> None:
        for image in ids:
            pixels = np.full((8, 8), len(image), np.uint8)
            write_image(self.root / folder / image, pixels)


def write_text(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    data = text.encode()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)


@pytest.fixture
def empty_nih(tmp_path: Path) -> NihFolder:
    return NihFolder(tmp_path)


@pytest.fixture
def nih_folder(empty_nih: NihFolder) -> NihFolder:
    """Five images of three patients, complete."""
    empty_nih.table(*NIH_ROWS)
    empty_nih.boxes(*BOX_ROWS)
    ids = [row.split(",")[0] for row in NIH_ROWS]
    empty_nih.lists(ids[:3], ids[3:])
    empty_nih.images(*ids)
    return empty_nih


@pytest.fixture
def csv_folder(tmp_path: Path) -> Callable[..., Path]:
    """Writes lines as ``table.csv`` beside the images ``a.png`` and ``sub/b.png``."""

    def write(*lines: str, name: str = "table.csv") -> Path:
        for image in ("a.png", "sub/b.png"):
            write_image(tmp_path / image, np.full((6, 4), 7, np.uint8))
        write_text(tmp_path / name, "\n".join(lines) + "\n")
        return tmp_path / name

    return write
