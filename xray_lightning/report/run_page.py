"""The report of a run: one self-contained HTML page and the same numbers as JSON."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from xray_lightning.audit.run import Audit
from xray_lightning.report.audit_page import audit_figures
from xray_lightning.report.page import page
from xray_lightning.report.run import RunFiles
from xray_lightning.report.run_facts import run_facts
from xray_lightning.report.run_figures import run_figures
from xray_lightning.writing import open_replacing, write_json

Facts = Mapping[str, Any]


@dataclass(frozen=True)
class Section:
    """A part of the page, drawn by ``sections/<name>.html.j2`` from the facts and figures.

    Attributes:
        name: its id on the page.
        title: its heading.
        needs: the fact without which it is left out; "": always there.
    """

    name: str
    title: str
    needs: str = ""


SECTIONS = (  # in the order of the page
    Section("verdict", "Verdict"),
    Section("results", "Results on the test set"),
    Section("published", "Published results"),
    Section("curves", "ROC and precision-recall curves"),
    Section("reliability", "Do scores mean probabilities?"),
    Section("points", "Operating points"),
    Section("subgroups", "Subgroups"),
    Section("audit", "Audit of the split"),
    Section("explain", "Where does it look?", "explain"),
    Section("training", "Training"),
    Section("pictures", "Pictures"),
    Section("reproduce", "How to reproduce"),
    Section("unknown", "What is not known"),
)


def run_page(run: RunFiles, facts: Facts) -> str:
    """The page of :func:`~xray_lightning.report.run_facts.run_facts`."""
    figures = run_figures(run, facts)
    audited = audit_figures(Audit.from_json(facts["audit"])) if facts["audit"] else {}
    shown = [each for each in SECTIONS if not each.needs or facts.get(each.needs)]
    return page("run.html.j2", {**facts, "sections": shown, "figures": {**figures, **audited}})


def write_report(run: RunFiles, audit: Facts | None, audit_missing: str = "") -> dict[str, Any]:
    """Write report.html and report.json into the run's folder, each in one step.

    Args:
        run: its files.
        audit: of its split, with its "gist"; None: there is none.
        audit_missing: why.

    Returns:
        What stands in report.json.
    """
    facts = run_facts(run, audit, audit_missing)
    with open_replacing(run.folder / "report.html") as file:
        file.write(run_page(run, facts))
    write_json(facts, run.folder / "report.json")
    return facts
