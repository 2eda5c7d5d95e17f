"""Labels by physicians and radiologists: PadChest on phantom folders with every odd row of the
table, Google's labels of NIH images in both layouts, and the counts of the real tables.
"""

import ast
import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from toy import NIH_HEADER, listed_patients, present, write_image, write_lines

from xray_lightning import errors
from xray_lightning.data.cache import Manifest
from xray_lightning.data.files import READER_VERSION
from xray_lightning.data.nih_expert import GOOGLE, RSNA, TEXT_MINER, NihExperts, Truth
from xray_lightning.data.padchest import LABEL_MAP, TABLE, PadChest, parse_labels
from xray_lightning.data.vocabulary import read_label_map
from xray_lightning.records import CHEST_XRAY14

HEADER = (
    ",ImageID,ImageDir,StudyDate_DICOM,StudyID,PatientID,PatientBirth,PatientSex_DICOM,"
    "ViewPosition_DICOM,Projection,Pediatric,PhotometricInterpretation_DICOM,BitsStored_DICOM,"
    "Report,MethodLabel,Labels,labelCUIS"
)
LONG = "839860488694292331637988235681460987123"  # 39 digits: as a float it is another patient's
ROWS: dict[str, dict[str, str]] = {
    "a.png": {"Labels": "['normal']"},
    "b.png": {"Labels": "\"[' pneumonia', 'pleural effusion']\"", "BitsStored_DICOM": "10"},
    "c.png": {"Labels": "\"['pneumonia', 'pseudonodule', '']\"", "PatientID": LONG},
    "d.png": {"Labels": "\"['subcutaneous emphysema', 'hydropneumothorax']\"", "ImageDir": "54"},
    "e.png": {"Labels": "nan"},
    "f.png": {"Labels": "\"['exclude', 'nodule']\""},
    "g.png": {"Labels": "\"['suboptimal study', 'mass']\""},
    "h.png": {"Labels": "['unchanged']"},
    "i.png": {"Projection": "EXCLUDE"},
    "j.png": {"Projection": "L"},
    "k.png": {"Projection": "AP_horizontal", "Pediatric": "PED", "PatientSex_DICOM": "O"},
    "l.png": {"Projection": "UNK", "MethodLabel": "RNN_model"},
    "m.png": {"PatientBirth": "nan", "MethodLabel": "RNN_model"},
    "n.png": {"Labels": "['']"},
}


def write_table(root: Path, rows: Mapping[str, Mapping[str, str]] = ROWS) -> Path:
    lines = [HEADER]
    for number, (image, changes) in enumerate(rows.items()):
        cells = dict.fromkeys(HEADER.split(","), "")
        cells |= {"": str(number), "ImageID": image, "ImageDir": "0", "StudyDate_DICOM": "20140915"}
        cells |= {"StudyID": f"s{image}", "PatientID": f"{number}", "PatientBirth": "1930.0"}
        cells |= {"PatientSex_DICOM": "F", "Projection": "PA", "Pediatric": "No"}
        cells |= {"PhotometricInterpretation_DICOM": "MONOCHROME2", "BitsStored_DICOM": "12"}
        cells |= {"MethodLabel": "Physician", "Labels": "['normal']", "Report": '"a, b"'}
        lines.append(",".join((cells | dict(changes)).values()))
    return write_lines(root / TABLE, *lines).parent


def test_odd_rows(tmp_path: Path) -> None:
    source = PadChest(write_table(tmp_path), views=None)
    assert [record.image_id[0] for record in source.records] == list("abcdjklm")
    shown = present(source)
    assert (shown["a.png"], shown["b.png"]) == (set(), {"Pneumonia", "Effusion"})
    assert shown["c.png"] == {"Pneumonia"}  # a pseudonodule is no nodule
    assert shown["d.png"] == {"Pneumothorax", "Effusion"}  # nor that an emphysema
    records = {record.image_id[0]: record for record in source.records}
    assert (records["c"].patient_id, records["a"].study_id) == (LONG, "sa.png")
    assert (records["a"].age, records["a"].sex, records["k"].sex) == (84, "F", "")
    assert math.isnan(records["m"].age)
    assert [records[key].view for key in "ajkl"] == ["PA", "LL", "AP_horizontal", ""]
    reasons = next(note for note in source.notes if note.startswith("LEFT OUT"))
    told = "no labels 2", "'exclude' 1", "'suboptimal study' 1", "'unchanged' 1", " EXCLUDE 1"
    assert [reason for reason in told if reason not in reasons] == []
    assert source.counts["table"] == {"images": 14, "patients": 14, "studies": 14, "folders": 2}
    assert source.counts["Labels"]["' pneumonia'"] == source.counts["Labels"]["'pneumonia'"] == 1
    assert "table: 160,861 images expected, 14 here" in source.notes


def test_choices_change_images_and_title(tmp_path: Path) -> None:
    usual = PadChest(write_table(tmp_path))
    assert ("".join(r.image_id[0] for r in usual.records), usual.title) == ("abcdkm", "padchest")
    physicians = PadChest(tmp_path, labelled_by="physician", pediatric=False)
    assert [record.image_id[0] for record in physicians.records] == list("abcd")
    assert physicians.title == "padchest (labelled_by: physician, pediatric: false)"
    assert any("children 1" in note for note in physicians.notes)
    other = write_lines(tmp_path / "map.yaml", "Nodule: [pseudonodule]", "Mass: [mass, unheard of]")
    own = PadChest(tmp_path, label_map=other)
    assert own.title.startswith("padchest (label_map: ")
    assert (own.labels, present(own)["c.png"]) == (("Nodule", "Mass"), {"Nodule"})
    assert "words of the label map that are not in the table: unheard of" in own.notes


@pytest.mark.parametrize("folder", ["0", ""])
@pytest.mark.parametrize(("image", "bits"), [("a.png", 12), ("b.png", 10)])
def test_pixels_by_stored_bits(tmp_path: Path, folder: str, image: str, bits: int) -> None:
    pixels = np.arange(2**bits, dtype=np.uint16).reshape(32, -1)
    write_image(write_table(tmp_path) / folder / image, pixels)
    source = PadChest(tmp_path, allow_missing=True)
    record = next(record for record in source.records if record.image_id == image)
    expected = np.floor(pixels.astype(float) / (2**bits - 1) * 255 + 0.5)
    np.testing.assert_array_equal(source.read(record), expected)
    assert len(source.missing) == len(source.records) - 1


def test_more_bits_than_stored_and_damage_are_errors(tmp_path: Path) -> None:
    write_image(write_table(tmp_path) / "0" / "b.png", np.full((4, 4), 1024, np.uint16))
    write_image(tmp_path / "0" / "a.png", np.full((64, 64), 9, np.uint16))
    whole = (tmp_path / "0" / "a.png").read_bytes()
    (tmp_path / "0" / "a.png").write_bytes(whole[:-30])
    source = PadChest(tmp_path)
    for row, reason in enumerate((r"a\.png.*truncated", r"b\.png.*1,024.*10 bits")):
        with pytest.raises(errors.InvalidImageError, match=reason):
            source.read(source.records[row])
    damaged = write_lines(tmp_path / "damaged.txt", "a.png", "b.png", end="")
    rest = PadChest(tmp_path, exclude=damaged)
    assert [record.image_id[0] for record in rest.records] == list("cdkm")
    assert any("in data.exclude 2" in note for note in rest.notes)


def test_identity_tells_stored_bits(tmp_path: Path) -> None:
    before = PadChest(write_table(tmp_path))
    write_table(tmp_path, ROWS | {"a.png": {"BitsStored_DICOM": "10"}})
    after = PadChest(tmp_path)
    assert before.identity()["reader"] == READER_VERSION
    names = [Manifest.of(source, source.records, 32).folder_name for source in (before, after)]
    assert names[0] != names[1]


@pytest.mark.parametrize(
    ("cells", "place"),
    [
        ({"Labels": "mass"}, "mass"),
        ({"Labels": "[3]"}, "3"),
        ({"BitsStored_DICOM": "17"}, "17"),
        ({"PhotometricInterpretation_DICOM": "MONOCHROME1"}, "MONOCHROME1"),
        ({"StudyDate_DICOM": "n/a"}, "n/a"),
        ({"PatientID": ""}, "PatientID"),
        ({"PatientID": "8.3986E+38"}, r"8\.3986E\+38': a spreadsheet rounded it"),
    ],
)
def test_bad_cells(tmp_path: Path, cells: Mapping[str, str], place: str) -> None:
    with pytest.raises(errors.TableError, match=rf"row 2.*{place}"):
        PadChest(write_table(tmp_path, {"a.png": cells}))


def test_errors(tmp_path: Path) -> None:
    write_table(tmp_path)
    for setting, value in (("labelled_by", "nurse"), ("views", ["oblique"])):
        with pytest.raises(errors.ConfigError, match=str(value).strip("[]")):
            PadChest(tmp_path, **{setting: value})
    (tmp_path / "list.txt").write_text("z.png")
    with pytest.raises(errors.TableError, match=r"z\.png"):
        PadChest(tmp_path, exclude=tmp_path / "list.txt")
    write_table(tmp_path, {"h.png": ROWS["h.png"]})
    with pytest.raises(errors.ConfigError, match="unchanged"):
        PadChest(tmp_path)
    for folder in ("", "0"):
        write_image(tmp_path / folder / "a.png", np.zeros((2, 2), np.uint16))
    with pytest.raises(errors.DataError, match=r"a\.png"):
        PadChest(tmp_path)


@pytest.mark.parametrize("text", ["- mass", "Mass: mass", "Mass: []", "Mass: [1]", "a: [b", ""])
def test_bad_maps(tmp_path: Path, text: str) -> None:
    path = write_lines(tmp_path / "map.yaml", text, end="")
    with pytest.raises(errors.TableError, match=r"map\.yaml"):
        read_label_map(path)


@pytest.mark.parametrize("cell", ["['a', \"b'c\"]", "['a\\'b']", "['', ' a']", "[]"])
def test_labels_are_a_python_list(cell: str) -> None:
    assert parse_labels(cell) == tuple(eval(cell))


def test_real_counts_and_labels_by_a_plain_count(tables: Path) -> None:
    real = PadChest(tables / "padchest")
    assert not any("label map" in note for note in real.notes)
    assert len({record.patient_id for record in real.records}) > 60_000
    reasons = next(note for note in real.notes if note.startswith("LEFT OUT: no label"))
    assert "labelled 'suboptimal study' 1,839, labelled 'exclude' 1,312" in reasons
    frame = pd.read_csv(tables / "padchest" / f"{TABLE}.gz", dtype=str, keep_default_na=False)
    frame = frame[frame["ImageID"].isin({record.image_id for record in real.records})]
    words = [{word.strip() for word in ast.literal_eval(cell)} for cell in frame["Labels"]]
    for index, (label, own) in enumerate(read_label_map(LABEL_MAP).items()):
        positive = sum(record.targets[index] for record in real.records)
        assert positive == sum(bool(own & row) for row in words), label


READ_HEADER = f"{NIH_HEADER},Fracture,Pneumothorax,Airspace opacity,Nodule or mass"
READ = (
    "00000013_008.png,Pneumothorax|Mass,8,13,60,M,AP,3056,2544,0.139,0.139,NO,NO,YES,YES",
    "00000013_026.png,No Finding,26,13,155,M,AP,2500,2048,0.168,0.168,NO,YES,NO,NO",
    "00000032_002.png,Nodule|Edema,2,32,55,F,PA,2500,2048,0.168,0.168,YES,NO,,NO",
)
SETS = ("test", "test", "val")


def write_one(root: Path, *rows: str) -> Path:
    """Both subsets in one compressed table, as others packed it."""
    lines = rows or [f"{row},{subset}" for row, subset in zip(READ, SETS, strict=True)]
    path = root / "google2019_nih-chest-xray-labels.csv.gz"
    return write_lines(path, f"{READ_HEADER},Set Id", *lines).parent


def write_own(root: Path, joint: str) -> Path:
    """Google's two files, in their folder or flat."""
    for name, rows in (("test_labels", READ[:2]), ("validation_labels", READ[2:])):
        write_lines(root / f"four_findings_expert_labels{joint}{name}.csv", READ_HEADER, *rows)
    return root


@pytest.mark.parametrize(
    "write", [write_one, lambda p: write_own(p, "/"), lambda p: write_own(p, "_")]
)
def test_layouts(tmp_path: Path, write) -> None:
    image = np.arange(12, dtype=np.uint8).reshape(3, 4)
    write_image(write(tmp_path) / "images_001" / "images" / "00000013_008.png", image)
    source = NihExperts(tmp_path)
    records = {record.image_id: record for record in source.records}
    first, second, third = (records[row.split(",")[0]] for row in READ)
    assert source.labels == ("Fracture", "Pneumothorax", "Airspace opacity", "Nodule or mass")
    assert first.targets == (0, 0, 1, 1)
    assert math.isnan(third.targets[2])  # it was not put to the radiologists
    assert (first.patient_id, first.view, first.age, first.follow_up) == ("13", "AP", 60, 8)
    assert math.isnan(second.age)
    assert (source.read(first) == image).all()
    tested = {first.image_id, second.image_id}
    assert source.official == {"train_val": {third.image_id}, "test": tested}
    assert (source.population, source.title) == ("nih", "nih_expert (truth: experts)")
    assert source.counts["Nodule or mass"] == {TEXT_MINER: 2, GOOGLE: 1, "both": 1}
    assert source.counts["Pneumothorax"] == {TEXT_MINER: 1, GOOGLE: 1, "both": 0}
    assert "table: 4,376 images expected, 3 here" in source.notes


def test_text_mined_labels_of_the_same_images(tmp_path: Path) -> None:
    source = NihExperts(write_one(tmp_path), truth="text")
    assert source.labels == CHEST_XRAY14
    assert [*present(source).values()] == [{"Pneumothorax", "Mass"}, set(), {"Nodule", "Edema"}]


def test_a_union_is_unknown_where_one_part_is() -> None:
    nan = math.nan
    targets = {"a": (1.0, nan), "b": (0.0, nan), "c": (0.0, 0.0)}
    truth = Truth("somebody", ("Nodule", "Mass"), targets)
    np.testing.assert_array_equal(truth.tell("Nodule or mass", "abcd"), [1, nan, 0, nan])
    assert math.isnan(truth.tell("Fracture", "a")[0])


def test_rsna_is_a_third_truth(tmp_path: Path, empty_rsna) -> None:
    empty_rsna.table("r1,1,2,3,4,1", "r2,,,,,0", "r3,,,,,0")
    names = {"r1": "00000013_026.png", "r2": "00000032_002.png", "r3": "00000099_000.png"}
    lines = [f"{image},{nih}" for image, nih in names.items()]
    path = write_lines(tmp_path / "map.csv", "patientId,Image Index", *lines)
    truth = NihExperts(write_one(tmp_path), rsna=tmp_path, nih_map=path).truths[2]
    assert (truth.name, truth.labels) == (RSNA, ("Pneumonia",))
    assert truth.targets == {"00000013_026.png": (1,), "00000032_002.png": (0,)}


def test_faulty_expert_tables(tmp_path: Path) -> None:
    odd = {"train": f"{READ[0]},train", "HEDGE": f"{READ[0].replace('YES', 'HEDGE')},test"}
    for place, row in odd.items():
        with pytest.raises(errors.TableError, match=f"row 2.*{place}"):
            NihExperts(write_one(tmp_path / place, row))
    write_own(tmp_path, "/")
    folder = tmp_path / "four_findings_expert_labels"
    path = write_lines(folder / "validation_labels.csv", READ_HEADER, READ[0])
    with pytest.raises(errors.TableError, match=r"00000013_008\.png"):
        NihExperts(tmp_path)
    path.unlink()
    with pytest.raises(errors.DataNotFoundError, match="validation_labels"):
        NihExperts(tmp_path)
    for setting, named in (({"truth": "panel"}, "panel"), ({"rsna": tmp_path}, "nih_map")):
        with pytest.raises(errors.ConfigError, match=named):
            NihExperts(tmp_path, **setting)


def test_real_expert_counts(tables: Path) -> None:
    patients = listed_patients(NihExperts(tables / "nih_expert"))
    assert {name: len(ids) for name, ids in patients.items()} == {"train_val": 835, "test": 860}


def test_real_third_truth(tables: Path, shared_data: Path) -> None:
    rsna = shared_data / "rsna-metadata"
    source = NihExperts(tables / "nih_expert", rsna=rsna, nih_map=rsna / "rsna_to_nih.csv.gz")
    assert len(source.truths[2].targets) == 1_140
