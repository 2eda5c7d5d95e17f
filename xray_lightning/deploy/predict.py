"""Scores of any files, written as they come; what is done stays done."""

import os
import secrets
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b, file_digest
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import TextIO

import numpy as np
from filelock import FileLock

from xray_lightning import writing
from xray_lightning.checkpoint import weights_sha256
from xray_lightning.data.decoding import single_threaded_opencv
from xray_lightning.data.dicom import tally
from xray_lightning.data.files import READER_VERSION, ImageFiles, Journal, file_stamp, find_images
from xray_lightning.data.geometry import RULE
from xray_lightning.deploy.classifier import Classifier, FileScores
from xray_lightning.deploy.interpretation import Interpretation, Scores
from xray_lightning.errors import ConfigError, OutputError, TableError, require_choice
from xray_lightning.evaluation.predictions import CALL, PROBABILITY, SCORE
from xray_lightning.evaluation.priors import Pairs
from xray_lightning.folders import lock_folder, prepare_folder
from xray_lightning.hub import name_place
from xray_lightning.results import Json, Result
from xray_lightning.shards import WHOLE, Shard, lock_shards
from xray_lightning.wording import fault

PACKAGES = ("xray_lightning", "torch", "timm", "opencv-python-headless", "pydicom", "numpy")
FIXED, FAILED = ("file", "study", "gate"), ("file", "reason")
FORMATS = ("csv", "json", "parquet")


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
    studies: int = 0  # of the images asked for that have scores
    called: dict[str, int] = field(default_factory=dict)  # label with a point -> images called
    priors: Pairs = field(default_factory=dict)  # label -> prevalence corrected from, and to
    # kind of remark of the gate -> images; None: the checkpoint has no gate, and nothing is known
    remarks: dict[str, int] | None = None
    remarked: int = 0  # images with any

    @property
    def table(self) -> Path:
        """The scores, see :func:`predict_files`."""
        return Path(self.folder) / "predictions.csv"


def predict_files(
    classifier: Classifier,  # see :func:`~xray_lightning.load_classifier`
    # see :func:`~xray_lightning.data.files.find_images`; or what it returned
    paths: Sequence[str | Path] | ImageFiles,
    out: str | Path,  # the folder; made if need be, locked for other processes meanwhile
    *,
    batch_size: int = 32,  # images per batch
    workers: int | None = None,  # decoding threads; None: one for each available core
    form: str = "csv",  # "json" or "parquet" (needs pyarrow) writes the table in that form too
    shard: Shard = WHOLE,  # the files that are this task's
    progress: Callable[[int, int], object] | None = None,  # called with images done and to do
) -> PredictedFiles:
    """Score every image that files, folders and patterns lead to, into a folder.

    Each row is on disk at once. Called again, after a kill too, it scores what is not done yet:
    new files, files that changed since, and those that could not be read. predictions.csv holds
    ``file``, ``study``, ``gate`` (reasons; empty: none, or no gate, as model.json says) and of each
    label ``score_``, ``probability_`` (empty without a calibration)
    and ``call_`` (1 or 0, empty without an operating point); model.json what decided them;
    failed.csv ``file`` and ``reason``; skipped.csv what is not an image in the folders. DICOM files
    of one StudyInstanceUID share their ``study``, a digest with a key of the folder. A shard writes
    all of this into a folder of its own in ``out``; a run without one takes over what shards did.

    Raises:
        DataNotFoundError: a path leads nowhere, or there is no image.
        ConfigError: the folder holds scores of another checkpoint, or is in use, or a shard in it;
            shards of two divisions; an unknown form, or one that needs what is not installed.
        TableError: the folder's table is damaged.
        OutputError: the folder, or a table in it, was removed meanwhile.
        CheckpointError: a score is NaN.
    """
    require_choice("format", form, FORMATS)  # before hours of scoring
    if form == "parquet" and find_spec("pyarrow") is None:
        raise ConfigError(fault("no_parquet"))
    images = paths if isinstance(paths, ImageFiles) else find_images(paths)
    listed = [path for path in images.images if shard.owns(str(path))]
    asked, identity = classifier.interpretation, identify(classifier)
    folder = prepare_folder(shard.folder(out := Path(out)))
    if shard.count > 1:  # with the key of all, so that a study has one digest in them
        with FileLock(out / ".study.key.lock"):
            read_key(folder / ".study.key", read_key(out / ".study.key"))
    with lock_folder(folder), single_threaded_opencv():
        _require_same(folder, identity)
        table = ScoreTable(folder, asked, {str(path): file_stamp(path) for path in listed})
        table.join_shards(identity)
        writing.write_rows(folder / "skipped.csv", [{"file": str(p)} for p in images.skipped])
        with table:
            writing.write_json({**identity, **asked.to_json()}, folder / "model.json")
            files = [path for path in listed if str(path) not in table.rows]
            stream = classifier.stream(files, batch_size=batch_size, workers=workers)
            notes = [*table.fill(stream, len(files), progress or (lambda done, count: None))]
        table.interpret(asked.at_prior(table.scores, [study for study, *_ in table.rows.values()]))
        writing.write_json({**identity, **table.interpretation.to_json()}, folder / "model.json")
        table.write_as(form)
    failures = {str(p): table.failures[str(p)] for p in files if str(p) in table.failures}
    done = len(files) - len(failures), len(listed) - len(files), table.changed, failures
    others = [str(path) for path in images.skipped], [str(path) for path in images.links]
    more = table.summarise(map(str, listed)) | ({} if classifier.gate else {"remarks": None})
    return PredictedFiles(str(folder), *done, *others, notes=tally(notes), **more)


class ScoreTable:
    """``predictions.csv`` and ``failed.csv`` of a folder, row by row, each on disk at once.

    A row that a kill left unfinished is dropped. Rows of another ``interpretation`` are written
    again from their scores; those of files that were others by the ``stamps`` are taken out.
    """

    def __init__(
        self, folder: Path, interpretation: Interpretation, stamps: Mapping[str, str] | None = None
    ) -> None:
        self.path, self._failed = folder / "predictions.csv", folder / "failed.csv"
        self.interpretation, self._key = interpretation, read_key(folder / ".study.key")
        self._header = [*FIXED, *(kind + label for label in interpretation.labels
                                           for kind in (SCORE, PROBABILITY, CALL))]  # fmt: skip
        self._journal, self._stamps = Journal(folder / ".predict.done"), stamps or {}
        then, before = self._journal.stamps, _read_repaired(self.path, self._header)
        kept = [row for row in before if row[0] not in self._stamps
                or then.get(row[0]) == self._stamps[row[0]] != ""]  # fmt: skip
        self.changed = len(before) - len(kept)
        # file -> its study, its scores (L,) and the gate's reasons
        self.rows = {row[0]: (row[1], np.array(row[3::3], np.float32), row[2]) for row in kept}
        if before != [*map(self._write_row, self.rows)]:
            self._write()
        earlier = _read_repaired(self._failed, FAILED)
        self.failures = {row[0]: row[1] for row in earlier if row[0] not in self.rows}

    @property
    def scores(self) -> Scores:
        """Of all rows, (N, L)."""
        empty = np.empty((0, len(self.interpretation.labels)), np.float32)
        return np.concatenate([empty, *(scores[None] for _, scores, _ in self.rows.values())])

    def __enter__(self) -> "ScoreTable":
        self._file = _open_table(self.path, self._header)
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()
        rows = [dict(zip(FAILED, row, strict=True)) for row in self.failures.items()]
        writing.write_rows(self._failed, rows)  # again, without those that were read this time

    def fill(
        self, stream: Iterable[FileScores], count: int, report: Callable[[int, int], object]
    ) -> Iterator[tuple[str, ...]]:
        """Write rows as they come; gives the reader's notes on each that was read."""
        report(0, count)
        for number, scores in enumerate(stream, 1):
            self.add(scores)
            report(number, count)
            if scores.scores is not None:
                yield scores.notes

    def add(self, scores: FileScores) -> None:
        """Write one row, to the one table or the other; OutputError if it is gone."""
        writing.require_folder(self.path)
        if os.fstat(self._file.fileno()).st_nlink == 0:
            raise OutputError(f"{self.path} is gone: something removed it while it was written")
        name = str(scores.path)
        if scores.scores is None:
            self.failures[name] = scores.failure
            with _open_table(self._failed, FAILED) as file:
                writing.write_row(file, [name, scores.failure])
            return
        self.failures.pop(name, None)
        told = os.fsencode(scores.study or name)
        study = blake2b(told, key=self._key, digest_size=6).hexdigest()
        reasons = scores.gate.reasons if scores.gate else ()
        self.rows[name] = study, scores.scores, "; ".join(reasons)
        if name in self._stamps:  # before the row: what has a row has a stamp
            self._journal.add({name: self._stamps[name]})
        writing.write_row(self._file, self._write_row(name))
        self._file.flush()

    def join_shards(self, identity: Json) -> None:
        """Take over the rows of shards in the folder, by the stamps' order; those here stay."""
        with lock_shards(self.path.parent) as shards:
            for place in shards:
                _require_same(place, identity)
            tables = [ScoreTable(place, self.interpretation, self._stamps) for place in shards]
        rows = {name: row for table in tables for name, row in table.rows.items()} | self.rows
        if new := rows.keys() & self._stamps.keys() - self.rows.keys():
            self._journal.add({name: self._stamps[name] for name in self._stamps if name in new})
            self.rows = {n: rows[n] for n in self._stamps if n in rows} | self.rows
            self.failures = {n: why for n, why in self.failures.items() if n not in new}
            self._write()

    def interpret(self, interpretation: Interpretation) -> None:
        """Probabilities and calls of every row anew, if they are to be others."""
        if interpretation != self.interpretation:
            self.interpretation = interpretation
            self._write()

    def summarise(self, names: Iterable[str]) -> Json:
        """How many studies some files are of; how many of the files are called, remarked on."""
        rows = [self.rows[name] for name in names if name in self.rows]
        calls = self.interpretation.calls(np.array([row[1] for row in rows] or self.scores[:0]))
        counts = zip(self.interpretation.labels, calls.sum(axis=0).tolist(), strict=True)
        called = {label: int(count) for label, count in counts if rows and count == count}  # or NaN
        studies, priors = len({study for study, *_ in rows}), self.interpretation.priors
        gate = [{one.partition(":")[0] for one in row[2].split("; ")} for row in rows if row[2]]
        remarks = dict(Counter(kind for kinds in gate for kind in kinds).most_common())
        more = {"priors": priors, "remarks": remarks, "remarked": len(gate)}
        return {"studies": studies, "called": called, **more}

    def write_as(self, form: str) -> None:
        """The table beside itself as JSON (a list of rows) or Parquet; empty cells are null."""
        if form == "csv":
            return
        from pandas import DataFrame, to_numeric

        path = self.path.with_suffix(f".{form}")
        frame = DataFrame([*map(self._write_row, self.rows)], columns=self._header)
        frame = frame.set_index([*FIXED]).apply(to_numeric).reset_index()
        if form == "json":
            writing.write_json({"images": writing.to_plain(frame.to_dict("records"))}, path)
            return
        try:
            with writing.open_replacing(path, "wb") as file:
                frame.to_parquet(file, index=False)
        except UnicodeError as error:
            raise OutputError(fault("name_for_parquet", path)) from error

    def _write(self) -> None:
        writing.write_table(self.path, [self._header, *map(self._write_row, self.rows)])

    def _write_row(self, name: str) -> list[str]:
        study, scores, gate = self.rows[name]
        kinds = self.interpretation.probabilities, self.interpretation.calls
        columns = scores, *(kind(scores[None])[0] for kind in kinds)
        cells = (
            (f"{score:.9g}", _cell(probability, ".6g"), _cell(call, ".0f"))  # exact float32
            for score, probability, call in zip(*columns, strict=True)
        )
        return [name, study, gate, *(cell for three in cells for cell in three)]


def _cell(value: float, form: str) -> str:
    return "" if value != value else f"{value:{form}}"  # NaN


def read_key(path: Path, key: bytes = b"") -> bytes:
    """A folder's key, this or its own, made if need be: without it no digest tells a study."""
    if key or not path.is_file():
        writing.write_file(path, key or secrets.token_hex(16))
        path.chmod(0o600)
    return path.read_bytes()


def _open_table(path: Path, header: Sequence[str]) -> TextIO:
    """A table to append to, with its header; file names need not be UTF-8."""
    file = path.open("a", newline="", encoding="utf-8", errors="surrogateescape")
    if not path.stat().st_size:
        writing.write_row(file, header)
    return file


def _read_repaired(path: Path, header: Sequence[str]) -> list[list[str]]:
    """The rows below the header; an unfinished last one is cut off the file."""
    if path.is_dir():
        raise TableError(f"{path} is a folder, where a table is to stand: name another folder")
    rows = writing.read_written(path)
    ended = not rows or path.read_bytes().endswith(b"\n")
    own = len(rows) == 1 or rows[:1] == [[*header]]
    if own and (not ended or (len(rows) > 1 and len(rows[-1]) < len(header))):
        rows.pop()  # a name may hold a line break, so an end of line alone does not tell
        writing.write_table(path, rows or [header])
    wrong = [at for at, row in enumerate(rows, 1) if len(row) != len(header)]
    if rows and (wrong or rows[0] != [*header]):
        raise TableError(fault("edited_table", path, header, wrong))
    return rows[1:]


def identify(classifier: Classifier) -> Json:
    """What decides the scores, as plain values; of a checkpoint the digest of its file."""
    if classifier.checkpoint is None:
        raise ConfigError("predict_files needs a classifier of a checkpoint: load_classifier(PATH)")
    with classifier.checkpoint.open("rb") as file:
        digest = file_digest(file, "sha256").hexdigest()
    gate = classifier.gate.to_json() if classifier.gate else None
    return {
        "checkpoint": digest,
        "checkpoint_file": name_place(classifier.checkpoint),
        "weights_sha256": weights_sha256(classifier.net.state_dict()),
        "labels": list(classifier.labels),
        "split": classifier.split,
        "preprocessing": {**classifier.preprocessing, "shape": RULE, "reader": READER_VERSION},
        "tta": classifier.tta,
        "gate": gate,  # None: there is none, and an empty cell says nothing
        "versions": {name: version(name) for name in PACKAGES},
    }


def _require_same(folder: Path, identity: Json) -> None:
    """Refuse a folder with scores of another checkpoint or reader, which its model.json tells."""
    path = folder / "model.json"
    if not path.is_file():
        if (folder / "predictions.csv").exists():
            raise ConfigError(fault("no_model_beside", folder))
        return
    try:
        before = writing.read_json(path)
    except OutputError as error:
        raise ConfigError(f"{path} cannot be read: name another folder") from error
    deciding = set(identity) - {"versions", "checkpoint_file"}
    if other := [key for key in identity if key in deciding and before.get(key) != identity[key]]:
        raise ConfigError(fault("other_identity", folder, other))
