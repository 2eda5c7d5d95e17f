"""The whole audit of a split as plain values, and its gist in sentences."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from xray_lightning.audit.baselines import OTHERS, TRAINED, baselines
from xray_lightning.audit.columns import Columns, plain
from xray_lightning.audit.decomposition import Scored, decompose
from xray_lightning.audit.leakage import UNKNOWN, exposure_leak, leak, listed
from xray_lightning.audit.shift import metadata, prevalence, separation, with_both
from xray_lightning.data.source import Source
from xray_lightning.data.splits import SUBSETS, Split, fingerprint
from xray_lightning.errors import TableError
from xray_lightning.evaluation.predictions import Predictions
from xray_lightning.metrics.bootstrap import bootstrap_counts
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
        lists: name to the image names of a known test set, as ids of the data where they are any.
        exposures: image id to the name of the radiograph it shows, e.g. RSNA's map to NIH.
        predictions: of one model on validation and on test, to decompose the change between them.
        draws: of the bootstrap over patients.
        seed: of the draws and the trees.

    Returns:
        Plain values: "data", "split", "parts", "leakage", "shift", "baselines", "decomposition".

    Raises:
        TableError: the predictions are not of the split.
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
        "patients": columns.patient_count if columns.patients_known else None,
        "labels": list(source.labels),
        "parts": _sizes(columns, split),
        "leakage": _leakage(source, split, lists or {}, exposures or {}),
        "shift": {
            "prevalence": prevalence(columns, split.subsets, counts),
            "metadata": metadata(columns, split.subsets, counts),
            "separation": separation(columns, split.subsets, counts, seed),
        },
        "baselines": baselines(columns, split.subsets, counts, seed),
        "decomposition": None,
        "draws": draws,
        "seed": seed,
        "notes": [*source.notes, *split.notes],
    }
    if predictions:
        facts["decomposition"] = decomposed(source, split, *predictions, draws=draws, seed=seed)
    values: Facts = plain(facts)
    return values


def decomposed(
    source: Source, split: Split, val: Predictions, test: Predictions, *, draws: int, seed: int
) -> Facts:
    """The change from validation to test.

    Raises:
        TableError: the tables have other labels, or are of another split.
    """
    if val.labels != test.labels:
        raise TableError(f"the two tables have other labels: {val.labels} and {test.labels}")
    by_id = {record.image_id: record for record in source.records}
    for subset, each in (("val", val), ("test", test)):
        _require_subset(each, by_id, subset, split)
    groups = {}
    for name, images in (source.official or {}).items():
        masks = tuple(np.isin(each.image_ids, list(images)) for each in (val, test))
        if masks[0].any() and masks[1].any() and not (masks[0].all() and masks[1].all()):
            groups[_own_list(source, name)] = (masks[0], masks[1])
    subsets = [_scored(each, by_id) for each in (val, test)]
    result: Facts = plain(decompose(subsets[0], subsets[1], groups, draws=draws, seed=seed))
    if not subsets[1].columns.patients_known:
        result["effective_patients"] = None
    return result


def _require_subset(
    predictions: Predictions, by_id: Mapping[str, Record], subset: str, split: Split
) -> None:
    """Refuse the scores of other images: the page would mix two splits.

    Raises:
        TableError: the table has images of another part or split, or of other data.
    """
    unknown = [image for image in predictions.image_ids if image not in by_id]
    if unknown:
        raise TableError(
            f"{len(unknown):,} scored images are not in the label table, the first is "
            f"{unknown[0]}: are these predictions on other data?"
        )
    theirs = fingerprint({subset: predictions.image_ids})
    if theirs != split.subset_fingerprints[subset]:
        raise TableError(
            f"the predictions of {subset} are of other images [{theirs}] than the {subset} set of "
            f"split {split.name} [{split.subset_fingerprints[subset]}]: audit the run's split (the "
            "split and data settings of its config.yaml)"
        )


def _own_list(source: Source, subset: str) -> str:
    """What to call a list that comes with the data: NIH's is the publisher's, a table's is not."""
    return (
        f"publisher's {subset} list"
        if source.population
        else f"{source.name} table's {subset} rows"
    )


def _scored(predictions: Predictions, by_id: Mapping[str, Record]) -> Scored:
    columns = Columns.of([by_id[image] for image in predictions.image_ids], predictions.labels)
    targets = predictions.targets.astype(np.float64)
    return Scored(replace(columns, targets=targets), predictions.scores.astype(np.float64))


def _sizes(columns: Columns, split: Split) -> Facts:
    return {
        subset: {
            "images": len(rows),
            "patients": len(np.unique(columns.patients[rows])) if columns.patients_known else None,
        }
        for subset, rows in with_both(split.subsets).items()
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
    known = {
        _own_list(source, subset): images for subset, images in (source.official or {}).items()
    }
    patients = leak(source.records, split.subsets)
    return {
        "patients": {**plain(patients), "shares": patients.shares},
        "images": exposure_leak(ids, split.subsets),
        "exposures": exposure_leak(shown, split.subsets) if exposures else None,
        "lists": [
            listed(name, names, aliases, split.subsets)
            for name, names in {**known, **lists}.items()
        ],
        "checkpoint": None,
        "duplicates": None,
    }


def gist(facts: Facts) -> list[str]:
    """What to know first, one sentence each."""
    found = facts["leakage"]["patients"]
    sentences = [_patient_sentence(found)]
    if (same := facts["leakage"]["images"])["shared"]:
        sentences.append(
            f"{same['shared']:,} images stand in more than one part; {same['in_train_or_val']:,} "
            f"test images are in train or val themselves, {same['in_train']:,} in train."
        )
    twins = facts["leakage"]["exposures"]
    if twins:
        sentences.append(
            f"By the map, {twins['in_train_or_val']:,} test images are the very radiograph of an "
            f"image in train or val; {twins['shared']:,} radiographs are in more than one part."
        )
    for each in facts["leakage"]["lists"]:
        sentences.append(_list_sentence(each))
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
    sentences += _baseline_sentences(facts["baselines"], found["in_train"])
    return sentences + _decomposition_sentences(facts["decomposition"])


def _patient_sentence(found: Facts) -> str:
    if found["shares"] is None:
        return (
            f"Whether test patients were learned from is not known: {UNKNOWN}. The split may leak, "
            "and every interval here takes images for independent."
        )
    in_train, learned = (f"{100 * share:.1f} %" for share in found["shares"])
    return (
        f"{found['shared']:,} patients have images in more than one part; of "
        f"{found['test_images']:,} test images, the patient of {found['in_train']:,} ({in_train}) "
        f"has images in train, of {found['in_train_or_val']:,} ({learned}) in train or val."
    )


def _list_sentence(each: Facts) -> str:
    absent, first = each["absent"], each["first_absent"]
    if absent == each["listed"]:
        return f"Nothing is known by the {each['name']}: no name in it is of this data ({first!r})."
    where = ", ".join(f"{subset} {each['parts'][subset]:,}" for subset in SUBSETS)
    more = f" {absent:,} of its {each['listed']:,} names are not in this data ({first!r})."
    return f"{each['found']:,} images are in the {each['name']}: {where}.{more if absent else ''}"


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
    if exact["leaked_unseen"] is None:
        return f"{text}; whose they are is not known."
    others = exact["leaked_unseen"] + near["leaked_unseen"]
    return text + (f", {others:,} pairs under another patient's name." if others else ".")


def _baseline_sentences(rows: Sequence[Facts], in_train: int | None) -> list[str]:
    means = {row["name"]: row["result"]["mean"] for row in rows if row["result"]}
    sentences = []
    if means.get(OTHERS) is not None:
        sentences.append(
            f"The labels of a patient's other test images alone give a mean AUROC of "
            f"{means[OTHERS]:.3f}, without looking at an image."
        )
    gain = means.get(TRAINED)
    if in_train is None:
        sentences.append("What remembered patients gain is not known: patients are not.")
    elif not in_train:
        sentences.append(
            "No test patient has an image in training, so remembered patients gain nothing."
        )
    elif gain is not None:
        sentences.append(
            f"With images of the test patients in training, their labels alone give {gain:.3f}: "
            f"{gain - 0.5:+.3f} against chance, which a split by patient would not give."
        )
    return sentences
