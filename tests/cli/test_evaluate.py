from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import xray_lightning as xl
from xray_lightning.cli.config import make
from xray_lightning.cli.opening import read_settings
from xray_lightning.cli.settings import find_checkpoint
from xray_lightning.evaluation.model import Inspection
from xray_lightning.report.evaluation_table import evaluation_lines


def checkpoint(config: dict[str, object]) -> xl.Checkpoint:
    description = xl.Description({"labels": []}, {"image_size": 32, "clahe": False}, {}, config)
    return xl.Checkpoint(Path("best.ckpt"), description, {}, 0)


CONFIG: dict[str, object] = {"image_size": 32, "clahe": False, "seed": 1, "batch_size": 4}
CONFIG |= dict.fromkeys(("augment", "workers", "threads", "cache_dir"))
CONFIG |= {"data": {}, "split": {}, "trainer": {}}


@pytest.mark.parametrize(
    ("lacks", "overrides", "error", "message"),
    [
        *(([k], [], xl.CheckpointError, rf"best\.ckpt: config\.{k} is missing") for k in CONFIG),
        ([*CONFIG], [], xl.CheckpointError, "holds no configuration"),  # of a library's user
        ([], ["seed=3"], xl.ConfigError, "seed=3: an evaluation can change only data, split"),
        ([], ["image_size=64"], xl.ConfigError, "the checkpoint learned with"),
        ([], ["clahe=true"], xl.ConfigError, "the checkpoint learned with"),
    ],
)
def test_what_is_not_there_or_cannot_change(lacks, overrides, error, message) -> None:
    assert read_settings(checkpoint(CONFIG), ["batch_size=8"]).batch_size == 8
    with pytest.raises(error, match=message):
        read_settings(checkpoint({k: v for k, v in CONFIG.items() if k not in lacks}), overrides)


def test_mirror_images_are_a_matter_of_evaluation() -> None:
    """A checkpoint from before there was the setting was scored without."""
    assert read_settings(checkpoint(CONFIG), []).tta == "none"
    assert make(read_settings(checkpoint(CONFIG), []).sampler).func is xl.uniform_sampler
    assert read_settings(checkpoint(CONFIG), ["tta=flip"]).tta == "flip"
    assert read_settings(checkpoint(CONFIG | {"tta": "flip"}), []).tta == "flip"


def test_one_process_unless_asked_for_more() -> None:
    trained = checkpoint(CONFIG | {"trainer": {"devices": 4, "strategy": "ddp", "num_nodes": 2}})
    alone = {"devices": 1, "strategy": "auto", "num_nodes": 1}
    assert read_settings(trained, []).trainer == alone
    assert read_settings(trained, ["trainer.devices=2"]).trainer == alone | {"devices": 2}
    asked = read_settings(trained, ["trainer=ddp", "trainer.devices=3", "trainer.max_epochs=1"])
    assert (asked.trainer.devices, asked.trainer.strategy) == (3, "ddp")


def test_a_run_folder_is_its_best_checkpoint(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").mkdir()
    for name in ("checkpoints/best.ckpt", "last.ckpt"):
        torch.save({}, tmp_path / name)
    assert find_checkpoint(tmp_path) == tmp_path / "checkpoints/best.ckpt"
    assert find_checkpoint(tmp_path / "last.ckpt") == tmp_path / "last.ckpt"


def test_where_the_results_go(tmp_path: Path) -> None:
    for name, folder in (("run/checkpoints/best.ckpt", tmp_path / "run"), ("best.ckpt", "outputs")):
        loaded = replace(checkpoint({}), path=tmp_path / name)
        assert Inspection(loaded, None, {}).folder("x") == Path(folder, "x")


@pytest.mark.filterwarnings("ignore::xray_lightning.UnknownPatientsWarning")
@pytest.mark.parametrize("mapped", [False, True])
def test_unknown_patients_are_said(rsna_folder, tmp_path: Path, mapped: bool) -> None:
    """RSNA without the map: neither its patients nor their overlap with training are known."""
    source = xl.Rsna(rsna_folder.root, nih_map=rsna_folder.nih_map() if mapped else None)
    data = xl.XrayDataModule(source, image_size=32)
    subsets = dict.fromkeys(("train", "val", "test"), "f00d")
    description = xl.Description({}, {}, {"subsets": subsets, "population": "nih"}, CONFIG)
    loaded = xl.Checkpoint(Path("best.ckpt"), description, {}, 0)
    found = Inspection(loaded, data, {"test": data.split})
    assert found.overlap_known is mapped
    records = data.subset_records("test")
    scores = np.linspace(0, 1, len(records), dtype=np.float32)[:, None]
    predictions = xl.Predictions.of(records, data.labels, scores)
    origin = xl.Origin.of(source, data.split, "test", overlap_known=found.overlap_known)
    evaluation = xl.evaluate(predictions, records, origin, draws=5)
    assert (evaluation.patients_known, evaluation.origin.overlap_known) == (mapped, mapped)
    lines = evaluation_lines(evaluation, "rsna")
    assert any("patients are not known" in str(line) for line in lines) is not mapped
