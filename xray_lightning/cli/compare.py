"""``xray compare``: is one model better than another on the same test images?"""

from xray_lightning.cli.config import read_value
from xray_lightning.cli.request import Request, read_labels
from xray_lightning.evaluation.compare import compare
from xray_lightning.report.terminal import comparison_lines


def compare_models(request: Request) -> None:
    """Is model A better than model B on the same test images? Paired bootstrap of patients."""
    own = request.read(draws=2000, seed=0, labels="", margin="null")
    own["labels"], path = read_labels(own["labels"]), request.keep("compare.json")
    own["margin"] = read_value("margin", own["margin"])
    comparison = compare(*request.files, **own)
    lines = comparison_lines(comparison, *request.files)
    request.present(comparison.to_json(), *lines, path=path)
