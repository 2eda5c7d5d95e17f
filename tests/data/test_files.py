"""Paths, folders, patterns and lists in every form: each file once, none lost without a word."""

import os
from pathlib import Path
from unittest.mock import Mock

import pytest

from xray_lightning.data.files import ImageFiles, Journal, file_stamp, find_images, looks_like_image
from xray_lightning.data.partition import NameIndex, read_list
from xray_lightning.errors import DataNotFoundError, TableError

PNG = b"\x89PNG\r\n\x1a\n rest"


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Images by content and by ending among other files; the working folder."""
    root = tmp_path.resolve() / "tree"
    contents = {
        "b.png": PNG,
        "a/no_ending": bytes(128) + b"DICM",
        "a/empty.dcm": b"",
        "a/notes.txt": b"BMI is 20",
        "c/DICOMDIR": bytes(128) + b"DICM",
        "c/x[1].JPG": b"\xff\xd8\xff",
        "table.csv": b"image,Mass",
    }
    for name, content in contents.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    monkeypatch.chdir(root)
    return root


def relative(found: ImageFiles, root: Path) -> tuple[list[str], list[str]]:
    images, skipped = ([str(p.relative_to(root)) for p in x] for x in (found.images, found.skipped))
    return images, skipped


def test_folder(tree: Path) -> None:
    images, skipped = relative(find_images([tree]), tree)
    assert images == ["b.png", "a/empty.dcm", "a/no_ending", "c/x[1].JPG"]
    assert skipped == ["table.csv", "a/notes.txt", "c/DICOMDIR"]
    images, skipped = relative(find_images([".", "a/notes.txt"]), tree)
    assert "a/notes.txt" in images
    assert skipped == ["table.csv", "c/DICOMDIR"]
    (tree / "c/x[1].JPG").unlink()
    for names, told in (("c", "c: 1 files there are neither DICOM"), ([], "an empty list")):
        with pytest.raises(FileNotFoundError, match=f"no image in {told}"):
            find_images(names)


@pytest.mark.parametrize(
    ("names", "wanted"),
    [
        (["b.png"], ["b.png"]),
        (["c/x[1].JPG"], ["c/x[1].JPG"]),  # a file before a pattern
        (["a/notes.txt"], ["a/notes.txt"]),  # named, so it is to be read
        (["a", "b.png"], ["a/empty.dcm", "a/no_ending", "b.png"]),
        (["*.png", "**/*.dcm"], ["b.png", "a/empty.dcm"]),
        (["?"], ["a/empty.dcm", "a/no_ending", "c/x[1].JPG"]),  # a pattern of folders
        (["b.png", "./b.png", "a/../b.png", "*.png", "../tree/b.png"], ["b.png"]),
        (["a", "."], ["a/empty.dcm", "a/no_ending", "b.png", "c/x[1].JPG"]),
    ],
)
def test_names(names: list[str], wanted: list[str], tree: Path) -> None:
    assert relative(find_images(names), tree)[0] == wanted
    assert all(path.is_absolute() for path in find_images(names).images)


def test_links(tree: Path) -> None:
    """A link to a folder is followed once; one to a listed file is that file."""
    (tree / "a/up").symlink_to(tree)
    (tree / "d").symlink_to(tree / "c")
    (tree / "e.png").symlink_to(tree / "b.png")
    (tree / "lost").symlink_to(tree / "nothing")
    found = find_images(["."])
    images, skipped = relative(found, tree)
    assert images == ["b.png", "a/empty.dcm", "a/no_ending", "c/x[1].JPG"]
    assert found.links == [tree / "e.png"]
    assert "lost" in skipped
    assert relative(find_images(["e.png"]), tree)[0] == ["e.png"]  # a link keeps its own name
    assert find_images(["e.png", "b.png"]).images == [tree / "b.png"]
    assert relative(find_images(["d/x[1].JPG", "c/x[1].JPG"]), tree)[0] == ["c/x[1].JPG"]


@pytest.mark.parametrize("name", ["nowhere", "nowhere/*.png", "b.png/x"])
def test_nothing_there(name: str, tree: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no such file or folder, and no file matches it"):
        find_images(["b.png", name])


def test_closed_folder(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Root may list any folder, so the refusal is played."""
    real = os.scandir

    def scandir(path: str) -> object:
        if str(path).endswith("c"):
            raise PermissionError(13, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    with pytest.raises(FileNotFoundError, match=r"c: cannot list this folder \(Permission denied"):
        find_images(["."])


@pytest.mark.parametrize(
    ("content", "wanted"),
    [
        *((start, True) for start in (PNG, b"\xff\xd8\xff\xe0", b"II*\x00", b"MM\x00*")),
        *((start + bytes(12), True) for start in (b"BM", bytes(128) + b"DICM")),
        *((b"\x02\x00\x00\x00UL", True), (b"\x08\x00\x05\x00CS", True)),  # DICOM, no preamble
        *((text, False) for text in (b"BMI,age,weight\n", b"", b"%PDF-1.7")),
    ],
)
def test_content(content: bytes, wanted: bool, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(content)
    assert looks_like_image(tmp_path / "file") is wanted


def test_what_cannot_be_opened_is_not_skipped(tmp_path, monkeypatch) -> None:
    (tmp_path / "file").write_bytes(b"text")
    monkeypatch.setattr(Path, "open", Mock(side_effect=PermissionError(13, "Permission denied")))
    assert looks_like_image(tmp_path / "file")


def test_a_stamp_changes_with_size_date_and_first_bytes_and_a_pipe_has_none(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    stamps = []
    for content, date in ((PNG, 1), (PNG + b"x", 1), (PNG, 2), (PNG[::-1], 2)):
        path.write_bytes(content)
        os.utime(path, (date, date))
        stamps.append(file_stamp(path))
    assert len(set(stamps)) == 4
    assert {len(stamp) for stamp in stamps} == {32}
    path.write_bytes(PNG)
    os.utime(path, (1, 1))
    assert file_stamp(path) == stamps[0]
    assert file_stamp(tmp_path) == file_stamp(tmp_path / "absent") == ""
    os.mkfifo(tmp_path / "pipe")
    assert file_stamp(tmp_path / "pipe") == ""
    assert find_images([tmp_path / "pipe"]).images == [tmp_path.resolve() / "pipe"]


def test_a_ledger_cut_anywhere_loses_only_its_last_line(tmp_path: Path) -> None:
    path = tmp_path / "done"
    journal = Journal(path)
    for name in ("a\n1", "\udcff,b", "a\n1"):
        journal.add({name: f"stamp of {len(journal.stamps)}"})
    whole = path.read_bytes()
    assert Journal(path).stamps == {"a\n1": "stamp of 2", "\udcff,b": "stamp of 1"}
    for size in range(len(whole)):
        path.write_bytes(whole[:size])
        cut = Journal(path)
        assert cut.stamps.items() <= {*journal.stamps.items(), ("a\n1", "stamp of 0")}
        cut.add({"c": "3"})
        assert Journal(path).stamps == cut.stamps
    path.write_bytes(b'[]\n5\n"ab"\n{}\n[1]\nnull\n["d", "4"]')
    assert Journal(path).stamps["d"] == "4"


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
