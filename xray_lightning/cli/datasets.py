"""``xray data`` and ``xray cache``: what is in a folder, and its images decoded; without torch."""

import json
from collections.abc import Sequence
from typing import Any

import numpy as np

from xray_lightning.cli.overrides import composed, make
from xray_lightning.data.cache import open_cache
from xray_lightning.data.partition import SUBSETS, Split
from xray_lightning.data.source import Source, readable_records, usage_notes
from xray_lightning.folders import prepare_folder
from xray_lightning.progress import track
from xray_lightning.records import patient_ids, patients_known, patients_text, target_matrix
from xray_lightning.report.terminal import counts_table, show
from xray_lightning.writing import json_text, write_json


def cache(overrides: Sequence[str], *, as_json: bool = False) -> None:
    """Decode a data set's images at the working size, and compare all with their checksums."""
    config, _ = composed(overrides)
    source: Source = make(config.data)
    records, notes = readable_records(source), usage_notes(source)
    opened = open_cache(source, records, size=config.image_size, root=config.cache_dir)
    for row in track(range(len(records)), "comparing checksums", len(records)):
        opened.square(row)
    facts = {"path": str(opened.path), "images": len(records), "image_size": config.image_size}
    if as_json:
        print(json_text(facts | {"bytes": opened.images.nbytes, "notes": notes}))
        return
    show(*(f"note: {note}" for note in notes))
    gigabytes = opened.images.nbytes / 1e9
    show(f"{len(records):,} images at {config.image_size} px, {gigabytes:.2f} GB: {opened.path}")


def data(overrides: Sequence[str], as_json: bool) -> None:
    """What is in a folder: counts per label and part, images on disk, problems. Reads no pixels."""
    config, run_dir = composed(overrides)
    source: Source = make(config.data)
    facts = data_facts(source, make(config.split)(source.records, source.official))
    if run_dir is not None:
        write_json(facts, prepare_folder(run_dir) / "data.json")
    if as_json:
        print(json.dumps(facts, indent=2))
        return
    on_disk = facts["images"] - facts["missing"]
    show(
        counts_table({**facts, "title": f"{source.title}, split {facts['split']}"}, source.labels),
        f"{facts['images']:,} images of {patients_text(facts['patients'])}, "
        f"{facts['boxes']:,} boxes on {facts['images_with_boxes']:,} images; "
        f"{on_disk:,} images on disk",
        f"split fingerprint {facts['fingerprint']}",
        *(f"note: {note}" for note in facts["notes"]),
    )


def data_facts(source: Source, split: Split) -> dict[str, Any]:
    """Counts of a label table under a split, as plain values."""
    patients, targets = patient_ids(source.records), target_matrix(source.records)
    known = patients_known(source.records)
    subsets = {}
    for subset in SUBSETS:
        rows = split.subsets[subset]
        positives = (targets[rows] == 1).sum(axis=0).tolist()
        target_known = (~np.isnan(targets[rows])).sum(axis=0).tolist()
        subsets[subset] = {
            "images": len(rows),
            "patients": len(set(patients[rows].tolist())) if known else None,
            "positives": dict(zip(source.labels, positives, strict=True)),
            "known": dict(zip(source.labels, target_known, strict=True)),
        }
    return {
        "data": source.title,
        "images": len(source.records),
        "patients": len(set(patients.tolist())) if known else None,
        "boxes": sum(len(record.boxes) for record in source.records),
        "positives": dict(zip(source.labels, (targets == 1).sum(axis=0).tolist(), strict=True)),
        "fingerprint": split.fingerprint,
        "parts": subsets,
        "split": split.name,
        "images_with_boxes": sum(bool(record.boxes) for record in source.records),
        "missing": len(source.missing),
        "leaked_patients": split.leaked_patients,
        "notes": [*source.notes, *split.notes],
    }
