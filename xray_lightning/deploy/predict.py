"""Scores of any files, written as they come; what is done stays done."""

import csv
import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TextIO

from xray_lightning.data.decoding import single_threaded_opencv
from xray_lightning.data.dicom import tally
from xray_lightning.data.files import ImageFiles, Journal, file_stamp, find_images
from xray_lightning.data.geometry import RULE
from xray_lightning.data.images import READER_VERSION
from xray_lightning.deploy.classifier import Classifier, FileScores
from xray_lightning.errors import ConfigError, OutputError, TableError
from xray_lightning.evaluation.predictions import SCORE
from xray_lightning.folders import lock_folder
from xray_lightning.results import Json, Result
from xray_lightning.writing import (
    for_spreadsheet,
    from_spreadsheet,
    read_json,
    require_folder,
    write_json,
    write_table,
)

PACKAGES = ("xray_lightning", "torch", "timm", "opencv-python-headless", "pydicom", "numpy")
FAILED = ("file", "reason")


@dataclass(frozen=True)
class PredictedFiles(Result):
    """What :func:`predict_files` did; the scores stand in the folder's predictions.csv."""

    folder: str
    scored: int  # images scored now
    kept: int  # images that had their scores already, unchanged since
    changed: int  # rows taken out because the file had changed
    failures: dict[str, str]  # unreadable file to reason, of the files asked for
    skipped: list[str]  # files in the folders that are not images
    links: list[str]  # symbolic links to images that were listed anyway
    notes: str = ""  # how often the reader decided by a fall-back, in one line

    @property
    def table(self) -> Path:
        """The scores: columns ``file`` (absolute) and ``score_<label>`` for each label."""
        return Path(self.folder) / "predictions.csv"


def predict_files(
    classifier: Classifier,
    paths: Sequence[str | Path] | ImageFiles,
    out: str | Path,
    *,
    batch_size: int = 32,
    workers: int | None = None,
    progress: Callable[[int, int], object] | None = None,
) -> PredictedFiles:
    """Score every image that files, folders and patterns lead to, into a folder.

    Each row is on disk at once. Called again, after a kill too, it scores what is not done yet:
    new files, files that changed since, and those that could not be read. The folder gets::

        predictions.csv   file, score_<label> ...
        failed.csv        file, reason: the unreadable ones; not there if there are none
        skipped.csv       files in the folders that are not images; not there if there are none
        predict.json      what decided the scores: checkpoint, labels, preprocessing, versions

    Args:
        classifier: see :func:`~xray_lightning.load_classifier`.
        paths: see :func:`~xray_lightning.data.files.find_images`; or what it returned.
        out: the folder; made if it is not there, locked for other processes meanwhile.
        batch_size: images per batch.
        workers: decoding threads; None: one for each available core.
        progress: is called with images done and images to do.

    Raises:
        DataNotFoundError: a path leads nowhere, or there is no image.
        ConfigError: the folder holds scores of another checkpoint, or is in use.
        TableError: the folder's table is damaged.
        OutputError: the folder, or a table in it, was removed meanwhile.
        CheckpointError: a score is NaN.
    """
    images = paths if isinstance(paths, ImageFiles) else find_images(paths)
    folder = Path(out)
    with lock_folder(folder), single_threaded_opencv():
        _require_same(folder, _identity(classifier))
        if images.skipped:
            rows = [["file"], *([str(path)] for path in images.skipped)]
            write_table(folder / "skipped.csv", rows)
        stamps = {str(path): file_stamp(path) for path in images.images}
        notes = []
        with ScoreTable(folder, classifier.labels, stamps) as table:
            files = [path for path in images.images if str(path) not in table.done]
            stream = classifier.stream(files, batch_size=batch_size, workers=workers)
            report = progress or (lambda done, count: None)
            report(0, len(files))
            for number, scores in enumerate(stream, 1):
                table.add(scores)
                notes.append(scores.notes)
                report(number, len(files))
            failures = {str(path): table.failures.get(str(path), "") for path in files}
    failures = {name: reason for name, reason in failures.items() if reason}
    return PredictedFiles(
        folder=str(folder),
        scored=len(files) - len(failures),
        kept=len(images.images) - len(files),
        changed=table.changed,
        failures=failures,
        skipped=[str(path) for path in images.skipped],
        links=[str(path) for path in images.links],
        notes=tally(notes),
    )


class ScoreTable:
    """``predictions.csv`` and ``failed.csv`` of a folder, row by row, each on disk at once.

    A row that a kill left unfinished is dropped. failed.csv is there only if something failed.

    ``stamps`` are what the files are now: rows of files that were others then are taken out.
    """

    def __init__(
        self, folder: Path, labels: Sequence[str], stamps: Mapping[str, str] | None = None
    ) -> None:
        self._path, self._failed = folder / "predictions.csv", folder / "failed.csv"
        self._header = ["file", *(SCORE + label for label in labels)]
        self._journal, self._stamps = Journal(folder / ".predict.done"), stamps or {}
        then, rows = self._journal.stamps, _read_repaired(self._path, self._header)
        kept = [
            row
            for row in rows
            if row[0] not in self._stamps or then.get(row[0]) == self._stamps[row[0]] != ""
        ]
        self.changed = len(rows) - len(kept)
        if self.changed:
            write_table(self._path, [self._header, *kept])
        self.done = {row[0] for row in kept}
        earlier = _read_repaired(self._failed, FAILED)
        self.failures = {row[0]: row[1] for row in earlier if row[0] not in self.done}

    def __enter__(self) -> "ScoreTable":
        self._scores = _open_table(self._path, self._header)
        return self

    def __exit__(self, *error: object) -> None:
        self._scores.close()
        self._failed.unlink(missing_ok=True)
        if self.failures:  # again, without those that were read this time
            write_table(self._failed, [FAILED, *self.failures.items()])

    def add(self, scores: FileScores) -> None:
        """Write one row, to the one table or the other; OutputError if it is gone."""
        require_folder(self._path)
        if os.fstat(self._scores.fileno()).st_nlink == 0:
            raise OutputError(f"{self._path} is gone: something removed it while it was written")
        name = str(scores.path)
        if scores.scores is None:
            self.failures[name] = scores.failure
            with _open_table(self._failed, FAILED) as file:
                _append(file, [name, scores.failure])
            return
        self.failures.pop(name, None)
        self.done.add(name)
        if name in self._stamps:  # before the row: what has a row has a stamp
            self._journal.add(name, self._stamps[name])
        _append(self._scores, [name, *(f"{score:.9g}" for score in scores.scores)])  # exact float32


def _open_table(path: Path, header: Sequence[str]) -> TextIO:
    """A table to append to, with its header; file names need not be UTF-8."""
    file = path.open("a", newline="", encoding="utf-8", errors="surrogateescape")
    if not path.stat().st_size:
        _append(file, header)
    return file


def _append(file: TextIO, row: Sequence[str]) -> None:
    csv.writer(file, lineterminator="\n").writerow(map(for_spreadsheet, row))
    file.flush()


def _read_repaired(path: Path, header: Sequence[str]) -> list[list[str]]:
    """The rows below the header; an unfinished last one is cut off the file."""
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
    if rows and (wrong or rows[0] != [*header]):
        raise TableError(
            f"{path}, row {wrong[0] if wrong else 1}: expected the columns {', '.join(header)}; "
            "it was written by something else or edited: name another folder"
        )
    return rows[1:]


def _identity(classifier: Classifier) -> Json:
    """What decides the scores, as plain values; of a checkpoint the digest of its file."""
    if classifier.checkpoint is None:
        raise ConfigError("predict_files needs a classifier of a checkpoint: load_classifier(PATH)")
    with classifier.checkpoint.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return {
        "checkpoint": digest,
        "labels": list(classifier.labels),
        "split": classifier.split,
        "preprocessing": {**classifier.preprocessing, "shape": RULE, "reader": READER_VERSION},
        "tta": classifier.tta,
        "versions": {name: version(name) for name in PACKAGES},
    }


def _require_same(folder: Path, identity: Json) -> None:
    """Write predict.json, or refuse a folder with scores of another checkpoint or reader."""
    path = folder / "predict.json"
    if not path.is_file():
        if (folder / "predictions.csv").exists():
            raise ConfigError(
                f"{folder} has a predictions.csv, but no predict.json: name another folder"
            )
        write_json(identity, path)
        return
    try:
        before = read_json(path)
    except OutputError as error:
        raise ConfigError(f"{path} cannot be read: name another folder") from error
    other = [key for key in identity if key != "versions" and before.get(key) != identity[key]]
    if other:
        raise ConfigError(
            f"{folder} holds scores of another checkpoint or version (what differs: "
            f"{', '.join(other)}): name another folder"
        )
