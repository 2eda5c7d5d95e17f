"""A checkpoint with the images it is to be evaluated or explained on."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from xray_lightning.checkpoint import Checkpoint, load_checkpoint
from xray_lightning.cli import config as conf
from xray_lightning.cli import settings
from xray_lightning.cli.build import data_from, prepare_process
from xray_lightning.cli.request import DEFAULTS, read_labels, take_own
from xray_lightning.cli.settings import OPENING, Settings
from xray_lightning.data.datamodule import XrayDataModule
from xray_lightning.errors import CheckpointError, ConfigError
from xray_lightning.evaluation import model as models
from xray_lightning.evaluation.priors import require_prior
from xray_lightning.formats import ADDED
from xray_lightning.processes import quieten
from xray_lightning.report.terminal import show

NEEDED = DEFAULTS["keys"]["needed"]
ALONE = {"devices": 1, "strategy": "auto", "num_nodes": 1}  # whatever it was trained with


def open_checkpoint(place: Path, overrides: Sequence[str]) -> tuple[Settings, models.Inspection]:
    """A checkpoint with the data of its run, or other data by overrides; says what is unlike."""
    quieten()
    own, values = take_own(overrides, OPENING)
    loaded = load_checkpoint(place, trust=own.pop("trust"))
    config = read_settings(loaded, values)
    settings.require_settings(config)
    workers = prepare_process(config)["workers"]
    require_prior(config.prior)
    data = data_from(config, workers=workers)
    own["labels"] = read_labels(own["labels"])
    find_own = partial(models.open_own, loaded, partial(open_saved, config, workers))
    opened = models.inspect_on(loaded, data, **own, find_own=find_own)
    show(*(f"note: {text}" for text in opened.notes))
    return config, opened


def open_saved(config: Settings, workers: int, checkpoint: Checkpoint) -> XrayDataModule:
    """The data a checkpoint was trained on, as its run read it."""
    return data_from(read_settings(checkpoint, [f"cache_dir={config.cache_dir}"]), workers=workers)


def read_settings(checkpoint: Checkpoint, overrides: Sequence[str]) -> Settings:
    """The checkpoint's configuration with overrides; the usual one of one without its run."""
    description, saved = checkpoint.description, checkpoint.description.config
    if not checkpoint.trust:
        conf.require_trusted(saved, checkpoint.path)
    if not {*saved} - {"tta"}:
        if not any(text.startswith(("data=", "data.sets=")) for text in overrides):
            raise CheckpointError(f"{checkpoint.path} holds no configuration: name data=")
        saved = settings.to_container(conf.compose_settings([])) | description.preprocessing | saved
    if missing := [key for key in NEEDED if key not in saved]:
        raise CheckpointError(f"{checkpoint.path}: config.{missing[0]} is missing")
    settings.require_changes(overrides)
    usual = {**ADDED, "prior": "validation"}  # of calibrated scores; estimate; 0.05; {Mass: 0.05}
    trainer = {**saved["trainer"], **ALONE}
    config = conf.change_settings({**usual, **saved, "trainer": trainer}, overrides)
    for name, value in description.preprocessing.items():
        if config[name] != value:
            raise ConfigError(f"{name}={config[name]}: the checkpoint learned with {name}={value}")
    return config
