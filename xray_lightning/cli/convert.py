"""``xray convert``: a tree of DICOM files becomes PNG files and a table without identities."""

import csv
import sys
from collections.abc import Collection, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

from xray_lightning.cli.failures import PartialError
from xray_lightning.cli.watching import watched
from xray_lightning.data.conversion import FAILED, HEADER, Job, Outcome, convert, find_dicom, plan
from xray_lightning.data.decoding import available_cores
from xray_lightning.data.dicom import tally
from xray_lightning.data.files import Journal
from xray_lightning.data.tables import existing_folder
from xray_lightning.folders import lock_folder
from xray_lightning.report.terminal import show
from xray_lightning.writing import write_table


def convert_tree(
    root: Path,
    out: Path,
    *,
    bits: int,
    workers: int | None,
    rename: bool,
    frame: int | None = None,
    colour: str | None = None,
) -> None:
    """Convert every DICOM file below ``root``; what ``out`` has already stays, if nothing changed.

    Raises:
        DataNotFoundError: no such folder, a closed folder in it, or no DICOM file.
        DataError: two files would become one, or names.csv does not fit the folder.
        ConfigError: ``bits`` or ``colour`` is none that there is, or ``out`` has images of other
            bits, cannot be written to, or is being written to.
        PartialError: some files are unreadable; the others are done.
    """
    root = existing_folder(root, "The DICOM files were to be found there").resolve()
    sources, others = find_dicom(root)
    outcomes: list[Outcome] = []
    with lock_folder(out):
        planned = plan(sources, root, out, bits=bits, rename=rename)
        jobs = [replace(job, frame=frame, colour=colour) for job in planned]
        journal = Journal(out / ".convert.done")
        try:
            found = _converted(jobs, journal, workers or available_cores())
            for outcome in watched(found, "converting", len(jobs), shown=sys.stderr.isatty()):
                outcomes.append(outcome)
                if outcome.stamp and not outcome.was_there:
                    journal.add(outcome.job.name, outcome.stamp)
        finally:  # Ctrl-C comes here too
            _write_tables(outcomes, root, out, complete=len(outcomes) == len(jobs))
    _tell(outcomes, out, others, rename)
    failures = [outcome for outcome in outcomes if outcome.facts is None]
    if failures:
        named = ", ".join(each.job.source.relative_to(root).as_posix() for each in failures[:3])
        more = f" and {len(failures) - 3:,} more" if len(failures) > 3 else ""
        raise PartialError(
            f"{len(failures):,} of {len(jobs):,} files could not be converted: {named}{more}; "
            f"{out / 'failed.csv'} says why, and running this again tries them again"
        )


def _converted(jobs: Sequence[Job], journal: Journal, workers: int) -> Iterator[Outcome]:
    """Outcomes in the order of the jobs. Decoding and packing release the interpreter's lock."""
    pool = ThreadPoolExecutor(workers, thread_name_prefix="convert")
    try:
        yield from pool.map(convert, jobs, [journal.stamps.get(job.name, "") for job in jobs])
    finally:
        pool.shutdown(cancel_futures=True)


def _write_tables(outcomes: Iterable[Outcome], root: Path, out: Path, *, complete: bool) -> None:
    """headers.csv of the images that are there, and failed.csv if some are not.

    Of a run that was stopped, the rows an earlier one wrote about other files are kept.
    """
    done = [[each.facts[name] for name in HEADER] for each in outcomes if each.facts is not None]
    failed = [
        (each.job.source.relative_to(root).as_posix(), each.failure)
        for each in outcomes
        if each.facts is None
    ]
    if not complete:
        done += _earlier(out / "headers.csv", HEADER, {row[0] for row in done})
        failed += _earlier(out / "failed.csv", FAILED, {row[0] for row in failed})
    write_table(out / "headers.csv", [HEADER, *done])
    (out / "failed.csv").unlink(missing_ok=True)
    if failed:
        write_table(out / "failed.csv", [FAILED, *failed])


def _earlier(path: Path, header: Sequence[str], without: Collection[str]) -> list[Any]:
    """Rows of a table that an earlier run left, but for some files."""
    if not path.is_file():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.reader(file))
    ours = rows[:1] == [list(header)]
    return [row for row in rows[1:] if ours and row[0] not in without]


def _tell(outcomes: Sequence[Outcome], out: Path, others: int, rename: bool) -> None:
    """Counts, and one line for the reader's remarks on all the files."""
    new = [each for each in outcomes if each.facts is not None and not each.was_there]
    before = sum(outcome.was_there for outcome in outcomes)
    show(f"{len(new):,} images converted, {before:,} were before: {out}")
    if remarks := tally(each.notes for each in new):
        show(f"note: {remarks}")
    if others:
        show(f"note: {others:,} other files are no DICOM and were left alone")
    show(
        f"note: {out / 'names.csv'} (and failed.csv) tells the original names: do not pass it on"
        if rename
        else "note: names of files and folders were kept; if they tell who it is, use --rename"
    )
