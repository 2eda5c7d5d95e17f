from pathlib import Path

import pytest

from xray_lightning.checkpoint import Bundle, Checkpoint
from xray_lightning.cli.evaluate import configuration, home
from xray_lightning.cli.overrides import make
from xray_lightning.data.samplers import uniform
from xray_lightning.errors import CheckpointError, ConfigError


def checkpoint(config: dict[str, object]) -> Checkpoint:
    bundle = Bundle({"labels": []}, {"image_size": 32, "clahe": False}, {}, config)
    return Checkpoint(Path("best.ckpt"), bundle, {}, 0)


CONFIG: dict[str, object] = {"image_size": 32, "clahe": False, "seed": 1, "batch_size": 4}


def test_changeable_settings() -> None:
    assert configuration(checkpoint(CONFIG), ["batch_size=8"]).batch_size == 8
    with pytest.raises(ConfigError, match="seed=3: an evaluation can change only data, split"):
        configuration(checkpoint(CONFIG), ["seed=3"])


def test_mirror_images_are_a_matter_of_evaluation() -> None:
    """A checkpoint from before there was the setting was scored without."""
    assert configuration(checkpoint(CONFIG), []).tta == "none"
    assert make(configuration(checkpoint(CONFIG), []).sampler).func is uniform
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
