"""Tiny fake data in the real on-disk layouts."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from toy import BOX_ROWS, NIH_ROWS, NihFolder, write_image, write_lines


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
        return write_lines(tmp_path / name, *lines)

    return write
