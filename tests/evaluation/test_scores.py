"""Tables of scores as others write them."""

import numpy as np
import pytest

from xray_lightning.errors import TableError
from xray_lightning.evaluation.scores import find_scored_labels, read_scores

LABELS = ("Mass", "Pleural_Thickening")
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
    ids, scores = read_scores(write(tmp_path, f"{header}\n{rows}"), LABELS, IMAGES)
    assert ids == [IMAGES[2], IMAGES[0]]
    np.testing.assert_array_equal(scores, np.array([[0.3, 0.25], [0.1, 0.25]], np.float32))


def test_ids_without_ending_and_other_columns(tmp_path) -> None:
    text = "age,Pleural_Thickening,Mass,key,Massive\n7,0.5,1,00000002_000,9\n"
    ids, scores = read_scores(write(tmp_path, text), LABELS, IMAGES)
    assert ids == [IMAGES[2]]
    np.testing.assert_array_equal(scores, [[1, 0.5]])


def test_ids_that_differ_in_their_endings_only(tmp_path) -> None:
    path = write(tmp_path, "image,Mass\na.jpg,0.5\na.png,0.25\n")
    ids, _ = read_scores(path, ("Mass",), ("a.png", "a.jpg"))
    assert ids == ["a.jpg", "a.png"]


def test_an_id_behind_an_apostrophe_is_the_id(tmp_path) -> None:
    path = write(tmp_path, "image,Mass\n'=1.png,0.5\n'@b.png,0.25\n")
    assert read_scores(path, ["Mass"], ["=1.png", "'@b.png", "@c.png"])[0] == ["=1.png", "'@b.png"]


def test_our_own_predictions(tmp_path) -> None:
    header = "image,patient,target_Mass,target_Pleural_Thickening,score_Mass"
    text = f"{header},score_Pleural_Thickening\n00000001_000.png,1,1,0,0.5,0.25\n"
    _, scores = read_scores(write(tmp_path, text), LABELS, IMAGES)
    np.testing.assert_array_equal(scores, [[0.5, 0.25]])


GOOD = "image,Mass,Pleural_Thickening\n00000001_000.png,0.5,0.5\n"
TWICE = "image,a_Mass,a_PleuralThickening,b_Mass,b_Pleural_Thickening\n"


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("image,Mass,Pleural_Thickening\nx.png,0.5,0.5\n", "no column holds image ids of this"),
        (GOOD + "x.png,1,1\n", r"1 of 2 ids in column 'image' are not in this data set: x\.png"),
        (GOOD + "00000001_000,1,1\n", r"scores 1 images twice: 00000001_000\.png"),
        (GOOD + "00000001_001.png,,1\n", r"row 3: 'Mass' is '', not a score in \[0, 1\]"),
        (GOOD + "00000001_001.png,1,nan\n", r"row 3: 'Pleural_Thickening' is 'nan'"),
        (GOOD + "00000001_001.png,-1.5,1\n", "Logits need a sigmoid"),
        ("image,Mass\n00000001_000.png,1\n", "has no score for Pleural_Thickening"),
        ("image,a_Mass,b_Pleural_Thickening\n00000001_000.png,1,1\n", "with one prefix for all"),
        (GOOD.replace("Mass,", "MASS,mass,").replace("0.5,", "1,1,"), "one label: MASS, mass"),
        (TWICE + "00000001_000,1,1,1,1\n", "several scores for each label"),
        ("", "is empty: it needs a header"),
    ],
)
def test_what_is_refused(text: str, match: str, tmp_path) -> None:
    with pytest.raises(TableError, match=match):
        read_scores(write(tmp_path, text), LABELS, IMAGES)


def test_many_unknown_ids_are_cut_short(tmp_path) -> None:
    text = GOOD + "".join(f"x{i}.png,1,1\n" for i in range(9))
    with pytest.raises(TableError, match=r"x4\.png and 4 more"):
        read_scores(write(tmp_path, text), LABELS, IMAGES)


NUMBERED = [f"{number}.png" for number in range(4)]
SCORES = (0.5, 0.25, 0.125, 1.0)


@pytest.mark.parametrize("index", ["", "Unnamed: 0", "index"])
def test_the_index_of_pandas_is_no_id(index: str, tmp_path) -> None:
    rows = "".join(f"{i},{NUMBERED[3 - i]},{SCORES[i]}\n" for i in range(4))
    ids, scores = read_scores(write(tmp_path, f"{index},file,A\n{rows}"), ["A"], NUMBERED)
    assert (ids, scores[:, 0].tolist()) == (NUMBERED[::-1], list(SCORES))


@pytest.mark.parametrize("second", ["3", "img/3.png"])
def test_two_columns_that_may_be_the_ids(second: str, tmp_path) -> None:
    path = write(tmp_path, f"number,name,A\n1,0,1\n0,{second},1\n")
    with pytest.raises(TableError, match="'number' and 'name' may both be the image ids"):
        read_scores(path, ["A"], NUMBERED)


def test_two_columns_of_the_same_ids(tmp_path) -> None:
    path = write(tmp_path, "path,name,A\nx/1.png,1.png,1\nx/0.png,0.png,1\n")
    assert read_scores(path, ["A"], NUMBERED)[0] == ["1.png", "0.png"]


def test_the_last_number_of_a_uid_is_no_ending(tmp_path) -> None:
    known = ["1.2.826.0.1", "1.2.826.1.1"]
    path = write(tmp_path, "image,A\n1.2.826.0.2,1\n1.2.826.1.2,0\n")
    with pytest.raises(TableError, match=r"no column holds .*image \('1\.2\.826\.0\.2'\)"):
        read_scores(path, ["A"], known)
    path = write(tmp_path, "image,A\n1.2.826.0.1,1\n1.2.826.1.2,0\n")
    with pytest.raises(TableError, match=r"1 of 2 ids in column 'image' .*: 1\.2\.826\.1\.2\."):
        read_scores(path, ["A"], known)
    path = write(tmp_path, "image,A\nx/1.2.826.0.1.DCM,1\n")
    assert read_scores(path, ["A"], known)[0] == ["1.2.826.0.1"]


def test_names_that_match_to_the_letter_come_first(tmp_path) -> None:
    labels = ("COVID+", "COVID-", "a/b", "A/B", "~")
    header = ",".join(["image", *(f"score_{label}" for label in labels)])
    path = write(tmp_path, f"{header}\n0.png,0.5,0.25,0.125,1,0\n")
    assert read_scores(path, labels, NUMBERED)[1].tolist() == [[0.5, 0.25, 0.125, 1, 0]]
    path = write(tmp_path, "image,mass,Mass,MASS\n0.png,0.5,0.25,0.125\n")
    assert read_scores(path, ["Mass"], NUMBERED)[1].tolist() == [[0.25]]
    with pytest.raises(TableError, match="two columns for one label"):
        read_scores(write(tmp_path, "image,covid +,covid -\n0.png,1,1\n"), labels[:2], NUMBERED)
    with pytest.raises(TableError, match=r"several scores for each label \(a_Mass or b_mass\)"):
        read_scores(write(tmp_path, "image,a_Mass,b_mass\n0.png,1,1\n"), ["Mass"], NUMBERED)


def test_labels_that_a_table_has_scores_for(tmp_path) -> None:
    path = write(tmp_path, "image,p_Hernia,p_pleural thickening,Mass\n0.png,1,1,1\n")
    assert find_scored_labels(path, (*LABELS, "Hernia")) == ("Pleural_Thickening", "Hernia")
    assert find_scored_labels(path, ("Edema",)) == ()


def test_our_own_table_that_is_cut(tmp_path) -> None:
    whole = "image,patient,target_A,score_A\n0.png,1,1,0.5\n1.png,1,1,0.987654\n"
    with pytest.raises(TableError, match="is cut off inside its last row"):
        read_scores(write(tmp_path, whole[:-4]), ["A"], NUMBERED)
