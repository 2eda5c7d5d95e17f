"""The audit as one self-contained HTML page: no script, no network, figures inline."""

import io
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import matplotlib as mpl
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from xray_lightning.report.figures import COLOURS

Facts = Mapping[str, Any]


def audit_page(facts: Facts) -> str:
    """The page of :func:`~xray_lightning.audit.facts.audit_facts` with its "gist" and "command"."""
    loader = PackageLoader("xray_lightning.report", "")
    environment = Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    environment.filters |= {
        "number": _number,
        "percent": _percent,
        "interval": _interval,
        "p_value": p_text,
    }
    figures = {"ratios": ratio_figure(facts), "baselines": baseline_figure(facts)}
    if facts["decomposition"]:
        figures["decomposition"] = decomposition_figure(facts["decomposition"])
    return environment.get_template("audit.html.j2").render(**facts, figures=figures)


def ratio_figure(facts: Facts) -> Markup:
    """Prevalence in test over that in train and val, with its interval, on a log axis."""
    rows = [row for row in facts["shift"]["prevalence"] if row["ratio"]]

    def draw(axes: Axes) -> None:
        axes.axvline(1, color="#666666", linewidth=0.8)
        _dots(axes, [(row["name"], row["ratio"], row["ratio_interval"]) for row in rows])
        axes.set_xscale("log", base=2)
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axes.set_xlabel("prevalence in test / in train+val")

    return _svg("ratios", 0.32 * len(rows) + 0.9, draw)


def baseline_figure(facts: Facts) -> Markup:
    """Mean AUROC of the scores that need no image."""
    rows = [row for row in facts["baselines"] if row["result"]]

    def draw(axes: Axes) -> None:
        axes.axvline(0.5, color="#666666", linewidth=0.8)
        results = [(row["name"], row["result"]["mean"], row["result"]["interval"]) for row in rows]
        _dots(axes, results)
        axes.set_xlabel("mean AUROC on test (0.5: chance)")

    return _svg("baselines", 0.36 * len(rows) + 0.9, draw)


def decomposition_figure(found: Facts) -> Markup:
    """Mean AUROC on validation, on the re-weighted test part, and on test."""
    rows = [
        ("validation", found["val"], (None, None)),
        ("test, validation's mix", found["reweighted"], (None, None)),
        ("test", found["test"], (None, None)),
    ]

    def draw(axes: Axes) -> None:
        _dots(axes, rows)
        for place, (_, value, _) in enumerate(rows):
            if value is not None:
                axes.annotate(f"{value:.3f}", (value, place), (6, 5), textcoords="offset points")
        axes.margins(x=0.25)
        axes.set_xlabel("mean AUROC")

    return _svg("decomposition", 2.0, draw)


def _dots(axes: Axes, rows: Sequence[tuple[str, float | None, Sequence[float | None]]]) -> None:
    """A point and its interval for each named row, from the top down."""
    for place, (_, value, (low, high)) in enumerate(rows):
        if value is not None:
            axes.plot(value, place, "o", color=COLOURS[0], markersize=5)
        if low is not None and high is not None:
            axes.plot([low, high], [place, place], color=COLOURS[0], linewidth=1.6)
    axes.set_yticks(range(len(rows)), [name for name, _, _ in rows])
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.grid(axis="x", color="#DDDDDD", linewidth=0.6)
    axes.spines[["top", "right", "left"]].set_visible(False)


def _svg(name: str, height: float, draw: Callable[[Axes], None]) -> Markup:
    """A drawing as an SVG element; its ids start from ``name``, so that two do not clash."""
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": name, "font.size": 10}):
        figure = Figure(figsize=(5.2, height), layout="constrained")
        draw(figure.subplots())
        buffer = io.StringIO()
        figure.savefig(
            buffer, format="svg", metadata=dict.fromkeys(("Date", "Creator", "Type", "Format"))
        )
    text = buffer.getvalue()
    text = re.sub(r'(\bid="|href="#|url\(#)', rf"\1{name}-", text[text.index("<svg") :])
    return Markup(text.replace("<svg ", f'<svg role="img" id="figure-{name}" ', 1))


def p_text(value: float | None) -> str:
    """A p value, never as 0.

    >>> p_text(1e-9), p_text(0.25)
    ('< 0.001', '0.250')
    """
    return "< 0.001" if value is not None and value < 0.001 else _number(value)


def _number(value: float | None, digits: int = 3) -> str:
    return "-" if value is None else f"{value:,.{digits}f}"


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f} %"


def _interval(pair: Sequence[float | None], digits: int = 3, scale: float = 1) -> str:
    low, high = pair
    if low is None or high is None:
        return "-"
    return f"{scale * low:.{digits}f} to {scale * high:.{digits}f}"
