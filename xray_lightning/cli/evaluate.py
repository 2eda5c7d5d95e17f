"""``xray evaluate``: a checkpoint scored on its own test set, or on other data."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from omegaconf import DictConfig
from rich.table import Table

from xray_lightning.checkpoint import Checkpoint, Description, load_checkpoint, require_labels
from xray_lightning.cli.build import data_from, prepare_process
from xray_lightning.cli.compose import LOG, mean_line, score
from xray_lightning.cli.conclusion import subset_facts
from xray_lightning.cli.judging import Judged, fitted_labels, verdict_of
from xray_lightning.cli.overrides import boolean, labels_asked, overridden, split_run_dir, taken_out
from xray_lightning.cli.priors import require_prior, wanted_priors
from xray_lightning.cli.settings import require_changes, require_settings
from xray_lightning.cli.trust import require_trusted
from xray_lightning.data.datamodule import XrayDataModule
from xray_lightning.data.partition import Split, fingerprint, replace_test
from xray_lightning.data.source import usage_notes
from xray_lightning.errors import CheckpointError, ConfigError
from xray_lightning.evaluation.overlap import separated
from xray_lightning.evaluation.predict import Summary
from xray_lightning.evaluation.predictions import Predictions
from xray_lightning.folders import prepare_folder
from xray_lightning.processes import first_process, quieten
from xray_lightning.report.terminal import show, subsets_line
from xray_lightning.training.task import XrayTask
from xray_lightning.writing import write_json

ADDED = {  # settings that older checkpoints do not name
    "tta": "none",
    "draws": 2000,
    "prior": "validation",  # of calibrated scores; estimate; 0.05; {Mass: 0.05}
    "operating_point": {"rule": "youden", "value": 0.9},
    "calibration": "platt",
    "permute_labels": False,
    "sampler": {"_target_": "xray_lightning.uniform_sampler", "_partial_": True},
}
NEEDED = (  # of the settings, to read the data as it was read
    *("data", "split", "trainer", "image_size", "clahe", "batch_size", "augment", "seed"),
    *("workers", "threads", "cache_dir"),
)
UNKNOWN_OVERLAP = "note: whether the checkpoint has learned from these patients is not known"
NO_POINTS = (
    "note: no operating points in this checkpoint: only best.ckpt of a finished run has them"
)
ALONE = {"devices": 1, "strategy": "auto", "num_nodes": 1}  # whatever it was trained with


@dataclass(frozen=True)
class Opened:
    """A checkpoint and the images it is to be looked at on.

    Attributes:
        checkpoint: of ours.
        config: its own, with overrides.
        data: of that configuration.
        splits: of the images to score ("test"), and of those kept apart ("test_seen").
        overlap: what the user chose for patients it learned from.
        run_dir: the folder the user named.
        labels: those the user chose: "shared", or a list.
    """

    checkpoint: Checkpoint
    config: DictConfig
    data: XrayDataModule
    splits: dict[str, Split]
    overlap: str | None
    run_dir: Path | None
    labels: str = ""

    @property
    def fingerprint(self) -> str:
        """Of the images to score."""
        return self.splits["test"].subset_fingerprints["test"]

    @property
    def own_images(self) -> bool:
        """Whether these are the test images of its own run."""
        return bool(self.fingerprint == self.checkpoint.description.split["subsets"]["test"])

    @property
    def overlap_known(self) -> bool:
        """Whether it can be told if the checkpoint has learned from these patients."""
        population = self.checkpoint.description.split.get("population")
        return self.own_images or bool(population and population == self.data.source.population)

    def folder(self, name: str, ending: str = "") -> Path:
        """Where results go unless the user named a folder."""
        return self.run_dir or home(self.checkpoint.path) / f"{name}{ending}"


def opened(checkpoint: Path, overrides: Sequence[str]) -> Opened:
    """A checkpoint with the data of its run, or other data by overrides; says what is unlike.

    Raises:
        CheckpointError: no checkpoint, one without a configuration, or of other labels.
        ConfigError: an override that would not change the evaluation, or its preprocessing; labels
            that data and checkpoint do not share; its configuration names what only ``trust=true``
            lets it build; the test images show patients it learned from, and overlap= does not say
            what to do.
        SplitError: they all do.
    """
    quieten()
    loaded = load_checkpoint(checkpoint)
    values, run_dir = split_run_dir(overrides)
    names = {"overlap": "", "images": "test", "labels": "", "trust": "false"}
    own, values = taken_out(values, names)
    if not boolean("trust", own["trust"]):
        require_trusted(loaded.description.config, checkpoint)
    config = configuration(loaded, values)
    require_settings(config)
    prepare_process(config)
    require_prior(config.prior)
    data = data_from(config)
    description = loaded.description
    if own["labels"]:
        data.keep_labels(labels_asked(own["labels"], data.labels, description.labels))
    require_labels(description, data.labels, str(checkpoint))
    show(*(f"note: {note}" for note in [*usage_notes(data.source), *data.split.notes]))
    if len(data.labels) < len(description.labels):
        scored = ", ".join(data.labels)
        show(f"note: data has {len(data.labels)} of the {len(description.labels)} labels: {scored}")
    use_images(data, own["images"])
    overlap = own["overlap"] or None
    splits = judged(description, data, overlap)
    return Opened(loaded, config, data, splits, overlap, run_dir, own["labels"])


def evaluate(checkpoint: Path, overrides: Sequence[str]) -> None:
    """Score a checkpoint on the test set of its own data, or of other data by overrides.

    Raises:
        XrayError: see :func:`opened`.
    """
    found = opened(checkpoint, overrides)
    config, data, description = found.config, found.data, found.checkpoint.description
    if found.run_dir and (found.run_dir / "config.yaml").is_file():
        raise ConfigError(
            f"{found.run_dir} is the folder of a training run, whose metrics.json this would "
            "replace; name another with hydra.run.dir="
        )
    wanted_priors(
        require_prior(config.prior), data.labels, fitted_labels(description.operating_points)
    )
    task = XrayTask(found.checkpoint.build_net(), tta=config.tta)
    ending = "" if task.tta == "none" else f"_{task.tta}"
    if found.labels:  # of its own: what other labels gave stays
        ending += f"_labels_{fingerprint({'labels': data.labels})[:6]}"
    folder = found.folder("evaluate", f"_{found.fingerprint}{ending}")
    config.run_dir = str(folder)
    summaries: dict[str, Summary] = {}
    lines: list[Table | str] = []
    for subset, split in found.splits.items():
        data.split = split
        place = prepare_folder(folder if subset == "test" else folder / subset)
        summary, predictions = score(config, data, task, place, ("test",))
        summaries[subset] = summary["test"]
        if first_process():
            write_json(summary, place / "metrics.json")
            title = f"{checkpoint} on {data.source.title}, split {split.name} "
            title += f"[{split.fingerprint}], {subset}"
            lines += appraised(found, predictions["test"], place).shown(title)
    if not first_process():
        return
    if found.overlap:
        summaries["test"]["overlap"] = found.overlap
    write_json(summaries, folder / "metrics.json")
    ends = [subsets_line(summaries), mean_line(summaries), f"written to {folder}"]
    notes = [NO_POINTS] * (not description.operating_points) + [UNKNOWN_OVERLAP] * (
        not found.overlap_known
    )
    show(*lines, *notes, *ends)


def appraised(evaluation: Opened, predictions: Predictions, place: Path) -> Judged:
    """What the scores of the test set are worth; evaluation.json."""
    config, data = evaluation.config, evaluation.data
    weights = evaluation.checkpoint.weights_sha256
    found = verdict_of(
        predictions,
        data.subset_records("test"),
        subset_facts(data, "test", config.tta, weights, overlap_known=evaluation.overlap_known),
        validation=evaluation.checkpoint.description.operating_points,
        draws=config.draws,
        prior=require_prior(config.prior),
    )
    write_json(found.facts, place / "evaluation.json")
    return found


def use_images(data: XrayDataModule, images: str) -> None:
    """With images=all every image is a test image: the split is no concern of another model's.

    Raises:
        ConfigError: ``images`` is neither test nor all.
    """
    if images not in ("test", "all"):
        raise ConfigError(f"images must be test or all, got {images!r}")
    if images == "all":
        rows = np.arange(len(data.records))
        data.split = replace(replace_test(data.split, data.records, rows), name="all images")


def judged(description: Description, data: XrayDataModule, overlap: str | None) -> dict[str, Split]:
    """The parts to score, and a word on what of other test images the checkpoint has met."""
    fingerprint = data.split.subset_fingerprints["test"]
    trained = description.split["subsets"]["test"]
    if fingerprint == trained and not overlap:
        return {"test": data.split}
    splits = separated(description, data, overlap)
    others = f"these test images [{fingerprint}] are not those of the training run [{trained}]"
    if splits is None:
        LOG.warning("%s; some of them, or of their patients, may have been trained on", others)
        return {"test": data.split}
    seen = len(data.split.subsets["test"]) - len(splits["test"].subsets["test"])
    what = "left out" if overlap == "exclude" else "scored apart, as test_seen"
    fate = f"{seen:,} that show patients it learned from are {what}" if seen else "no patient of "
    show(f"note: {others}; {fate}{'' if seen else 'them is one it learned from'}")
    return splits


def configuration(checkpoint: Checkpoint, overrides: Sequence[str]) -> DictConfig:
    """The checkpoint's configuration with overrides.

    Raises:
        CheckpointError: it has none.
        ConfigError: an override that would not change the evaluation, or its preprocessing.
    """
    description = checkpoint.description
    if not description.config:
        raise CheckpointError(f"{checkpoint.path} holds no configuration: train.py did not make it")
    if missing := [key for key in NEEDED if key not in description.config]:
        raise CheckpointError(f"{checkpoint.path}: config.{missing[0]} is missing")
    require_changes(overrides)
    trainer = {**description.config["trainer"], **ALONE}
    config = overridden({**ADDED, **description.config, "trainer": trainer}, overrides)
    for name, value in description.preprocessing.items():
        if config[name] != value:
            raise ConfigError(
                f"{name}={config[name]}: the checkpoint was trained with {name}={value}"
            )
    return config


def home(checkpoint: Path) -> Path:
    """The run a checkpoint lies in; ``outputs`` for one that lies elsewhere."""
    place = checkpoint.resolve().parent
    return place.parent if place.name == "checkpoints" else Path("outputs")
