"""Shortcut tests as tables for the terminal."""

from rich.table import Table

from xray_lightning.audit.shortcuts.checks import UNDECIDED
from xray_lightning.audit.shortcuts.run import CAUGHT, Shortcuts, write_gist
from xray_lightning.metrics.intervals import Interval
from xray_lightning.report.terminal import empty_table, interval_text, number


def shortcut_lines(shortcuts: Shortcuts, path: str) -> list[Table | str]:
    """Tables of the labels and the probes of a checkpoint, and why labels are not cleared."""
    labels = shortcuts.labels
    regions = list(next(iter(labels.values())).covered)
    read = empty_table("read off the film?", "label", "AUROC", "of metadata", "verdict")
    title = "lost by covering: AUROC / standard deviations between positives and negatives"
    lost = empty_table(title, "label", *regions)
    for name, label in labels.items():
        floor = label.floor.value if label.floor else None
        read.add_row(name, number(label.auroc.value), number(floor), label.verdict)
        drops = [label.covered[region] for region in regions]
        pairs = ((drop.auroc.region.value, drop.logit.region.value) for drop in drops)
        lost.add_row(name, *(f"{number(auroc, 2)} / {number(gap, 2)}" for auroc, gap in pairs))
    title = "AUROC of a linear probe of the features"
    probes = empty_table(title, "attribute", "positive", "trained", "random weights")
    for name, probe in shortcuts.probes.items():
        trained = _with_interval(probe.trained, probe.interval)
        random = _with_interval(probe.random, probe.random_interval)
        probes.add_row(name, f"{probe.positive:,}/{probe.known:,}", trained, random)
    reasons = [
        f"{name} {verdict}: {label.reason}"
        for verdict in (CAUGHT, UNDECIDED)
        for name, label in labels.items()
        if label.verdict == verdict
    ]
    images = f"{shortcuts.images:,} images [{shortcuts.fingerprint}]"
    heading = f"{path} on {shortcuts.data}, {images}"
    return [heading, read, lost, probes, *reasons, write_gist(shortcuts)]


def _with_interval(value: float, interval: Interval) -> str:
    return "-" if value != value else f"{value:.3f} ({interval_text(interval, 2)})"
