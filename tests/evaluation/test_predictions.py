"""Tables of scores: our own, bit by bit through a file, and as others write them."""

import hashlib
import json
import math
import re

import numpy as np
import pytest

from xray_lightning.errors import CheckpointError, TableError
from xray_lightning.evaluation import predictions as module
from xray_lightning.evaluation.predictions import (
    Predictions,
    find_scored_labels,
    read_own,
    read_scores,
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
    read = module.read_predictions(tmp_path / "p.csv")
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
    read = module.read_predictions(tmp_path / "p.csv")
    assert (read.image_ids, read.patient_ids) == ((name,), (name,))
    assert re.search(r"(^|,)\"?[=@]", (tmp_path / "p.csv").read_text(), re.MULTILINE) is None


def test_an_unknown_target_is_an_empty_cell(tmp_path) -> None:
    targets, scores = np.float32([[1, math.nan]]), np.float32([[0.25, 0.1]])
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
        module.read_predictions(tmp_path / "p.csv")


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
    assert (subset.labels, subset.image_ids) == (("Hernia", "Mass"), whole.image_ids)
    for name in ("scores", "targets"):
        np.testing.assert_array_equal(getattr(subset, name), getattr(whole, name)[:, [2, 0]])


def test_scores_that_are_no_numbers() -> None:
    scores = np.full((3, 2), 0.5, np.float32)
    module.require_scores(scores, ["x", "y", "z"])
    scores[1:, 1] = math.nan
    with pytest.raises(CheckpointError, match=r"for 2 of 3 images, the first is y"):
        module.require_scores(scores, ["x", "y", "z"])


NAMES = ("Mass", "Pleural_Thickening")
IMAGES = ("00000001_000.png", "00000001_001.png", "00000002_000.png")


def write(folder, text: str):
    (folder / "scores.csv").write_text(text)
    return folder / "scores.csv"


@pytest.mark.parametrize(
    "header",
    [
        "Image Index,Mass,Pleural_Thickening",
        "file,prob_Mass,prob_Pleural_Thickening",
        "id,pred mass,pred Pleural Thickening",
        "x,MASS,pleural thickening",
    ],
)
@pytest.mark.parametrize("style", ["{}", "images/{}", "C:\\nih\\{}"])
def test_names_and_ids(header: str, style: str, tmp_path) -> None:
    rows = "".join(f"{style.format(IMAGES[i])},0.{i + 1},0.25\n" for i in (2, 0))
    ids, scores = read_scores(write(tmp_path, f"{header}\n{rows}"), NAMES, IMAGES)
    assert ids == [IMAGES[2], IMAGES[0]]
    np.testing.assert_array_equal(scores, np.array([[0.3, 0.25], [0.1, 0.25]], np.float32))


SIGNS = ("COVID+", "COVID-", "a/b", "A/B", "~")
NUMBERED = [f"{number}.png" for number in range(4)]
KNOWN = [*NUMBERED, "a.png", "a.jpg", "=1.png", "'@b.png", "@c.png", "1.2.826.0.1", "1.2.826.1.1"]


@pytest.mark.parametrize(
    ("labels", "text", "rows"),
    [  # without their ending beside other columns; of one ending only; behind an apostrophe
        (NAMES, "x,Pleural_Thickening,Mass,key,Massive\n7,0.5,0.75,3,9\n", {"3.png": [0.75, 0.5]}),
        ("A", "image,A\na.jpg,0.5\na.png,0.25\n", {"a.jpg": [0.5], "a.png": [0.25]}),
        ("A", "image,A\n'=1.png,0.5\n'@b.png,0.25\n", {"=1.png": [0.5], "'@b.png": [0.25]}),
        # the same in two columns; as xray predict writes them; to the letter comes first
        ("A", "path,name,A\nx/1.png,1.png,1\nx/0.png,0.png,1\n", {"1.png": [1], "0.png": [1]}),
        ("A", "image,A\nx/1.2.826.0.1.DCM,0.5\n", {"1.2.826.0.1": [0.5]}),
        ("AB", "image,patient,target_A,target_B,score_A,score_B\n0.png,1,1,0,0.5,0.25\n",
         {"0.png": [0.5, 0.25]}),
        (SIGNS, f"image,score_{',score_'.join(SIGNS)}\n0.png,0.5,0.25,0.125,1,0\n",
         {"0.png": [0.5, 0.25, 0.125, 1, 0]}),
        (["Mass"], "image,mass,Mass,MASS\n0.png,0.5,0.25,0.125\n", {"0.png": [0.25]}),
        *(("A", f"{index},file,A\n0,3.png,0.5\n1,2.png,0.25\n2,1.png,0.125\n3,0.png,1.0\n",
           {"3.png": [0.5], "2.png": [0.25], "1.png": [0.125], "0.png": [1]})
          for index in ("", "Unnamed: 0", "index")),  # pandas' own is no id
    ],
)  # fmt: skip
def test_ids_and_columns_that_are_told_apart(labels, text: str, rows, tmp_path) -> None:
    ids, scores = read_scores(write(tmp_path, text), labels, KNOWN)
    assert [*zip(ids, scores.tolist(), strict=True)] == [*rows.items()]


GOOD = "image,Mass,Pleural_Thickening\n00000001_000.png,0.5,0.5\n"
TWICE = "image,a_Mass,a_PleuralThickening,b_Mass,b_Pleural_Thickening\n"
REFUSED = [  # of both names
    ("image,Mass,Pleural_Thickening\nx.png,0.5,0.5\n", "no column holds image ids of this"),
    (GOOD + "x.png,1,1\n", r"1 of 2 ids in column 'image' are not in this data set: x\.png"),
    (GOOD + "00000001_000,1,1\n", r"scores 1 images twice: 00000001_000\.png"),
    (GOOD + "00000001_001.png,,1\n", r"row 3: 'Mass' is '', not a score in \[0, 1\]"),
    (GOOD + "00000001_001.png,1,nan\n", r"row 3: 'Pleural_Thickening' is 'nan'"),
    (GOOD + "00000001_001.png,-1.5,1\n", "Logits need a sigmoid"),
    ("image,Mass\n00000001_000.png,1\n", "has no score for Pleural_Thickening"),
    ("image,a_Mass,b_Pleural_Thickening\n00000001_000.png,1,1\n", "with one prefix for all"),
    (GOOD.replace("Mass,", "MASS,mass,").replace("0.5,", "1,1,"), "one label: MASS, mass"),
    (TWICE + "00000001_000,.5,.5,.5,.5\n", "several scores for each label"),
    ("image,patient,target_Mass,score_Mass\nx.png,1,1,0.5\ny.png,1,1,0.9", "is cut off inside"),
    ("", "is empty: it needs a header"),
    (GOOD + "".join(f"x{i}.png,.5,.5\n" for i in range(9)), r"x4\.png and 4 more"),
]


@pytest.mark.parametrize(
    ("labels", "text", "match"),
    [
        *((NAMES, *row) for row in REFUSED),
        # which of two columns; the last number of a UID is no ending
        ("A", "number,name,A\n1,0,1\n0,3,1\n", "'number' and 'name' may both be the image ids"),
        ("A", "number,name,A\n1,0,1\n0,img/3.png,1\n", "'number' and 'name' may both be the image"),
        ("A", "image,A\n1.2.826.0.2,.5\n1.2.826.1.2,.5\n", r"no column .*\('1\.2\.826\.0\.2'\)"),
        ("A", "image,A\n1.2.826.0.1,.5\n1.2.826.1.2,.5\n", r"1 of 2 ids .*: 1\.2\.826\.1\.2\."),
        (SIGNS[:2], "image,covid +,covid -\n0.png,1,1\n", "two columns for one label"),
        (["Mass"], "image,a_Mass,b_mass\n0.png,1,1\n", r"for each label \(a_Mass or b_mass\)"),
    ],
)
def test_what_is_refused(labels, text: str, match: str, tmp_path) -> None:
    with pytest.raises(TableError, match=match):
        read_scores(write(tmp_path, text), labels, [*KNOWN, *IMAGES])


def test_labels_that_a_table_has_scores_for(tmp_path) -> None:
    path = write(tmp_path, "image,p_Hernia,p_pleural thickening,Mass\n0.png,1,1,1\n")
    assert find_scored_labels(path, (*NAMES, "Hernia")) == ("Pleural_Thickening", "Hernia")
    assert find_scored_labels(path, ("Edema",)) == ()
