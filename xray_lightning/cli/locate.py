"""Where the configuration lies, and the name of a new run."""

import re
from datetime import datetime
from pathlib import Path

from xray_lightning.errors import ConfigError, DataNotFoundError
from xray_lightning.processes import slurm_step


def conf_dir() -> Path:
    """``conf/`` inside an installed package, else at the root of the repository.

    Raises:
        DataNotFoundError: neither is there: a broken installation.
    """
    package = Path(__file__).resolve().parents[1]
    for place in (package / "conf", package.parent / "conf"):
        if (place / "train.yaml").is_file():
            return place
    raise DataNotFoundError(
        f"no conf/train.yaml in {package} or beside it: install the package again"
    )


def run_folder(resume: str | None, *names: str, now: datetime | None = None) -> str:
    """The folder of a run: that of the resumed one, or ``outputs/<date>_<time>_<model>_<split>``.

    Slurm's tasks each work it out, at their own time: there ``slurm-<job>.<step>`` replaces it.

    Raises:
        ConfigError: there is no run to resume.

    >>> run_folder(None, "xception", "patient", now=datetime(2026, 1, 2, 3, 4, 5))
    'outputs/2026-01-02_03-04-05_xception_patient'
    """
    if resume:
        if not (Path(resume) / "config.yaml").is_file():  # before Hydra makes the folder
            raise ConfigError(f"resume={resume}: no config.yaml there; name the folder of a run")
        return resume
    name = re.sub(r"[^\w.-]+", "_", "_".join(names))
    return f"outputs/{slurm_step() or f'{now or datetime.now():%Y-%m-%d_%H-%M-%S}'}_{name}"
