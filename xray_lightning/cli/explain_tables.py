"""What ``xray explain`` shows on the terminal."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table

from xray_lightning.audit.shortcuts.run import Shortcuts
from xray_lightning.cli.localisation_table import localisation_table, published_lines
from xray_lightning.evaluation.published import PublishedBoxes
from xray_lightning.explain.located import CONTROLS
from xray_lightning.explain.sanity.facts import TESTS
from xray_lightning.report.audit_tables import shortcut_lines
from xray_lightning.report.terminal import empty_table, number

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
        lines += shortcut_lines(Shortcuts.from_json(facts["shortcuts"]), facts["checkpoint"])
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
        *energy_line(found, facts["methods"]),
        *published_lines(published),
    ]


def methods_table(found: Facts) -> Table:
    """Every method and control, the mean over the labels."""
    columns = (*SHOWN.values(), "T(IoU) 0.1", "T(IoBB) 0.1", "false boxes an image (AFP)")
    table = empty_table(f"mean over {found['mean']['labels']} labels", "map", *columns)
    drawn_line = False
    for method, figures in found["mean"]["methods"].items():
        if method.startswith(CONTROLS) and not drawn_line:
            table.add_section()
            drawn_line = True
        cells = [_with_interval(figures[name]) for name in SHOWN]
        cells += [number(figures[name]["0.1"]["value"]) for name in ("t_iou", "t_iobb", "afp")]
        fewer = figures["labels"] < found["mean"]["labels"]
        table.add_row(f"{method}, {figures['labels']} labels" if fewer else method, *cells)
    return table


def energy_line(found: Facts, methods: Sequence[str]) -> list[str]:
    """How many maps the energy inside could not be taken of."""
    labels = found["labels"].values()
    maps = sum(each["images"] for each in labels)
    lost = {m: sum(each["methods"][m]["without_energy"] for each in labels) for m in methods}
    shares = [f"{name} {count:,}" for name, count in lost.items() if count]
    if not shares:
        return []
    return [f"note: maps without a positive value, no energy, of {maps:,}: {', '.join(shares)}"]


def threshold_line(found: Facts) -> str:
    """Where the thresholds came from."""
    every = [each for methods in found["thresholds"].values() for each in methods.values()]
    stated = [each["shares"] for each in every if each["source"] == "stated"]
    subsets = []
    if tuned := len(every) - len(stated):
        subsets.append(f"threshold tuned on validation for {tuned} of {len(every)} (label, map)")
    if stated:
        shares = ", ".join(f"{share:.3f}" for share in stated[0])
        subsets.append(f"stated thresholds of {shares} of a map's range (Wang 2017)")
    return ", else ".join(subsets)


def saliency_lines(found: Facts) -> list[Table | str]:
    """Verdict of each test, a column a method."""
    first = next(iter(found.values()))
    title = f"saliency tests, {first['finding']}"
    if "images" in first:
        title += f": {first['images']} images of {first['patients']} patients"
    table = empty_table(title, "test")
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
