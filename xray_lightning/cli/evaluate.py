"""``xray evaluate``: a checkpoint scored on its own test part, or on other data."""

from collections.abc import Sequence
from pathlib import Path

from omegaconf import DictConfig

from xray_lightning.checkpoint import Checkpoint, load_checkpoint, require_labels
from xray_lightning.cli.build import data_from, prepare_process
from xray_lightning.cli.compose import LOG, mean_line, quieten, score
from xray_lightning.cli.conclusion import part_facts, require_settings
from xray_lightning.cli.judging import judged, require_prior
from xray_lightning.cli.overrides import overridden, split_run_dir
from xray_lightning.cli.processes import first_process
from xray_lightning.cli.tables import parts_line, show
from xray_lightning.data.source import usage_notes
from xray_lightning.errors import CheckpointError, ConfigError
from xray_lightning.evaluation import write_json
from xray_lightning.task import XrayTask

CHANGEABLE = (
    *("data", "split", "trainer", "batch_size", "workers", "threads", "cache_dir"),
    *("tta", "draws", "prior"),
    *("image_size", "clahe"),  # refused with the value the checkpoint needs
)
ADDED = {  # settings that older checkpoints do not name
    "tta": "none",
    "draws": 2000,
    "prior": "validation",  # of calibrated scores, or estimate: from the scores alone
    "operating_point": {"rule": "youden", "value": 0.9},
    "calibration": "platt",
    "sampler": {"_target_": "xray_lightning.data.samplers.uniform", "_partial_": True},
}
ALONE = {"devices": 1, "strategy": "auto", "num_nodes": 1}  # whatever it was trained with


def evaluate(checkpoint: Path, overrides: Sequence[str]) -> None:
    """Score a checkpoint on the test part of its own data, or of other data by overrides.

    Raises:
        CheckpointError: no checkpoint, one without a configuration, or of other labels.
        ConfigError: an override that would not change the evaluation, or its preprocessing.
    """
    quieten()
    loaded = load_checkpoint(checkpoint)
    values, run_dir = split_run_dir(overrides)
    config = configuration(loaded, values)
    prepare_process(config)
    require_settings(config)
    require_prior(config.prior)
    data = data_from(config)
    require_labels(loaded.bundle, data.labels, str(checkpoint))
    show(*(f"note: {note}" for note in usage_notes(data.source)))
    fingerprint = data.split.part_fingerprints["test"]
    trained = loaded.bundle.split["parts"]["test"]
    if fingerprint != trained:
        LOG.warning(
            "these test images [%s] are not those of the training run [%s]; some of them, or of "
            "their patients, may have been trained on",
            *(fingerprint, trained),
        )
    task = XrayTask(loaded.build_net(), tta=config.tta)
    ending = "" if task.tta == "none" else f"_{task.tta}"
    folder = run_dir or home(checkpoint) / f"evaluate_{fingerprint}{ending}"
    folder.mkdir(parents=True, exist_ok=True)
    config.run_dir = str(folder)
    summaries, predictions = score(config, data, task, folder, ("test",))
    if not first_process():
        return
    found = judged(
        predictions["test"],
        data.part_records("test"),
        part_facts(data, "test", task.tta),
        validation=loaded.bundle.validation,
        draws=config.draws,
        prior=config.prior,
    )
    write_json(found.facts, folder / "evaluation.json")
    write_json(summaries, folder / "metrics.json")
    title = f"{checkpoint} on {data.source.name}, split {data.split.name} "
    show(
        *found.shown(title + f"[{data.split.fingerprint}]"),
        *no_points(loaded),
        parts_line(summaries),
        mean_line(summaries),
        f"written to {folder}",
    )


def no_points(checkpoint: Checkpoint) -> list[str]:
    """A line for a checkpoint without operating points."""
    if checkpoint.bundle.validation:
        return []
    return [
        "note: no operating points in this checkpoint: only best.ckpt of a finished run has them"
    ]


def configuration(checkpoint: Checkpoint, overrides: Sequence[str]) -> DictConfig:
    """The checkpoint's configuration with overrides.

    Raises:
        CheckpointError: it has none.
        ConfigError: an override that would not change the evaluation, or its preprocessing.
    """
    bundle = checkpoint.bundle
    if not bundle.config:
        raise CheckpointError(f"{checkpoint.path} holds no configuration: train.py did not make it")
    for text in overrides:
        if text.partition("=")[0].split(".")[0] not in CHANGEABLE:
            raise ConfigError(f"{text}: an evaluation can change only {', '.join(CHANGEABLE)}")
    trainer = {**bundle.config.get("trainer", {}), **ALONE}
    config = overridden({**ADDED, **bundle.config, "trainer": trainer}, overrides)
    for name, value in bundle.preprocessing.items():
        if config[name] != value:
            raise ConfigError(
                f"{name}={config[name]}: the checkpoint was trained with {name}={value}"
            )
    return config


def home(checkpoint: Path) -> Path:
    """The run a checkpoint lies in; ``outputs`` for one that lies elsewhere."""
    place = checkpoint.resolve().parent
    return place.parent if place.name == "checkpoints" else Path("outputs")
