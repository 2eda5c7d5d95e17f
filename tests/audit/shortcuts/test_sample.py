"""What is drawn from a subset of a data set, and what is known of it."""

import numpy as np
import pytest
import torch

from xray_lightning import Phantom, Record, XrayDataModule
from xray_lightning.audit.label_table import LabelTable
from xray_lightning.audit.shift import score_by_metadata
from xray_lightning.audit.shortcuts import draw_sample, locate_marker, read_attributes

SIZE = 32


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> XrayDataModule:
    source = Phantom(80, size=64, shortcut="marker", shortcut_label="Mass")
    folder = tmp_path_factory.mktemp("cache")
    return XrayDataModule(source, image_size=SIZE, batch_size=8, workers=0, cache_dir=folder)


def test_a_subset_and_a_sample_of_it(data: XrayDataModule) -> None:
    labels = ("Extra", *reversed(data.labels))
    whole, records = draw_sample(data, "test", labels), data.subset_records("test")
    rows = data.split.subsets
    assert whole.images.shape == (len(records), 1, SIZE, SIZE)
    assert torch.equal(whole.images[3], data.dataset("test")[3]["image"])
    assert np.isnan(whole.targets[:, 0]).all()
    assert np.array_equal(whole.targets[:, :0:-1], data.subset_targets("test"))
    assert whole.patients.tolist() == [record.patient_id for record in records]
    assert whole.attributes.keys() == {"sex: M", "view: AP", "word: AP or PORT"}
    table = LabelTable.of(data.records, data.labels)
    floor = score_by_metadata(table, rows["train"], rows["test"], 0)
    np.testing.assert_array_equal(whole.floor[:, :0:-1], floor)
    assert whole.marker.shape == (len(records), SIZE, SIZE)
    some, again = (draw_sample(data, "test", labels, limit=9, seed=1) for _ in range(2))
    assert len(some.images) == len(some.targets) == len(some.marker) == 9
    assert torch.equal(some.images, again.images)
    places = [
        next(i for i, image in enumerate(whole.images) if torch.equal(image, drawn))
        for drawn in some.images
    ]
    assert np.array_equal(some.targets, whole.targets[places], equal_nan=True)
    assert np.array_equal(some.patients, whole.patients[places])


def test_the_marker_is_known_to_the_last_pixel(data: XrayDataModule) -> None:
    records = list(data.source.records)
    masks = locate_marker(data.source, records, SIZE)
    plain = Phantom(80, size=64)
    for record, mask in zip(records, masks, strict=True):
        exact = plain.read(record) != data.source.read(record)
        assert mask.any() == exact.any()
        assert mask[np.nonzero(exact)[0] // 2, np.nonzero(exact)[1] // 2].all()
        assert mask.sum() <= 9
    assert locate_marker(plain, records, SIZE) is None


def test_attributes_of_records() -> None:
    rows = [("M", "PA"), ("F", "AP"), ("", "LL")]
    records = [Record("a", "p", (0.0,), sex=sex, view=view) for sex, view in rows]
    attributes = read_attributes(object(), records)  # type: ignore[arg-type]
    assert attributes.keys() == {"sex: M", "view: AP"}
    np.testing.assert_array_equal(attributes["sex: M"], [1, 0, np.nan])
    np.testing.assert_array_equal(attributes["view: AP"], [0, 1, np.nan])
    phantom = Phantom(4)
    words = read_attributes(phantom, phantom.records)["word: AP or PORT"]
    assert words.tolist() == [float(phantom.word(record) != "") for record in phantom.records]
