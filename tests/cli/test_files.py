"""``xray predict`` and ``convert`` on files of every kind: what they write, how they end, go on."""

import json
import logging
import shutil
from functools import partial
from pathlib import Path
from unittest.mock import Mock

import cv2
import numpy as np
import pandas as pd
import pytest
from running import TOY, XRAY, read_rows, start, xray

from xray_lightning import PredictedFiles, load_classifier, read_predictions
from xray_lightning.cli.config import compose_settings
from xray_lightning.cli.fit import fit


@pytest.fixture(scope="module")
def run(images: Path, folder: Path) -> Path:
    """A toy network, trained for one epoch by the main job."""
    options = ["data=csv", f"data.table={images.parent / 'table.csv'}", f"data.root={images}"]
    options += [*TOY, "weights=none", "clahe=true", "batch_size=4", "epochs=1", "threads=1"]
    options += [f"cache_dir={folder / 'cache'}", "panel.label=Mass", f"run_dir={folder}"]
    fit(compose_settings(options))
    logging.captureWarnings(False)  # the job sends them to its log
    return folder


@pytest.fixture(scope="module")
def checkpoint(run: Path) -> Path:
    return run / "checkpoints/best.ckpt"


predict = partial(xray, "predict")


@pytest.mark.slow
def test_tasks_of_one_job(checkpoint: Path, images: Path, tmp_path: Path) -> None:
    """Three processes at once, of which one is killed and started again; then one that joins."""
    scans, one, out = tmp_path / "scans", tmp_path / "one", tmp_path / "out"
    scans.mkdir()
    for number in range(900):
        (scans / f"{number:03d}.png").hardlink_to(images / f"{number % 40:02d}.png")
    arguments = [checkpoint, scans, "device=cpu", "batch_size=1"]
    tasks, table = [], out / "shard-2-of-3/predictions.csv"

    def has_row() -> bool:
        return table.exists() and table.read_text().count("\n") > 1

    for number in (1, 3, 2):
        words = [*XRAY, "predict", *arguments, "--out", out, f"shard={number}/3"]
        tasks.append(start(words, lambda _, n=number: n != 2 or has_row()))
    tasks[2].kill()
    assert [task.communicate() and task.returncode for task in tasks] == [0, 0, -9]
    half = len(read_rows(table)) - 1
    told = json.loads(predict(*arguments, "--out", out, "shard=2/3", "--json"))
    assert told["kept"] == half > 0
    joined = json.loads(predict(*arguments, "--out", out, "--json"))
    assert (joined["scored"], joined["kept"], joined["studies"]) == (0, 900, 900)
    predict(*arguments, "--out", one)
    tables = [pd.read_csv(place / "predictions.csv") for place in (one, out)]
    pd.testing.assert_frame_equal(*(table.drop(columns="study") for table in tables), rtol=1e-5)


def test_scores_are_those_of_the_run(run: Path, checkpoint: Path, images: Path) -> None:
    """Loader, file and array: the same scores, through the commands."""
    predict(checkpoint, images, "--out", run / "new", "batch_size=4", "device=cpu")
    table = read_rows(run / "new/predictions.csv")
    assert table[0][:6] == ["file", "study", "gate", "score_Mass", "probability_Mass", "call_Mass"]
    assert [row[0] for row in table[1:]] == sorted(str(path) for path in images.iterdir())
    scores = {Path(row[0]).name: np.array(row[3::3], np.float32) for row in table[1:]}
    wanted = read_predictions(run / "predictions_test.csv")
    assert len(set(wanted.scores[:, 0])) == len(wanted.image_ids) > 5
    found = [scores[name] for name in wanted.image_ids]
    np.testing.assert_allclose(found, wanted.scores, rtol=0, atol=1e-6)
    classifier = load_classifier(checkpoint, device="cpu")
    assert classifier.preprocessing == {"image_size": 32, "clahe": True}
    arrays = [cv2.imread(str(images / name), cv2.IMREAD_UNCHANGED) for name in wanted.image_ids]
    np.testing.assert_array_equal(classifier(arrays, batch_size=4).scores, wanted.scores)


def test_the_run_leaves_its_results_figure(run: Path) -> None:
    assert (run / "panel_test.png").stat().st_size > 20_000


def test_what_it_says(checkpoint: Path, images: Path, tmp_path: Path) -> None:
    scans, out = tmp_path / "scans", tmp_path / "out"
    scans.mkdir()
    for name in ("a.png", "b.png"):
        shutil.copy(images / "00.png", scans / name)
    for name in ("a.txt", "b.txt", "c.txt", "d.txt"):
        (scans / name).write_text("not an image")
    output = predict(checkpoint, scans, "--out", out)
    assert f"2 images scored, 0 before: {out / 'predictions.csv'}" in output
    assert "skipped a.txt, b.txt, c.txt and 1 more: not images (skipped.csv has" in output
    dark = np.linspace(0, 4095, 1600).astype(np.uint16).reshape(40, 40)
    cv2.imwrite(str(scans / "a.png"), dark)
    (scans / "link.png").symlink_to("a.png")
    (scans / "c.png").write_bytes(b"")
    output = predict(checkpoint, scans, "--out", out, code=3)
    assert "1 image scored, 1 before" in output
    assert "note: 1 link to listed images: each scored once" in output
    assert "note: 1 file changed since scored before" in output
    assert "16-bit picture of 12-bit values: dark, for it is not stretched (1)" in output
    failed = f"{scans / 'c.png'}; {out / 'failed.csv'} says why"
    assert f"1 of 3 files could not be read: {failed}" in output
    assert "Traceback" not in output


def test_settings(run: Path, checkpoint: Path, images: Path, tmp_path: Path) -> None:
    """Points fitted on the run's validation scores, a prior, pages, another form, as JSON."""
    arguments = [checkpoint, images / "00.png", images / "01.png", "--json", "--out", tmp_path]
    arguments += [f"points={run / 'predictions_val.csv'}", "operating_point.rule=specificity"]
    arguments += ["operating_point.value=0.5", "format=json", "maps=true", "method=gradient"]
    told = json.loads(predict(*arguments, "calibration=null", "workers=1"))
    done = PredictedFiles.from_json(told)
    assert (done.scored, done.studies, done.table) == (2, 2, tmp_path / "predictions.csv")
    assert (told["pages"]["written"], Path(told["pages"]["index"]).is_file()) == (2, True)
    model = json.loads((tmp_path / "model.json").read_text())
    told = [model["operating_points"][key] for key in ("rule", "value", "subset")]
    assert told == ["specificity", 0.5, "predictions_val"]
    assert (model["source"], model["prior"]) == (str(run / "predictions_val.csv"), "validation")
    assert len(json.loads((tmp_path / "predictions.json").read_text())["images"]) == 2


def test_nothing_is_done_after_a_wrong_word(run, checkpoint, images, tmp_path, monkeypatch) -> None:
    image, out = images / "00.png", tmp_path / "out"
    val = run / "predictions_val.csv"
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    cases: list[tuple[list[object], str]] = [
        ([checkpoint, image, tmp_path / "nowhere"], "nowhere: no such file or folder"),
        ([checkpoint, tmp_path], "no image in"),
        ([tmp_path / "no.ckpt", image], "no checkpoint at"),
        ([images / "01.png", image], "is damaged or no checkpoint"),
        ([checkpoint, image, "device=cuda"], "torch sees no GPU"),
        ([checkpoint, image, "device=tpu"], "device must be auto, cpu or cuda"),
        ([checkpoint, image, "batch_size=0"], "batch_size must be"),
        ([checkpoint], "name PATH..."),
        ([checkpoint, image, "format=xls"], "format must be csv or json or parquet, got 'xls'"),
        ([checkpoint, image, "maps=true", "method=seen"], "method must be one of"),
        ([checkpoint, image, "prior=2"], "prior must be validation, estimate"),
        ([checkpoint, image, "points=no.json"], "no.json: no such file or folder"),
        ([checkpoint, image, "points=none", "prior=estimate"], "no calibration is there for all"),
        ([checkpoint, image, f"points={val}", "operating_point.value=x"], "above 0 and at most 1"),
    ]
    for arguments, message in cases:
        assert message in predict(*arguments, "--out", out, code=2)
        assert not out.exists()
    assert "--out PATH" in predict(checkpoint, image, code=2)
    (tmp_path / "file").touch()
    said = predict(checkpoint, image, "--out", tmp_path / "file/x", code=2)
    assert "cannot write to the folder" in said


def test_models_side_by_side_have_names_of_their_own(checkpoint, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("a.ckpt", "a_3.ckpt"):
        shutil.copyfile(checkpoint, name)
    monkeypatch.setattr("xray_lightning.serve", served := Mock())
    xray("serve", "a.ckpt", "a_3.ckpt", "a.ckpt")
    assert [*served.call_args.args[0]] == ["a", "a_3", "a_3_3"]


def test_help_tells_the_exit_codes() -> None:
    text = predict("--help")
    words = ["Exit code 0", "130", "failed.csv", "batch_size=", "device=", "prior=", "maps=true"]
    for word in words:
        assert word in text


@pytest.fixture
def tree(tmp_path: Path, write_dicom) -> Path:
    for number in range(3):
        write_dicom(tmp_path / f"in/{number}.dcm", np.full((8, 8), number, np.uint8))
    (tmp_path / "in/readme.txt").write_text("no image")
    return tmp_path / "in"


def convert(*words: object, code: int = 0) -> str:
    return " ".join(xray("convert", *words, code=code).split())


def test_what_is_said(tree: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    text = convert(tree, out)
    assert "3 images converted, 0 before" in text
    assert "1 other file left alone: not DICOM" in text
    assert "names of files and folders were kept" in text
    assert "0 images converted, 3 before" in convert(tree, out)
    counts = {"converted": 0, "before": 3, "others": 1, "failures": {}}
    assert json.loads(convert(tree, out, "--json")).items() >= counts.items()
    parts = [json.loads(convert(tree, tmp_path / "two", f"shard={n}/2", "--json")) for n in (1, 2)]
    assert sum(part["converted"] for part in parts) == 3
    assert "0 images converted, 3 before" in convert(tree, tmp_path / "two")
    text = convert(tree, tmp_path / "renamed", "rename=true", "bits=16")
    assert "(and failed.csv) tells the original names: do not pass it on" in text
    assert (tmp_path / "renamed/000003.png").is_file()
    convert(tree, out, "bits=16", code=2)


def test_failures_and_exit_codes(tree: Path, tmp_path: Path) -> None:
    """3 with the others done, 0 once the files are good, 2 for a wrong path."""
    for number in range(4):
        (tree / f"b{number}.dcm").write_bytes(b"")
    text = convert(tree, tmp_path / "out", code=3)
    assert "3 images converted" in text
    assert "4 of 7 files could not be converted: b0.dcm, b1.dcm, b2.dcm and 1 more" in text
    assert "Traceback" not in text
    for number in range(4):
        (tree / f"b{number}.dcm").write_bytes((tree / "0.dcm").read_bytes())
    convert(tree, tmp_path / "out")
    assert "nowhere does not exist" in convert(tmp_path / "nowhere", tmp_path / "out", code=2)
