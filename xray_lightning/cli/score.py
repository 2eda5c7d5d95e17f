"""``xray score``, ``compare`` and ``readers``: anybody's tables, judged without torch."""

from pathlib import Path

from xray_lightning.cli.config import compose_settings, make, read_value
from xray_lightning.cli.request import Own, Request, read_labels
from xray_lightning.cli.settings import point_settings
from xray_lightning.data.nih_expert import NihExperts
from xray_lightning.data.partition import SUBSETS, Split, split_source
from xray_lightning.data.source import Source, choose_labels, select_labels
from xray_lightning.errors import ConfigError
from xray_lightning.evaluation.compare import ACTED_ON, NEEDED, compare, score_truths
from xray_lightning.evaluation.evaluate import evaluate, fit_operating_points
from xray_lightning.evaluation.predictions import ScoreTable, find_scored_labels
from xray_lightning.evaluation.priors import require_prior
from xray_lightning.evaluation.readers import measure_readers
from xray_lightning.metrics.decisions import PREVALENCES, THRESHOLDS, read_shares
from xray_lightning.records import take_records, target_matrix
from xray_lightning.report.evaluation_table import scored_lines
from xray_lightning.report.terminal import comparison_lines, reader_lines, truth_lines
from xray_lightning.wording import fault
from xray_lightning.writing import write_rows

SHARES = {"thresholds": ("thresholds", THRESHOLDS), "prevalences": ("prevalence", PREVALENCES)}


def score(request: Request) -> None:
    """Score anybody's predictions: xray score TABLE.csv data=nih data.root=DIR subset=test."""
    table, own = Path(request.files[0]), request.own
    if (points := own["points"]) and points not in {*SUBSETS} - {own["subset"] or points}:
        # on the images they are applied to they would flatter
        raise ConfigError(fault("points_of", points, SUBSETS))
    how: Own = {k: read_shares(key, own[key], usual) for k, (key, usual) in SHARES.items()}
    how["prior"] = require_prior(read_value("prior", own["prior"]))
    config = compose_settings(request.rest, own)
    source: Source = make(config.data)
    split = split_source(source, make(config.split), source.records) if own["subset"] else None
    if own["truth"]:
        show_truths(request, source, split)
        return
    if own["labels"]:
        known = source.labels, find_scored_labels(table, source.labels)
        source = select_labels(source, choose_labels(read_labels(own["labels"]), *known))
    scores = ScoreTable(table, source, source.labels, split, allow_missing=own["allow_missing"])
    records, predictions, note = scores.take(own["subset"])
    path, fit = request.keep("score.json"), {"subset": points, **point_settings(config)}
    if points:
        how["operating_points"] = fit_operating_points(*scores.take(points)[1::-1], **fit)
    if split:
        how["learned"] = target_matrix(take_records(source.records, split.subsets["train"]))
    how |= {key: own[key] for key in ("draws", "subgroups", "doubts")}
    origin, how["seed"] = scores.origin(own["subset"]), own["bootstrap_seed"]
    evaluation = evaluate(predictions, records, origin, **how)
    write_rows(request.keep("doubts.csv"), evaluation.doubts)
    place = "" if split is None else f", split {split.name} [{split.fingerprint}], {own['subset']}"
    lines = scored_lines(evaluation, f"{table} on {source.title}{place}", (*source.notes, note))
    request.present(evaluation.to_json(), *lines, path=path)


def show_truths(request: Request, source: Source, split: Split | None) -> None:
    """The scores against radiologists and against the text miner on the same images."""
    table, own = Path(request.files[0]), request.own
    if not isinstance(source, NihExperts):
        raise ConfigError(f"truth=experts needs data=nih_expert, got data={source.name}")
    if not (labels := find_scored_labels(table, NEEDED)):
        raise ConfigError(f"truth=experts: {table} has no scores of {', '.join(NEEDED)}")
    missing = {"allow_missing": own["allow_missing"], "others": True}
    _, predictions, note = ScoreTable(table, source, labels, split, **missing).take(own["subset"])
    how = {"draws": own["draws"], "seed": own["bootstrap_seed"], "most": own["doubts"]}
    truths = score_truths(predictions, source, **how)
    notes = (f"note: {text}" for text in (*source.notes, note) if text)
    lines = truth_lines(truths, f"{table} on {source.name}")
    request.present(truths.to_json(), *lines, *notes, path=request.keep("truths.json"))


def compare_models(request: Request) -> None:
    """Is model A better than model B on the same test images? Paired bootstrap of patients."""
    own = request.own | {"labels": read_labels(request.own["labels"])}
    own["margin"] = read_value("margin", own["margin"])
    own["thresholds"] = read_shares("thresholds", own["thresholds"], ACTED_ON)
    path, comparison = request.keep("compare.json"), compare(*request.files, **own)
    request.present(comparison.to_json(), *comparison_lines(comparison, *request.files), path=path)


def compare_readers(request: Request) -> None:
    """Do readers agree, does a model read as they do? Or is one of two modalities read better?"""
    own, path = request.own, request.keep("readers.json")
    study = measure_readers(request.files[0], **own | {"labels": read_labels(own["labels"])})
    request.present(study.to_json(), *reader_lines(study), path=path)
