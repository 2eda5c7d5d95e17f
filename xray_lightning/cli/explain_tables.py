"""What ``xray explain`` shows on the terminal."""

from collections.abc import Mapping
from typing import Any

from rich.table import Table
from rich.text import Text

from xray_lightning.cli.localisation_table import localisation_table, published_lines
from xray_lightning.cli.shortcuts import shortcut_lines
from xray_lightning.cli.tables import number
from xray_lightning.localisation.located import CONTROLS
from xray_lightning.report.published import PublishedBoxes
from xray_lightning.saliency.facts import TESTS

Facts = Mapping[str, Any]
SHOWN = {"pointing_game": "pointing game", "energy": "energy inside", "average_precision": "AP",
         "centre": "centre", "iou": "IoU", "iobb": "IoBB"}  # fmt: skip


def explain_lines(facts: Facts) -> list[Table | str]:
    """Tables and lines for the terminal."""
    lines: list[Table | str] = []
    if facts["localisation"]:
        lines += place_lines(facts)
    else:
        lines.append(f"note: nothing to localise: {facts['localisation_missing']}")
    if facts["saliency"]:
        lines += saliency_lines(facts["saliency"])
    elif facts["saliency_missing"]:
        lines.append(f"note: no saliency tests: {facts['saliency_missing']}")
    if facts["shortcuts"]:
        lines += shortcut_lines(facts["shortcuts"], facts["checkpoint"])
    return lines


def place_lines(facts: Facts) -> list[Table | str]:
    """Localisation: per label for the first method, the mean for all of them."""
    found, method = facts["localisation"], facts["methods"][0]
    published = [PublishedBoxes(**row) for row in facts["published"]]
    title = f"{facts['subset']} part of {facts['data']}, split {facts['split']['name']} "
    title += f"[{facts['fingerprint']}]: maps against boxes"
    return [
        localisation_table(found, method, title, published),
        methods_table(found),
        f"boxes of maps: {threshold_line(found)}; intervals: {found['settings']['draws']:,} "
        "bootstrap draws of patients; random, centre Gaussian and mean box need no network, the "
        "ceiling is the finding itself at the map's resolution",
        *published_lines(published),
    ]


def methods_table(found: Facts) -> Table:
    """Every method and control, the mean over the labels."""
    table = Table(
        title=Text(f"mean over {found['mean']['labels']} labels"),
        title_justify="left",
        header_style="bold",
    )
    table.add_column("map")
    for name in [*SHOWN.values(), "T(IoU) 0.1", "T(IoBB) 0.1", "false boxes an image (AFP)"]:
        table.add_column(name, justify="right")
    drawn_line = False
    for method, figures in found["mean"]["methods"].items():
        if method.startswith(CONTROLS) and not drawn_line:
            table.add_section()
            drawn_line = True
        cells = [_with_interval(figures[name]) for name in SHOWN]
        cells += [number(figures[name]["0.1"]["value"]) for name in ("t_iou", "t_iobb", "afp")]
        table.add_row(method, *cells)
    return table


def threshold_line(found: Facts) -> str:
    """Where the thresholds came from."""
    every = [each for methods in found["thresholds"].values() for each in methods.values()]
    stated = [each["shares"] for each in every if each["source"] == "stated"]
    parts = []
    if tuned := len(every) - len(stated):
        parts.append(f"threshold tuned on validation for {tuned} of {len(every)} (label, map)")
    if stated:
        shares = ", ".join(f"{share:.3f}" for share in stated[0])
        parts.append(f"stated thresholds of {shares} of a map's range (Wang 2017)")
    return ", else ".join(parts)


def saliency_lines(found: Facts) -> list[Table | str]:
    """Verdict of each test, a column a method."""
    first = next(iter(found.values()))
    title = f"saliency tests, {first['finding']}"
    if "images" in first:
        title += f": {first['images']} images of {first['patients']} patients"
    table = Table(title=Text(title), title_justify="left", header_style="bold")
    table.add_column("test")
    for method in found:
        table.add_column(method)
    for test in TESTS:
        table.add_row(test, *(each.get(test, each)["verdict"] for each in found.values()))
    table.add_section()
    table.add_row("all", *(each["verdict"] for each in found.values()), style="bold")
    reasons = {
        f"note: {test} was not run: {each[test]['reason']}"
        for each in found.values()
        for test in TESTS
        if test in each and "reason" in each[test]
    }
    for key in ("reason", "note"):
        reasons |= {f"note: {each[key]}" for each in found.values() if each.get(key)}
    return [table, *sorted(reasons)]


def _with_interval(figure: Facts) -> str:
    if not figure["interval"]:
        return number(figure["value"])
    low, high = figure["interval"]
    return f"{number(figure['value'])} ({low:.2f}-{high:.2f})"
