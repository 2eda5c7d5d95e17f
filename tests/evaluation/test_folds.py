"""The folds of a sweep pooled, against scikit-learn; what is missing is said and not pooled."""

import json
from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from running import write_run, xray
from sklearn.metrics import roc_auc_score

from xray_lightning import CrossValidation, compare_runs, pool_folds
from xray_lightning.errors import DataNotFoundError, TableError
from xray_lightning.evaluation.compare import compare, find_tables
from xray_lightning.evaluation.predictions import Predictions, read_predictions, write_predictions
from xray_lightning.evaluation.sweep import group_folds, join_folds, read_runs
from xray_lightning.report.page import say
from xray_lightning.report.terminal import fold_lines

LABELS = ("Mass", "mean")  # a label may be called anything
FOLDS, IMAGES = 3, 40


def fold_of(fold: int, seed: int) -> Predictions:
    """Two images a patient; scores of each fold on a scale of their own."""
    rng = np.random.default_rng((fold, seed, 7))
    targets = (np.random.default_rng(fold).random((IMAGES, 2)) < 0.4).astype(np.float32)
    scores = (0.2 * fold + 0.3 * rng.random((IMAGES, 2)) + 0.1 * targets).astype(np.float32)
    names = tuple(f"{fold}_{row}" for row in range(IMAGES))
    return Predictions(LABELS, names, tuple(f"p{n[0]}_{int(n[2:]) // 2}" for n in names),
                       targets, scores)  # fmt: skip


def auroc(predictions: Predictions) -> dict[str, float]:
    columns = zip(LABELS, predictions.targets.T, predictions.scores.T, strict=True)
    return {label: float(roc_auc_score(truth, score)) for label, truth, score in columns}


def write_folds(folder, *models: str):
    """The folds of each model, or seed, that an override names."""
    for number, (model, fold) in enumerate(product(models, range(FOLDS))):
        place = folder / str(number)
        predictions = fold_of(fold, models.index(model) * (10 if "model" in model else 1))
        labels, settings = auroc(predictions), {"folds": FOLDS, "fold": fold, "seed": 0}
        images = {"train": 70, "val": 10, "test": IMAGES}
        overrides = ["split=kfold", f"split.fold={fold}", *filter(None, [model])]
        write_run(place, overrides, split="kfold", settings=settings, images=images)
        write_predictions(predictions, place / "predictions_test.csv")
        subset = {"auroc": {"mean": np.mean(list(labels.values())), "defined": 2, "labels": labels}}
        (place / "metrics.json").write_text(json.dumps({"val": subset, "test": subset}))
    return folder


@pytest.fixture
def one_model(tmp_path):
    return write_folds(tmp_path / "a", "")


@pytest.fixture
def two_models(tmp_path):
    return write_folds(tmp_path / "ab", "model=a", "model=b")


def test_pooled_and_mean_of_folds_are_two_things_and_the_command_shows_both(one_model) -> None:
    (validation,) = pool_folds(read_runs(one_model), one_model)
    facts = validation.to_json()
    folds = [fold_of(fold, 0) for fold in range(FOLDS)]
    truth = np.concatenate([fold.targets for fold in folds])
    scores = np.concatenate([fold.scores for fold in folds])
    for index, label in enumerate(LABELS):
        value = facts["labels"][label]["auroc"]["value"]
        assert value == pytest.approx(roc_auc_score(truth[:, index], scores[:, index]), abs=1e-6)
        assert facts["fold_auroc"][label] == pytest.approx([auroc(fold)[label] for fold in folds])
        low, high = facts["labels"][label]["auroc"]["patient_interval"]
        assert low < value < high
        assert value < np.mean(facts["fold_auroc"][label]) - 0.05, "scales of their own cost rank"
    assert (facts["images"], facts["patients"]) == (120, 60)
    np.testing.assert_array_equal(read_predictions(one_model / "predictions.csv").scores, scores)
    (saved,) = json.loads((one_model / "pooled.json").read_text())["cross_validations"]
    assert (saved, CrossValidation.from_json(saved).to_json()) == (facts, saved)
    text = xray("sweep", one_model)
    assert "cross-validation of all runs, seed 0: 120 images of 60 patients" in text
    assert (one_model / "pooled.png").stat().st_size > 5000
    assert max(map(len, text.split("one of 3 folds")[1].split("pooled: all")[0].splitlines())) <= 80
    assert "pooled: all images ranked at once" in text
    assert text.count("ranked by validation AUROC") == 1, "one table, not one a fold"
    assert f"{np.mean(facts['fold_mean']):.3f}" in text
    assert f"{np.std(facts['fold_mean'], ddof=1):.3f}" in text
    assert json.loads(xray("sweep", one_model, "--json"))["cross_validations"] == [facts]


def test_a_missing_fold_is_named_and_nothing_pooled(two_models) -> None:
    pool_folds(read_runs(two_models), two_models)
    assert len(list(two_models.glob("predictions_*.csv"))) == 2
    (two_models / "4/metrics.json").unlink()
    first, second = pool_folds(read_runs(two_models), two_models)
    assert (first.missing, second.missing) == ([], [1])
    assert (second.predictions, CrossValidation.from_json(second.to_json())) == (None, second)
    assert [path.name for path in two_models.glob("predictions_*.csv")] == ["predictions_0.csv"]
    assert any("not finished of its 3 folds: 1;" in str(line) for line in fold_lines([second]))
    remarks = say("sweep", compare_runs(two_models).leaderboards, False)
    assert "Means over different folds are not comparable." in remarks
    with pytest.raises(DataNotFoundError, match=r"model=b, seed 0 lacks the folds \[1\]"):
        find_tables(f"{two_models}/model=b")


def test_two_models_over_the_same_folds(one_model, two_models) -> None:
    for folder in (one_model, two_models):
        pool_folds(read_runs(folder), folder)
    models = group_folds(read_runs(two_models))
    assert [(runs[0].settings, len(runs)) for runs in models] == [("model=a", 3), ("model=b", 3)]
    rows = [f"{two_models}/model={name}" for name in "ab"]
    found = compare(*rows, draws=50)
    assert (found.images, found.first) == (120, (str(two_models / "predictions_0.csv"),))
    assert found.data.startswith("phantom, 3 folds [")
    assert "/" not in found.data, "the same folds on both sides"
    assert compare(one_model, rows[0], draws=50).verdict
    with pytest.raises(DataNotFoundError, match=r"several cross-validations; name one: .*model=a"):
        find_tables(str(two_models))


def test_seeds_are_cross_validations_of_their_own(tmp_path) -> None:
    runs = read_runs(write_folds(tmp_path, "seed=0", "seed=1"))
    assert [(folds[0].seed, len(folds)) for folds in group_folds(runs)] == [(0, 3), (1, 3)]
    (board,) = compare_runs(tmp_path).leaderboards
    assert board.groups[0].val.count == 6
    pool_folds(runs, tmp_path)
    assert [path.stem[-2:] for path in find_tables(str(tmp_path))] == ["_0", "_1"]


def test_what_does_not_fit_together(tmp_path) -> None:
    places = [tmp_path / "a.csv", tmp_path / "b.csv"]
    first = fold_of(0, 0)
    for place in places:
        write_predictions(first, place)
    with pytest.raises(TableError, match="0_0 is a test image of several folds"):
        join_folds(places)
    write_predictions(replace(first, labels=("Mass", "Hernia")), places[1])
    with pytest.raises(TableError, match=r"b.csv and .*a.csv have different labels"):
        join_folds(places)
