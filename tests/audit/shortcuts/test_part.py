"""The tests on a part of a data set, and of a network that learned from films with a marker."""

from pathlib import Path

import numpy as np
import pytest
import torch

from xray_lightning.audit.baselines import score_by_metadata
from xray_lightning.audit.label_table import LabelTable
from xray_lightning.audit.shortcuts import facts as module
from xray_lightning.audit.shortcuts.facts import known_facts, planted, subset_shortcuts
from xray_lightning.data.datamodule import XrayDataModule
from xray_lightning.data.phantom import Phantom
from xray_lightning.models.network import XrayNet
from xray_lightning.records import Record

SIZE = 32


def data_of(source: Phantom, folder: Path) -> XrayDataModule:
    return XrayDataModule(source, image_size=SIZE, batch_size=8, workers=0, cache_dir=folder)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> XrayDataModule:
    source = Phantom(80, size=64, shortcut="marker", shortcut_label="Mass")
    return data_of(source, tmp_path_factory.mktemp("cache"))


def asked_of(
    data: XrayDataModule, monkeypatch: pytest.MonkeyPatch, **settings: int
) -> dict[str, np.ndarray]:
    """What the facts are asked with."""
    found: dict[str, np.ndarray] = {}

    def facts(
        net: object, images: object, targets: object, patients: object, **others: object
    ) -> dict[str, object]:
        found.update({"images": images, "targets": targets, "patients": patients, **others})
        return {}

    monkeypatch.setattr(module, "shortcut_facts", facts)
    labels = ("Extra", *reversed(data.labels))
    subset_shortcuts(XrayNet(labels, "test_resnet", image_size=SIZE), data, "test", **settings)
    return found


def test_what_a_part_gives(data: XrayDataModule, monkeypatch: pytest.MonkeyPatch) -> None:
    found, records, rows = (
        asked_of(data, monkeypatch),
        data.subset_records("test"),
        data.split.subsets,
    )
    count = len(records)
    assert found["images"].shape == (count, 1, SIZE, SIZE)
    assert torch.equal(torch.as_tensor(found["images"][3]), data.dataset("test")[3]["image"])
    assert np.isnan(found["targets"][:, 0]).all()
    assert np.array_equal(found["targets"][:, :0:-1], data.subset_targets("test"))
    assert found["patients"].tolist() == [record.patient_id for record in records]
    assert found["known"].keys() == {"sex: M", "view: AP", "word: AP or PORT"}
    floor = score_by_metadata(
        LabelTable.of(data.records, data.labels), rows["train"], rows["test"], 0
    )
    assert floor is not None
    np.testing.assert_array_equal(found["floor"][:, :0:-1], floor)
    assert found["marker"].shape == (count, SIZE, SIZE)


def test_a_large_part_is_sampled(data: XrayDataModule, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = asked_of(data, monkeypatch)
    some, again = (asked_of(data, monkeypatch, limit=9, seed=1) for _ in range(2))
    assert len(some["images"]) == len(some["targets"]) == len(some["marker"]) == 9
    assert torch.equal(torch.as_tensor(some["images"]), torch.as_tensor(again["images"]))
    places = [
        next(i for i, image in enumerate(whole["images"]) if torch.equal(image, each))
        for each in some["images"]
    ]
    assert np.array_equal(some["targets"], whole["targets"][places], equal_nan=True)
    assert np.array_equal(some["patients"], whole["patients"][places])


def test_the_marker_is_known_to_the_last_pixel(data: XrayDataModule) -> None:
    records = list(data.source.records)
    masks = planted(data.source, records, SIZE)
    assert masks is not None
    plain = Phantom(80, size=64)
    for record, mask in zip(records, masks, strict=True):
        exact = plain.read(record) != data.source.read(record)
        assert mask.any() == exact.any()
        assert mask[np.nonzero(exact)[0] // 2, np.nonzero(exact)[1] // 2].all()
        assert mask.sum() <= 9
    assert planted(plain, records, SIZE) is None


def test_facts_of_records() -> None:
    rows = [("M", "PA"), ("F", "AP"), ("", "LL")]
    records = [Record("a", "p", (0.0,), sex=sex, view=view) for sex, view in rows]
    phantom = Phantom(4)

    class Other:
        """A data set of another kind."""

    found = known_facts(Other(), records)  # type: ignore[arg-type]
    assert found.keys() == {"sex: M", "view: AP"}
    np.testing.assert_array_equal(found["sex: M"], [1, 0, np.nan])
    np.testing.assert_array_equal(found["view: AP"], [0, 1, np.nan])
    words = known_facts(phantom, phantom.records)["word: AP or PORT"]
    assert words.tolist() == [float(phantom.word(record) != "") for record in phantom.records]
