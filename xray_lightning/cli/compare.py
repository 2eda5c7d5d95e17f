"""``xray compare``: is one model better than another on the same test images?"""

from xray_lightning.cli.config import read_value
from xray_lightning.cli.request import Request, read_labels
from xray_lightning.evaluation.compare import ACTED_ON, compare
from xray_lightning.metrics.decisions import read_shares
from xray_lightning.report.terminal import comparison_lines


def compare_models(request: Request) -> None:
    """Is model A better than model B on the same test images? Paired bootstrap of patients."""
    own = request.read(draws=2000, seed=0, labels="", margin="null", thresholds="")
    own |= {"labels": read_labels(own["labels"]), "margin": read_value("margin", own["margin"])}
    own["thresholds"] = read_shares("thresholds", own["thresholds"], ACTED_ON)
    path, comparison = request.keep("compare.json"), compare(*request.files, **own)
    request.present(comparison.to_json(), *comparison_lines(comparison, *request.files), path=path)
