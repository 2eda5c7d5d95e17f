"""A run as a Hugging Face model card, and as the sheets of CLAIM 2024 and TRIPOD+AI.

Only what the run's files hold is told, and no fingerprint, path or id: a card may be published.
"""

from importlib.resources import files
from pathlib import Path

import yaml  # type: ignore[import-untyped]

from xray_lightning.errors import ConfigError
from xray_lightning.report.page import page
from xray_lightning.report.run import Run
from xray_lightning.report.run_page import report_values
from xray_lightning.writing import Json, open_replacing

SHEETS = ("claim", "tripod_ai")  # NAME.yaml has the items, and where their numbers are from
NO_AUDIT = "a card is made without the label table; report.html has the audit"


def card_text(run: Run) -> str:
    """A model card with metadata, README.md of a repository.

    Raises:
        ConfigError: the run's config.yaml is damaged.
    """
    return page("card.md.j2", _values(run))


def write_card(run: Run, folder: Path | None = None) -> list[Path]:
    """Write README.md, claim.md and tripod_ai.md into RUN/card; what only people know is blank.

    The numbers of the items are of Tejani et al., Radiology: AI 2024, and Collins et al., BMJ 2024,
    by public copies of the checklists: to be checked against the papers.
    """
    values, folder = _values(run), folder or run.folder / "card"
    texts = {"README": page("card.md.j2", values)}
    for name in SHEETS:
        sheet = yaml.safe_load(files("xray_lightning.report").joinpath(f"{name}.yaml").read_text())
        texts[name] = page("sheet.md.j2", values | {"sheet": sheet})
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in texts.items():
        with open_replacing(folder / f"{name}.md") as file:
            file.write(text)
    return [folder / f"{name}.md" for name in texts]


def _values(run: Run) -> Json:
    """What the templates see: the values of report.json, and the settings."""
    try:
        config = dict(yaml.safe_load(run.config))
    except (yaml.YAMLError, TypeError, ValueError) as error:
        raise ConfigError(f"{run.folder}/config.yaml is damaged or no plain settings") from error
    own = {"environment": run.environment, "listed": run.evaluation.origin.data_images}
    return {**report_values(run, None, NO_AUDIT), **own, "config": config}
