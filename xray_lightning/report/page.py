"""What the HTML pages share: templates, words for numbers, drawings inside the page; no network."""

import io
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import matplotlib as mpl
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from xray_lightning.records import patients_text
from xray_lightning.report.figures import COLOURS

Facts = Mapping[str, Any]
Row = tuple[str, float | None, Sequence[float | None]]  # name, value, ends of its interval
INK = "#1a1a1a"  # in a drawing: the colour of the page's text, whatever that is


def page(template: str, facts: Facts) -> str:
    """A page from one of this folder's templates; what is in ``facts`` is escaped."""
    environment = Environment(
        loader=PackageLoader("xray_lightning.report", ""),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "number": number,
        "percent": _percent,
        "interval": interval,
        "p_value": p_text,
        "whole": lambda count: "-" if count is None else f"{count:,}",
        "patients": patients_text,
    }
    return environment.get_template(template).render(**facts)


def svg(
    name: str,
    title: str,
    size: tuple[float, float],
    draw: Callable[..., None],
    *,
    columns: int = 1,
    margins: tuple[float, float] | None = None,
) -> Markup:
    """A drawing as an SVG element, called ``figure-<name>``.

    Args:
        name: unique on the page; all ids in the drawing start with it.
        title: what a screen reader says of it.
        size: width and height in inches.
        draw: called with so many axes, side by side.
        columns: how many.
        margins: left and below, in inches; None: fitted to the words, which takes three times as
            long.
    """
    inked = ("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color")
    settings: dict[Any, Any] = {
        "svg.fonttype": "none",
        "svg.hashsalt": name,
        "text.parse_math": False,
        "font.size": 10,
    }
    with mpl.rc_context(settings | dict.fromkeys(inked, INK)):
        figure = Figure(figsize=size, layout=None if margins else "constrained")
        if margins:
            (width, height), (left, low), end = size, margins, 0.1
            gap = columns * left / (width - columns * left - end)  # in widths of the axes
            figure.subplots_adjust(
                left / width, low / height, 1 - end / width, 1 - end / height, gap
            )
        draw(*figure.subplots(1, columns, squeeze=False)[0])
        buffer = io.StringIO()
        unsaid = dict.fromkeys(("Date", "Creator", "Type", "Format"))
        figure.savefig(buffer, format="svg", transparent=True, metadata=unsaid)
    text = buffer.getvalue()
    text = re.sub(r'(\bid="|href="#|url\(#)', rf"\1{name}-", text[text.index("<svg") :])
    opening = f'<svg role="img" aria-label="{escape(title)}" id="figure-{name}" '
    return Markup(text.replace("<svg ", opening, 1).replace(INK, "currentColor"))


def dots_figure(
    name: str, title: str, rows: Sequence[Row], line: float | None, *, log: bool = False
) -> Markup:
    """A point and its interval for each row, from the top down.

    Args:
        name: see :func:`svg`.
        title: under the axis.
        rows: what is drawn.
        line: a value to compare with, None: none.
        log: whether the axis is logarithmic.

    Returns:
        Nothing where there is no row.
    """
    if not rows:
        return Markup("")

    def draw(axes: Axes) -> None:
        if line is not None:
            axes.axvline(line, color=INK, alpha=0.6, linewidth=0.8)
        for place, (_, value, (low, high)) in enumerate(rows):
            if value is not None:
                axes.plot(value, place, "o", color=COLOURS[0], markersize=5)
            if low is not None and high is not None:
                axes.plot([low, high], [place, place], color=COLOURS[0], linewidth=1.6)
        axes.set_yticks(range(len(rows)), [row[0] for row in rows])
        axes.set_ylim(len(rows) - 0.5, -0.5)
        axes.grid(axis="x", color=INK, alpha=0.15, linewidth=0.6)
        axes.spines[["top", "right", "left"]].set_visible(False)
        if log:
            axes.set_xscale("log", base=2)
            axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axes.set_xlabel(title)

    return svg(name, title, (4.6, 0.27 * len(rows) + 0.8), draw)


def p_text(value: float | None) -> str:
    """A p value, never as 0.

    >>> p_text(1e-9), p_text(0.25)
    ('< 0.001', '0.250')
    """
    return "< 0.001" if value is not None and value < 0.001 else number(value)


def number(value: float | None, digits: int = 3) -> str:
    """A figure, "-" where it is undefined.

    >>> number(1234.5, 1), number(None)
    ('1,234.5', '-')
    """
    return "-" if value is None or value != value else f"{value:,.{digits}f}"  # None or NaN


def interval(pair: Sequence[float | None] | None, digits: int = 3, scale: float = 1) -> str:
    """Both ends, "-" where they are undefined.

    >>> interval([0.5, 0.75]), interval(None)
    ('0.500 to 0.750', '-')
    """
    low, high = pair or (None, None)
    if low is None or high is None:
        return "-"
    return f"{scale * low:.{digits}f} to {scale * high:.{digits}f}"


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f} %"
