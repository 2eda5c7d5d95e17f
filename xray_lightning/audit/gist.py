"""What to know first of an audit, one sentence each."""

from collections.abc import Sequence

import numpy as np

from xray_lightning.audit.baselines import OTHERS, TRAINED, Baseline
from xray_lightning.audit.decomposition import Decomposition
from xray_lightning.audit.duplicates import Duplicates
from xray_lightning.audit.leakage import CheckpointOverlap, Leakage, ListMatch, Overlap
from xray_lightning.audit.shift import Shift
from xray_lightning.data.partition import SUBSETS

LEVEL = 0.05  # of the p values, corrected over the labels
ALIKE = 0.55  # AUROC up to which two groups are called alike


def write_gist(
    leakage: Leakage,
    shift: Shift,
    baselines: Sequence[Baseline],
    decomposition: Decomposition | None,
) -> list[str]:
    """The sentences, leaks first."""
    patients, images, exposures = leakage.patients, leakage.images, leakage.exposures
    sentences = [_tell_patients(patients)]
    if images.shared:
        sentences.append(
            f"{images.shared:,} images stand in more than one subset; {images.in_train_or_val:,} "
            f"test images are in train or val themselves, {images.in_train:,} in train."
        )
    if exposures:
        sentences.append(
            f"By the map, {exposures.in_train_or_val:,} test images are the very radiograph of an "
            f"image in train or val; {exposures.shared:,} radiographs are in more than one subset."
        )
    sentences += [_tell_list(match) for match in leakage.lists]
    if leakage.duplicates:
        sentences.append(_tell_duplicates(leakage.duplicates))
    if leakage.checkpoint:
        sentences.append(_tell_checkpoint(leakage.checkpoint, patients.test_images))
    sentences += tell_prevalence(shift, "in test", "in train and val")
    sentences += tell_separation(shift, "test", "training images")
    return sentences + _tell_baselines(baselines, patients) + _tell_change(decomposition)


def _tell_patients(patients: Overlap) -> str:
    owners = sorted({f"every {kind} counts as its own" for kind in patients.untold.values()})
    untold = f"{', '.join(patients.untold)}: no patients are told, {' or '.join(owners)}"
    if patients.shares is None:
        return (
            f"Whether test patients were learned from is not known ({untold}). The split may leak, "
            "and every interval here takes what is counted for independent."
        )
    in_train, learned = (f"{100 * share:.1f} %" for share in patients.shares)
    return (
        f"{patients.shared:,} patients have images in more than one subset; of "
        f"{patients.test_images:,} test images, the patient of {patients.in_train:,} ({in_train}) "
        f"has images in train, of {patients.in_train_or_val:,} ({learned}) in train or val."
        + (f" Not counted is {untold}." if patients.untold else "")
    )


def _tell_list(match: ListMatch) -> str:
    absent, first = match.absent, match.first_absent
    if absent == match.listed:
        return f"Nothing is known by the {match.name}: no name in it is of this data ({first!r})."
    where = ", ".join(f"{subset} {match.subsets[subset]:,}" for subset in SUBSETS)
    more = f" {absent:,} of its {match.listed:,} names are not in this data ({first!r})."
    return f"{match.present:,} images are in the {match.name}: {where}.{more if absent else ''}"


def _tell_duplicates(duplicates: Duplicates) -> str:
    exact, near = duplicates.exact, duplicates.near
    text = (
        f"Of {duplicates.images:,} images, {exact.pairs:,} pairs have equal pixels and "
        f"{near.pairs:,} more are near-duplicates; {duplicates.test_images:,} test images have "
        "such a copy in train or val"
    )
    if exact.leaked_unseen is None or near.leaked_unseen is None:
        return f"{text}; whose they are is not known."
    others = exact.leaked_unseen + near.leaked_unseen
    return text + (f", {others:,} pairs under another patient's name." if others else ".")


def _tell_checkpoint(checkpoint: CheckpointOverlap, count: int) -> str:
    if checkpoint.seen is None:
        return "Whether the checkpoint has seen these patients is not known: no common patient ids."
    return (
        f"The checkpoint was trained or chosen on the patients of {checkpoint.seen['test']:,} of "
        f"the {count:,} test images."
    )


def tell_prevalence(shift: Shift, here: str, there: str) -> list[str]:
    """Which label's prevalence differs most, among those that differ beyond chance if any does."""
    rows = [row for row in shift.prevalence if not np.isnan(row.ratio)]
    if not rows:
        return []
    certain = [row for row in rows if row.corrected < LEVEL]
    most = max(certain or rows, key=lambda row: abs(np.log(max(row.ratio, 1e-9))))
    times = f"{most.name}: {most.ratio:.2f} times as high {here} as {there}"
    if np.isfinite(most.ratio_to_train):
        times += f" ({most.ratio_to_train:.2f} times train alone)"
    if certain:
        return [f"Prevalence differs most for {times}."]
    return [f"No label's prevalence differs beyond chance; the largest difference is {times}."]


def tell_separation(shift: Shift, here: str, there: str) -> list[str]:
    """Whether metadata tell the two groups, where that was computed."""
    if (result := shift.separation.result) is None:
        return []
    used = shift.separation.used
    (low, high), most = result.interval, max(used, key=used.__getitem__)
    auroc = f"AUROC {result.mean:.3f}" + ("" if np.isnan(low) else f" ({low:.3f} to {high:.3f})")
    if low > 0.5 and result.mean > ALIKE:
        return [f"Metadata alone tell {here} from {there}: {auroc}, mostly by {most}."]
    if high <= ALIKE:
        return [f"Metadata alone cannot tell {here} from {there}: {auroc}."]
    return [f"Whether metadata alone tell {here} from {there} is open: {auroc}."]


def _tell_baselines(baselines: Sequence[Baseline], patients: Overlap) -> list[str]:
    means = {row.name: row.result.mean for row in baselines if row.result}
    others, gain = (means.get(name, float("nan")) for name in (OTHERS, TRAINED))
    sentences = []
    if not np.isnan(others):
        sentences.append(
            f"The labels of a patient's other test images alone give a mean AUROC of "
            f"{others:.3f}, without looking at an image."
        )
    if patients.in_train is None:
        sentences.append("What remembered patients gain is not known: patients are not.")
    elif not patients.in_train:
        whose = "No test patient" if not patients.untold else "No test patient who is told"
        sentences.append(f"{whose} has an image in training, so remembered patients gain nothing.")
    elif not np.isnan(gain):
        sentences.append(
            f"With images of the test patients in training, their labels alone give {gain:.3f}: "
            f"{gain - 0.5:+.3f} against chance, which a split by patient would not give."
        )
    return sentences


def _tell_change(decomposition: Decomposition | None) -> list[str]:
    """None without predictions, or where no label has an AUROC in both subsets."""
    if not decomposition or np.isnan(decomposition.rest[0]):
        return []
    return [
        f"From validation to test the mean AUROC of these predictions changes by "
        f"{decomposition.change[0]:+.3f}: {decomposition.case_mix[0]:+.3f} goes with the case mix, "
        f"{decomposition.rest[0]:+.3f} is the rest (the re-weighted test set tells as much as "
        f"{decomposition.effective_images:,.0f} of {decomposition.test_images:,} images)."
    ]
