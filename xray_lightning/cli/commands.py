"""What the ``xray`` verbs do; imported by cli/app.py only when one is called."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from xray_lightning.checkpoint import load_checkpoint, require_labels
from xray_lightning.cli.build import data_from, make, prepare_process, source_from
from xray_lightning.cli.compose import LOG, mean_line, quieten, score
from xray_lightning.cli.overrides import composed, overridden, split_run_dir
from xray_lightning.cli.tables import auroc_table, counts_table, parts_line, show
from xray_lightning.data.cache import open_cache
from xray_lightning.data.source import Source, readable_records
from xray_lightning.data.splits import PARTS, Split
from xray_lightning.errors import CheckpointError, ConfigError
from xray_lightning.evaluation import write_json
from xray_lightning.records import patient_ids, target_matrix
from xray_lightning.task import XrayTask


def evaluate(checkpoint: Path, overrides: Sequence[str]) -> None:
    """Score a checkpoint on the test part of its own data, or of other data by overrides.

    Raises:
        CheckpointError: no checkpoint, one without a configuration, or of other labels.
    """
    quieten()
    loaded = load_checkpoint(checkpoint)
    if not loaded.bundle.config:
        raise CheckpointError(f"{checkpoint} holds no configuration: it was not made by train.py")
    values, run_dir = split_run_dir(overrides)
    config = overridden(loaded.bundle.config, values)
    for name, value in loaded.bundle.preprocessing.items():
        if config[name] != value:
            raise ConfigError(
                f"{name}={config[name]}: the checkpoint was trained with {name}={value}"
            )
    prepare_process(config)
    data = data_from(config)
    require_labels(loaded.bundle, data.labels, str(checkpoint))
    fingerprint = data.split.part_fingerprints["test"]
    if fingerprint != loaded.bundle.split["parts"]["test"]:
        LOG.warning(
            "these test images [%s] are not those of the training run [%s]; some of them, or of "
            "their patients, may have been trained on",
            fingerprint,
            loaded.bundle.split["parts"]["test"],
        )
    folder = run_dir or checkpoint.resolve().parent.parent / f"evaluate_{fingerprint}"
    folder.mkdir(parents=True, exist_ok=True)
    config.run_dir = str(folder)
    summaries = score(config, data, XrayTask(loaded.build_net()), folder, ("test",))
    title = (
        f"{checkpoint} on {data.source.name}, split {data.split.name} [{data.split.fingerprint}]"
    )
    show(
        auroc_table(summaries, title),
        parts_line(summaries),
        mean_line(summaries),
        f"written to {folder}",
    )


def cache(overrides: Sequence[str]) -> None:
    """Decode a data set's images at the working size."""
    quieten()
    config, _ = composed(overrides)
    source = source_from(config)
    records = readable_records(source)
    opened = open_cache(source, records, size=config.image_size, root=Path(config.cache_dir))
    gigabytes = opened.images.nbytes / 1e9
    show(f"{len(records):,} images at {config.image_size} px, {gigabytes:.2f} GB: {opened.path}")


def data(overrides: Sequence[str], as_json: bool) -> None:
    """What is in a folder: counts per label and part, images on disk, problems. Reads no pixels."""
    quieten()
    config, run_dir = composed(overrides)
    source = source_from(config)
    facts = data_facts(source, make(config.split)(source.records, source.official))
    if run_dir is not None:
        run_dir.mkdir(parents=True, exist_ok=True)
        write_json(facts, run_dir / "data.json")
    if as_json:
        print(json.dumps(facts, indent=2))
        return
    on_disk = facts["images"] - facts["missing"]
    show(
        counts_table({"title": f"{source.name}, split {facts['split']}", **facts}, source.labels),
        f"{facts['images']:,} images of {facts['patients']:,} patients, {facts['boxes']:,} boxes "
        f"on {facts['images_with_boxes']:,} images; {on_disk:,} images on disk",
        f"split fingerprint {facts['fingerprint']}",
        *(f"note: {note}" for note in facts["notes"]),
    )


def data_facts(source: Source, split: Split) -> dict[str, Any]:
    """Counts of a label table under a split, as plain values."""
    patients, targets = patient_ids(source.records), target_matrix(source.records)
    parts = {}
    for part in PARTS:
        rows = split.parts[part]
        positives = (targets[rows] == 1).sum(axis=0).tolist()
        parts[part] = {
            "images": len(rows),
            "patients": len(set(patients[rows].tolist())),
            "positives": dict(zip(source.labels, positives, strict=True)),
        }
    return {
        "images": len(source.records),
        "patients": len(set(patients.tolist())),
        "boxes": sum(len(record.boxes) for record in source.records),
        "fingerprint": split.fingerprint,
        "parts": parts,
        "split": split.name,
        "images_with_boxes": sum(bool(record.boxes) for record in source.records),
        "missing": len(source.missing),
        "leaked_patients": split.leaked_patients,
        "notes": list(source.notes),
    }
