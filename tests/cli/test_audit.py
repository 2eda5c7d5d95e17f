"""``xray audit`` on the phantom's label table."""

import json
from pathlib import Path
from types import SimpleNamespace

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


@pytest.mark.parametrize(
    ("setting", "match"),
    [
        ("draws=0", "draws must be an integer of at least 1, got '0'"),
        ("bootstrap_seed=x", "bootstrap_seed must be an integer of at least 0, got 'x'"),
    ],
)
def test_bad_settings(setting: str, match: str) -> None:
    with pytest.raises(ConfigError, match=match):
        audit([setting], as_json=True)


def test_no_such_run(tmp_path: Path) -> None:
    with pytest.raises(DataNotFoundError, match="no predictions table at"):
        audit([*DATA, f"predictions={tmp_path}"], as_json=True)


def test_no_such_list(tmp_path: Path) -> None:
    with pytest.raises(TableError, match="no readable list"):
        audit([*DATA, f"lists={tmp_path / 'none.txt'}"], as_json=True)
