import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from xray_lightning.checkpoint import Checkpoint, Description, patients_of
from xray_lightning.cli.evaluate import (
    Opened,
    appraised,
    configuration,
    home,
    judged,
    use_images,
)
from xray_lightning.cli.overrides import make
from xray_lightning.data.datamodule import XrayDataModule
from xray_lightning.data.phantom import Phantom
from xray_lightning.data.rsna import Rsna
from xray_lightning.data.samplers import uniform_sampler
from xray_lightning.errors import CheckpointError, ConfigError
from xray_lightning.evaluation.predictions import Predictions


def checkpoint(config: dict[str, object]) -> Checkpoint:
    description = Description({"labels": []}, {"image_size": 32, "clahe": False}, {}, config)
    return Checkpoint(Path("best.ckpt"), description, {}, 0)


CONFIG: dict[str, object] = {"image_size": 32, "clahe": False, "seed": 1, "batch_size": 4}
CONFIG |= dict.fromkeys(("augment", "workers", "threads", "cache_dir"))
CONFIG |= {"data": {}, "split": {}, "trainer": {}}


@pytest.mark.parametrize("key", CONFIG)
def test_a_setting_that_is_not_there_is_named(key: str) -> None:
    less = {name: value for name, value in CONFIG.items() if name != key}
    with pytest.raises(CheckpointError, match=rf"best\.ckpt: config\.{key} is missing"):
        configuration(checkpoint(less), [])


def test_changeable_settings() -> None:
    assert configuration(checkpoint(CONFIG), ["batch_size=8"]).batch_size == 8
    with pytest.raises(ConfigError, match="seed=3: an evaluation can change only data, split"):
        configuration(checkpoint(CONFIG), ["seed=3"])


def test_mirror_images_are_a_matter_of_evaluation() -> None:
    """A checkpoint from before there was the setting was scored without."""
    assert configuration(checkpoint(CONFIG), []).tta == "none"
    assert make(configuration(checkpoint(CONFIG), []).sampler).func is uniform_sampler
    assert configuration(checkpoint(CONFIG), ["tta=flip"]).tta == "flip"
    assert configuration(checkpoint(CONFIG | {"tta": "flip"}), []).tta == "flip"


def test_one_process_unless_asked_for_more() -> None:
    trained = checkpoint(CONFIG | {"trainer": {"devices": 4, "strategy": "ddp", "num_nodes": 2}})
    alone = {"devices": 1, "strategy": "auto", "num_nodes": 1}
    assert configuration(trained, []).trainer == alone
    assert configuration(trained, ["trainer.devices=2"]).trainer == alone | {"devices": 2}
    asked = configuration(trained, ["trainer=ddp", "trainer.devices=3", "trainer.max_epochs=1"])
    assert (asked.trainer.devices, asked.trainer.strategy) == (3, "ddp")


@pytest.mark.parametrize("text", ["image_size=64", "clahe=true"])
def test_preprocessing_belongs_to_the_checkpoint(text: str) -> None:
    with pytest.raises(ConfigError, match="the checkpoint was trained with"):
        configuration(checkpoint(CONFIG), [text])


def test_checkpoint_of_library_use() -> None:
    with pytest.raises(CheckpointError, match="holds no configuration"):
        configuration(checkpoint({}), [])


def test_where_the_results_go(tmp_path: Path) -> None:
    assert home(tmp_path / "run/checkpoints/best.ckpt") == tmp_path / "run"
    assert home(tmp_path / "best.ckpt") == Path("outputs")


def test_every_image_can_be_a_test_image() -> None:
    data = XrayDataModule(Phantom(12))
    split = data.split
    for images in ("test",):
        use_images(data, images)
        assert data.split is split
    use_images(data, "all")
    np.testing.assert_array_equal(data.split.subsets["test"], np.arange(len(data.records)))
    np.testing.assert_array_equal(data.split.subsets["train"], split.subsets["train"])
    assert data.split.subset_fingerprints["test"] != split.subset_fingerprints["test"]
    assert data.split.subset_fingerprints["train"] == split.subset_fingerprints["train"]
    assert data.split.fingerprint != split.fingerprint
    with pytest.raises(ConfigError, match="images must be test or all, got 'some'"):
        use_images(data, "some")


def test_a_word_on_what_the_checkpoint_has_met(
    capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    data = XrayDataModule(Phantom(20))
    subsets = dict(data.split.subset_fingerprints)
    description = Description({}, {}, {"subsets": subsets, **patients_of(data)})
    assert judged(description, data, None) == {"test": data.split}  # its own test images
    assert not capsys.readouterr().out
    assert judged(description, XrayDataModule(Phantom(20, seed=1)), None)["test"]
    assert "some of them, or of their patients, may have been trained on" in caplog.text
    use_images(data, "all")
    with pytest.raises(ConfigError, match="overlap=exclude leaves them out"):
        judged(description, data, None)
    judged(description, data, "exclude")
    assert "that show patients it learned from are left out" in capsys.readouterr().out
    data.split = judged(description, data, "exclude")["test"]
    subsets["test"] = "another run's"
    judged(description, data, None)
    assert "no patient of them is one it learned from" in capsys.readouterr().out


@pytest.mark.filterwarnings("ignore::xray_lightning.data.rsna.UnknownPatientsWarning")
@pytest.mark.parametrize("mapped", [False, True])
def test_unknown_patients_are_said(rsna_folder: Any, tmp_path: Path, mapped: bool) -> None:
    """RSNA without the map: neither its patients nor their overlap with training are known."""
    source = Rsna(rsna_folder.root, nih_map=rsna_folder.nih_map() if mapped else None)
    data = XrayDataModule(source, image_size=32)
    subsets = dict.fromkeys(("train", "val", "test"), "f00d")
    description = Description({}, {}, {"subsets": subsets, "population": "nih"}, CONFIG)
    config = configuration(Checkpoint(Path("best.ckpt"), description, {}, 0), ["draws=5"])
    loaded = Checkpoint(Path("best.ckpt"), description, {}, 0)
    found = Opened(loaded, config, data, {"test": data.split}, None, None)
    assert found.overlap_known is mapped
    records = data.subset_records("test")
    ids = tuple(record.image_id for record in records)
    scores = np.linspace(0, 1, len(ids), dtype=np.float32)[:, None]
    patients = tuple(record.patient_id for record in records)
    predictions = Predictions(data.labels, ids, patients, data.subset_targets("test"), scores)
    lines = appraised(found, predictions, tmp_path).shown("rsna")
    facts = json.loads((tmp_path / "evaluation.json").read_text())
    assert (facts["patients_known"], facts["overlap_known"]) == (mapped, mapped)
    assert any("patients are not known" in str(line) for line in lines) is not mapped
