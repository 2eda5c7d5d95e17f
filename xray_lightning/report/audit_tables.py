"""The audit of a split as tables for the terminal."""

from collections.abc import Sequence

from rich.table import Table

from xray_lightning.audit.run import Audit
from xray_lightning.audit.shift import Quantity
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
        ratio = number(row.ratio, 2), format_interval(row.ratio_interval, 2)
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
        table.add_row(
            row.name, number(row.result.mean), format_interval(row.result.interval, 3), defined
        )
    return table


def format_interval(interval: Interval, digits: int) -> str:
    """Both ends, or "-"."""
    low, high = interval
    return "-" if low != low else f"{low:.{digits}f}-{high:.{digits}f}"
