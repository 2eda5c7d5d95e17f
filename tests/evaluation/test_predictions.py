"""Scores survive the way to disk and back, bit by bit."""

import hashlib
import json
import math
import re

import numpy as np
import pytest

from xray_lightning.errors import CheckpointError, TableError
from xray_lightning.evaluation.predictions import (
    Predictions,
    read_own,
    read_predictions,
    require_scores,
    write_predictions,
)

LABELS = ("Mass", "Pleural_Thickening", "Hernia")


def predictions(count: int = 200) -> Predictions:
    rng = np.random.default_rng(0)
    scores = rng.random((count, 3), dtype=np.float32) ** rng.integers(1, 12, (count, 1))
    scores[0] = 0.0, 1.0, np.nextafter(np.float32(1), np.float32(0))
    scores[1] = np.float32(1e-45), np.finfo(np.float32).tiny, np.float32(0.1)
    targets = rng.integers(0, 2, (count, 3)).astype(np.float32)
    targets[rng.random((count, 3)) < 0.3] = np.nan
    images = tuple(f"{i:08d}_000.png" for i in range(count))
    patients = tuple(f"{i // 2:05d}" for i in range(count))
    return Predictions(LABELS, images, patients, targets, scores.astype(np.float32))


def test_round_trip_is_exact(tmp_path) -> None:
    written = predictions()
    write_predictions(written, tmp_path / "p.csv")
    read = read_predictions(tmp_path / "p.csv")
    assert (read.labels, read.image_ids) == (LABELS, written.image_ids)
    assert read.patient_ids == written.patient_ids  # "00007" is not 7
    assert read.scores.dtype == read.targets.dtype == np.float32
    np.testing.assert_array_equal(read.scores.view(np.uint32), written.scores.view(np.uint32))
    np.testing.assert_array_equal(read.targets, written.targets)


@pytest.mark.parametrize(
    "name", ["NA", "null", "nan", "None", "a,b", 'say "x"', "Müller", "=1+1", "@x", "'-x", "-0.5"]
)
def test_ids_stay_text(name: str, tmp_path) -> None:
    one = np.zeros((1, 1), np.float32)
    write_predictions(Predictions(("Mass",), (name,), (name,), one, one), tmp_path / "p.csv")
    read = read_predictions(tmp_path / "p.csv")
    assert (read.image_ids, read.patient_ids) == ((name,), (name,))
    assert re.search(r"(^|,)\"?[=@]", (tmp_path / "p.csv").read_text(), re.MULTILINE) is None


def test_an_unknown_target_is_an_empty_cell(tmp_path) -> None:
    targets = np.array([[1, math.nan]], np.float32)
    scores = np.array([[0.25, 0.1]], np.float32)
    write_predictions(Predictions(("a", "b"), ("x",), ("p",), targets, scores), tmp_path / "p.csv")
    lines = (tmp_path / "p.csv").read_text().splitlines()
    assert lines == ["image,patient,target_a,target_b,score_a,score_b", "x,p,1,,0.25,0.100000001"]


def test_shapes_must_belong_together() -> None:
    two, three = np.zeros((2, 1), np.float32), np.zeros((3, 1), np.float32)
    with pytest.raises(ValueError, match=r"2 images and 1 labels need .*, got targets \(2"):
        Predictions(("a",), ("x", "y"), ("p", "q"), two, three)
    with pytest.raises(ValueError, match=r"got targets \(3, 1\) and scores \(2, 1\)"):
        Predictions(("a",), ("x", "y"), ("p", "q"), three, two)
    with pytest.raises(ValueError, match="2 images but 1 patient ids"):
        Predictions(("a",), ("x", "y"), ("p",), two, two)


HEADER = "image,patient,target_a,score_a\n"


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("image,patient,target_a\n,1,1\n", "lacks 1 column: 'score_<label>'"),
        ("image,patient,score_a\n,1,1\n", "lacks 1 column: 'target_a'"),
        ("target_a,score_a\n,1\n", "lacks 2 columns: 'image', 'patient'"),
        *(
            (f"x,1,0,{bad}\n", rf"p\.csv, row 2: 'score_a' is '{bad}', not a score in \[0, 1\]")
            for bad in ("nan", "inf", "2.5", "-1", "", "high")
        ),
        ("x,1,2,0.5\n", "row 2: 'target_a' is '2', not 1, 0 or blank"),
        ("x,,1,0.5\n", "row 2: 'patient' is blank"),
        ("x,1,1,0.5\nx,1,1,0.5\n", "repeats images in 1 row, the first is x in rows 2 and 3"),
        (",1,1,0.5\n", "row 2: 'image' is blank"),
        ("x,1,1,0.5\ny,1,1,0.12", "is cut off inside its last row"),
        ("x,1,1,0.5\ny,1,1\n", "row 3 has 3 cells, the header names 4 columns"),
        ("", "is empty"),
    ],
)
def test_bad_tables(text: str, match: str, tmp_path) -> None:
    (tmp_path / "p.csv").write_text(text if "_a\n" in text else HEADER + text)
    with pytest.raises(TableError, match=match):
        read_predictions(tmp_path / "p.csv")


def test_a_table_of_other_figures(tmp_path) -> None:
    path = tmp_path / "predictions_test.csv"
    digest = write_predictions(predictions(5), path)
    assert digest == hashlib.sha256(path.read_bytes()).hexdigest()
    assert read_own(path).labels == LABELS  # no run's
    (tmp_path / "environment.json").write_text("{}")
    with pytest.raises(TableError, match=rf"{tmp_path} is not finished.*resume={tmp_path} goes on"):
        read_own(path)
    own = {"test": {"predictions_sha256": digest}}
    assert read_own(path, own).labels == LABELS  # a run about to finish
    for told in ({"test": {}}, {"val": {}}, own):  # before there were hashes; with it
        (tmp_path / "metrics.json").write_text(json.dumps(told))
        assert read_own(path).labels == LABELS
    write_predictions(predictions(6), path)
    match = rf"predictions_test\.csv \[SHA-256 .*\] is not the table.*\[{digest[:16]}\].*resume="
    with pytest.raises(TableError, match=match):
        read_own(path)


def test_some_labels() -> None:
    whole = predictions(5)
    subset = whole.keep(["Hernia", "Mass"])
    assert subset.labels == ("Hernia", "Mass")
    np.testing.assert_array_equal(subset.scores, whole.scores[:, [2, 0]])
    np.testing.assert_array_equal(subset.targets, whole.targets[:, [2, 0]])
    assert subset.image_ids == whole.image_ids


def test_scores_that_are_no_numbers() -> None:
    scores = np.full((3, 2), 0.5, np.float32)
    require_scores(scores, ["x", "y", "z"])
    scores[1:, 1] = math.nan
    with pytest.raises(CheckpointError, match=r"for 2 of 3 images, the first is y"):
        require_scores(scores, ["x", "y", "z"])
