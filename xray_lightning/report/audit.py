"""An audit of a split, new films beside validation: tables, and one self-contained HTML page."""

from typing import TYPE_CHECKING

from markupsafe import Markup
from rich.table import Table

from xray_lightning.audit.run import Audit, Hospitals
from xray_lightning.metrics.drift import FEATURES
from xray_lightning.report.drawings import Row, dots_figure
from xray_lightning.report.page import page, say
from xray_lightning.report.terminal import tabulate
from xray_lightning.wording import number

if TYPE_CHECKING:  # needs torch
    from xray_lightning.deploy.drift import Drift


def audit_page(audit: Audit) -> str:
    """The page of an audit: what audit.json says, with figures."""
    return page("audit.html.j2", {**audit.to_json(), "figures": audit_figures(audit)})


def audit_figures(audit: Audit) -> dict[str, Markup]:
    """Ratios of prevalence, baselines and, where there are predictions, the decomposition."""
    ratios: list[Row] = [
        (row.name, row.ratio, row.ratio_interval) for row in audit.shift.prevalence if row.ratio > 0
    ]
    results: list[Row] = [
        (row.name, row.result.mean, row.result.interval) for row in audit.baselines if row.result
    ]
    figures = {
        "ratios": dots_figure("ratios", "prevalence in test / in train+val", ratios, 1, log=True),
        "baselines": dots_figure("baselines", "mean AUROC on test (0.5: chance)", results, 0.5),
    }
    if change := audit.decomposition:
        names = "validation", "test, validation's mix", "test"
        aurocs = zip(names, (change.val, change.reweighted, change.test), strict=True)
        rows: list[Row] = [(f"{k}: {number(auroc)}", auroc, (None, None)) for k, auroc in aurocs]
        figures["decomposition"] = dots_figure("decomposition", "mean AUROC", rows, None)
    return figures


def audit_tables(audit: Audit) -> list[Table | str]:
    """Prevalence, metadata and baselines, and what their intervals are."""
    split = f"split {audit.split['name']} [{audit.split['fingerprint']}]"
    hospitals = hospital_tables(audit.hospitals) if audit.hospitals else []
    return [
        *hospitals,
        tabulate("shift", f"{audit.data}, {split}: prevalence in %", audit.shift.prevalence),
        tabulate("shift", "metadata", audit.shift.metadata),
        "ratio: test / train+val; p: corrected over the rows (Holm)",
        tabulate("baselines", audit),
        f"intervals: 95 % ({audit.leakage.patients.drawn})",
    ]


def hospital_tables(hospitals: Hospitals) -> list[Table | str]:
    """Sizes, and each other hospital beside the first."""
    tables: list[Table | str] = [tabulate("sizes", hospitals.sizes)]
    for other, shift in hospitals.shifts.items():
        title = f"{other} beside {hospitals.base}"
        rows = [*shift.prevalence, *shift.metadata]
        alone = [row.name for row in rows if not all(row.known.values())]
        for name, rows in {"prevalence in %": shift.prevalence, "metadata": shift.metadata}.items():
            both = [row for row in rows if row.name not in alone]
            tables += [tabulate("shift", f"{title}: {name}", both)] if both else []
        tables += [f"not known in both: {', '.join(alone)}"] if alone else []
    return [*tables, "ratio: the other hospital / the first; p: corrected over the rows (Holm)"]


def drift_lines(drift: "Drift") -> list[Table | str]:
    """What moved, prevalences, and what both say."""
    return [tabulate("drift", drift), tabulate("new_prevalences", drift), *say("drift", drift)]


def drift_page(drift: "Drift") -> str:
    """The same with a figure of what moved by how much."""
    tests = [test for test in drift.tests if test.name != FEATURES]
    rows: list[Row] = [(test.name, test.shift.value, test.shift.interval) for test in tests]
    figure = dots_figure("shift", "moved by, standard deviations of validation", rows, 0)
    return page("drift.html.j2", {"drift": drift, "figure": figure, "said": say("drift", drift)})
