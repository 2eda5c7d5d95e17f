"""The audit of a split, and shortcut tests, as tables for the terminal."""

from collections.abc import Sequence

from rich.table import Table

from xray_lightning.audit.run import Audit
from xray_lightning.audit.shift import Quantity
from xray_lightning.audit.shortcuts.checks import UNDECIDED
from xray_lightning.audit.shortcuts.occlusion import ScoreDrop
from xray_lightning.audit.shortcuts.run import CAUGHT, Shortcuts, write_gist
from xray_lightning.metrics.intervals import Interval
from xray_lightning.report.terminal import empty_table, number, p_text


def audit_tables(audit: Audit) -> list[Table | str]:
    """Prevalence, metadata and baselines, and what their intervals are."""
    title = (
        f"{audit.data}, split {audit.split['name']} [{audit.split['fingerprint']}]: prevalence in %"
    )
    resampled = "images" if audit.patients is None else "patients"
    return [
        _shift_table(title, audit.shift.prevalence),
        _shift_table("metadata", audit.shift.metadata),
        "ratio: test / train+val; p: corrected over the rows (Holm)",
        _baseline_table(audit),
        f"intervals: 95 % ({resampled})",
    ]


def _shift_table(title: str, rows: Sequence[Quantity]) -> Table:
    """A row for each quantity: its value in each subset, test over train+val."""
    table = empty_table(title, "", "train", "val", "train+val", "test", "ratio", "95 %", "p")
    for row in rows:
        values = [_value(row.name, value) for value in row.value.values()]
        ratio = number(row.ratio, 2), _ends(row.ratio_interval, 2)
        unit = ", %" if row.name.startswith(("sex", "view")) else ""
        table.add_row(row.name + unit, *values, *ratio, p_text(row.corrected))
    return table


def _value(name: str, value: float) -> str:
    """A mean as it is, a share in percent."""
    if name in ("age", "follow-up number", "images per patient"):
        return number(value, 2)
    return number(100 * value, 1)


def _baseline_table(audit: Audit) -> Table:
    table = empty_table(
        "mean test AUROC without looking at an image", "", "AUROC", "95 %", "labels"
    )
    for row in audit.baselines:
        if row.result is None:
            table.add_row(row.name, "-", "-", "-")
            continue
        defined = f"{row.result.defined}/{len(audit.labels)}"
        table.add_row(row.name, number(row.result.mean), _ends(row.result.interval, 3), defined)
    return table


def _ends(interval: Interval, digits: int) -> str:
    low, high = interval
    return "-" if low != low else f"{low:.{digits}f}-{high:.{digits}f}"


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
    return "-" if value != value else f"{value:.3f} ({_ends(interval, 2)})"
