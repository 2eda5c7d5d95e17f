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

Read in descriptions: no real table was at hand. Traps, and CXR-LT's labels: ``data/README.md``.
"""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from xray_lightning.data.partition import read_split_column
from xray_lightning.data.source import Source, find_table, locate_files, read_facts, say
from xray_lightning.data.tables import Table, read_table
from xray_lightning.data.uncertain import SMOOTH, Choice, Codes, Coding, code_matrix, count_codes
from xray_lightning.errors import require_choice
from xray_lightning.records import NAN, Records, read_column

EXPERTS = "mimic-cxr-2.1.0-test-set-labeled.csv"
FACTS = read_facts("mimic")
LABELS = FACTS.labels
WHOLE = "a whole number"
PORTABLE = "CHEST (PORTABLE AP)"  # the one procedure with a single view
Told = npt.NDArray[np.bool_]  # (N, L)
_IMAGE, _PATIENT, _STUDY, _VIEW = "dicom_id", "subject_id", "study_id", "ViewPosition"


class Mimic(Source, published="mimic"):
    """A MIMIC-CXR-JPG folder; ``root`` and ``allow_missing`` are as of every :class:`Source`.

    Args:
        labels: the labeler, "chexpert" or "negbio".
        test: whose labels the test part has: "reports", the labeler's; "radiologists": its other
            images are left out, and counted.
        views: of the images to keep, of PA, AP, LL and MIMIC's other words; None: all.
        uncertain, blank, smooth: what -1 is, and what is not mentioned, see
            :class:`~xray_lightning.data.uncertain.Coding`; its seed is 0.

    Raises:
        ConfigError: a choice or view that there is not.
        DataNotFoundError, TableError: as every :class:`Source` of a folder.
    """

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
        require_choice("data.labels", labels, ("chexpert", "negbio"))
        require_choice("data.test", test, ("reports", "radiologists"))
        coding = Coding(LABELS, uncertain, blank, smooth)
        self.choices = {"labels": labels, "test": test, **coding.describe()}
        folder, notes = self.open_folder(root, allow_missing=allow_missing)
        names = [f"mimic-cxr-2.0.0-{name}.csv" for name in ("metadata", "split", labels)]
        names += [EXPERTS] if test == "radiologists" else []
        paths = [find_table(folder, [name], FACTS.expected, notes) for name in names]
        table, split, *studies = map(read_table, paths)
        table.require(_IMAGE, _PATIENT, _STUDY, _VIEW, once=_IMAGE)
        split.require(_IMAGE, "split", once=_IMAGE)
        subsets = read_split_column(split, _IMAGE)
        self.official = {name: frozenset(ids) for name, ids in subsets.items()}
        table.convert(_PATIENT, int, WHOLE)
        codes, told, kept = _read_labels(table, self.official["test"], studies, notes)
        images, reported = table.text(_IMAGE), codes[told.any(axis=1)]
        targets = np.where(told, coding.read(codes, images), NAN)
        records = _make_records(table, folder, targets, notes)
        counts = _count_records(records, subsets) | count_codes(reported, LABELS)
        self.fill(records[np.flatnonzero(kept)], notes, views=views, counts=counts)


def _read_labels(
    table: Table, test: Collection[str], studies: Sequence[Table], notes: list[str]
) -> tuple[Codes, Told, npt.NDArray[np.bool_]]:
    """Codes of each image and where they are told, radiologists' of a test image; what to keep."""
    codes, told = _codes_of_images(table, studies[0])
    kept = np.ones(len(told), np.bool_)
    for experts in studies[1:]:
        tested = np.array([image in test for image in table.text(_IMAGE)])
        own, own_told = _codes_of_images(table, experts)
        seen = own_told.any(axis=1)
        kept, new = seen | ~tested, seen & tested
        codes[new], told[new] = own[new], own_told[new]
        notes += say("by_radiologists", int((~kept).sum()), int((seen & ~tested).sum()))
    notes += say("no_report", int((~told.any(axis=1)).sum()), studies[0].path.name)
    return codes, told, kept


def _count_records(
    records: Records, subsets: Mapping[str, Sequence[str]]
) -> dict[str, dict[str, int]]:
    views = read_column(records, "view")
    columns = {"images": "image_id", "patients": "patient_id", "studies": "study_id"}
    return {
        "table": {name: len({*read_column(records, key)}) for name, key in columns.items()},
        "views": dict(Counter(view or "unknown" for view in views).most_common()),
        "split": {name: len(ids) for name, ids in subsets.items()},
    }


def _make_records(
    table: Table, folder: Path, targets: npt.NDArray[np.float64], notes: list[str]
) -> Records:
    import polars as pl

    images, patients, studies = map(table.text, (_IMAGE, _PATIENT, _STUDY))
    ids = zip(images, patients, studies, strict=True)
    files = [f"p{patient[:2]}/p{patient}/s{study}/{image}.jpg" for image, patient, study in ids]
    when = np.array(table.numbers("StudyDate")) * 1e6 + np.array(table.numbers("StudyTime"))
    dates = pl.DataFrame({"when": when, "patient": table.column(_PATIENT)}, nan_to_null=True)
    order = dates.select(pl.col("when").rank("dense").over("patient") - 1.0).to_series()
    return Records(
        **{"image_id": images, "patient_id": patients, "study_id": studies, "targets": targets},
        path=locate_files(folder / "files", files),
        view=_read_views(table, notes),
        follow_up=order.fill_null(NAN).to_list(),  # by date, from 0
    )


def _read_views(table: Table, notes: list[str]) -> list[str]:
    """View of each image, "" where unknown; a note counts what other columns tell."""
    columns = (_VIEW, "ViewCodeSequence_CodeMeaning", "PerformedProcedureStepDescription")
    views: list[str] = []
    others: Counter[str] = Counter()
    for view, code, procedure in zip(*map(table.text, columns), strict=True):
        views.append(FACTS.views.get(view, view))
        if not view and code in FACTS.views:
            views[-1], others["the view code"] = FACTS.views[code], others["the view code"] + 1
        elif not view and procedure == PORTABLE:
            views[-1], others["the procedure's text"] = "AP", others["the procedure's text"] + 1
    notes += say("views_told", others)
    return views


def _codes_of_images(images: Table, studies: Table) -> tuple[Codes, Told]:
    """Codes of each image by its study, NaN where none; and whether there could be one, (N, L)."""
    studies.require(_STUDY, once=_STUDY)
    columns = {FACTS.synonyms.get(name, name): name for name in studies.columns}
    own = code_matrix(studies, [columns.get(label, label) for label in LABELS])
    place = {study: row for row, study in enumerate(studies.convert(_STUDY, int, WHOLE))}
    rows = np.array([place.get(study, -1) for study in images.convert(_STUDY, int, WHOLE)])[:, None]
    told = (rows >= 0) & np.array([label in columns for label in LABELS])
    return np.where(told, own[rows[:, 0]], NAN), told
