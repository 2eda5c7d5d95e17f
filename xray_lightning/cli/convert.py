"""``xray convert``: a tree of DICOM files becomes PNG files and a table without identities."""

import sys
from pathlib import Path

from xray_lightning.cli.failures import PartialError
from xray_lightning.data.convert import NAMES, PngOptions, convert_folder
from xray_lightning.progress import show_progress
from xray_lightning.report.terminal import show
from xray_lightning.writing import json_text


def convert_tree(
    root: Path,
    out: Path,
    *,
    bits: int,
    workers: int | None,
    rename: bool,
    frame: int | None = None,
    colour: str | None = None,
    as_json: bool = False,
) -> None:
    """Convert every DICOM file below ``root``, see ``convert_folder``."""
    options = PngOptions(bits, rename, frame, colour)
    with show_progress("converting", shown=sys.stderr.isatty()) as progress:
        done = convert_folder(root, out, options, workers=workers, progress=progress)
    if as_json:
        print(json_text(done.to_json()))
    else:
        show(f"{done.converted:,} images converted, {done.before:,} were before: {out}")
        if done.notes:
            show(f"note: {done.notes}")
        if done.others:
            show(f"note: {done.others:,} other files are not DICOM and were left alone")
        show(
            f"note: {out / NAMES} (and failed.csv) tells the original names: do not pass it on"
            if rename
            else "note: names of files and folders were kept; if they tell who it is: rename=true"
        )
    if failed := len(done.failures):
        files, named = done.converted + done.before + failed, ", ".join([*done.failures][:3])
        more = f" and {failed - 3:,} more" if failed > 3 else ""
        raise PartialError(
            f"{failed:,} of {files:,} files could not be converted: {named}{more}; "
            f"{out / 'failed.csv'} says why, and running this again tries them again"
        )
