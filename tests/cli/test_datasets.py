import json
import os
import sys
from dataclasses import replace
from functools import partial
from math import nan
from pathlib import Path

import numpy as np
import pytest
from litdata import StreamingDataset
from running import xray
from toy import write_lists

from xray_lightning import DataSummary, Phantom, XrayDataModule
from xray_lightning.writing import read_json

data, cache = partial(xray, "data"), partial(xray, "cache")
SHARED = Path(os.environ["XRAY_DATA"])


@pytest.mark.skipif(not SHARED.is_dir(), reason="the real data (../shared/data) is not here")
def test_figures_of_the_full_nih_table() -> None:
    root = f"data.root={SHARED / 'nih-metadata'}"
    facts = json.loads(data("data=nih", root, "split=official", "--json"))
    assert (facts["images"], facts["patients"], facts["boxes"]) == (112_120, 30_805, 984)
    subsets = facts["parts"]
    assert (subsets["test"]["images"], subsets["test"]["patients"]) == (25_596, 2_797)
    for label, train_val, test in (("Mass", 4034, 1748), ("Pneumonia", 876, 555)):
        counted = sum(subsets[subset]["positives"][label] for subset in ("train", "val"))
        assert (counted, subsets["test"]["positives"][label]) == (train_val, test)
    assert subsets["train"]["images"] + subsets["val"]["images"] == 86_524
    assert (facts["missing"], facts["subsets"]) == (112_120, facts["parts"])
    assert DataSummary.from_json(facts).to_json() | {"schema": 2} == facts


def test_table_for_people_and_file(tmp_path: Path) -> None:
    text = data("data.patients=40", "--out", tmp_path / "out")
    facts = json.loads((tmp_path / "out" / "data.json").read_text())
    assert f"split fingerprint {facts['fingerprint']}" in text
    assert "note: " in text
    assert sum(subset["images"] for subset in facts["parts"].values()) == facts["images"]


def test_cache(tmp_path: Path) -> None:
    settings = ["data.patients=3", "image_size=16", f"cache_dir={tmp_path}"]
    assert "images at 16 px" in cache(*settings)
    (manifest,) = tmp_path.glob("phantom-16px-*/manifest.json")
    facts = json.loads(cache(*settings, "--json"))
    assert (facts["path"], facts["image_size"]) == (str(manifest.parent), 16)
    assert facts["bytes"] == 256 * facts["images"] > 0


def test_cache_in_shards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("xray_lightning.data.cache.PART_IMAGES", 3)
    settings = ["data.patients=3", "image_size=16", f"cache_dir={tmp_path}"]
    parts = [json.loads(cache(*settings, f"shard={number}/2", "--json")) for number in (1, 2)]
    whole = json.loads(cache(*settings, "--json"))
    for key in ("images", "parts"):
        assert sum(part[key] for part in parts) == whole[key]
    assert f"in {whole['parts']} parts, the first: {whole['path']}" in cache(*settings)
    assert "99 shards are too many" in cache(*settings, "shard=1/99", code=2)


def test_litdata_reads_what_the_cache_holds(tmp_path: Path) -> None:
    module = XrayDataModule(Phantom(patients=12), image_size=16, cache_dir=tmp_path)
    first = module.split.subsets["train"][0]
    module.records[first] = replace(module.records[first], targets=(0.3, 1.0, *[nan] * 12))
    module.write_litdata(tmp_path / "lit")
    for subset, rows in module.split.subsets.items():
        for row, sample in zip(rows, StreamingDataset(str(tmp_path / "lit" / subset)), strict=True):
            record = module.records[row]
            told = [sample[name] for name in ("image_id", "patient_id", "subset")]
            assert told == [record.image_id, record.patient_id, subset]
            assert sample["image"].dtype == np.uint8
            assert np.array_equal(sample["image"], module.cache.square(row))
            assert np.array_equal(sample["targets"], np.float32(record.targets), equal_nan=True)
    about = read_json(tmp_path / "lit" / "data.json")
    told = about["labels"], about["split"]["fingerprint"]
    assert told == ([*module.labels], module.split.fingerprint)


def test_shards_of_litdata(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = ["data.patients=12", "image_size=16", f"cache_dir={tmp_path}"]
    assert "LitData shards are in" in cache(*settings, f"litdata={tmp_path / 'lit'}")
    assert "lit is not empty" in cache(*settings, f"litdata={tmp_path / 'lit'}", code=2)
    assert "without shard=" in cache(*settings, "litdata=x", "shard=1/2", code=2)
    monkeypatch.setitem(sys.modules, "litdata.streaming", None)
    text = cache(*settings, f"litdata={tmp_path / 'more'}", code=2)
    assert 'pip install "xray_lightning[litdata]"' in text


def test_unknown_patients_and_names_of_no_image(tmp_path) -> None:
    rows = [f"{n}.png,{n % 2}" for n in range(6)]
    (tmp_path / "t.csv").write_text("\n".join(["image,Mass", *rows]))
    names = {"train": "0 1\n1 0\n2 1\n3 0\n", "val": "4.png", "test": "images/5.png\nimages/6.png"}
    lists = [f"split.{subset}={path}" for subset, path in write_lists(tmp_path, **names).items()]
    text = data("data=csv", f"data.table={tmp_path / 't.csv'}", "split=lists", *lists)
    assert "6 images of an unknown number of patients" in text
    assert "note: 1 of the 2 names in" in text
    assert "'images/6.png'" in text
