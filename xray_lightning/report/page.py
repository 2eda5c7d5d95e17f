"""What the HTML pages share: templates and words for numbers; no network."""

from collections.abc import Mapping, Sequence
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from xray_lightning.records import patients_text
from xray_lightning.report.terminal import number, p_text


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
        "interval": interval,
        "p_value": p_text,
        "whole": lambda count: "-" if count is None else f"{count:,}",
        "patients": patients_text,
    }
    return environment.get_template(template).render(**values)


def interval(pair: Sequence[float | None] | None, digits: int = 3, scale: float = 1) -> str:
    """Both ends, "-" where they are undefined.

    >>> interval([0.5, 0.75]), interval(None)
    ('0.500 to 0.750', '-')
    """
    low, high = pair or (None, None)
    if low is None or high is None:
        return "-"
    return f"{scale * low:.{digits}f} to {scale * high:.{digits}f}"
