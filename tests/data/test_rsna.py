"""RSNA on phantom folders in Kaggle's layout, its map to NIH, the figures of the real tables."""

import json
import math
import warnings
from itertools import permutations

import numpy as np
import pytest
from toy import write_lines

import xray_lightning as xl
from xray_lightning.data.nih import nih_patient, read_nih_map

quiet = pytest.mark.filterwarnings("ignore::xray_lightning.UnknownPatientsWarning")


def mapped(folder, **settings) -> xl.Rsna:
    return xl.Rsna(folder.root, nih_map=folder.nih_map(), **settings)


def test_one_record_per_image(rsna_folder) -> None:
    source = mapped(rsna_folder)
    assert [record.image_id for record in source.records] == rsna_folder.ids
    assert source.labels == ("Lung Opacity",)
    assert [record.targets for record in source.records[:3]] == [(1.0,), (0.0,), (0.0,)]
    boxes = [xl.Box("Lung Opacity", x, 20, 300, 400) for x in (10, 11)]
    assert source.records[3].boxes == tuple(boxes)
    assert {record.box_frame for record in source.records} == {(1024, 1024)}
    assert sum(len(record.boxes) for record in source.records) == 3 * (1 + 2 + 3)
    assert source.records[0].path == rsna_folder.root / "stage_2_train_images/id-00.dcm"
    assert not source.missing
    assert source.title == "rsna (negatives: all)"
    assert any("negatives=all: 18 images without opacity, 9 of them abnormal" in note
               and "0.87 (all) to 0.98" in note for note in source.notes)  # fmt: skip


def test_normal_negatives_leave_the_abnormal_out_by_the_class_info(rsna_folder) -> None:
    source = mapped(rsna_folder, negatives="normal")
    assert source.title == "rsna (negatives: normal)"
    wanted = [image for image in rsna_folder.ids if not image.endswith("1")]
    assert [record.image_id for record in source.records] == wanted
    (note,) = (note for note in source.notes if note.startswith("negatives=normal"))
    assert "9 abnormal images without opacity LEFT OUT, 9 normal ones are the negatives" in note
    assert not [note for note in source.notes if "not in the label table" in note]
    (rsna_folder.root / "stage_2_detailed_class_info.csv").unlink()
    assert mapped(rsna_folder).notes[0].startswith("negatives=all: 18 images without opacity. ")
    with pytest.raises(xl.DataNotFoundError, match=r"class_info\.csv, which tells the normal"):
        mapped(rsna_folder, negatives="normal")


def test_settings(rsna_folder) -> None:
    with pytest.raises(xl.ConfigError, match="negatives must be one of all, normal, got 'none'"):
        xl.Rsna(rsna_folder.root, negatives="none")
    with pytest.raises(xl.ConfigError, match="nih_test_list names NIH's images: set nih_map too"):
        xl.Rsna(rsna_folder.root, nih_test_list="list.txt")
    source = mapped(rsna_folder, label="Pneumonia")
    assert (source.labels, source.records[0].boxes[0].label) == (("Pneumonia",), "Pneumonia")


def test_stage_1_flat_and_compressed(empty_rsna) -> None:
    empty_rsna.stage = "stage_1"
    empty_rsna.complete(folder=".")
    for path in empty_rsna.root.glob("*.csv"):
        write_lines(path.with_suffix(".csv.gz"), path.read_text())
        path.unlink()
    source = mapped(empty_rsna, negatives="normal")
    assert len(source.records) == 18
    assert not source.missing


OUTSIDE = "needs a box inside the 1024 x 1024 image"
AGAIN = "'a' repeats or contradicts an earlier row"


@pytest.mark.parametrize(
    ("rows", "match"),
    [
        (["a,,,,,1"], r"labels\.csv, row 2: Target 1 needs a box inside"),
        (["a,1,2,0,4,1"], "row 2: Target 1 needs a box .* got x, y, width, height .1.0, 2.0"),
        *(([f"a,{box},1"], OUTSIDE) for box in ("900,2,200,4", "-1,2,20,4", "1,2,inf,4")),
        (["a,1,2,3,4,0"], "row 2: a has Target 0 and a box"),
        *((rows, f"row 3: {AGAIN}") for rows in permutations(("a,1,2,3,4,1", "a,,,,,0"))),
        (["a,,,,,0", "b,,,,,0", "a,,,,,0"], f"row 4: {AGAIN}"),
        (["a,1,2,3,4,1", "a,1,2,3,4,1"], "row 3: a has this box twice"),
        ([",,,,,0"], "row 2: '' has no patientId"),
        (["a,,,,,2"], "row 2: 'Target' is '2', not 0 or 1"),
        (["a,one,2,3,4,1"], "row 2: 'x' is 'one', not a number"),
    ],
)
def test_contradictions(empty_rsna, rows: list[str], match: str) -> None:
    empty_rsna.table(*rows)
    with pytest.raises(xl.TableError, match=match):
        xl.Rsna(empty_rsna.root)


@pytest.mark.parametrize(
    ("old", "new", "match"),
    [
        ("id-01,No Lung", "id-99,No Lung", "row 3: 'id-99' is 'No .* not in the label table"),
        ("id-02,Normal\n", "", "lacks 1 image of the label table, the first is id-02"),
        ("id-02,Normal", "id-02,Healthy", "'id-02' is 'Healthy': unknown, or anoth"),
        ("id-11,", "id-12,", "'id-12' is 'Normal': unknown, or another"),
        ("id-02,Normal", "id-02,Lung Opacity", "'id-02' is 'Lung Opacity', the label table disag"),
        ("id-00,Lung Opacity", "id-00,Normal", "'id-00' is 'Normal', the label table disagrees"),
    ],
)
def test_class_info_must_agree(rsna_folder, old: str, new: str, match: str) -> None:
    path = rsna_folder.root / "stage_2_detailed_class_info.csv"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    with pytest.raises(xl.TableError, match=match):
        xl.Rsna(rsna_folder.root)


def test_the_map_alone_tells_patients(rsna_folder) -> None:
    with pytest.warns(xl.UnknownPatientsWarning, match=r"cannot be told apart.*69\.8 % .*nih_map"):
        source = xl.Rsna(rsna_folder.root)
    assert [record.patient_id for record in source.records] == rsna_folder.ids
    assert any("69.8 %" in note for note in source.notes)
    assert source.population == ""
    assert source.official is None
    source = mapped(rsna_folder)
    assert [record.patient_id for record in source.records[::3]] == [str(n) for n in range(1, 10)]
    assert not any("69.8 %" in note for note in source.notes)
    assert source.population == "nih"


def test_the_map_must_be_complete_and_one_exposure_twice_is_noted(rsna_folder) -> None:
    path = rsna_folder.nih_map()
    path.write_text(path.read_text().replace("id-11,", "other,"))
    with pytest.raises(xl.TableError, match="lacks 1 image of the label table, the first is id-11"):
        xl.Rsna(rsna_folder.root, nih_map=path)
    path = rsna_folder.nih_map()
    path.write_text(path.read_text().replace("00000001_002.png", "00000001_001.png"))
    notes = xl.Rsna(rsna_folder.root, nih_map=path).notes
    assert "1 image the same NIH exposure as another, by the map" in notes


def test_official_split_of_nih(rsna_folder, tmp_path) -> None:
    names = tmp_path / "test_list.txt"
    names.write_text("00000009_000.png\n00000009_001.png\n00000009_002.png\n00030000_000.png")
    source = mapped(rsna_folder, nih_test_list=names)
    assert source.official is not None
    assert source.official["test"] == {"id-80", "id-81", "id-82"}
    names.write_text("00030000_000.png")
    with pytest.raises(xl.SplitError, match="names none of the images: is it NIH's test_list"):
        mapped(rsna_folder, nih_test_list=names)


def test_view_age_and_sex_are_those_of_the_headers(rsna_folder) -> None:
    rsna_folder.images("id-01", PatientAge="087Y", PatientSex="F")
    with warnings.catch_warnings(action="ignore"):
        rsna_folder.images("id-02", PatientAge="41", PatientSex="O")  # no valid AS, as RSNA's are
        rsna_folder.images("id-10", PatientAge="148Y")  # NIH's mistake
    (rsna_folder.root / "stage_2_train_images/id-11.dcm").write_bytes(b"no DICOM")
    source = mapped(rsna_folder)
    about = {r.image_id: (r.age, r.sex, r.view) for r in source.records}
    told = [about[f"id-{n}"] for n in ("00", "01", "02", "10", "11")]
    ages, sexes, views = zip(*told, strict=True)
    np.testing.assert_array_equal(ages, [math.nan, 87, 41, math.nan, math.nan])
    assert (sexes, views) == (("", "F", "", "", ""), ("PA", "PA", "PA", "PA", ""))
    note = "age, sex and view by 26 DICOM headers, no age in 24, no sex in 25"
    assert note in source.notes
    unread = mapped(rsna_folder, headers=False)
    assert {(r.sex, r.view) for r in unread.records} == {("", "")}
    assert not any("headers" in note for note in unread.notes)


@quiet
def test_figures_of_the_real_tables(shared_data) -> None:
    root = shared_data / "rsna-metadata"
    names = {"nih_map": root / "rsna_to_nih.csv.gz"}
    source = xl.Rsna(root, **names, nih_test_list=shared_data / "nih-metadata" / "test_list.txt")
    assert len(source.records) == len(source.missing) == 26_684
    assert sum(record.targets == (1.0,) for record in source.records) == 6_012
    assert len({record.patient_id for record in source.records}) == 11_439
    assert source.official is not None
    assert len(source.official["test"]) == 7_193
    assert "21 images the same NIH exposure as another, by the map" in source.notes
    assert len(xl.Rsna(root, negatives="normal").records) == 26_684 - 11_821


def test_converted_to_png(rsna_folder, tmp_path) -> None:
    """A converted folder, with its tables, is the same data set to the bit."""
    out = tmp_path / "png"
    xl.convert_folder(rsna_folder.root, out)
    for table in rsna_folder.root.glob("*.csv"):
        (out / table.name).write_bytes(table.read_bytes())
    dicom = mapped(rsna_folder)
    png = xl.Rsna(out, nih_map=rsna_folder.nih_map())
    assert not png.missing
    assert all(record.path and record.path.suffix == ".png" for record in png.records)
    for ours, theirs in zip(png.records, dicom.records, strict=True):
        assert (ours.image_id, png.read(ours).shape) == (theirs.image_id, (32, 32))
        np.testing.assert_array_equal(png.read(ours), dicom.read(theirs))


PAIRS = {"a-1": "00000013_002.png", "b-2": "00030805_000.png"}


def as_json(names: dict[str, str]) -> str:
    return json.dumps([{"subset_img_id": rsna, "img_id": nih} for rsna, nih in names.items()])


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("map.json", as_json(PAIRS)),
        ("map.json.gz", as_json(PAIRS)),
        ("map.csv", "patientId,Image Index\n{},{}\n{},{}"),
        ("map.csv", "patientId,image\n{},{}\n{},{}"),
        ("map.csv", "extra,subset_img_id,img_id\nx,{},{}\nx,{},{}"),
    ],
)
def test_maps(tmp_path, name: str, text: str) -> None:
    lines = text.format(*sum(PAIRS.items(), ())) if "csv" in name else text
    assert read_nih_map(write_lines(tmp_path / name, lines)) == PAIRS


def test_names_without_zeros_or_suffix(tmp_path) -> None:
    (tmp_path / "m.json").write_text(as_json({"a": "13_002", "b": "00000013_001.PNG"}))
    names = read_nih_map(tmp_path / "m.json")
    assert names == {"a": "00000013_002.png", "b": "00000013_001.png"}
    assert {nih_patient(name) for name in names.values()} == {"13"}


PAIR = "patientId,Image Index\na,"


@pytest.mark.parametrize(
    ("text", "match"),
    [
        (f"{PAIR}00000001_000.png\na,00000002_000.png", "row 3: a is 00000002_0"),
        (f"{PAIR}scan7.png", "row 2: 'a' -> 'scan7.png' does not name an NIH"),
        (f"{PAIR[:-2]},00000001_000.png", "row 2: '' -> .* does not name an NIH image"),
        ("patientId,file\na,00000001_000.png", "not a map from RSNA .*: it has patientId, file"),
        ("id,image\na,00000001_000.png", "it has id, image. It needs one of patientId, subset"),
        ("[{", "is not a readable JSON"),
        ('{"a": 1}', "is not a list of objects"),
        ("[1]", "is not a list of objects"),
        ('[{"img_id": "1"}]', "not a map from RSNA to NIH: it has img_id"),
        ('[{"subset_img_id": "a", "img_id": null}]', "object 1: 'a' -> 'None' does not name"),
    ],
)
def test_bad_maps(tmp_path, text: str, match: str) -> None:
    path = tmp_path / ("map.json" if text[0] in "[{" else "map.csv")
    with pytest.raises(xl.DataNotFoundError, match=path.name):
        read_nih_map(path)
    path.write_text(text)
    with pytest.raises(xl.TableError, match=match):
        read_nih_map(path)


def test_the_real_map(shared_data) -> None:
    names = read_nih_map(shared_data / "rsna-metadata" / "rsna_to_nih.csv.gz")
    own = read_nih_map(shared_data / "rsna-sample" / "nih_image_index.csv")
    assert len(own) == 338
    assert own.items() <= names.items()
