"""The patients a checkpoint learned from, found again in NIH's and RSNA's data."""

import json
from unittest.mock import Mock

import cv2
import numpy as np
import pytest
from toy import NihFolder

from xray_lightning.checkpoint import Description, patients_of
from xray_lightning.data.chestxdet import ChestXDet
from xray_lightning.data.csv import CsvTable
from xray_lightning.data.datamodule import XrayDataModule
from xray_lightning.data.nih import ChestXray14
from xray_lightning.data.partition import fingerprint, replace_test
from xray_lightning.data.phantom import Phantom
from xray_lightning.data.rsna import Rsna
from xray_lightning.data.siim import Siim
from xray_lightning.errors import ConfigError, DataError, SplitError
from xray_lightning.evaluation import model as overlap
from xray_lightning.evaluation.model import choose_test_images, take_images


@pytest.fixture
def nih(tmp_path) -> XrayDataModule:
    """Ten NIH patients, 1 to 10, two images each."""
    folder, labels = NihFolder(tmp_path / "nih"), ("Mass", "Pneumonia")
    names = {f"{n:08d}_{visit:03d}.png": n for n in range(1, 11) for visit in range(2)}
    folder.table(*(f"{i},{labels[n % 2]},0,{n},57,M,PA,1,1,1,1" for i, n in names.items()))
    folder.images(*names)
    return XrayDataModule(ChestXray14(folder.root))


@pytest.fixture
def description(nih: XrayDataModule) -> Description:
    return Description({"labels": list(nih.labels)}, {}, patients_of(nih))


def patients(data: XrayDataModule, subset: str) -> set[str]:
    return {record.patient_id for record in data.subset_records(subset)}


def all_test(source) -> XrayDataModule:
    """Every record is a test image, as with images=all."""
    data = XrayDataModule(source)
    data.split = replace_test(data.split, data.records, np.arange(len(data.records)))
    return data


def test_a_checkpoint_carries_keys_not_ids(nih: XrayDataModule) -> None:
    facts = patients_of(nih)
    assert facts["population"] == "nih"
    keys = facts["patients"]
    assert list(keys) == ["train", "val"]
    assert all(len(keys[subset]) == len(patients(nih, subset)) for subset in keys)
    assert all(len(key) == 16 and int(key, 16) >= 0 for subset in keys for key in keys[subset])


def test_own_patients_are_recognised(nih: XrayDataModule, description: Description) -> None:
    seen = overlap.seen_before(description, "nih", nih.records)
    learned = patients(nih, "train") | patients(nih, "val")
    assert seen.tolist() == [record.patient_id in learned for record in nih.records]
    assert overlap.seen_before(description, "phantom-0", nih.records) is None
    assert overlap.seen_before(Description({}, {}, {}), "nih", nih.records) is None


def test_rsna_images_of_nih_patients(nih, description, rsna_folder) -> None:
    """RSNA's nine patients are NIH's 5 to 13; of 11 to 13 the checkpoint knows nothing."""
    data = all_test(Rsna(rsna_folder.root, nih_map=rsna_folder.nih_map(first_patient=5)))
    learned = patients(nih, "train") | patients(nih, "val")
    expected = {record.image_id for record in data.records if record.patient_id in learned}
    with pytest.raises(ConfigError, match=rf"{len(expected)} of the 27 test images show patients"):
        choose_test_images(description, data, None)
    subsets, _ = choose_test_images(description, data, "report")
    rows = {name: split.subsets["test"] for name, split in subsets.items()}
    ids = {name: [data.records[row].image_id for row in of] for name, of in rows.items()}
    assert set(ids["test_seen"]) == expected
    assert {"id-60", "id-71", "id-82"} <= set(ids["test"])
    assert sorted(ids["test"] + ids["test_seen"]) == rsna_folder.ids
    own = subsets["test"].subset_fingerprints["test"]
    assert own == fingerprint({"test": ids["test"]})
    excluded, _ = choose_test_images(description, data, "exclude")
    assert (list(excluded), excluded["test"].subset_fingerprints["test"]) == (["test"], own)


def test_nothing_to_leave_out(description: Description, rsna_folder) -> None:
    data = all_test(Rsna(rsna_folder.root, nih_map=rsna_folder.nih_map(first_patient=20)))
    for choice in (None, "exclude"):
        assert choose_test_images(description, data, choice)[0] == {"test": data.split}


def test_nothing_left(nih: XrayDataModule, description: Description) -> None:
    nih.split = replace_test(nih.split, nih.records, nih.split.subsets["train"])
    for choice in ("exclude", "report"):
        with pytest.raises(SplitError, match=r"show patients"):
            choose_test_images(description, nih, choice)


@pytest.mark.filterwarnings("ignore::xray_lightning.UnknownPatientsWarning")
def test_what_cannot_be_compared_is_not_promised(description, rsna_folder) -> None:
    data = all_test(Rsna(rsna_folder.root))
    splits, note = choose_test_images(description, data, None)
    assert splits == {"test": data.split}
    assert "may have been trained on" in note
    with pytest.raises(ConfigError, match=r"\(nih\) and .* \(unknown\) cannot be .* data\.nih_map"):
        choose_test_images(description, data, "exclude")
    with pytest.raises(ConfigError, match="overlap must be one of exclude, report, got 'drop'"):
        choose_test_images(description, data, "drop")


def write_set(name: str, root, films: dict[str, object], write_dicom):
    """The films in the layout of SIIM or of ChestX-Det, without any finding."""
    (root / "train").mkdir(parents=True)
    if name == "siim":
        for film, pixels in films.items():
            write_dicom(root / f"dicom-images-train/1/2/{film}.dcm", pixels)
        rows = ["ImageId,EncodedPixels", *(f"{film},-1" for film in films)]
        (root / "train-rle.csv").write_text("\n".join(rows))
        return Siim(root)
    for film, pixels in films.items():
        cv2.imwrite(str(root / f"train/{film}.png"), pixels)
    nothing = {"syms": [], "boxes": [], "polygons": []}
    entries = [{"file_name": f"{film}.png"} | nothing for film in films]
    (root / "ChestX_Det_train.json").write_text(json.dumps(entries))
    return ChestXDet(root)


@pytest.mark.filterwarnings("ignore::xray_lightning.UnknownPatientsWarning")
@pytest.mark.parametrize("name", ["siim", "chestxdet"])
def test_nih_films_under_other_names(name, nih, description, tmp_path, write_dicom) -> None:
    """Some films of NIH at another size, and four of nobody it knows."""
    rough = np.random.default_rng(0).random((24, 12, 12)).astype(np.float32) * 200 + 20
    films = [cv2.resize(r, (96, 96), interpolation=cv2.INTER_CUBIC).clip(0, 255) for r in rough]
    for record, film in zip(nih.records, films, strict=False):
        cv2.imwrite(str(record.path), film.astype(np.uint8))
    taken = [*range(0, 20, 3), 20, 21, 22, 23]
    copies = {f"c{k}": cv2.resize(films[k], (128, 128)).astype(np.uint8) for k in taken}
    data = all_test(write_set(name, tmp_path / "copies", copies, write_dicom))
    data.cache_dir = nih.cache_dir = tmp_path / "cache"
    learned = patients(nih, "train") | patients(nih, "val")
    wanted = [row for row, k in enumerate(taken) if k < 20 and nih.records[k].patient_id in learned]
    assert 0 < len(wanted) < 7
    splits, _ = choose_test_images(description, data, "report", lambda: nih)
    assert splits["test_seen"].subsets["test"].tolist() == wanted
    description.split["subsets"] = dict.fromkeys(("train", "val", "test"), "f00d")
    _, note = choose_test_images(description, data, "exclude", lambda: nih)
    assert f"compared by pixels with its own data, {len(wanted)} that show patients" in note
    refuse = Mock(side_effect=DataError("the split was [a], it is [b]"))
    for find, reason in ((refuse, r"not at hand: the split was"), (lambda: None, r"not at hand\.")):
        with pytest.raises(ConfigError, match=rf"{reason}.*overlap=exclude compares") as caught:
            choose_test_images(description, data, "exclude", find)
        assert "RSNA" not in str(caught.value)


def test_a_hospitals_numbers_stay_out(tmp_path) -> None:
    rows = [f"{n}.png,{n},{n % 2}" for n in range(8)]
    (tmp_path / "t.csv").write_text("\n".join(["image,patient,Mass", *rows]))
    for number in range(8):
        (tmp_path / f"{number}.png").touch()
    own = XrayDataModule(CsvTable(tmp_path / "t.csv"))
    assert patients_of(own) == {}
    unknown, learned = Description({}, {}, {}), own.split.subsets["train"]
    assert choose_test_images(unknown, own, None, lambda: own)[0] == {"test": own.split}
    other = all_test(CsvTable(tmp_path / "t.csv"))
    refuse = Mock(side_effect=DataError("not there"))
    assert "may have been trained on" in choose_test_images(unknown, other, None, refuse)[1]
    with pytest.raises(ConfigError, match=f"{len(learned) + 1} of the 8 test images show pat"):
        choose_test_images(unknown, other, None, lambda: own)


def test_every_image_can_be_a_test_image() -> None:
    data = XrayDataModule(Phantom(12))
    split = data.split
    take_images(data, "test")
    assert data.split is split
    take_images(data, "all")
    np.testing.assert_array_equal(data.split.subsets["test"], np.arange(len(data.records)))
    np.testing.assert_array_equal(data.split.subsets["train"], split.subsets["train"])
    assert data.split.subset_fingerprints["test"] != split.subset_fingerprints["test"]
    assert data.split.subset_fingerprints["train"] == split.subset_fingerprints["train"]
    assert data.split.fingerprint != split.fingerprint
    with pytest.raises(ConfigError, match="'some'"):
        take_images(data, "some")


def test_a_note_on_what_the_checkpoint_has_met() -> None:
    data = XrayDataModule(Phantom(20))
    subsets = dict(data.split.subset_fingerprints)
    description = Description({}, {}, {"subsets": subsets, **patients_of(data)})
    assert choose_test_images(description, data, None) == ({"test": data.split}, "")
    splits, note = choose_test_images(description, XrayDataModule(Phantom(20, seed=1)), None)
    assert list(splits) == ["test"]
    assert "some of them, or of their patients, may have been trained on" in note
    take_images(data, "all")
    with pytest.raises(ConfigError, match="overlap=exclude"):
        choose_test_images(description, data, None)
    splits, note = choose_test_images(description, data, "exclude")
    assert "that show patients it learned from are left out" in note
    data.split = splits["test"]
    subsets["test"] = "another run's"
    _, note = choose_test_images(description, data, None)
    assert "no patient of them is one it learned from" in note
