"""``xray compare`` and ``readers``: models, and readers, of the same images; without torch."""

from xray_lightning.cli.config import read_value
from xray_lightning.cli.request import Request, read_labels
from xray_lightning.evaluation.compare import compare
from xray_lightning.evaluation.readers import COLUMNS, measure_readers
from xray_lightning.report.terminal import comparison_lines, reader_lines


def compare_models(request: Request) -> None:
    """Is model A better than model B on the same test images? Paired bootstrap of patients."""
    own = request.read(draws=2000, seed=0, labels="", margin="null")
    own["labels"], path = read_labels(own["labels"]), request.keep("compare.json")
    own["margin"] = read_value("margin", own["margin"])
    comparison = compare(*request.files, **own)
    request.present(comparison.to_json(), *comparison_lines(comparison, *request.files), path=path)


def compare_readers(request: Request) -> None:
    """Do readers agree, and does a model read as they do? xray readers READS.csv scores=TABLE."""
    names, texts = dict.fromkeys(COLUMNS, ""), {"scores": "", "truth": "", "labels": "shared"}
    own, path = request.read(**names, **texts, draws=2000, seed=0), request.keep("readers.json")
    columns, labels = {kind: own.pop(kind) for kind in COLUMNS}, read_labels(own.pop("labels"))
    study = measure_readers(request.files, labels=labels, columns=columns, **own)
    request.present(study.to_json(), *reader_lines(study), path=path)
