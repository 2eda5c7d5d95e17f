"""CheXpert and MIMIC-CXR-JPG, which share labels: phantom folders in their layouts, CXR-LT,
CheXlocalize's masks, and CheXpert's real table where it is.
"""

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from running import xray
from toy import write_image, write_lines

import xray_lightning as xl
from xray_lightning.data.chexpert import LABELS, MASKED
from xray_lightning.data.geometry import draw_runs, surround_runs, unpack_mask

HEADER = ",".join(["Path", "Sex", "Age", "Frontal/Lateral", "AP/PA", *LABELS])
EDEMA, FRACTURE, NONE = map(LABELS.index, ("Edema", "Fracture", "No Finding"))
SMALL = "CheXpert-v1.0-small"


def row(place: str, *about: str, codes: Mapping[str, str]) -> str:
    """A row with some codes, the other labels blank."""
    return ",".join([f"{place}.jpg", *about, *(codes.get(label, "") for label in LABELS)])


ALL = dict.fromkeys(LABELS, "0.0")
HEALTHY = {"No Finding": "1.0", "Support Devices": "1.0"}
SICK = {"Edema": "-1.0", "Fracture": "1.0"}
TRAIN = (
    row(f"{SMALL}/train/patient00001/study1/view1_frontal", "Female,68,Frontal,AP", codes=HEALTHY),
    row(f"{SMALL}/train/patient00002/study2/view1_frontal", "Male,87,Frontal,PA", codes=SICK),
    row(f"{SMALL}/train/patient00002/study2/view2_lateral", "Male,87,Lateral,", codes=SICK),
    row(f"{SMALL}/train/patient00002/study1/view1_frontal", "Unknown,0,Frontal,AP", codes={}),
    *(row(f"{SMALL}/train/patient0000{patient}/study1/view1_frontal", f"Male,90,Frontal,{view}",
          codes={"Edema": "0.0"}) for patient, view in ((3, "LL"), (4, "AP"))),
)  # fmt: skip
PLACE = SMALL + "/valid/patient6454{}/study1/view1_frontal"
VALID = (
    row(PLACE.format(1), "Male,73,Frontal,AP", codes=ALL | {"Edema": "1.0"}),
    row(PLACE.format(2), "Female,70,Frontal,PA", codes=ALL),
    row(PLACE.format(3), "Female,70,Frontal,PA", codes=ALL | {"Lung Opacity": "1.0"}),
)
VIEWS = "view1_frontal", "view2_lateral"
TEST = tuple(row(f"test/patient64741/study1/{view}", codes=ALL) for view in VIEWS)
KEY = "patient64541_study1_view1_frontal"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """All three parts, in a folder of another name than the archive's."""
    write_lines(tmp_path / "mine/train.csv", HEADER, *TRAIN)
    write_lines(tmp_path / "mine/valid.csv", HEADER, *VALID)
    write_lines(tmp_path / "mine/test_labels.csv", ",".join(["Path", *LABELS]), *TEST)
    return tmp_path / "mine"


def test_records_of_a_folder_with_another_name(folder: Path) -> None:
    image = folder / "train/patient00001/study1/view1_frontal.jpg"
    write_image(image, np.full((20, 16), 90, np.uint8))
    source = xl.CheXpert(folder)
    first, second, *_ = source.records
    assert first.image_id == "train/patient00001/study1/view1_frontal.jpg"
    assert (first.patient_id, first.study_id) == ("patient00001", "patient00001/study1")
    assert (first.age, first.sex, first.view, first.path) == (68, "F", "AP", image)
    assert [first.targets[i] for i in (NONE, EDEMA)] == [1, 0]  # not mentioned: negative
    assert math.isnan(second.targets[EDEMA])  # uncertain: ignored
    assert source.read(first).shape == (20, 16)
    assert len(source.missing) == len(source.records) - 1 == 7
    assert [r.view for r in source.records if r.image_id.startswith("test")] == ["frontal"]
    assert source.title == "chexpert (uncertain: ignore, blank: negative)"


def test_odd_rows_are_counted(folder: Path) -> None:
    source = xl.CheXpert(folder)
    counted = {"images": 6, "patients": 4, "studies": 5, "frontal": 5, "lateral": 1}
    assert source.counts["train"] == counted
    assert source.counts["train views"] == {"AP": 3, "PA": 1, "LL": 1}
    assert source.counts["train odd"] == {"sex unknown": 1, "age 0": 1, "no label": 1}
    codes = ("uncertain", "absent", "present", "blank")
    assert [source.counts[f"train {code}"]["Edema"] for code in codes] == [2, 2, 0, 2]
    notes = "\n".join(source.notes)
    for sentence in (
        "1 age of 0 became NaN", "1 image without a label", "1 film called frontal, and LL or RL",
        "1 cell of 'Sex'", "LEFT OUT: views LL 3", "train: 223,414 images expected, 6 here",
        "test present: 178 Atelectasis expected, 0 here", "8 of the 8 images",
    ):  # fmt: skip
        assert sentence in notes
    unknown = next(r for r in source.records if r.study_id == "patient00002/study1")
    assert (math.isnan(unknown.age), unknown.sex) == (True, "")
    for views, count in ((None, 11), (["LL"], 3), (["PA"], 3), (["frontal"], 1)):
        assert len(xl.CheXpert(folder, views=views).records) == count


def test_choices_reach_targets_and_title(folder: Path) -> None:
    mixed = xl.CheXpert(folder, uncertain={"default": "zeros", "Edema": "smooth"}, blank="unknown")
    assert 0.55 < mixed.records[1].targets[EDEMA] < 0.85
    assert math.isnan(mixed.records[2].targets[EDEMA])
    words = "uncertain: zeros but Edema smooth, blank: unknown, smooth: 0.55 to 0.85, seed: 0"
    assert mixed.title == f"chexpert ({words})"
    for setting, value in (("views", ["LATERAL"]), ("uncertain", "maybe")):
        with pytest.raises(xl.ConfigError, match=str(value).strip("[]")):
            xl.CheXpert(folder, **{setting: value})


def test_the_official_split(folder: Path) -> None:
    whole = xl.official_split((source := xl.CheXpert(folder)).records, source.official)
    assert [*map(len, whole.subsets.values())] == [4, 3, 1]
    (folder / "test_labels.csv").unlink()
    source = xl.CheXpert(folder)
    carved = xl.official_split(source.records, source.official, val_fraction=0.3)
    assert {source.records[i].image_id[:5] for i in carved.subsets["test"]} == {"valid"}
    assert {source.records[i].image_id[:5] for i in carved.subsets["val"]} == {"train"}
    (folder / "valid.csv").unlink()
    assert xl.CheXpert(folder).official is None


def test_a_label_without_a_column_is_unknown(folder: Path) -> None:
    row = "test/patient64741/study1/view1_frontal.jpg,1"
    write_lines(folder / "test_labels.csv", "Path,Edema", row)
    source = xl.CheXpert(folder)
    assert source.records[-1].targets[EDEMA] == 1
    assert math.isnan(source.records[-1].targets[FRACTURE])
    assert "test_labels.csv lacks No Finding, Enlarged" in "\n".join(source.notes)


def test_the_archive_is_found(folder: Path) -> None:
    assert xl.CheXpert(folder.parent).root == folder
    write_lines(folder.parent / "CheXpert-v1.0/train.csv", HEADER, *TRAIN)
    with pytest.raises(xl.ConfigError, match=r"CheXpert-v1\.0, mine"):
        xl.CheXpert(folder.parent)


@pytest.mark.parametrize(
    ("old", "new", "value"),
    [
        ("train/patient00001", "train/00001", "row 2: 'Path' is 'CheX"),
        ("train/patient00001", "valid/patient00001", "row 2: 'Path'"),
        ("Edema", "Oedema,Edema", "row 2 has 19 cells"),
        (",-1.0,", ",-2.0,", "row 3: 'Edema' is '-2.0'"),
        ("study2/view1_frontal", "study1/view1_frontal", "patient00002/study1/view1_frontal.jpg"),
        ("Path", "File", "'Path'"),
    ],
)
def test_faulty_tables(folder: Path, old: str, new: str, value: str) -> None:
    table = folder / "train.csv"
    table.write_text(table.read_text().replace(old, new))
    with pytest.raises(xl.TableError, match=value):
        xl.CheXpert(folder)


def pack(mask) -> dict[str, object]:
    """COCO's string of a mask by definition: 5 bits a character, differences from the third."""
    flat, text = np.ravel(mask, order="F").astype(int), ""
    ends = np.flatnonzero(np.diff(flat, prepend=0, append=2))
    runs = np.diff(ends, prepend=0).tolist()
    for i, run in enumerate(runs):
        number, more = run - (runs[i - 2] if i > 2 else 0), True
        while more:
            bits, number = number & 31, number >> 5
            more = number != (-1 if bits & 16 else 0)
            text += chr(48 + bits + 32 * more)
    return {"size": list(np.shape(mask)), "counts": text}


@pytest.mark.parametrize("seed", range(6))
def test_masks_of_any_shape(seed: int) -> None:
    generator = np.random.default_rng(seed)
    mask = generator.random(generator.integers(1, 70, 2)) < seed / 5
    runs, *sides = unpack_mask(pack(mask)["counts"], *mask.shape)
    np.testing.assert_array_equal(draw_runs(runs, *sides), mask)
    box = surround_runs(runs, len(mask), "Mass")
    if not mask.any():
        assert box is None
        return
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    assert box is not None
    assert (box.x, box.y) == (columns[0], rows[0])
    assert (box.width, box.height) == (np.ptp(columns) + 1, np.ptp(rows) + 1)


@pytest.fixture
def masks(folder: Path) -> Callable[..., Path]:
    """Writes a file of masks: Edema of the first image of the valid part, all others empty."""
    shown = np.zeros((30, 20), np.bool_)
    shown[5:9, 3:17] = True

    def make(**entries) -> Path:
        words = [label.replace("Lung Opacity", "Airspace Opacity") for label in MASKED]
        empty = {word: pack(np.zeros_like(shown)) for word in words}
        path = folder / "gt_segmentations_val.json"
        path.write_text(json.dumps({KEY: empty | {"Edema": pack(shown)}} | entries))
        return path

    return make


def test_masks_of_radiologists(folder: Path, masks: Callable[..., Path]) -> None:
    other = folder / "val/patient64542/study1/view1_frontal.jpg"  # CheXlocalize's name of valid/
    write_image(other, np.full((40, 50), 9, np.uint8))
    source = xl.CheXpert(folder, segmentations=[masks()])
    train, shown, absent, silent = (source.records[i] for i in (0, 4, 5, 6))
    mask = source.mask(shown, "Edema")
    assert mask is not None
    assert (mask.shape, mask.sum()) == ((30, 20), 56)
    (box,) = shown.boxes
    assert (box.label, box.x, box.y, box.width, box.height) == ("Edema", 3, 5, 14, 4)
    assert shown.box_frame == (20, 30)
    opacity, whole = source.mask(shown, "Lung Opacity"), source.mask(absent, "Edema")
    assert opacity is not None
    assert whole is not None
    assert (opacity.any(), whole.any(), whole.shape) == (False, False, (40, 50))
    assert source.mask(shown, "Fracture") is None  # not one of the ten
    assert source.mask(train, "Edema") is None  # not told
    assert source.mask(silent, "Edema") is None  # positive in the table, yet not in the file
    assert "masks of 1 image; 2 are left out" in "\n".join(source.notes)


@pytest.mark.parametrize(
    ("entry", "value"),
    [
        ({"patient9_study1_view1_frontal": {}}, "patient9"),
        ({KEY: {"Rash": pack(np.ones((2, 2)))}}, "Rash"),
        ({KEY: {"Edema": {"size": [2, 2], "counts": "05"}}}, "5 pixels, not 2 x 2"),
        ({KEY: {"Edema": {"size": [2, 2], "counts": "P"}}}, "Edema"),
        ({KEY: {"Edema": {"size": [2, 2]}}}, "counts"),
        ({KEY: ["Edema"]}, KEY),
    ],
)
def test_faulty_masks(folder: Path, masks: Callable[..., Path], entry, value: str) -> None:
    with pytest.raises(xl.TableError, match=value):
        xl.CheXpert(folder, segmentations=[masks(**entry)])
    with pytest.raises(xl.DataNotFoundError, match=r"none\.json"):
        xl.CheXpert(folder, segmentations=["none.json"])


def test_the_real_table(tables: Path) -> None:
    """The labels' codes as pandas counts them."""
    root = tables / "chexpert"
    text = xray("data", "data=chexpert", f"data.root={root}", "split=patient", "--json")
    summary = json.loads(text)
    assert (summary["images"], summary["patients"]) == (191_010, 64_534)
    counts = summary["counts"]
    frame = pd.read_csv(root / SMALL / "train.csv")[[*LABELS]]
    wanted = {"uncertain": frame == -1, "absent": frame == 0, "present": frame == 1}
    for name, cells in (wanted | {"blank": frame.isna()}).items():
        assert counts[f"train {name}"] == cells.sum().to_dict()


OPACITY = LABELS.index("Lung Opacity")
TABLES = {
    "metadata": (
        "dicom_id,subject_id,study_id,PerformedProcedureStepDescription,ViewPosition,StudyDate,"
        "StudyTime,ViewCodeSequence_CodeMeaning",
        "a,10000032,1,CHEST (PA AND LAT),PA,21800506,213014.531,postero-anterior",
        "b,10000032,1,CHEST (PA AND LAT),LATERAL,21800506,213014.531,lateral",
        "c,10000032,2,CHEST (PORTABLE AP),,21800626,165500.3,antero-posterior",
        "d,10000764,3,CHEST (PORTABLE AP),,,,",
        "e,10000898,4,CHEST (PA AND LAT),,,,",
        "f,10000935,5,,AP,,,",
        "g,10000935,6,,AP,,,",
    ),
    "split": (
        "dicom_id,study_id,subject_id,split",
        *("a,1,10000032,train", "b,1,10000032,train", "c,2,10000032,train"),
        *("d,3,10000764,validate", "e,4,10000898,validate", "f,5,10000935,test"),
        "g,6,10000935,test",
    ),
    "chexpert": (
        "subject_id,study_id," + ",".join(LABELS),
        *(f"x,{study},{',' * EDEMA}{code}{',' * (13 - EDEMA)}" for study, code in
          {1: "1.0", 2: "-1.0", 3: "0.0", 5: "1.0", 6: "1.0"}.items()),
    ),
}  # fmt: skip
EXPERTS = "study_id,Airspace Opacity,Edema\n5,1,-1\n2,0,0\n"


@pytest.fixture
def mimic(tmp_path: Path) -> Path:
    for name, rows in TABLES.items():
        write_lines(tmp_path / f"mimic-cxr-2.0.0-{name}.csv.gz", *rows)
    (tmp_path / "mimic-cxr-2.1.0-test-set-labeled.csv").write_text(EXPERTS)
    write_image(tmp_path / "files/p10/p10000032/s1/a.jpg", np.full((9, 8), 70, np.uint8))
    return tmp_path


def test_records_views_and_studies(mimic: Path) -> None:
    source = xl.Mimic(mimic, views=None)
    about = {r.image_id: (r.view, r.follow_up, r.targets[EDEMA]) for r in source.records}
    assert (about["a"], about["b"]) == (("PA", 0, 1), ("LL", 0, 1))
    assert about["c"][:2] == ("AP", 1)  # by the view code
    assert about["d"][0] == "AP"  # by the procedure's text
    assert about["e"][0] == ""  # two views are possible
    assert [math.isnan(about[image][2]) for image in "acde"] == [False, True, False, True]
    assert math.isnan(about["d"][1])
    first = source.records[0]
    assert (first.patient_id, first.study_id) == ("10000032", "1")
    assert first.path == mimic / "files/p10/p10000032/s1/a.jpg"
    assert (first.targets[OPACITY], len(source.missing)) == (0, 6)
    assert all(map(math.isnan, source.records[4].targets))  # no report: not even absent
    assert source.counts["views"] == {"AP": 4, "PA": 1, "LL": 1, "unknown": 1}
    assert source.counts["present"]["Edema"] == 4
    notes = "\n".join(source.notes)
    for sentence in (
        *("1 image of studies that", "1 view told by the view code"),
        *("1 view told by the procedure's text", "377,110 images expected, 7 here"),
    ):
        assert sentence in notes
    assert [r.image_id for r in xl.Mimic(mimic).records] == ["a", "c", "d", "f", "g"]


def test_official_split_and_radiologists(mimic: Path) -> None:
    source = xl.Mimic(mimic)
    split = xl.official_split(source.records, source.official)
    assert [*map(len, split.subsets.values())] == [2, 1, 2]
    experts = xl.Mimic(mimic, test="radiologists", uncertain="ones", blank="unknown")
    words = "labels: chexpert, test: radiologists, uncertain: ones, blank: unknown"
    assert experts.title == f"mimic ({words})"
    assert [r.image_id for r in experts.records] == ["a", "c", "d", "f"]
    assert (experts.records[-1].targets[OPACITY], experts.records[-1].targets[EDEMA]) == (1, 1)
    assert experts.records[1].targets[EDEMA] == 1  # of training: as the report has it
    assert math.isnan(experts.records[-1].targets[0])  # they have no column of it
    left_out = "LEFT OUT: 1 image of the test part that no radiologist labelled; 1 that"
    assert any(note.startswith(left_out) for note in experts.notes)


def test_long_tail_labels_are_a_table_of_data_csv(mimic: Path) -> None:
    """The line of data/README.md for CXR-LT."""
    rows = ("dicom_id,subject_id,study_id,ViewPosition,fpath,split,Edema,Hernia",
            "a,10000032,1,PA,p10/p10000032/s1/a.jpg,train,1,0",
            "d,10000764,3,AP,p10/p10000764/s3/d.jpg,development,0,1",
            "f,10000935,5,AP,p10/p10000935/s5/f.jpg,test,0,0")  # fmt: skip
    table = write_lines(mimic / "labels.csv", *rows)
    columns = {"image": "fpath", "patient": "subject_id", "view": "ViewPosition"}
    source = xl.CsvTable(table, root=mimic / "files", columns=columns)
    assert source.labels == ("Edema", "Hernia")
    split = xl.auto_split(source.records, source.official)
    assert [*map(len, split.subsets.values())] == [1, 1, 1]
    assert source.records[0].path is not None


def test_wrong_choices_and_faulty_folders(mimic: Path) -> None:
    for settings in ({"labels": "chexbert"}, {"test": "all"}, {"views": ["L"]}):
        with pytest.raises(xl.ConfigError, match=str(*settings.values()).strip("[]")):
            xl.Mimic(mimic, **settings)
    with pytest.raises(xl.DataNotFoundError, match=r"negbio\.csv \(nor \.gz\)"):
        xl.Mimic(mimic, labels="negbio")
    for name, own in (("chexpert", "x,1"), ("metadata", "10000032")):
        rows = [row.replace(own, f"{own}.0") for row in TABLES[name]]
        write_lines(mimic / f"mimic-cxr-2.0.0-{name}.csv", *rows)
        with pytest.raises(xl.TableError, match=rf"{name}.*row 2: .* is '\d+\.0', not a whole"):
            xl.Mimic(mimic)
    split = mimic / "mimic-cxr-2.0.0-split.csv"
    for rows, named in ((["a,tune"], "'split' is 'tune'"), (["a,train", "a,test"], "rows 2 and 3")):
        write_lines(split, "dicom_id,split", *rows)
        with pytest.raises(xl.TableError, match=named):
            xl.Mimic(mimic)
