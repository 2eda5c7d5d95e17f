"""Lists in every form they are published in, against the names written down by hand."""

from pathlib import Path

import pytest

from xray_lightning.data.names import NameIndex, read_list
from xray_lightning.errors import DataNotFoundError, TableError

IDS = ["00000001_000.png", "00000001_001.png", "00000002_000.png"]
INDEX = NameIndex(IDS)
WANTED = (IDS[0], IDS[2])
FORMS = {
    "one a line": f"{IDS[0]}\n{IDS[2]}\n",
    "no newline at the end": f"{IDS[0]}\n{IDS[2]}",
    "CRLF, blank lines": f"\ufeff{IDS[0]}\r\n\r\n{IDS[2]}\r\n",
    "labels behind the name": f"{IDS[0]} 0 1 0\n{IDS[2]} 1 0 -1\n",
    "one label, tabs": f"{IDS[0]}\t0\n{IDS[2]}\t1.0\n",
    "a folder in front": f"images_001/images/{IDS[0]}\n.\\nih\\{IDS[2]}\n",
    "no ending": "00000001_000\n00000002_000\n",
    "another ending": "00000001_000.JPG 1\n00000002_000.dcm 0\n",
    "CSV with a header": f"Finding,Image Index,Age\nMass|Nodule,{IDS[0]},58\n,{IDS[2]},\n",
    "CSV without a header": f"{IDS[0]},1\n{IDS[2]},0\n",
    "CSV, quoted, semicolons": f'id;"path"\n1;"a;b/{IDS[0]}"\n2;"{IDS[2]}"\n',
    "one column with a header": f"image\n{IDS[0]}\n{IDS[2]}\n",
    "a name twice": f"{IDS[0]}\n{IDS[2]}\n{IDS[0]}\n",
}


@pytest.mark.parametrize("text", FORMS.values(), ids=FORMS)
def test_forms(tmp_path: Path, text: str) -> None:
    path = tmp_path / "list.txt"
    path.write_text(text, newline="")
    assert read_list(path, INDEX) == WANTED


def test_unknown_names_are_kept_and_names_may_have_spaces_and_numbers(tmp_path: Path) -> None:
    path = tmp_path / "list.txt"
    path.write_text("00000009_000.png 0 1\n00000001_000.png 0 1\n")
    assert read_list(path, INDEX) == ("00000009_000.png", IDS[0])
    path.write_text("a.png,0\nimage.png,0\n")
    assert read_list(path, NameIndex(["a.png"])) == ("a.png", "image.png")
    path.write_text("case 1\ncase 2\n")
    assert read_list(path, NameIndex(["case 1", "case 2", "case 3"])) == ("case 1", "case 2")


@pytest.mark.parametrize(
    ("name", "image"),
    [
        ("train/a.png", "train/a.png"),
        ("/data/train/a.jpeg", "train/a.png"),
        ("test/a.png", None),  # another folder is another image
        ("a.png", None),  # two of that name
        ("b", "val/b.png"),
        ("1.2.840.1", "1.2.840.1"),
        ("1.2.840.1.dcm", "1.2.840.1"),
        ("1.2.840.9", None),  # what follows the last dot is no ending
        ("", None),
    ],
)
def test_what_a_name_means(name: str, image: str | None) -> None:
    index = NameIndex(["train/a.png", "val/a.png", "val/b.png", "1.2.840.1", "1.2.840.2"])
    assert index.find(name) == image


def test_unreadable(tmp_path: Path) -> None:
    path = tmp_path / "list.txt"
    with pytest.raises(DataNotFoundError, match=r"no list .*list\.txt"):
        read_list(path, INDEX)
    path.write_text("\n \n")
    with pytest.raises(TableError, match=r"list\.txt is empty"):
        read_list(path, INDEX)
    path.write_bytes(b"\xff\x00x")
    with pytest.raises(TableError, match=r"list\.txt is not a readable list"):
        read_list(path, INDEX)
