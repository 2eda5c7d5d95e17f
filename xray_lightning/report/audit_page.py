"""The audit as one self-contained HTML page: no script, no network, figures inline."""

from markupsafe import Markup

from xray_lightning.report.page import Facts, dots_figure, number, page

NONE = (None, None)  # no interval


def audit_page(facts: Facts) -> str:
    """The page of :func:`~xray_lightning.audit.run.audit_facts` with its "gist" and "command"."""
    return page("audit.html.j2", {**facts, "figures": audit_figures(facts)})


def audit_figures(facts: Facts) -> dict[str, Markup]:
    """Ratios of prevalence, baselines and, where there are predictions, the decomposition."""
    ratios = [row for row in facts["shift"]["prevalence"] if row["ratio"]]
    judged = [row for row in facts["baselines"] if row["result"]]
    results = [(row["name"], row["result"]["mean"], row["result"]["interval"]) for row in judged]
    figures = {
        "ratios": dots_figure(
            "ratios",
            "prevalence in test / in train+val",
            [(row["name"], row["ratio"], row["ratio_interval"]) for row in ratios],
            1,
            log=True,
        ),
        "baselines": dots_figure("baselines", "mean AUROC on test (0.5: chance)", results, 0.5),
    }
    if found := facts["decomposition"]:
        named = {"validation": "val", "test, validation's mix": "reweighted", "test": "test"}
        rows = [(f"{name}: {number(found[key])}", found[key], NONE) for name, key in named.items()]
        figures["decomposition"] = dots_figure("decomposition", "mean AUROC", rows, None)
    return figures
