"""What the HTML pages share: templates and words for numbers; no network."""

from collections.abc import Mapping
from functools import partial
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from xray_lightning.records import patients_text
from xray_lightning.report.terminal import interval_text, number, p_text


def page(template: str, values: Mapping[str, Any]) -> str:
    """A page from one of this folder's templates; what is in ``values`` is escaped."""
    environment = Environment(
        loader=PackageLoader("xray_lightning.report", ""),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "number": number,
        "percent": lambda share: "-" if share is None else f"{100 * share:.1f} %",
        "interval": partial(interval_text, between=" to "),
        "p_value": p_text,
        "whole": lambda count: "-" if count is None else f"{count:,}",
        "patients": patients_text,
    }
    return environment.get_template(template).render(**values)
