"""A checkpoint with the images it is to be evaluated or explained on."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from xray_lightning.checkpoint import Checkpoint, load_checkpoint, require_labels
from xray_lightning.cli import config as conf
from xray_lightning.cli import settings
from xray_lightning.cli.build import data_from, prepare_process, trainer_from
from xray_lightning.cli.request import Own, read_labels, take_own
from xray_lightning.cli.settings import OPENING, Settings
from xray_lightning.data.datamodule import XrayDataModule
from xray_lightning.data.partition import Split
from xray_lightning.data.source import Source, choose_labels, usage_notes
from xray_lightning.errors import CheckpointError, ConfigError
from xray_lightning.evaluation import model as models
from xray_lightning.evaluation.external import ExternalValidation, validate_externally
from xray_lightning.evaluation.priors import require_prior
from xray_lightning.formats import ADDED
from xray_lightning.processes import quieten
from xray_lightning.report.terminal import show

NEEDED = settings.DEFAULTS["keys"]["needed"]
ALONE = {"devices": 1, "strategy": "auto", "num_nodes": 1}  # whatever it was trained with


@dataclass(frozen=True)
class Opened:
    """A checkpoint and the images it is to be looked at on."""

    checkpoint: Checkpoint
    config: Settings  # its own, with overrides
    data: XrayDataModule  # of that configuration, split as for "test"
    splits: dict[str, Split]  # of the images to score ("test"), and those kept apart ("test_seen")
    overlap: str  # what the user chose for patients it learned from
    out: Path | None  # the folder the user named
    labels: str = ""  # those the user chose: "shared", or a list

    @property
    def fingerprint(self) -> str:
        """Of the images to score."""
        return self.splits["test"].subset_fingerprints["test"]

    @property
    def own_images(self) -> bool:
        """Whether these are the test images of its own run."""
        own = self.checkpoint.description.split.get("subsets", {})
        return bool(self.fingerprint == own.get("test"))

    @property
    def overlap_known(self) -> bool:
        """Whether it can be told if the checkpoint has learned from these patients."""
        known = models.comparable(self.checkpoint.description, self.data.source.population)
        return self.own_images or known or bool(self.overlap)

    def folder(self, name: str = "") -> Path:
        """Where results go: the folder the user named, else in the checkpoint's run or outputs/."""
        place = self.checkpoint.path.resolve().parent
        run = place.parent if place.name == "checkpoints" else Path("outputs")
        return self.out or run / name


def open_checkpoint(place: Path, overrides: Sequence[str], out: Path | None = None) -> Opened:
    """A checkpoint with the data of its run, or other data by overrides; says what is unlike."""
    quieten()
    own, values = take_own(overrides, OPENING)
    loaded = load_checkpoint(place, trust=own["trust"])
    config, description = read_settings(loaded, values), loaded.description
    settings.require_settings(config)
    workers = prepare_process(config)["workers"]
    require_prior(config.prior)
    data = data_from(config, workers=workers)
    if own["labels"]:
        data.keep_labels(choose_labels(read_labels(own["labels"]), data.labels, description.labels))
    require_labels(description, data.labels, str(loaded.path))
    notes = [*usage_notes(data.source), *data.split.notes]
    if len(data.labels) < len(description.labels):
        few, many = len(data.labels), len(description.labels)
        notes.append(f"data has {few} of the {many} labels: {', '.join(data.labels)}")
    models.take_images(data, own["images"])

    open_data = partial(open_saved, cache_dir=config.cache_dir, workers=workers)
    find_own = partial(models.open_own, loaded, open_data)
    splits, note = models.choose_test_images(description, data, own["overlap"] or None, find_own)
    data.split = splits["test"]
    show(*(f"note: {text}" for text in (*notes, note) if text))
    return Opened(loaded, config, data, splits, own["overlap"], out, own["labels"])


def open_saved(checkpoint: Checkpoint, *, cache_dir: str, workers: int) -> XrayDataModule:
    """The data a checkpoint was trained on, as its run read it."""
    return data_from(read_settings(checkpoint, [f"cache_dir={cache_dir}"]), workers=workers)


def validate_checkpoints(
    paths: Sequence[Path], sources: Mapping[str, Source], config: Settings, folder: Path, own: Own
) -> ExternalValidation:
    """Checkpoints on whole data sets of other hospitals; ``own``: trust, draws, bootstrap_seed."""
    quieten()  # after Lightning, which sets its own level
    workers, cache_dir = prepare_process(config)["workers"], config.cache_dir
    trainer = trainer_from(config, folder)
    return validate_externally(
        [load_checkpoint(path, trust=own["trust"]) for path in paths],
        sources,
        models.Scoring(folder, trainer, config.batch_size, workers, cache_dir),
        open_data=partial(open_saved, cache_dir=cache_dir, workers=workers),
        draws=own["draws"],
        seed=own["bootstrap_seed"],
    )


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
            now = f"{name}={config[name]}"
            raise ConfigError(f"{now}: the checkpoint was trained with {name}={value}")
    return config
