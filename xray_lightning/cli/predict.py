"""``xray predict``: the scores of any files, written as they come."""

import csv
import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, TextIO

import cv2

from xray_lightning.cli.failures import PartialError
from xray_lightning.cli.watching import watched
from xray_lightning.data.dicom import tally
from xray_lightning.data.files import ImageFiles, Journal, file_stamp, find_images
from xray_lightning.data.geometry import RULE
from xray_lightning.data.images import READER_VERSION
from xray_lightning.deploy.classifier import Classifier, Scored, load_classifier
from xray_lightning.errors import ConfigError, OutputError, TableError
from xray_lightning.evaluation.predictions import SCORE
from xray_lightning.folders import lock_folder
from xray_lightning.report.terminal import show
from xray_lightning.writing import (
    for_spreadsheet,
    from_spreadsheet,
    require_folder,
    write_json,
    write_table,
)

PACKAGES = ("xray_lightning", "torch", "timm", "opencv-python-headless", "pydicom", "numpy")
FAILED = ["file", "reason"]
NAMED = 3  # skipped files in the terminal; skipped.csv has them all


def predict(
    checkpoint: Path, names: Sequence[str], folder: Path, batch_size: int, device: str
) -> None:
    """Score every image that ``names`` lead to; rows of files that have not changed stay.

    Raises:
        DataNotFoundError: a name leads nowhere, or there is no image.
        CheckpointError: no checkpoint of ours.
        ConfigError: the device is not there, or the folder holds scores of another checkpoint.
        TableError: the folder's table is damaged.
        PartialError: some files are unreadable; the others are done.
    """
    found = find_images(names)
    classifier = load_classifier(checkpoint, device=device)
    cv2.setNumThreads(1)  # the files are decoded in threads already
    with lock_folder(folder):
        _require_same(folder, _facts(checkpoint, classifier))
        _note_skipped(found, folder)
        stamps = {str(path): file_stamp(path) for path in found.images}
        notes = []
        with ScoreTable(folder, classifier.labels, stamps) as table:
            files = [path for path in found.images if str(path) not in table.done]
            scores = classifier.stream(files, batch_size=batch_size)
            for scored in watched(scores, "scoring images", len(files), shown=bool(files)):
                table.add(scored)
                notes.append(scored.notes)
            failed = [path for path in files if str(path) in table.failures]
    before, scored_now = len(found.images) - len(files), len(files) - len(failed)
    show(f"{scored_now:,} images scored, {before:,} were before: {folder / 'predictions.csv'}")
    if table.changed:
        show(f"note: {table.changed:,} files were others when they were scored before")
    if remarks := tally(notes):
        show(f"note: {remarks}")
    if failed:
        raise PartialError(
            f"{len(failed):,} of {len(found.images):,} files could not be read; "
            f"{folder / 'failed.csv'} says why, and running this again tries them again"
        )


class ScoreTable:
    """``predictions.csv`` and ``failed.csv`` of a folder, row by row, each on disk at once.

    predictions.csv has the columns ``file`` (absolute) and ``score_<label>`` for each label; a row
    that a kill left unfinished is dropped. failed.csv has ``file`` and ``reason``, and is there
    only if something failed.

    Args:
        folder: where the two lie.
        labels: the L labels.
        stamps: what the files are now; rows of files that were others then are taken out.

    Attributes:
        done: files with a row in predictions.csv.
        changed: how many rows were taken out.
        failures: file to reason.

    Raises:
        TableError: predictions.csv has other columns, or a damaged row before its last.
    """

    def __init__(
        self, folder: Path, labels: Sequence[str], stamps: Mapping[str, str] | None = None
    ) -> None:
        self._path, self._failed = folder / "predictions.csv", folder / "failed.csv"
        self._header = ["file", *(SCORE + label for label in labels)]
        self._ledger, self._stamps = Journal(folder / ".predict.done"), stamps or {}
        then, rows = self._ledger.stamps, _repaired(self._path, self._header)
        kept = [
            row
            for row in rows
            if row[0] not in self._stamps or then.get(row[0]) == self._stamps[row[0]] != ""
        ]
        self.changed = len(rows) - len(kept)
        if self.changed:
            write_table(self._path, [self._header, *kept])
        self.done = {row[0] for row in kept}
        earlier = _repaired(self._failed, FAILED)
        self.failures = {row[0]: row[1] for row in earlier if row[0] not in self.done}

    def __enter__(self) -> "ScoreTable":
        self._scores = _opened(self._path, self._header)
        return self

    def __exit__(self, *error: object) -> None:
        self._scores.close()
        self._failed.unlink(missing_ok=True)
        if self.failures:  # again, without those that were read this time
            write_table(self._failed, [FAILED, *([*pair] for pair in self.failures.items())])

    def add(self, scored: Scored) -> None:
        """Write one row, to the one table or the other.

        Raises:
            OutputError: the folder, or the table in it, is gone.
        """
        require_folder(self._path)
        if os.fstat(self._scores.fileno()).st_nlink == 0:
            raise OutputError(f"{self._path} is gone: something removed it while it was written")
        name = str(scored.path)
        if scored.scores is None:
            self.failures[name] = scored.failure
            with _opened(self._failed, FAILED) as file:
                _append(file, [name, scored.failure])
            return
        self.failures.pop(name, None)
        self.done.add(name)
        if name in self._stamps:  # before the row: what has a row has a stamp
            self._ledger.add(name, self._stamps[name])
        _append(self._scores, [name, *(f"{score:.9g}" for score in scored.scores)])  # exact float32


def _opened(path: Path, header: Sequence[str]) -> TextIO:
    """A table to append to, with its header; file names need not be UTF-8."""
    file = path.open("a", newline="", encoding="utf-8", errors="surrogateescape")
    if not path.stat().st_size:
        _append(file, header)
    return file


def _append(file: TextIO, row: Sequence[str]) -> None:
    csv.writer(file, lineterminator="\n").writerow(map(for_spreadsheet, row))
    file.flush()


def _repaired(path: Path, header: Sequence[str]) -> list[list[str]]:
    """The rows below the header; an unfinished last one is cut off the file.

    Raises:
        TableError: another header, a row before the last that is damaged, or a folder.
    """
    if path.is_dir():
        raise TableError(f"{path} is a folder, where a table is to stand: name another folder")
    if not path.is_file():
        return []
    with path.open(newline="", encoding="utf-8", errors="surrogateescape") as file:
        rows = [[*map(from_spreadsheet, row)] for row in csv.reader(file)]
        file.seek(0)
        ended = file.read().endswith("\n")
    if rows and (not ended or (len(rows) > 1 and len(rows[-1]) < len(header))):
        rows.pop()  # a name may hold a line break, so an end of line alone does not tell
        write_table(path, rows or [header])
    wrong = [at for at, row in enumerate(rows, 1) if len(row) != len(header)]
    if rows and (wrong or rows[0] != header):
        raise TableError(
            f"{path}, row {wrong[0] if wrong else 1}: expected the columns {', '.join(header)}; "
            "it was written by something else or edited: name another folder"
        )
    return rows[1:]


def _facts(checkpoint: Path, classifier: Classifier) -> dict[str, Any]:
    """What decided the scores, as plain values."""
    with checkpoint.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return {
        "checkpoint": digest,
        "labels": list(classifier.labels),
        "split": classifier.split,
        "preprocessing": {**classifier.preprocessing, "shape": RULE, "reader": READER_VERSION},
        "tta": classifier.tta,
        "versions": {name: version(name) for name in PACKAGES},
    }


def _require_same(folder: Path, facts: dict[str, Any]) -> None:
    """Write predict.json, or refuse a folder with scores of something else.

    Raises:
        ConfigError: another checkpoint, other rules of reading, or a table of another maker.
    """
    path = folder / "predict.json"
    if not path.is_file():
        if (folder / "predictions.csv").exists():
            raise ConfigError(
                f"{folder} has a predictions.csv, but no predict.json: name another folder"
            )
        write_json(facts, path)
        return
    try:
        before = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ConfigError(f"{path} is damaged ({error}): name another folder") from error
    known = before if isinstance(before, dict) else {}
    other = [key for key in facts if key != "versions" and known.get(key) != facts[key]]
    if other:
        raise ConfigError(
            f"{folder} holds scores of another checkpoint or version (what differs: "
            f"{', '.join(other)}): name another folder"
        )


def _note_skipped(found: ImageFiles, folder: Path) -> None:
    """Say which files of the folders are no images: some in the terminal, all in skipped.csv."""
    if found.links:
        show(f"note: {len(found.links):,} links to listed images are those images: scored once")
    if not found.skipped:
        return
    write_table(folder / "skipped.csv", [["file"], *([str(path)] for path in found.skipped)])
    named = ", ".join(path.name for path in found.skipped[:NAMED])
    more = f" and {len(found.skipped) - NAMED:,} more" if len(found.skipped) > NAMED else ""
    show(f"note: skipped {named}{more}: no images (skipped.csv has the list)")
