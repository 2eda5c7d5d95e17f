"""``xray audit`` on the phantom's label table."""

import json
from functools import partial

import cv2
import pytest
from running import xray
from toy import NihFolder, write_lists

import xray_lightning as xl
from xray_lightning.cli.app import run_verb
from xray_lightning.records import target_matrix

audit = partial(xray, "audit")
PHANTOM = xl.Phantom(patients=60)
SPLIT = xl.patient_split(PHANTOM.records, None)
DATA = ["data.patients=60", "draws=5"]


def test_files_and_json(tmp_path) -> None:
    names = [PHANTOM.records[row].image_id for row in SPLIT.subsets["train"][:2]]
    (tmp_path / "known.txt").write_text("\n".join([*names, "elsewhere.png"]))
    out = tmp_path / "out"
    facts = json.loads(audit(*DATA, f"lists={tmp_path / 'known.txt'}", "--out", out, "--json"))
    assert facts == json.loads((out / "audit.json").read_text())
    assert facts["split"]["fingerprint"] == SPLIT.fingerprint
    assert facts["leakage"]["patients"]["shared"] == 0
    assert facts["leakage"]["lists"][-1]["parts"] == {"train": 2, "val": 0, "test": 0}
    assert facts["draws"] == 5
    page = (out / "audit.html").read_text()
    assert all(each.split(";")[0] in page for each in facts["gist"][:1])


def test_terminal(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "known.txt").write_text("a.png\nb.png\n")
    text = audit(*DATA, "lists=known.txt")
    assert "Nothing is known by the list known.txt" in text
    assert "0 patients have images in more than one subset" in text
    assert "images per patient" in text
    assert "other images" in text
    folder = tmp_path / f"outputs/audit_phantom_{SPLIT.fingerprint}"
    assert (folder / "audit.html").is_file()


def test_duplicates_by_the_cache(tmp_path) -> None:
    """Files 5 and 6 show what 0 and 1 show; 4 is not on disk."""
    rows = ["image,patient,split,Mass"]
    for number, subset in enumerate(["train", "train", "val", "val", "test", "test", "test"]):
        if number != 4:
            cv2.imwrite(str(tmp_path / f"{number}.png"), PHANTOM.read(PHANTOM.records[number % 5]))
        rows.append(f"{number}.png,p{number},{subset},{number % 2}")
    (tmp_path / "table.csv").write_text("\n".join(rows))
    settings = ["data=csv", f"data.table={tmp_path / 'table.csv'}", "split=csv", "image_size=64"]
    settings += ["data.allow_missing=true", "duplicates=true", f"cache_dir={tmp_path / 'cache'}"]
    facts = json.loads(audit(*settings, "draws=5", "--out", tmp_path / "out", "--json"))
    found = facts["leakage"]["duplicates"]
    assert (found["images"], found["size"], found["not_on_disk"]) == (6, 64, 1)
    assert (set(found["exact"].values()), found["near"]["pairs"]) == ({2}, 0)
    assert [each["images"] for each in found["closest"]] == [["0.png", "5.png"], ["1.png", "6.png"]]
    (sentence,) = [text for text in facts["gist"] if text.startswith("Of 6 images on disk (of")]
    assert sentence.endswith("2 pairs under another patient's name.")
    page = (tmp_path / "out/audit.html").read_text()
    assert "6 were compared at 64 px; 1 are not on disk" in page
    assert ">5.png</td><td>test</td>" in page
    assert "no image was read" not in page


def test_nih_images_in_the_rsna_challenge(tmp_path) -> None:
    folder, names = NihFolder(tmp_path), [f"{n:08d}_000.png" for n in range(1, 21)]
    folder.table(*(f"{name},Mass,0,{int(name[:8])},50,F,PA,1,1,1,1" for name in names))
    folder.lists(names[:12], names[12:])
    rsna = ["patientId,Image Index", f"a,{names[0]}", f"b,{names[13]}", f"c,{names[13]}"]
    (tmp_path / "map.csv").write_text("\n".join([*rsna, f"d,{names[14]}", "e,00000099_000.png"]))
    settings = ["data=nih", f"data.root={tmp_path}", f"rsna_map={tmp_path / 'map.csv'}", "draws=2"]
    told = audit(*settings, "split=official", "--out", tmp_path / "out", "--json")
    (row,) = json.loads(told)["leakage"]["lists"][2:]
    assert row["name"] == "RSNA challenge (5 images, by its map)"
    assert (row["listed"], row["found"], row["parts"]["test"]) == (4, 3, 2)


@pytest.mark.parametrize(
    ("settings", "error", "named"),
    [
        (["draws=0"], xl.ConfigError, "draws .* got '0'"),
        (["bootstrap_seed=x"], xl.ConfigError, "bootstrap_seed .* got 'x'"),
        (["duplicates=1"], xl.ConfigError, "duplicates .* got '1'"),
        (["rsna_map=x.csv"], xl.ConfigError, "rsna_map .* phantom"),
        ([*DATA, "duplicates=true", "image_size=32"], xl.ConfigError, "image_size=32"),
        ([*DATA, "predictions=nowhere"], xl.DataNotFoundError, "there is no table"),
        ([*DATA, "lists=none.txt"], xl.DataNotFoundError, r"none\.txt"),
    ],
)
def test_bad_settings(settings, error, named, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(error, match=named):
        run_verb("audit", settings, as_json=True)


def foreign_lists(rsna) -> list[str]:
    """Three lists in three forms: patient 1 is in train and test, 3 in val and test."""
    rsna.patients = 4
    rsna.table(*rsna.label_rows)
    subsets = {"train": ["00", "01", "02", "10"], "val": ["30", "31"]}
    subsets["test"] = ["11", "12", "20", "21", "22", "32"]
    texts = {
        "train": "\r\n".join(f"rsna/id-{n}.png 0" for n in subsets["train"]),
        "val": "patientId,Target\nid-30,1\nid-31,1\nid-99,0",
        "test": "\n".join(f"id-{n}.jpg" for n in subsets["test"]),
    }
    paths = write_lists(rsna.root, **texts)
    settings = ["data=rsna", f"data.root={rsna.root}", "draws=2", "split=lists"]
    return settings + [f"split.{subset}={path}" for subset, path in paths.items()]


def test_a_foreign_split_that_leaks_is_counted(empty_rsna, tmp_path) -> None:
    settings = [*foreign_lists(empty_rsna), f"data.nih_map={empty_rsna.nih_map()}"]
    text = audit(*settings, "--out", tmp_path / "o")
    facts = json.loads((tmp_path / "o/audit.json").read_text())["leakage"]["patients"]
    assert (facts["shared"], facts["in_train"], facts["in_train_or_val"]) == (2, 2, 3)
    assert "the patient of 2 (33.3 %) has images in train" in text
    assert "of the 3 names in" in text
    assert "'id-99'" in text
    assert "no training may use this split: 2 patients" in text
    assert "With images of the test patients in training, their labels alone give" in text


def test_unknown_patients_are_unknown_in_every_sentence(empty_rsna, tmp_path) -> None:
    with pytest.warns(xl.UnknownPatientsWarning):
        text = audit(*foreign_lists(empty_rsna), "--out", tmp_path / "o")
    facts = json.loads((tmp_path / "o/audit.json").read_text())
    page = (tmp_path / "o/audit.html").read_text()
    for place in (text, page):
        assert "Whether test patients were learned from is not known" in place
        assert "What remembered patients gain is not known" in place
        assert "0 patients" not in place
        assert "gain nothing" not in place
        assert "of other test images alone" not in place
    assert "images of an unknown number of patients" in page
    assert "Whether patients are in more than one subset is not known" in page
    assert "95 % (images)" in text
    assert "images per patient" not in text
    assert facts["patients"] is facts["parts"]["test"]["patients"] is None
    assert facts["leakage"]["patients"]["shared"] is facts["leakage"]["patients"]["shares"] is None
    results = {row["name"]: (row["result"], row["undefined"]) for row in facts["baselines"]}
    for name in ("previous label", "other images", "images in training"):
        assert results[name] == (None, "the label table tells no patients")


def test_a_split_column_that_leaks_and_an_image_in_two_lists(tmp_path) -> None:
    subsets = [*["train"] * 4, *["test"] * 4]
    rows = [f"{n}.png,p{n % 3},{subset},{n % 2}" for n, subset in enumerate(subsets)]
    rows += ["8.png,p8,val,1"]
    (tmp_path / "t.csv").write_text("\n".join(["image,patient,split,Mass", *rows]))
    data = ["data=csv", f"data.table={tmp_path / 't.csv'}", "draws=2"]
    facts = json.loads(audit(*data, "split=csv", "--out", tmp_path / "o", "--json"))
    assert facts["leakage"]["patients"]["in_train"] == 4
    names = [each["name"] for each in facts["leakage"]["lists"]]
    assert names == ["csv table's train rows", "csv table's val rows", "csv table's test rows"]
    paths = write_lists(tmp_path, train="0.png\n1.png\n4.png\n", val="8\n", test="4.png\n5.png\n")
    lists = [f"split.{subset}={path}" for subset, path in paths.items()]
    text = audit(*data, "split=lists", *lists, "--out", tmp_path / "p")
    assert "1 images stand in more than one subset; 1 test images are in train or val" in text
    assert "4 of 9 images are in no list of the split, the first is 2.png" in text
    assert "1 images are in more than one subset" in (tmp_path / "p/audit.html").read_text()


def test_predictions_of_another_split_are_refused(tmp_path) -> None:
    for subset in ("val", "test"):
        rows = [PHANTOM.records[row] for row in SPLIT.subsets[subset]]
        found = xl.Predictions.of(rows, PHANTOM.labels, target_matrix(rows) / 2)
        xl.write_predictions(found, tmp_path / f"predictions_{subset}.csv")
    same = [*DATA, f"predictions={tmp_path}", f"hydra.run.dir={tmp_path / 'o'}"]
    run_verb("audit", same)
    with pytest.raises(xl.TableError, match=r"than the val set of split patient \[.*run.s split"):
        run_verb("audit", [*same, "split.seed=1"])


def test_published_lists_at_hand(shared_data) -> None:
    """NIH's own two files as anybody's lists are its official split."""
    nih = xl.ChestXray14(folder := shared_data / "nih-metadata")
    files = {"train": folder / "train_val_list.txt", "test": folder / "test_list.txt"}
    split = xl.lists_split(nih.records, nih.official, **files)
    assert split.fingerprint == xl.official_split(nih.records, nih.official).fingerprint
