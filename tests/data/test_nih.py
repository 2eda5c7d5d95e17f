"""ChestXray14 on fake folders in every layout, and the published figures on the real tables."""

import math
import os
import pickle
from collections import Counter

import numpy as np
import pytest
from toy import listed_patients

from xray_lightning import errors
from xray_lightning.data.nih import ChestXray14
from xray_lightning.data.source import Source, readable_records
from xray_lightning.records import CHEST_XRAY14, Box, encode, target_matrix

# Of the official split: images without a finding, share of AP, mean follow-up; and of the labels
# in the order of CHEST_XRAY14 the positives.
PUBLISHED = {
    "train_val": (50_500, 0.350, 5.1, [8280, 1707, 8659, 13782, 4034, 4708, 876, 2637, 2852, 1378,
                                       1423, 1251, 2242, 141]),
    "test": (9_861, 0.566, 20.3, [3279, 1069, 4658, 6112, 1748, 1623, 555, 2665, 1815, 925,
                                  1093, 435, 1143, 86]),
}  # fmt: skip
FIRST = "00000001_000.png"


def test_full_table(shared_data) -> None:
    full = ChestXray14(shared_data / "nih-metadata")
    assert len(full.records) == 112_120
    assert len({record.patient_id for record in full.records}) == 30_805
    assert len(full.missing) == 112_120
    assert full.notes == ("112,120 of the 112,120 images in the label table are not on disk",)
    assert [len(full.official[subset]) for subset in ("train_val", "test")] == [86_524, 25_596]
    patients = listed_patients(full)
    assert {k: len(ids) for k, ids in patients.items()} == {"train_val": 28_008, "test": 2_797}
    boxed = [record for record in full.records if record.boxes]
    assert len(boxed) == 880
    assert sum(len(record.boxes) for record in boxed) == 984
    assert {record.image_id for record in boxed} <= full.official["test"]
    assert len({box.label for record in boxed for box in record.boxes}) == 8
    assert all(record.box_frame == (1024, 1024) for record in boxed)
    assert full.labels == CHEST_XRAY14
    for subset, (no_finding, view, follow_up, positives) in PUBLISHED.items():
        rows = [record for record in full.records if record.image_id in full.official[subset]]
        targets = target_matrix(rows)
        assert targets.sum(axis=0).tolist() == positives
        assert int((targets.sum(axis=1) == 0).sum()) == no_finding
        assert np.mean([record.view == "AP" for record in rows]) == pytest.approx(view, abs=5e-4)
        assert np.mean([record.follow_up for record in rows]) == pytest.approx(follow_up, abs=0.05)
    ages = [record.age for record in full.records]
    assert (min(ages), max(ages)) == (0, 95)
    assert Counter(record.sex for record in full.records) == {"M": 63_340, "F": 48_780}


def test_table_elsewhere_brings_its_lists_and_boxes(shared_data) -> None:
    table = (shared_data / "nih-metadata").resolve() / "Data_Entry_2017_v2020.csv.gz"
    source = ChestXray14(shared_data / "nih-1024", table=table, allow_missing=True)
    assert len(readable_records(source)) == 40
    assert source.official is not None
    assert sum(len(record.boxes) for record in source.records) == 984


def test_records(nih_folder) -> None:
    source: Source = ChestXray14(nih_folder.root)
    record = source.records[1]
    assert (record.image_id, record.patient_id) == ("00000001_001.png", "1")
    assert record.targets == encode(["Cardiomegaly", "Emphysema"], CHEST_XRAY14)
    assert (record.age, record.sex, record.view, record.follow_up) == (58.0, "M", "PA", 1.0)
    assert record.path == nih_folder.root / "images" / "00000001_001.png"
    assert source.records[2].targets == (0.0,) * 14
    ids = [record.image_id for record in source.records]
    assert ids == sorted(ids)
    assert (source.name, source.labels) == ("nih", CHEST_XRAY14)
    assert (source.missing, source.notes) == ((), ())
    assert source.read(record).tolist() == [[16] * 8] * 8
    root = str(nih_folder.root.resolve())
    assert source.identity() == {"source": "nih", "root": root, "reader": 2}
    first = Box("Infiltration", 225.08, 547.02, 86.78, 79.19)  # an alias of the box list
    assert source.records[3].boxes == (first, Box("Mass", 10, 20, 30.5, 40))
    assert [*pickle.loads(pickle.dumps(source)).records] == [*source.records]  # survives a worker


def test_lists_without_a_final_newline_by_either_name_or_none(nih_folder) -> None:
    official = ChestXray14(nih_folder.root).official or {}
    assert official["train_val"] == {f"0000000{n}.png" for n in ("1_000", "1_001", "2_000")}
    assert official["test"] == {"00000003_000.png", "00000003_001.png"}
    for name in ("train_val_list", "test_list"):  # as on Kaggle
        (nih_folder.root / f"{name}.txt").rename(nih_folder.root / f"{name}_NIH.txt")
    assert ChestXray14(nih_folder.root).official == official
    for path in (*nih_folder.root.glob("*_NIH.txt"), nih_folder.root / "BBox_List_2017.csv"):
        path.unlink()
    source = ChestXray14(nih_folder.root)
    assert source.official is None
    assert not any(record.boxes for record in source.records)


@pytest.mark.parametrize(
    "folders",
    [
        [""],
        ["images"],
        ["images_001/images", "images_012/images"],
        ["", "images_002/images", "images"],
    ],
)
def test_layouts(empty_nih, folders: list[str]) -> None:
    empty_nih.table(*empty_nih.rows)
    ids = [row.split(",")[0] for row in empty_nih.rows]
    for position, image in enumerate(ids):
        empty_nih.images(image, folder=folders[position % len(folders)])
    source = ChestXray14(empty_nih.root)
    assert source.missing == ()
    for position, record in enumerate(source.records):
        assert record.path == empty_nih.root / folders[position % len(folders)] / record.image_id
        assert source.read(record).shape == (8, 8)


def test_linked_folder_and_broken_link(empty_nih, tmp_path) -> None:
    empty_nih.root = tmp_path / "nih"
    empty_nih.table(*empty_nih.rows[:2])
    empty_nih.images(FIRST, folder="../elsewhere")
    (empty_nih.root / "images").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "00000001_001.png").symlink_to(tmp_path / "gone.png")
    assert ChestXray14(empty_nih.root).missing == ("00000001_001.png",)


def test_gzip(empty_nih) -> None:
    empty_nih.table(*empty_nih.rows, name="Data_Entry_2017_v2020.csv.gz")
    empty_nih.boxes("00000001_000.png,Mass,1,2,3,4", name="BBox_List_2017.csv.gz")
    source = ChestXray14(empty_nih.root)
    assert (len(source.records), source.records[0].boxes) == (5, (Box("Mass", 1, 2, 3, 4),))


def test_newer_table_is_preferred_and_another_may_be_named(nih_folder) -> None:
    nih_folder.table(*nih_folder.rows[:1], name="Data_Entry_2017.csv")
    source = ChestXray14(nih_folder.root)
    assert len(source.records) == 5
    note = "Data_Entry_2017_v2020.csv was read; Data_Entry_2017.csv beside it was not"
    assert source.notes == (note,)
    nih_folder.table(*nih_folder.rows[3:], name="subset.csv")
    assert len(ChestXray14(nih_folder.root, table="subset.csv").records) == 2  # in the root
    with pytest.raises(errors.DataNotFoundError, match=r"there is no table .*other\.csv"):
        ChestXray14(nih_folder.root, table="other.csv")


def test_old_table(empty_nih) -> None:
    """The first release: a comma ends every line, ages have units, some are impossible."""
    ages = ("058Y", "412Y", "006M", "003D", "013W", "-1", "110", "111", "", "412")
    rows = [f"{i}.png,Mass,0,{i},{age},M,PA,1,1,0.1,0.1," for i, age in enumerate(ages)]
    empty_nih.table(*rows, name="Data_Entry_2017.csv", header=empty_nih.header + ",")
    source = ChestXray14(empty_nih.root)
    expected = [58, math.nan, 0.5, 3 / 365.25, 91 / 365.25, math.nan, 110, *[math.nan] * 3]
    np.testing.assert_allclose([record.age for record in source.records], expected)
    assert "4 impossible ages became NaN" in source.notes
    assert [record.view for record in source.records] == ["PA"] * 10


@pytest.mark.parametrize("end", [",", ",,"])
def test_rows_may_end_in_commas_that_the_header_lacks(empty_nih, end) -> None:
    empty_nih.table(*(row + end for row in empty_nih.rows))
    records = ChestXray14(empty_nih.root).records
    assert [record.patient_id for record in records] == ["1", "1", "2", "3", "3"]


def test_other_writings(empty_nih) -> None:
    """A byte order mark, Windows line ends, blank lines, padded ids, the newer name of sex."""
    names = "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Sex"
    header = f"\ufeff{names},View Position"
    rows = ["a.png, Mass | Nodule ,,0075,60,f,pa\r", "\r", "b.png,No Finding,2,75,60,X,\r"]
    empty_nih.table(*rows, header=header + "\r")
    source = ChestXray14(empty_nih.root)
    first, second = source.records
    assert first.targets == encode(["Mass", "Nodule"], CHEST_XRAY14)
    assert (first.patient_id, second.patient_id) == ("75", "75")
    assert (first.sex, first.view, second.sex, second.view) == ("F", "PA", "", "")
    assert math.isnan(first.follow_up)
    assert "1 cell of 'Patient Sex' other than M and F became unknown" in source.notes


def test_missing_and_extra_files(nih_folder) -> None:
    (nih_folder.root / "images" / "00000002_000.png").unlink()
    nih_folder.images("unknown.png", ".hidden.png")
    (nih_folder.root / "images" / "notes.txt").write_text("no image")
    source = ChestXray14(nih_folder.root)
    assert source.missing == ("00000002_000.png",)
    assert source.records[2].path is None
    assert source.notes == (
        "1 of the 5 images in the label table are not on disk",
        "Image files on disk that are not in the label table: 1",
    )
    with pytest.raises(errors.MissingImagesError, match="1 of the 5 images"):
        readable_records(source)
    with pytest.raises(errors.MissingImagesError, match=r"00000002_000\.png of the label table"):
        source.read(source.records[2])
    assert len(readable_records(ChestXray14(nih_folder.root, allow_missing=True))) == 4


def test_table_may_be_a_subset_of_the_lists(nih_folder) -> None:
    nih_folder.table(nih_folder.rows[0], nih_folder.rows[3], "x.png,Mass,0,9,50,M,PA,1,1,1,1")
    source = ChestXray14(nih_folder.root)
    assert source.official == {"train_val": {FIRST}, "test": {"00000003_000.png"}}
    assert source.notes[:3] == (
        "2 of the 3 images in the official train_val list are not in the label table and were left "
        "out of the list",
        "1 of the 2 images in the official test list are not in the label table and were left out "
        "of the list",
        "1 of the 3 images in the label table are in neither official list, the first is x.png",
    )


def test_a_file_and_another_folder(empty_nih, tmp_path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(errors.DataNotFoundError, match="file is a file, not a folder"):
        ChestXray14(tmp_path / "file")
    empty_nih.table(*empty_nih.rows, name="CXR8/Data_Entry_2017.csv")
    match = r"There is one in .*CXR8: is that the folder meant"
    with pytest.raises(errors.DataNotFoundError, match=match):
        ChestXray14(empty_nih.root)


@pytest.mark.parametrize(
    ("row", "match"),
    [
        ("x.png,Mas,0,1,57,M,PA,1,1,1,1", r"v2020\.csv, row 7 \(x\.png\): unknown label 'Mas'"),
        ("x.png,,0,1,57,M,PA,1,1,1,1", r"row 7 \(x\.png\): unknown label ''"),
        ("x.png,Mass|No Finding,0,1,57,M,PA,1,1,1,1", r"row 7 .*'No Finding' stands beside"),
        (f"{FIRST},Mass,0,1,57,M,PA,1,1,1,1", rf"in 1 row, the first is {FIRST} in rows 2 and 7"),
        (",Mass,0,1,57,M,PA,1,1,1,1", "row 7: 'Image Index' is blank"),
        ("x.png,Mass,0,one,57,M,PA,1,1,1,1", "row 7: 'Patient ID' is 'one', not a whole number"),
        ("x.png,Mass,first,1,57,M,PA,1,1,1,1", "row 7: 'Follow-up #' is 'first', not a number"),
        ("x.png,Mass,0,1,old,M,PA,1,1,1,1", "row 7: 'Patient Age' is 'old', not an age such as"),
        ("x.png,Mass,0,1,Y,M,PA,1,1,1,1", "row 7: 'Patient Age' is 'Y', not an age such as"),
        ("x.png,Mass,0,1", "row 7 has 4 cells, the header names 11 columns"),
        ("x.png,Mass,0,1,57,M,PA,1,1,1,1,9", "row 7 has 12 cells, the header names 11 columns"),
    ],
)
def test_bad_rows(nih_folder, row: str, match: str) -> None:
    nih_folder.table(*nih_folder.rows, row)
    with pytest.raises(errors.TableError, match=match):
        ChestXray14(nih_folder.root)


@pytest.mark.parametrize(
    ("row", "match"),
    [
        ("x.png,Mass,1,2,3,4", r"List_2017\.csv, row 2: the image 'x\.png' is not in the label"),
        (f"{FIRST},Mas,1,2,3,4", "row 2: unknown label 'Mas'"),
        (f"{FIRST},Mass,1,2,three,4", r"row 2: 'w' is 'three', not a number"),
        (f"{FIRST},Mass,1,2,,4", "row 2: .* has no area"),
        (f"{FIRST},Mass,1,2,3,-4", "row 2: .* has no area"),
        (f"{FIRST},Mass,1,2,3", "row 2 has 5 cells, the header names 6 columns"),
    ],
)
def test_bad_boxes(nih_folder, row: str, match: str) -> None:
    nih_folder.boxes(row)
    with pytest.raises(errors.TableError, match=match):
        ChestXray14(nih_folder.root)


LACKS = "lacks 5 columns: 'Finding Labels', 'Follow-up #', .*; it has 'Image Index', 'Patient ID'"


@pytest.mark.parametrize(
    ("text", "match"),
    [
        *(("", "is empty"), ("Image Index\n", "is empty")),
        *(("a,a\n1,2\n", "two columns of one name"), ("Image Index,Patient ID\na.png,1\n", LACKS)),
    ],
)
def test_tables_without_their_columns(nih_folder, text: str, match: str) -> None:
    (nih_folder.root / "Data_Entry_2017_v2020.csv").write_text(text)
    with pytest.raises(errors.TableError, match=match):
        ChestXray14(nih_folder.root)


def test_damaged_table(nih_folder) -> None:
    name = "Data_Entry_2017.csv.gz"
    nih_folder.table(*nih_folder.rows, name=name)
    path = nih_folder.root / name
    for content in (path.read_bytes()[:-40], b"no gzip"):
        path.write_bytes(content)
        with pytest.raises(errors.TableError, match="is not a readable table"):
            ChestXray14(nih_folder.root, table=name)


@pytest.mark.parametrize("name", ["train_val_list.txt", "test_list.txt"])
def test_one_list_alone_and_overlapping_lists(nih_folder, name: str) -> None:
    (nih_folder.root / name).unlink()
    with pytest.raises(errors.DataNotFoundError, match=f"there is no list .*{name}, but the other"):
        ChestXray14(nih_folder.root)
    nih_folder.lists([FIRST, "00000002_000.png"], ["00000002_000.png"])
    with pytest.raises(errors.SplitError, match=r"share 1 image, the first is 00000002_000\.png"):
        ChestXray14(nih_folder.root)


def test_one_name_in_two_folders(nih_folder) -> None:
    nih_folder.images(FIRST, folder="images_001/images")
    match = rf"images/{FIRST} and .*images_001/images/{FIRST} are one image"
    with pytest.raises(errors.DataError, match=match):
        ChestXray14(nih_folder.root)


def test_no_look_at_each_file(nih_folder, monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[str] = []
    stat = os.stat
    monkeypatch.setattr(os, "stat", lambda p, **more: looked.append(str(p)) or stat(p, **more))
    ChestXray14(nih_folder.root)
    assert looked
    assert not [path for path in looked if path.endswith(".png")]
