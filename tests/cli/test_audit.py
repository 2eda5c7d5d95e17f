"""``xray audit`` on the phantom's label table."""

import json
from pathlib import Path
from types import SimpleNamespace

import cv2
import pytest

from xray_lightning import Phantom
from xray_lightning.cli.audit import audit, checkpoint_facts
from xray_lightning.data.source import patient_keys
from xray_lightning.data.splits import patient_split
from xray_lightning.errors import ConfigError, DataNotFoundError, TableError

PHANTOM = Phantom(patients=60)
SPLIT = patient_split(PHANTOM.records, None)
DATA = ["data.patients=60", "draws=5"]


def test_files_and_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = [PHANTOM.records[row].image_id for row in SPLIT.parts["train"][:2]]
    (tmp_path / "known.txt").write_text("\n".join([*names, "elsewhere.png"]))
    out = tmp_path / "out"
    audit([*DATA, f"lists={tmp_path / 'known.txt'}", f"hydra.run.dir={out}"], as_json=True)
    facts = json.loads(capsys.readouterr().out)
    assert facts == json.loads((out / "audit.json").read_text())
    assert facts["split"]["fingerprint"] == SPLIT.fingerprint
    assert facts["leakage"]["patients"]["shared"] == 0
    assert facts["leakage"]["lists"][-1]["parts"] == {"train": 2, "val": 0, "test": 0}
    assert facts["draws"] == 5
    page = (out / "audit.html").read_text()
    assert all(each.split(";")[0] in page for each in facts["gist"][:1])


def test_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    audit(DATA, as_json=False)
    text = capsys.readouterr().out
    assert "0 patients have images in more than one part" in text
    assert "images per patient" in text
    assert "other images" in text
    folder = tmp_path / f"outputs/audit_phantom_{SPLIT.fingerprint}"
    assert (folder / "audit.html").is_file()


def test_what_a_checkpoint_has_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    train = [PHANTOM.records[row] for row in SPLIT.parts["train"]]
    facts = {"parts": dict(SPLIT.part_fingerprints), "population": PHANTOM.population}
    facts["patients"] = {"train": patient_keys(PHANTOM.population, train), "val": []}
    bundle = SimpleNamespace(split=facts)
    monkeypatch.setattr(
        "xray_lightning.checkpoint.load_checkpoint", lambda path: SimpleNamespace(bundle=bundle)
    )
    found = checkpoint_facts("best.ckpt", PHANTOM, SPLIT)
    assert found["comparable"]
    assert found["same_training_images"]
    assert found["seen"] == {"train": len(train), "val": 0, "test": 0}
    facts["population"] = "other people"
    found = checkpoint_facts("best.ckpt", PHANTOM, SPLIT)
    assert not found["comparable"]
    assert found["seen"] is None


def test_duplicates_by_the_cache(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Files 5 and 6 show what 0 and 1 show; 4 is not on disk."""
    rows = ["image,patient,split,Mass"]
    for number, part in enumerate(["train", "train", "val", "val", "test", "test", "test"]):
        if number != 4:
            pixels = PHANTOM.read(PHANTOM.records[number % 5])
            cv2.imwrite(str(tmp_path / f"{number}.png"), pixels)
        rows.append(f"{number}.png,p{number},{part},{number % 2}")
    (tmp_path / "table.csv").write_text("\n".join(rows))
    settings = ["data=csv", f"data.table={tmp_path / 'table.csv'}", "split=csv", "image_size=64"]
    settings += ["data.allow_missing=true", "duplicates=true", f"cache_dir={tmp_path / 'cache'}"]
    audit([*settings, "draws=5", f"hydra.run.dir={tmp_path / 'out'}"], as_json=True)
    facts = json.loads(capsys.readouterr().out)
    found = facts["leakage"]["duplicates"]
    assert (found["images"], found["size"], found["not_on_disk"]) == (6, 64, 1)
    assert found["exact"] == {
        "pairs": 2,
        "other_patients": 2,
        "learned_and_tested": 2,
        "leaked_unseen": 2,
    }
    assert found["near"]["pairs"] == 0
    assert [each["images"] for each in found["named"]] == [["0.png", "5.png"], ["1.png", "6.png"]]
    sentence = (
        "Of 6 images, 2 pairs have equal pixels and 0 more are near-duplicates; 2 test images"
    )
    assert any(
        each.startswith(sentence) and each.endswith("2 pairs under another patient's name.")
        for each in facts["gist"]
    )
    page = (tmp_path / "out/audit.html").read_text()
    assert "6 were compared at 64 px; 1 are not on disk" in page
    assert ">5.png</td><td>test</td>" in page
    assert "no image was read" not in page


def test_nih_images_in_the_rsna_challenge(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = [
        "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Sex,View Position"
    ]
    names = [f"{n:08d}_000.png" for n in range(1, 21)]
    lines += [f"{name},Mass,0,{n},50,F,PA" for n, name in enumerate(names, start=1)]
    (tmp_path / "Data_Entry_2017_v2020.csv").write_text("\n".join(lines))
    (tmp_path / "train_val_list.txt").write_text("\n".join(names[:12]))
    (tmp_path / "test_list.txt").write_text("\n".join(names[12:]))
    rsna = ["patientId,Image Index", f"a,{names[0]}", f"b,{names[13]}", f"c,{names[13]}"]
    (tmp_path / "map.csv").write_text("\n".join([*rsna, f"d,{names[14]}", "e,00000099_000.png"]))
    settings = ["data=nih", f"data.root={tmp_path}", f"rsna_map={tmp_path / 'map.csv'}", "draws=2"]
    audit([*settings, "split=official", f"hydra.run.dir={tmp_path / 'out'}"], as_json=True)
    (row,) = json.loads(capsys.readouterr().out)["leakage"]["lists"][2:]
    assert row["name"] == "RSNA challenge (5 images, by its map)"
    assert (row["listed"], row["found"], row["parts"]["test"]) == (4, 3, 2)


@pytest.mark.parametrize(
    ("setting", "match"),
    [
        ("draws=0", "draws must be an integer of at least 1, got '0'"),
        ("bootstrap_seed=x", "bootstrap_seed must be an integer of at least 0, got 'x'"),
        ("duplicates=1", "duplicates must be true or false, got '1'"),
        ("rsna_map=x.csv", "rsna_map names NIH's images: it tells nothing of phantom's"),
    ],
)
def test_bad_settings(setting: str, match: str) -> None:
    with pytest.raises(ConfigError, match=match):
        audit([setting], as_json=True)


def test_duplicates_need_pixels_enough() -> None:
    with pytest.raises(ConfigError, match="compares at 64 px or more: image_size=32 is too small"):
        audit([*DATA, "duplicates=true", "image_size=32"], as_json=True)


def test_no_such_run(tmp_path: Path) -> None:
    with pytest.raises(DataNotFoundError, match="no predictions table at"):
        audit([*DATA, f"predictions={tmp_path}"], as_json=True)


def test_no_such_list(tmp_path: Path) -> None:
    with pytest.raises(TableError, match="no readable list"):
        audit([*DATA, f"lists={tmp_path / 'none.txt'}"], as_json=True)
