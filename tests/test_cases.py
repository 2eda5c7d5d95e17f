"""Small inputs of public bug reports (``../shared/cases``, never committed), by the commands."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest
import running

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy, so that nothing is written beside the original."""
    place = Path(os.environ["XRAY_DATA"]).with_name("cases")
    if not place.is_dir():
        pytest.skip(f"the cases are not at {place}")
    copy = tmp_path_factory.mktemp("cases") / "cases"
    shutil.copytree(place, copy, symlinks=True)
    subprocess.run(["chmod", "-R", "u+w", str(copy)], check=True)  # shared/ may be read-only
    return copy


def run(*arguments: str | Path, expected: int = 0, **environment: str) -> str:
    """What a command prints, both streams; "train" stands for train.py."""
    first, *rest = map(str, arguments)
    start = running.TRAIN if first == "train" else [*running.XRAY, first]
    printed = running.run([*start, *rest], running.ROOT, expected, COLUMNS="200", **environment)
    assert "Traceback" not in printed, printed
    return printed


def train(place: Path, *settings: str, **environment: str) -> str:
    """A small run in PLACE/run, its cache beside it, of one epoch if not told."""
    places = f"hydra.run.dir={place / 'run'}", f"cache_dir={place / 'cache'}"
    small = [*running.TOY, "model.backbone=test_resnet", "weights=none", "draws=20", "epochs=1"]
    return run("train", *small, *settings, *places, **environment)


def table(cases: Path, name: str) -> list[str]:
    return ["data=csv", f"data.table={cases / name}", f"data.root={cases / 'csv/img'}"]


def facts_of(printed: str) -> dict[str, object]:
    """The JSON that a verb prints."""
    return dict(json.loads(printed[printed.index("{") :]))


def score(cases: Path, scores: str, labels: str) -> str:
    return run("score", cases / scores, *table(cases, labels), "draws=20", "--json")


def test_shuffled_with_index(cases: Path) -> None:
    plain = score(cases, "scores/plain.csv", "scores/labels.csv")
    for printed in (plain, score(cases, "scores/shuffled_with_index.csv", "scores/labels.csv")):
        assert facts_of(printed)["mean"]["auroc"]["value"] == pytest.approx(1.0)


def test_plus_and_minus_are_two_labels(cases: Path) -> None:
    printed = score(cases, "labels/plus_minus_scores.csv", "labels/plus_minus.csv")
    assert "COVID+" in printed
    assert "COVID-" in printed


@pytest.mark.parametrize(
    ("name", "label"),
    [
        ("interpolation", "${oc.env:DEMO_SECRET}"),
        ("question_marks", "???"),
        ("odd_names", "$x_1$ & 50%"),
    ],
)
def test_text_from_data_is_never_evaluated(cases, tmp_path, name, label) -> None:
    place, secret = tmp_path / "run", {"DEMO_SECRET": "a-password"}
    train(tmp_path, *table(cases, f"labels/{name}.csv"), **secret)
    written = b"".join(path.read_bytes() for path in place.rglob("*") if path.is_file())
    assert b"a-password" not in written
    best = place / "checkpoints/best.ckpt"
    best = best if best.is_file() else place / "checkpoints/last.ckpt"
    printed = run("evaluate", best, f"hydra.run.dir={tmp_path / 'evaluate'}", "draws=20", **secret)
    assert "a-password" not in printed
    assert label in json.loads((place / "metrics.json").read_text())["test"]["auroc"]["labels"]


@pytest.fixture(scope="module")
def checkpoint(cases: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a run of one epoch on ``csv/ok.csv``."""
    place = tmp_path_factory.mktemp("run")
    train(place, *table(cases, "csv/ok.csv"))
    return place / "run/checkpoints/best.ckpt"


def test_a_damaged_file_is_named(cases: Path, checkpoint: Path, tmp_path: Path) -> None:
    names = [cases / "tiff/deflate_one_bit.tif", cases / "tiff/grey8.tif"]
    run("predict", checkpoint, *names, "--out", tmp_path, expected=3)
    assert "deflate_one_bit.tif" in (tmp_path / "failed.csv").read_text()


def test_convert_does_a_replaced_file_again(cases: Path, tmp_path: Path) -> None:
    source, out = tmp_path / "in", tmp_path / "out"
    shutil.copytree(cases / "mtime/in", source)
    run("convert", source, out)
    before = next(out.rglob("*.png")).read_bytes()
    shutil.copy(cases / "dicom/voi_lut_12.dcm", source / "a.dcm")
    os.utime(source / "a.dcm", (1_000_000_000, 1_000_000_000))
    run("convert", source, out)
    assert next(out.rglob("*.png")).read_bytes() != before
    assert len(running.read_rows(next(out.rglob("headers.csv")))) == 2


def test_no_positive_in_validation(cases: Path, tmp_path: Path) -> None:
    place, data = tmp_path / "run", table(cases, "degenerate/val_none.csv")
    printed = train(tmp_path, *data, "report=true", "split=csv", "epochs=3")
    said = "best checkpoint unknown: epoch 3, the last epoch: val/auroc was undefined in every one"
    assert said in printed
    val = json.loads((place / "metrics.json").read_text())["val"]
    assert val["auroc"]["mean"] is None
    assert val["checkpoint"]["epoch"] == 3
    assert "undefined in every one" in val["checkpoint"]["choice"]
    page = (place / "report.html").read_text()
    assert "Validation AUROC was undefined in every epoch: the checkpoint is of the last" in page


def counts(cases: Path, name: str, expected: int = 0) -> str:
    return run("data", *table(cases, name), "--json", expected=expected)


@pytest.mark.parametrize("name", ["semicolon.csv", "tab.tsv", "utf16.csv", "true_false.csv"])
def test_certain_forms_are_read(cases: Path, name: str) -> None:
    read, plain = (facts_of(counts(cases, f"csv/{form}")) for form in (name, "ok.csv"))
    assert (read["images"], read["positives"]) == (plain["images"], plain["positives"])


def test_latin1_is_read_or_named(cases: Path) -> None:
    assert "UTF-8" in counts(cases, "csv/latin1.csv", 2)


@pytest.mark.parametrize(("name", "column"), [("fold.csv", "fold"), ("is_train.csv", "Gender")])
def test_well_known_columns_are_no_labels(cases: Path, name: str, column: str) -> None:
    assert column not in facts_of(counts(cases, f"csv/{name}"))["positives"]


@pytest.mark.parametrize(("name", "pair"), [("zeros", ("0", "000")), ("float", ("0", "0.0"))])
def test_two_spellings_of_a_patient_are_named(cases: Path, name: str, pair: list[str]) -> None:
    printed = run("data", *table(cases, f"csv/patient_{name}.csv"))
    assert all(repr(text)[1:-1] in printed for text in pair)
    assert "patient" in printed
