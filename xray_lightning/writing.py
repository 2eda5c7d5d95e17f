"""The one way to write a file: beside its name, synchronised, renamed; whole or not at all."""

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any


@contextmanager
def open_replacing(path: Path, mode: str = "w", **options: Any) -> Iterator[IO[Any]]:
    """Open a file that takes its final name only when the block has ended without an error.

    The name beside it holds the process id, so that two processes never write into one file.

    Args:
        path: final name; its folder is made.
        mode: "w" for text (UTF-8 unless ``encoding=`` says otherwise) or "wb".
        options: of :meth:`pathlib.Path.open`.

    Raises:
        OSError: with the final name as its file name.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    if "b" not in mode:
        options = {"encoding": "utf-8", **options}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with partial.open(mode, **options) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except OSError as error:
        if error.filename == str(partial):
            error.filename = str(path)
        raise
    finally:
        partial.unlink(missing_ok=True)


def write_json(values: Mapping[str, Any], path: Path) -> None:
    """Write plain values as JSON.

    Raises:
        ValueError: a number is NaN or infinite.
    """
    text = json.dumps(values, indent=2, allow_nan=False) + "\n"
    with open_replacing(path) as file:
        file.write(text)
