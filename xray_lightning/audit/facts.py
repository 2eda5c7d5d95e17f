"""The whole audit of a split as plain values, and its gist in sentences."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from xray_lightning.audit.baselines import OTHERS, TRAINED, baselines
from xray_lightning.audit.columns import Columns, plain
from xray_lightning.audit.decomposition import Scored, decompose
from xray_lightning.audit.leakage import exposure_leak, leak, listed
from xray_lightning.audit.separation import separation
from xray_lightning.audit.shift import metadata, prevalence, with_both
from xray_lightning.data.source import Source
from xray_lightning.data.splits import PARTS, Split
from xray_lightning.errors import TableError
from xray_lightning.metrics.clusters import bootstrap_counts
from xray_lightning.predictions import Predictions
from xray_lightning.records import Record

Facts = dict[str, Any]
DRAWS = 500


def audit_facts(
    source: Source,
    split: Split,
    *,
    lists: Mapping[str, Collection[str]] | None = None,
    exposures: Mapping[str, str] | None = None,
    predictions: tuple[Predictions, Predictions] | None = None,
    draws: int = DRAWS,
    seed: int = 0,
) -> Facts:
    """Audit a split from the label table alone.

    Args:
        source: the data set; no pixels are read.
        split: of its records.
        lists: name to the image names of a known test set.
        exposures: image id to the name of the radiograph it shows, e.g. RSNA's map to NIH.
        predictions: of one model on validation and on test, to decompose the change between them.
        draws: of the bootstrap over patients.
        seed: of the draws and the trees.

    Returns:
        Plain values: "data", "split", "parts", "leakage", "shift", "baselines", "decomposition".

    Raises:
        TableError: the predictions name images that are not in the label table.
    """
    columns = Columns.of(source.records, source.labels)
    counts = bootstrap_counts(columns.patient_count, draws, seed)
    facts = {
        "data": source.name,
        "split": {
            "name": split.name,
            "fingerprint": split.fingerprint,
            "settings": dict(split.settings),
        },
        "images": len(source.records),
        "patients": columns.patient_count,
        "labels": list(source.labels),
        "parts": _sizes(columns, split),
        "leakage": _leakage(source, split, lists or {}, exposures or {}),
        "shift": {
            "prevalence": prevalence(columns, split.parts, counts),
            "metadata": metadata(columns, split.parts, counts),
            "separation": separation(columns, split.parts, counts, seed),
        },
        "baselines": baselines(columns, split.parts, counts, seed),
        "decomposition": None,
        "draws": draws,
        "seed": seed,
        "notes": list(source.notes),
    }
    if predictions:
        facts["decomposition"] = decomposed(source, split, *predictions, draws=draws, seed=seed)
    values: Facts = plain(facts)
    return values


def decomposed(
    source: Source, split: Split, val: Predictions, test: Predictions, *, draws: int, seed: int
) -> Facts:
    """The change from validation to test, and whether the tables are those of the split.

    Raises:
        TableError: the tables have other labels, or images that are not in the label table.
    """
    if val.labels != test.labels:
        raise TableError(f"the two tables have other labels: {val.labels} and {test.labels}")
    by_id = {record.image_id: record for record in source.records}
    groups = {}
    for name, images in (source.official or {}).items():
        masks = tuple(np.isin(each.image_ids, list(images)) for each in (val, test))
        if masks[0].any() and masks[1].any() and not (masks[0].all() and masks[1].all()):
            groups[f"publisher's {name} list"] = (masks[0], masks[1])
    parts = [_scored(each, by_id) for each in (val, test)]
    result: Facts = plain(decompose(parts[0], parts[1], groups, draws=draws, seed=seed))
    for part, each in (("val", val), ("test", test)):
        ids = {source.records[row].image_id for row in split.parts[part]}
        result[f"{part}_is_of_the_split"] = ids == set(each.image_ids)
    return result


def _scored(predictions: Predictions, by_id: Mapping[str, Record]) -> Scored:
    unknown = [image for image in predictions.image_ids if image not in by_id]
    if unknown:
        raise TableError(
            f"{len(unknown):,} scored images are not in the label table, the first is "
            f"{unknown[0]}: are these predictions on other data?"
        )
    columns = Columns.of([by_id[image] for image in predictions.image_ids], predictions.labels)
    targets = predictions.targets.astype(np.float64)
    return Scored(replace(columns, targets=targets), predictions.scores.astype(np.float64))


def _sizes(columns: Columns, split: Split) -> Facts:
    return {
        part: {"images": len(rows), "patients": len(np.unique(columns.patients[rows]))}
        for part, rows in with_both(split.parts).items()
    }


def _leakage(
    source: Source,
    split: Split,
    lists: Mapping[str, Collection[str]],
    exposures: Mapping[str, str],
) -> Facts:
    ids = [record.image_id for record in source.records]
    shown = [exposures.get(image, image) for image in ids]
    aliases = list(zip(ids, shown, strict=True))
    known = {f"publisher's {part} list": ids for part, ids in (source.official or {}).items()}
    patients = leak(source.records, split.parts)
    return {
        "patients": {**plain(patients), "share": patients.share},
        "exposures": exposure_leak(shown, split.parts) if exposures else None,
        "lists": [
            listed(name, names, aliases, split.parts) for name, names in {**known, **lists}.items()
        ],
        "checkpoint": None,
        "duplicates": None,
    }


def gist(facts: Facts) -> list[str]:
    """What to know first, one sentence each."""
    found = facts["leakage"]["patients"]
    sentences = [
        f"{found['shared']:,} patients have images in more than one part; the patient of "
        f"{found['in_train_or_val']:,} of {found['test_images']:,} test images "
        f"({100 * found['share']:.1f} %) is in train or val, of {found['in_train']:,} in train."
    ]
    twins = facts["leakage"]["exposures"]
    if twins:
        sentences.append(
            f"By the map, {twins['in_train_or_val']:,} test images are the very radiograph of an "
            f"image in train or val; {twins['shared']:,} radiographs are in more than one part."
        )
    for each in facts["leakage"]["lists"]:
        where = ", ".join(f"{part} {each['parts'][part]:,}" for part in PARTS)
        sentences.append(f"{each['found']:,} images are in the {each['name']}: {where}.")
    if copies := facts["leakage"]["duplicates"]:
        sentences.append(_duplicate_sentence(copies))
    if model := facts["leakage"]["checkpoint"]:
        sentences.append(_checkpoint_sentence(model, found["test_images"]))
    rows = [row for row in facts["shift"]["prevalence"] if row["ratio"] is not None]
    if rows:
        most = max(rows, key=lambda row: abs(np.log(max(row["ratio"], 1e-9))))
        sentences.append(
            f"Prevalence differs most for {most['name']}: {most['ratio']:.2f} times as high in "
            f"test as in train and val ({most['ratio_to_train']:.2f} times train alone)."
        )
    told = facts["shift"]["separation"]["result"]
    if told:
        used = facts["shift"]["separation"]["used"]
        sentences.append(
            f"Metadata alone tells test from training images with AUROC {told['mean']:.3f}, mostly "
            f"by {max(used, key=used.get)}."
            if told["mean"] > 0.55
            else f"Metadata alone cannot tell test from training images: AUROC {told['mean']:.3f}."
        )
    sentences += _baseline_sentences(facts["baselines"])
    return sentences + _decomposition_sentences(facts["decomposition"])


def _checkpoint_sentence(model: Facts, count: int) -> str:
    if model["seen"] is None:
        return "Whether the checkpoint has seen these patients is not known: no common patient ids."
    return (
        f"The checkpoint was trained or chosen on the patients of {model['seen']['test']:,} of the "
        f"{count:,} test images."
    )


def _decomposition_sentences(found: Facts | None) -> list[str]:
    """None without predictions, or where no label has an AUROC in both parts."""
    if not found or found["rest"][0] is None:
        return []
    change, case_mix, rest = (found[name][0] for name in ("change", "case_mix", "rest"))
    return [
        f"From validation to test the mean AUROC of these predictions changes by {change:+.3f}: "
        f"{case_mix:+.3f} goes with the case mix, {rest:+.3f} is the rest (the re-weighted test "
        f"part tells as much as {found['effective_images']:,.0f} of {found['test_images']:,} "
        "images)."
    ]


def _duplicate_sentence(found: Facts) -> str:
    exact, near = found["exact"], found["near"]
    text = (
        f"Of {found['images']:,} images, {exact['pairs']:,} pairs have equal pixels and "
        f"{near['pairs']:,} more are near-duplicates; {found['test_images']:,} test images have "
        "such a copy in train or val"
    )
    others = exact["leaked_unseen"] + near["leaked_unseen"]
    return text + (f", {others:,} pairs under another patient's name." if others else ".")


def _baseline_sentences(rows: Sequence[Facts]) -> list[str]:
    means = {row["name"]: row["result"]["mean"] for row in rows if row["result"]}
    sentences = []
    if means.get(OTHERS) is not None:
        sentences.append(
            f"The labels of a patient's other test images alone give a mean AUROC of "
            f"{means[OTHERS]:.3f}, without looking at an image."
        )
    gain = means.get(TRAINED)
    if gain is not None:
        sentences.append(
            f"With images of the test patients in training, their labels alone give "
            f"{gain:.3f}: {gain - 0.5:.3f} above chance that a split by patient would not give."
            if gain > 0.5
            else "No test patient has an image in training, so remembered patients gain nothing."
        )
    return sentences
