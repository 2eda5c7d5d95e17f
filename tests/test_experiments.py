"""Every experiment says what it corrects, is built as it says, and runs on the phantom."""

import json
from pathlib import Path

import pytest
from omegaconf import DictConfig

from xray_lightning import Focal, PairwiseAUC, Plateau, Step
from xray_lightning.cli.build import data_from, task_from
from xray_lightning.cli.config import compose_settings
from xray_lightning.cli.fit import fit
from xray_lightning.report import figures

CONF = Path(__file__).parents[1] / "conf/experiment"
NAMES = sorted(str(path.relative_to(CONF).with_suffix("")) for path in CONF.rglob("*.yaml"))
ORIGINALS = [name for name in NAMES if name.startswith(("xray14", "chexnet"))]
TINY = ["data=phantom", "data.patients=24", "image_size=32", "weights=none", "batch_size=8"]
OWN_NETWORK = ("smoke", "strong", "chexnet_rsna", "xray14_xception_cbam_wce", "phantom/bce")
XCEPTION = [name for name in NAMES if name.startswith("xray14")]


def config_of(name: str, *overrides: str) -> DictConfig:
    return compose_settings([f"experiment={name}", *TINY, *overrides])


@pytest.mark.parametrize("name", NAMES)
def test_runs_in_debug_on_the_phantom(name: str, folder: Path, tmp_path: Path, monkeypatch) -> None:
    overrides = ["trainer=debug", "logger=none", "report=false", f"cache_dir={folder}"]
    overrides += ["trainer.limit_train_batches=2", "trainer.max_epochs=1", "threads=1", "draws=20"]
    overrides += [] if name in OWN_NETWORK else ["model.backbone=test_resnet"]  # each kind once
    if name != "smoke":  # pictures take longest
        overrides.append("callbacks=none")
        monkeypatch.setattr(figures, "save_figure", lambda *_: None)
    config = config_of(name, *overrides)
    config.run_dir = str(tmp_path / "run")
    fit(config)
    metrics = json.loads((tmp_path / "run/metrics.json").read_text())
    assert metrics["test"]["auroc"]["defined"] > 0
    assert metrics["test"]["tta"] == config.tta
    assert (tmp_path / "run/predictions_test.csv").is_file()


@pytest.mark.parametrize("name", ORIGINALS)
def test_the_corrections_are_listed(name: str) -> None:
    assert "Corrected" in (CONF / f"{name}.yaml").read_text()


@pytest.mark.parametrize("name", XCEPTION)
def test_what_all_of_project_a_share(name: str) -> None:
    config = compose_settings([f"experiment={name}", "data.root=x"])
    assert (config.model.backbone, config.model.normalise) == ("legacy_xception", "image")
    assert (config.image_size, config.batch_size, config.epochs) == (256, 32, 100)
    assert config.optim.optimizer._target_ == "torch.optim.Adam"
    assert config.optim.optimizer.lr == 1e-3
    assert config.augment._target_.endswith("xray14")
    assert config.split._target_.endswith("official_split")
    assert config.weights == "imagenet"
    assert not config.callbacks, "no early stop before the rate is cut"


def test_project_a_in_objects() -> None:
    config = config_of("xray14_xception_cbam_wce")
    data = data_from(config)
    task = task_from(config, data)
    assert isinstance(task.schedule, Step)
    assert list(task.net.attention) == ["block3", "block12"]
    assert type(task.loss).__name__ == "WeightedBCE"
    focal = task_from(config_of("xray14_focal"), data).loss
    assert isinstance(focal, Focal)
    assert (focal.gamma, focal.alpha, focal.scale) == (2, None, 2)
    ranking = task_from(config_of("xray14_auc"), data).loss
    assert isinstance(ranking, PairwiseAUC)
    assert (ranking.margin, ranking.power) == (0.2, 3)
    balanced = config_of("xray14_disease_balanced")
    assert balanced.sampler._target_.endswith("disease_balanced_sampler")
    assert balanced.sampler.normal_share == 0.5


def test_chexnet_in_objects() -> None:
    config = config_of("chexnet_nih")
    task = task_from(config, data_from(config))
    assert task.net.config["backbone"] == "densenet121"
    assert isinstance(task.schedule, Plateau)
    assert task.schedule.patience == 1
    assert config.augment.rotate == config.augment.shift == config.augment.zoom == 0


def test_strong_in_objects() -> None:
    config = config_of("strong")
    task = task_from(config, data_from(config))
    assert task.net.config["head"] == "csra"
    assert (task.tta, task.layer_decay, config.ema_decay) == ("flip", 0.8, 0.999)
    assert type(task.loss).__name__ == "Asymmetric"


@pytest.mark.parametrize(("name", "size"), [("chexnet_rsna", 512), ("chexnet_rsna_quick", 224)])
def test_project_b(name: str, size: int) -> None:
    config = compose_settings([f"experiment={name}", "data.root=x", "data.nih_map=y"])
    assert config.data._target_.endswith("Rsna")
    assert (config.image_size, config.clahe, config.freeze_epochs) == (size, True, 1)
    assert (config.optim.optimizer.lr, config.model.dropout) == (1e-4, 0.2)
    assert (config.schedule.factor, config.schedule.patience) == (0.3, 3)
    assert config.augment._target_.endswith("rsna")
    assert config.weights == "imagenet"
