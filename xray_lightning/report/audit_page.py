"""The audit as one self-contained HTML page: no script, no network, figures inline."""

from markupsafe import Markup

from xray_lightning.audit.run import Audit
from xray_lightning.report.drawings import Row, dots_figure
from xray_lightning.report.page import page
from xray_lightning.report.terminal import number


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
        aurocs = {
            "validation": change.val,
            "test, validation's mix": change.reweighted,
            "test": change.test,
        }
        rows: list[Row] = [
            (f"{name}: {number(auroc)}", auroc, (None, None)) for name, auroc in aurocs.items()
        ]
        figures["decomposition"] = dots_figure("decomposition", "mean AUROC", rows, None)
    return figures
