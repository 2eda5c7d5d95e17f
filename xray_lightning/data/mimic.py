"""MIMIC-CXR-JPG 2.0 and 2.1 (Johnson et al., arXiv:1901.07042), as PhysioNet packs it.

============  ======================================================================================
images        377,110 of 227,835 studies, 8-bit JPEG, ``files/p10/p10000032/s50414267/ID.jpg``
tables        ``mimic-cxr-2.0.0-{metadata,split,chexpert,negbio}.csv.gz`` (also unpacked, and with
              2.1.0), per image and per study
labels        14, per study, by CheXpert's labeler or by NegBio: 1, 0, -1 uncertain, blank not
              mentioned; eight studies have no report, and their labels stay unknown
radiologists  ``mimic-cxr-2.1.0-test-set-labeled.csv``: 687 studies of the test part, no patient
split         official, by patient: train, validate, test
============  ======================================================================================

Traps: ViewPosition may be blank; then the view code tells it, else the procedure where that was one
portable film (counted). The radiologists write ``Airspace Opacity``. Age and sex stand in MIMIC-IV.
Dates are shifted, but by one number for each patient: studies are numbered by them. These layouts
were read in descriptions; no real table was at hand. CXR-LT's labels of the same images are a table
of ``data=csv``: data/README.md has the line.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from xray_lightning.data.chexpert import LABELS, RADIOLOGISTS
from xray_lightning.data.partition import SUBSETS, parse_subset
from xray_lightning.data.source import Source, find_table, require_directory
from xray_lightning.data.tables import Table, format_count, pause_collector, read_table
from xray_lightning.data.uncertain import (
    SMOOTH,
    Choice,
    Codes,
    code_matrix,
    count_codes,
    describe_choices,
    read_codes,
)
from xray_lightning.errors import ConfigError
from xray_lightning.records import NAN, Record

LABELERS = ("chexpert", "negbio")
TESTS = ("reports", "radiologists")
EXPERTS = "mimic-cxr-2.1.0-test-set-labeled.csv"
EXPECTED = (
    "A MIMIC-CXR-JPG folder holds mimic-cxr-2.0.0-metadata.csv.gz, -split.csv.gz and "
    "-chexpert.csv.gz or -negbio.csv.gz, and the images in files/"
)
PUBLISHED = {"table": {"images": 377_110, "studies": 227_835}}
VIEW_WORDS = {"LATERAL": "LL", "postero-anterior": "PA", "antero-posterior": "AP"}
VIEW_WORDS |= {"lateral": "LL", "left lateral": "LL"}
PORTABLE = "CHEST (PORTABLE AP)"  # the one procedure with a single view
_IMAGE, _PATIENT, _STUDY, _VIEW = "dicom_id", "subject_id", "study_id", "ViewPosition"


class Mimic(Source):
    """A MIMIC-CXR-JPG folder.

    Args:
        root: the folder.
        labels: the labeler, "chexpert" or "negbio".
        test: whose labels the test part has: "reports", the labeler's; "radiologists": its other
            images are left out, and counted.
        views: of the images to keep, of PA, AP, LL and MIMIC's other words; None: all.
        uncertain: what -1 is, see :mod:`~xray_lightning.data.uncertain`.
        blank: what is not mentioned, see there.
        smooth: range of the shares of uncertain=smooth, whose seed is 0.
        allow_missing: let commands that read pixels leave out the images that are not on disk.

    Raises:
        ConfigError: a choice or view that there is not.
        DataNotFoundError: no folder, or a table that is needed is not in it.
        TableError: a table lacks a column, an image or study stands twice, or a cell is no code.
    """

    name = "mimic"
    labels = LABELS

    def __init__(
        self,
        root: str | Path,
        *,
        labels: str = "chexpert",
        test: str = "reports",
        views: Sequence[str] | None = ("PA", "AP"),
        uncertain: Choice = "ignore",
        blank: Choice = "negative",
        smooth: Sequence[float] = SMOOTH,
        allow_missing: bool = False,
    ) -> None:
        if labels not in LABELERS or test not in TESTS:
            raise ConfigError(
                f"data.labels is one of {', '.join(LABELERS)}, and data.test one of "
                f"{', '.join(TESTS)}; got {labels!r} and {test!r}"
            )
        words = describe_choices(LABELS, uncertain, blank, smooth=smooth)
        self.choices = {"labels": labels, "test": test, **words}
        self.root = folder = require_directory(root, EXPECTED)
        self.allow_missing = allow_missing
        notes: list[str] = []

        def read(name: str) -> Table:
            return read_table(find_table(folder, [f"mimic-cxr-{name}.csv"], EXPECTED, notes))

        table = read("2.0.0-metadata")
        table.require(_IMAGE, _PATIENT, _STUDY, _VIEW)
        table.refuse_repeats(_IMAGE)
        images = table.text(_IMAGE)
        subsets = _read_subsets(read("2.0.0-split"))
        codes, told = _codes_of_images(table, by_study := read(f"2.0.0-{labels}"))
        kept = np.ones(len(images), np.bool_)
        if test == "radiologists":
            tested = np.array([subsets.get(image) == "test" for image in images])
            experts = read("2.1.0-test-set-labeled")
            kept = _take_radiologists(table, experts, tested, codes, told, notes)
        targets = read_codes(codes, images, LABELS, uncertain, blank, smooth=smooth)
        targets[~told] = NAN
        reported = told.any(axis=1)
        if silent := int((~reported).sum()):
            silence = f"of studies that {by_study.path.name} lacks: unknown"
            notes.append(f"{format_count(silent, 'image')} {silence}")
        views_there, guessed = _read_views(table)
        notes += [f"{format_count(n, 'view')} told by {source}" for source, n in guessed.items()]
        self.official = {
            name: frozenset(k for k in subsets if subsets[k] == name) for name in SUBSETS
        }
        records = _make_records(table, folder, targets, views_there)
        self.fill(
            [record for record, keep in zip(records, kept.tolist(), strict=True) if keep],
            notes,
            views=views,
            counts=_count_table(table, views_there, subsets) | count_codes(codes[reported], LABELS),
            published=PUBLISHED,
        )


def _take_radiologists(
    table: Table,
    experts: Table,
    tested: npt.NDArray[np.bool_],  # whether an image is in the test part, (N,)
    codes: npt.NDArray[np.float64],  # (N, L), replaced where a radiologist labelled a test image
    told: npt.NDArray[np.bool_],  # (N, L), the same
    notes: list[str],
) -> npt.NDArray[np.bool_]:
    """Radiologists' labels for those of reports in the test part; the images to keep, (N,)."""
    own, own_told = _codes_of_images(table, experts)
    seen = own_told.any(axis=1)
    codes[seen & tested], told[seen & tested] = own[seen & tested], own_told[seen & tested]
    kept: npt.NDArray[np.bool_] = seen | ~tested
    notes.append(
        f"LEFT OUT: {format_count(int((~kept).sum()), 'image')} of the test part that no "
        f"radiologist labelled; {int((seen & ~tested).sum()):,} that they labelled are in "
        "other parts, and keep the labels of reports"
    )
    return kept


def _count_table(
    table: Table, views: Sequence[str], subsets: Mapping[str, str]
) -> dict[str, dict[str, int]]:
    columns = {"images": _IMAGE, "patients": _PATIENT, "studies": _STUDY}
    return {
        "table": {name: len(set(table.text(key))) for name, key in columns.items()},
        "views": dict(Counter(view or "unknown" for view in views).most_common()),
        "split": dict(Counter(subsets.values())),
    }


@pause_collector()
def _make_records(
    table: Table, folder: Path, targets: npt.NDArray[np.float64], views: Sequence[str]
) -> list[Record]:
    """One record per row of the metadata."""
    rows = zip(
        *(table.text(name) for name in (_IMAGE, _PATIENT, _STUDY)),
        map(tuple, targets.tolist()),
        views,
        _number_studies(table),
        strict=True,
    )
    there = (folder / "files").is_dir()
    records = []
    for image, patient, study, own, view, number in rows:
        path = folder / f"files/p{patient[:2]}/p{patient}/s{study}/{image}.jpg"
        place = path if there and path.is_file() else None
        about = {"view": view, "follow_up": number, "study_id": study}
        records.append(Record(image, patient, own, path=place, **about))
    return records


def _number_studies(table: Table) -> list[float]:
    """Which of its patient's studies each image is of, from 0 by date; NaN if undated, (N,)."""
    import pandas as pd  # as in tables: after what is not there was said

    when = np.array(table.numbers("StudyDate")) * 1e6 + np.array(table.numbers("StudyTime"))
    order = pd.Series(when).groupby(table.text(_PATIENT)).rank("dense") - 1
    numbers: list[float] = order.tolist()
    return numbers


def _read_views(table: Table) -> tuple[list[str], dict[str, int]]:
    """View of each image, "" where unknown; and how many another column than ViewPosition tells."""
    columns = (_VIEW, "ViewCodeSequence_CodeMeaning", "PerformedProcedureStepDescription")
    views: list[str] = []
    guessed: Counter[str] = Counter()
    for view, code, procedure in zip(*map(table.text, columns), strict=True):
        told = {"": VIEW_WORDS.get(view, view), "the view code": VIEW_WORDS.get(code, "")}
        told["the procedure's text"] = "AP" if procedure == PORTABLE else ""
        source, word = next(((s, word) for s, word in told.items() if word), ("", ""))
        guessed[source] += 1
        views.append(word)
    return views, {source: count for source, count in guessed.items() if source}


def _read_subsets(table: Table) -> dict[str, str]:
    """Image -> train, val or test."""
    table.require(_IMAGE, "split")
    table.refuse_repeats(_IMAGE)
    subsets = table.convert("split", parse_subset, "train, validate or test")
    return dict(zip(table.text(_IMAGE), subsets, strict=True))


def _codes_of_images(images: Table, studies: Table) -> tuple[Codes, npt.NDArray[np.bool_]]:
    """Codes of each image by its study, NaN where none; and whether there could be one, (N, L)."""
    studies.require(_STUDY)
    studies.refuse_repeats(_STUDY)
    columns = {RADIOLOGISTS.get(name, name): name for name in studies.columns}
    own = code_matrix(studies, [columns.get(label, label) for label in LABELS])
    place = {study: row for row, study in enumerate(studies.text(_STUDY))}
    rows = np.array([place.get(study, -1) for study in images.text(_STUDY)])[:, None]
    told = (rows >= 0) & np.array([label in columns for label in LABELS])
    return np.where(told, own[rows[:, 0]], NAN), told
