"""Patients a checkpoint was trained on, met again in other data: left out, or set apart."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from xray_lightning.checkpoint import LEARNED, Description
from xray_lightning.data.datamodule import XrayDataModule
from xray_lightning.data.partition import Split, replace_test
from xray_lightning.data.source import patient_keys
from xray_lightning.errors import ConfigError, SplitError
from xray_lightning.records import Record

CHOICES = ("exclude", "report")


def comparable(description: Description, population: str) -> bool:
    """Whether patients of a population can be told among those the checkpoint learned from.

    Of several data sets, whose populations stand between commas, one in common is enough.
    """
    known = description.split.get("population") or ""
    return not {""}.issuperset(set(known.split(",")) & set(population.split(",")))


def seen_before(
    description: Description, population: str, records: Sequence[Record]
) -> npt.NDArray[np.bool_] | None:
    """Whether the patient of each record was in the checkpoint's training or validation set, (N,).

    None where that cannot be known: the checkpoint names no patients, or other people's.
    """
    if not comparable(description, population):
        return None
    learned = {key for subset in LEARNED for key in description.split["patients"][subset]}
    return np.array([key in learned for key in patient_keys(population, records)], dtype=np.bool_)


def separate_patients(
    description: Description, data: XrayDataModule, choice: str | None
) -> dict[str, Split] | None:
    """The test set without the patients the checkpoint learned from.

    Choice "exclude" leaves their images out, "report" puts them into "test_seen", each the test set
    of a split; None if the patients cannot be compared and no choice asks for it.
    """
    if choice not in (None, *CHOICES):
        raise ConfigError(f"overlap must be one of {', '.join(CHOICES)}, got {choice!r}")
    seen = seen_before(description, data.source.population, data.subset_records("test"))
    if seen is None and choice:
        raise ConfigError(
            f"overlap={choice}: the patients of the checkpoint "
            f"({description.split.get('population') or 'unknown'}) and of this data "
            f"({data.source.population or 'unknown'}) cannot be compared. For RSNA set "
            "data.nih_map; a checkpoint of an older version must be trained again"
        )
    if seen is None:
        return None
    if not seen.any():
        return {"test": data.split}
    if choice is None:
        raise ConfigError(
            f"{seen.sum():,} of the {len(seen):,} test images show patients that the checkpoint "
            "was trained or chosen on: overlap=exclude leaves them out, overlap=report scores "
            "them apart from the others"
        )
    if seen.all():
        raise SplitError(
            f"all {len(seen):,} test images show patients that the checkpoint was trained or "
            "chosen on: nothing is left to evaluate it on. Choose another split or other data"
        )
    rows = data.split.subsets["test"]
    subsets = {"test": replace_test(data.split, data.records, rows[~seen])}
    if choice == "report":
        subsets["test_seen"] = replace_test(data.split, data.records, rows[seen])
    return subsets


def choose_test_images(
    description: Description, data: XrayDataModule, choice: str | None
) -> tuple[dict[str, Split], str]:
    """The subsets to evaluate, as :func:`separate_patients` gives them, and a note.

    The note says what the checkpoint has met of these images; "" for its own test images.
    """
    fingerprint = data.split.subset_fingerprints["test"]
    trained = description.split["subsets"]["test"]
    if fingerprint == trained and not choice:
        return {"test": data.split}, ""
    splits = separate_patients(description, data, choice)
    note = f"these test images [{fingerprint}] are not those of the training run [{trained}]; "
    if splits is None:
        splits = {"test": data.split}
        return splits, f"{note}some of them, or of their patients, may have been trained on"
    seen = len(data.split.subsets["test"]) - len(splits["test"].subsets["test"])
    if not seen:
        return splits, f"{note}no patient of them is one it learned from"
    what = "left out" if choice == "exclude" else "scored apart, as test_seen"
    return splits, f"{note}{seen:,} that show patients it learned from are {what}"


def take_images(data: XrayDataModule, images: str) -> None:
    """With "all" every image becomes a test image: the split does not matter to another's model."""
    if images not in ("test", "all"):
        raise ConfigError(f"images must be test or all, got {images!r}")
    if images == "all":
        rows = np.arange(len(data.records))
        data.split = replace(replace_test(data.split, data.records, rows), name="all images")
