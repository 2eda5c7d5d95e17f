from pathlib import Path
from typing import Any

import pytest

from xray_lightning.cli import folders
from xray_lightning.cli.folders import writable
from xray_lightning.errors import ConfigError


def test_a_folder_is_made_and_stays_empty(tmp_path: Path) -> None:
    folder = writable(tmp_path / "run" / "explain")
    assert folder.is_dir()
    assert not list(folder.iterdir())
    assert writable(folder) == folder


def test_a_file_where_a_folder_should_be(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("")
    for folder in (tmp_path / "run", tmp_path / "run" / "explain"):
        with pytest.raises(ConfigError, match=rf"cannot write to the folder {folder} \("):
            writable(folder)


def test_a_folder_without_the_right_to_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(**_: Any) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(folders, "TemporaryFile", refuse)
    with pytest.raises(ConfigError, match=r"\(Permission denied\): make it writable, or name"):
        writable(tmp_path)
