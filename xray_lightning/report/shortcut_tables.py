"""Shortcut tests as tables for the terminal."""

from rich.table import Table

from xray_lightning.audit.shortcuts.checks import UNDECIDED
from xray_lightning.audit.shortcuts.occlusion import ScoreDrop
from xray_lightning.audit.shortcuts.run import CAUGHT, Shortcuts, write_gist
from xray_lightning.metrics.intervals import Interval
from xray_lightning.report.audit_tables import format_interval
from xray_lightning.report.terminal import empty_table, number


def shortcut_lines(shortcuts: Shortcuts, path: str) -> list[Table | str]:
    """Tables of the labels and the probes of a checkpoint, and why labels are not cleared."""
    reasons = [
        f"{name} {verdict}: {label.reason}"
        for verdict in (CAUGHT, UNDECIDED)
        for name, label in shortcuts.labels.items()
        if label.verdict == verdict
    ]
    return [
        f"{path} on {shortcuts.data}, {shortcuts.images:,} images [{shortcuts.fingerprint}]",
        _label_table(shortcuts),
        _drop_table(shortcuts),
        _probe_table(shortcuts),
        *reasons,
        write_gist(shortcuts),
    ]


def _label_table(shortcuts: Shortcuts) -> Table:
    table = empty_table("read off the film?", "label", "AUROC", "of metadata", "verdict")
    for name, label in shortcuts.labels.items():
        floor = label.floor.value if label.floor else None
        table.add_row(name, number(label.auroc.value), number(floor), label.verdict)
    return table


def _drop_table(shortcuts: Shortcuts) -> Table:
    """A row a label: what covering each region costs."""
    regions = list(next(iter(shortcuts.labels.values())).covered)
    title = "lost by covering: AUROC / standard deviations between positives and negatives"
    table = empty_table(title, "label", *regions)
    for name, label in shortcuts.labels.items():
        table.add_row(name, *(_drops(label.covered[region]) for region in regions))
    return table


def _drops(drop: ScoreDrop) -> str:
    return f"{number(drop.auroc.region.value, 2)} / {number(drop.logit.region.value, 2)}"


def _probe_table(shortcuts: Shortcuts) -> Table:
    title = "AUROC of a linear probe of the features"
    table = empty_table(title, "attribute", "positive", "trained", "random weights")
    for name, probe in shortcuts.probes.items():
        table.add_row(
            name,
            f"{probe.positive:,}/{probe.known:,}",
            _estimate(probe.trained, probe.interval),
            _estimate(probe.random, probe.random_interval),
        )
    return table


def _estimate(value: float, interval: Interval) -> str:
    return "-" if value != value else f"{value:.3f} ({format_interval(interval, 2)})"
