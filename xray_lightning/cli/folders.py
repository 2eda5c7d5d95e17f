"""Folders to write to, refused before the work that would be lost."""

from pathlib import Path
from tempfile import TemporaryFile

from xray_lightning.errors import ConfigError


def writable(folder: Path) -> Path:
    """The folder, made if need be.

    Raises:
        ConfigError: it cannot be made, or nothing can be written to it.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise ConfigError(
            f"cannot write to the folder {folder} ({error.strerror}): make it writable, or name "
            "another run directory"
        ) from error
    return folder
