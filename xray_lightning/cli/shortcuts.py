"""``xray shortcuts``: which labels of a checkpoint are read off the film instead of the chest."""

import json
import sys
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

from rich.table import Table

from xray_lightning.audit.shortcuts.facts import CAUGHT, subset_shortcuts
from xray_lightning.audit.shortcuts.verdicts import UNDECIDED
from xray_lightning.cli.evaluate import home, opened
from xray_lightning.deploy.classifier import find_device
from xray_lightning.folders import prepare_folder
from xray_lightning.report.terminal import empty_table, number, show
from xray_lightning.writing import write_json


def shortcuts(checkpoints: Sequence[Path], overrides: Sequence[str], as_json: bool) -> None:
    """Test checkpoints on the test set of their own data, or of other data by overrides.

    Raises:
        XrayError: see :func:`~xray_lightning.cli.evaluate.opened`.
    """
    found: dict[str, Any] = {}
    for path in checkpoints:
        with redirect_stdout(sys.stderr if as_json else sys.stdout):  # its notes are no JSON
            at_hand = opened(path, overrides)
        data = at_hand.data
        data.split = at_hand.splits["test"]
        net = at_hand.checkpoint.build_net().to(find_device("auto"))
        folder = prepare_folder(at_hand.run_dir or home(path))
        facts = subset_shortcuts(net, data, draws=at_hand.config.draws)
        facts["weights_sha256"] = at_hand.checkpoint.weights_sha256
        facts |= {"data": data.source.title, "fingerprint": data.split.subset_fingerprints["test"]}
        found[str(path)] = facts
        write_json(facts, folder / "shortcuts.json")
        if not as_json:
            show(*shortcut_lines(facts, str(path)))
    if as_json:
        print(json.dumps(found, indent=2, allow_nan=False))
    elif len(found) > 1:
        show(*(f"{path}: {gist(facts)}" for path, facts in found.items()))


def shortcut_lines(facts: Mapping[str, Any], path: str) -> list[Table | str]:
    """Tables and lines for the terminal."""
    return [label_table(facts, path), probe_table(facts), *sentences(facts)]


def label_table(facts: Mapping[str, Any], path: str) -> Table:
    """A row a label: what covering each region costs, with intervals, and the verdict."""
    data = f"{path} on {facts['data']}, {facts['images']:,} images [{facts['fingerprint']}]"
    title = f"{data}; lost by covering: AUROC / standard deviations between positives and negatives"
    regions = list(next(iter(facts["labels"].values()))["covered"])
    table = empty_table(title, "label", "AUROC", "metadata", *regions)
    table.add_column("verdict")
    for label, each in facts["labels"].items():
        floor = each.get("floor", {}).get("value")
        losses = [_loss(each["covered"][name]) for name in regions]
        table.add_row(
            label, number(each["auroc"]["value"]), number(floor), *losses, each["verdict"]
        )
    return table


def probe_table(facts: Mapping[str, Any]) -> Table:
    """A row for each fact that was looked for in the features."""
    title = "AUROC of a linear probe of the features"
    table = empty_table(title, "fact", "positive", "trained", "random weights")
    for name, each in facts["probes"].items():
        pairs = (("trained", "interval"), ("random", "random_interval"))
        cells = [_ranged(each[value], each[interval]) for value, interval in pairs]
        table.add_row(name, f"{each['positive']:,}/{each['known']:,}", *cells)
    return table


def sentences(facts: Mapping[str, Any]) -> list[str]:
    """The reason of every label that is not simply cleared."""
    rows = [(label, each) for label, each in facts["labels"].items()]
    return [
        f"{label} {each['verdict']}: {each['reason']}"
        for wanted in (CAUGHT, UNDECIDED)
        for label, each in rows
        if each["verdict"] == wanted
    ] + [gist(facts)]


def gist(facts: Mapping[str, Any]) -> str:
    """Which labels were caught, and how many not, in a line."""
    verdicts = {label: each["verdict"] for label, each in facts["labels"].items()}
    caught = [label for label, verdict in verdicts.items() if verdict == CAUGHT]
    undecided = sum(verdict == UNDECIDED for verdict in verdicts.values())
    clear = len(verdicts) - len(caught) - undecided
    return f"caught: {', '.join(caught) or 'none'}; not caught: {clear}; undecided: {undecided}"


def _loss(each: Mapping[str, Any]) -> str:
    return " / ".join(number(each[name]["region"]["value"], 2) for name in ("auroc", "logit"))


def _ranged(value: float | None, interval: Sequence[float | None]) -> str:
    low, high = interval
    return number(value) + ("" if low is None else f" ({low:.2f} to {high:.2f})")
