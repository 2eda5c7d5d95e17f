"""CsvTable: columns, unknown targets, splits, boxes, and every refused table."""

import math
from collections.abc import Sequence
from pathlib import Path

import pytest

from xray_lightning.data.csv import CsvTable
from xray_lightning.data.source import Source, readable_records
from xray_lightning.errors import ConfigError, DataNotFoundError, MissingImagesError, TableError
from xray_lightning.records import Box


def test_every_column(csv_folder) -> None:
    table = csv_folder(
        "image,patient,split,Mass,Large Nodule,age,sex,view,follow_up",
        "a.png,007,Train,1,0.0,058Y,male,pa,2",
        "sub/b.png,008,TEST,1.0,0,,,,",
    )
    source: Source = CsvTable(table, name="mine")
    first, second = source.records
    assert (source.name, source.labels) == ("mine", ("Mass", "Large Nodule"))
    assert (first.image_id, first.patient_id, first.targets) == ("a.png", "007", (1.0, 0.0))
    assert (first.age, first.sex, first.view, first.follow_up) == (58.0, "M", "PA", 2.0)
    assert (second.image_id, second.sex, second.view) == ("sub/b.png", "", "")
    assert [*map(math.isnan, (second.age, second.follow_up))] == [True, True]
    assert (first.box_frame, second.path) == (None, table.parent / "sub" / "b.png")
    assert (source.official, source.missing) == ({"train": {"a.png"}, "test": {"sub/b.png"}}, ())
    assert source.notes == (
        "2 labels: Mass, Large Nodule (or data.labels=)",
        "The table's column 'split' is the split unless split= names another",
    )
    assert source.read(second).shape == (6, 4)
    assert source.identity() == {"source": "mine", "root": str(table.parent.resolve()), "reader": 2}


def test_unknown_targets_are_nan_and_counted(csv_folder) -> None:
    source = CsvTable(csv_folder("image,patient,Mass,Nodule", "a.png,1,-1,", "sub/b.png,1,-1.0,1"))
    assert [math.isnan(t) for r in source.records for t in r.targets] == [True] * 3 + [False]
    assert source.notes[1:] == ("3 targets unknown (blank or -1)",)


def test_without_patients_a_note_warns(csv_folder) -> None:
    source = CsvTable(csv_folder("image,Mass", "a.png,1", "sub/b.png,0"))
    assert [record.patient_id for record in source.records] == ["a.png", "sub/b.png"]
    assert "cannot protect against leaks" in source.notes[1]
    assert source.official is None


@pytest.mark.parametrize("word", ["val", "Valid", "validation"])
def test_words_for_validation(csv_folder, word: str) -> None:
    source = CsvTable(csv_folder("image,split,Mass", "a.png,train,1", f"sub/b.png,{word},0"))
    assert source.official == {"train": {"a.png"}, "val": {"sub/b.png"}}


def test_chosen_labels_in_the_chosen_order(csv_folder) -> None:
    table = csv_folder(",image,A,remark,B", "17,a.png,1,blurred,0")  # pandas names its column ""
    source = CsvTable(table, labels=["B", "A"])
    assert (source.labels, source.records[0].targets) == (("B", "A"), (0.0, 1.0))
    with pytest.raises(TableError, match="lacks 1 column: 'Mass'"):
        CsvTable(table, labels=["Mass"])
    assert CsvTable(csv_folder(",image,Mass", "17,a.png,1")).labels == ("Mass",)


def test_absolute_images_and_another_root(csv_folder, tmp_path: Path) -> None:
    csv_folder("image,Mass")
    for other in (f"{tmp_path}/a.png", "../a.png"):
        table = csv_folder("image,Mass", "b.png,1", f"{other},0", name="x/t.csv")
        source = CsvTable(table, root=tmp_path / "sub")
        assert source.missing == ()
        assert [source.read(record).shape for record in source.records] == [(6, 4)] * 2


def test_missing_images(csv_folder) -> None:
    table = csv_folder("image,patient,Mass", "a.png,1,1", "none/c.png,1,0", "sub/c.png,1,0")
    source = CsvTable(table)
    assert source.missing == ("none/c.png", "sub/c.png")
    assert source.notes[1].startswith("2 of the 3 images in the table are not on disk, the first")
    with pytest.raises(MissingImagesError, match="2 of the 3"):
        readable_records(source)
    with pytest.raises(MissingImagesError, match=r"none/c\.png"):
        source.read(source.records[1])
    assert len(readable_records(CsvTable(table, allow_missing=True))) == 1


def test_boxes(csv_folder) -> None:
    table = csv_folder("image,Infiltrate", "a.png,1", "sub/b.png,0")
    boxes = csv_folder("label,image,x,y,width,height", "Infiltrate,a.png,1,2,3,4", name="b.csv")
    source = CsvTable(table, boxes=boxes)
    assert [r.boxes for r in source.records] == [(Box("Infiltrate", 1, 2, 3, 4),), ()]


@pytest.mark.parametrize(
    ("lines", "match"),
    [
        (("file,Mass", "a.png,1"), "lacks 1 column: 'image'; it has 'file', 'Mass'"),
        (("image,patient", "a.png,1"), "has no label column, only image, patient"),
        (("image,Mass", "a.png,yes"), r"row 2: 'Mass' is 'yes', not 1, 0, True, .* data\.labels="),
        (("image,Mass", "a.png,2"), "row 2: 'Mass' is '2', .* labels are binary, several an image"),
        (("image,Mass,height", "a.png,1,180"), r"row 2: 'height' is '180', not 1, 0"),
        (("image,Mass", "a.png,1", "b.png,0.5"), "row 3: 'Mass' is '0.5', not 1, 0"),
        (("image,Mass", "a.png,nan"), "row 2: 'Mass' is 'nan', not 1, 0"),
        (("image,patient,Mass", "a.png,1,1", "b.png,,1"), "row 3: 'patient' is blank"),
        (("image,patient,Mass", "a.png,NaN,1"), "row 2: 'patient' is 'NaN', no id"),
        (("image,patient,Mass", "a.png,1.2E+11,1"), r"'patient' is '1.2E\+11': a spreadsheet"),
        (("image,split,Mass", "a.png,dev,1"), r"row 2: 'split' is 'dev', not train, val \(or"),
        (("image,split,Mass", "a.png,,1"), "row 2: 'split' is '', not train"),
    ],
)
def test_bad_tables(csv_folder, lines: tuple[str, ...], match: str) -> None:
    with pytest.raises(TableError, match=match):
        CsvTable(csv_folder(*lines))


@pytest.mark.parametrize(
    ("labels", "match"),
    [
        *((labels, "different columns other than image") for labels in ([], ["A", "A"], ["age"])),
        ("Mass", r"data\.labels is a list of columns such as \[Mass\]"),
    ],
)
def test_bad_choice_of_labels(csv_folder, labels: Sequence[str], match: str) -> None:
    with pytest.raises(ConfigError, match=match):
        CsvTable(csv_folder("image,A,age", "a.png,1,50"), labels=labels)


def test_absent_table_and_root(csv_folder, tmp_path: Path) -> None:
    with pytest.raises(DataNotFoundError, match=r"there is no table .*absent\.csv"):
        CsvTable(tmp_path / "absent.csv")
    with pytest.raises(DataNotFoundError, match=r"nowhere does not exist. The images of the table"):
        CsvTable(csv_folder("image,A", "a.png,1"), root=tmp_path / "nowhere")
    with pytest.raises(DataNotFoundError, match="there is no table"):
        CsvTable(csv_folder("image,A", "a.png,1"), boxes=tmp_path)


@pytest.mark.parametrize("name", ["./a.png", "link.png", "folder/b.png", "{root}/a.png"])
def test_two_names_or_a_link_of_a_listed_image_are_that_image(csv_folder, tmp_path, name) -> None:
    other = name.format(root=tmp_path)
    table = csv_folder("image,patient,Mass", "a.png,1,0", "sub/b.png,2,0", f"{other},3,1")
    (tmp_path / "link.png").symlink_to("a.png")
    (tmp_path / "folder").symlink_to("sub")
    with pytest.raises(TableError, match=f"names one file twice: .* and {other}"):
        CsvTable(table)


def test_links_to_files_elsewhere_are_images(csv_folder, tmp_path: Path) -> None:
    table = csv_folder("image,patient,Mass", "link.png,1,0", "sub/b.png,2,0")
    (tmp_path / "link.png").symlink_to("a.png")
    source = CsvTable(table)
    assert [record.image_id for record in source.records] == ["link.png", "sub/b.png"]
    assert source.read(source.records[0]).shape == (6, 4)


@pytest.mark.parametrize("mark", [",", ";", "\t", "|"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_separators_and_encodings(mark: str, encoding: str, tmp_path: Path) -> None:
    rows = ["image,patient,Mass,Ödem", "a.png,007,True,FALSE", "b.png,8,,0"]
    (tmp_path / "t.csv").write_bytes("\n".join(rows).replace(",", mark).encode(encoding))
    source = CsvTable(tmp_path / "t.csv", allow_missing=True)
    assert source.labels == ("Mass", "Ödem")
    assert [record.patient_id for record in source.records] == ["007", "8"]
    assert source.records[0].targets == (1.0, 0.0)
    assert math.isnan(source.records[1].targets[0])


def test_the_separator_is_the_one_that_fills_the_header(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text('image;patient;"A, left";B\na.png;1;1;0\n')
    assert CsvTable(tmp_path / "t.csv", allow_missing=True).labels == ("A, left", "B")
    (tmp_path / "t.csv").write_text("image,patient,A\na;b|c.png,1,1\n")
    assert CsvTable(tmp_path / "t.csv", allow_missing=True).records[0].image_id == "a;b|c.png"


@pytest.mark.parametrize(
    ("header", "encoding", "match"),
    [
        ("image,Ödem", "latin-1", r"not UTF-8 \(.*0xd6.*CSV UTF-8"),
        ("image,Mass", "utf-16-le", "UTF-16 without its mark"),
    ],
)
def test_an_encoding_that_cannot_be_told(header, encoding, match, tmp_path) -> None:
    (tmp_path / "t.csv").write_bytes(f"{header}\na.png,1\n".encode(encoding))
    with pytest.raises(TableError, match=match):
        CsvTable(tmp_path / "t.csv")


def test_well_known_columns_are_labels_only_if_named(csv_folder) -> None:
    table = csv_folder("image,patient,Mass,fold,Gender,Is-Train", "a.png,1,1,0,1,0")
    source = CsvTable(table)
    assert source.labels == ("Mass",)
    assert source.notes[0] == "1 label: Mass; not taken: fold, Gender, Is-Train (or data.labels=)"
    assert CsvTable(table, labels=["fold", "Mass"]).labels == ("fold", "Mass")


def test_names_of_columns(csv_folder) -> None:
    table = csv_folder("filename,subject_id,Mass,image,Sex", "a.png,p7,1,zebra,F")
    names = {"image": "filename", "patient": "subject_id", "sex": "Sex"}
    record = CsvTable(table, columns=names).records[0]
    assert (record.image_id, record.patient_id, record.sex) == ("a.png", "p7", "F")
    assert CsvTable(table, columns=names).labels == ("Mass",)
    with pytest.raises(TableError, match="lacks 1 column: 'subject'"):
        CsvTable(table, columns={"patient": "subject"})
    for wrong in ({"person": "subject_id"}, "subject_id"):
        with pytest.raises(ConfigError, match=r"data\.columns is a mapping .*subject_id'?\}?$"):
            CsvTable(table, columns=wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("ids", "pairs"),
    [
        (("007", "7"), "007 and 7"),
        (("7.0", "7"), "7.0 and 7"),
        (("P1", "p1"), "P1 and p1"),
        (("0", "000"), "0 and 000"),
        *((ids, "") for ids in (("70", "7"), ("7.5", "7"), ("1.2.3", "1.2.30"), ("a01", "a1"))),
    ],
)
def test_patients_written_in_two_ways(csv_folder, ids: Sequence[str], pairs: str) -> None:
    rows = [f"{name},{own},1" for name, own in zip(("a.png", "sub/b.png"), ids, strict=True)]
    source = CsvTable(csv_folder("image,patient,Mass", *rows))
    assert [record.patient_id for record in source.records] == list(ids)
    warned = [note for note in source.notes if note.startswith("WARNING: 1 patient may be")]
    assert len(warned) == bool(pairs)
    assert not pairs or f"({pairs})" in warned[0]
