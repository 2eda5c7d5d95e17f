"""``xray predict`` on files of every kind: what it writes, how it ends, how it goes on."""

import csv
import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import pytest
from click.testing import Result
from filelock import FileLock
from typer.testing import CliRunner

from xray_lightning.checkpoint import load_checkpoint
from xray_lightning.cli.app import APP
from xray_lightning.cli.compose import fit
from xray_lightning.cli.overrides import composed
from xray_lightning.cli.predict import ScoreTable
from xray_lightning.deploy.classifier import Classifier, Scored, load_classifier
from xray_lightning.errors import TableError
from xray_lightning.evaluation.predictions import read_predictions

XRAY = [sys.executable, "-c", "from xray_lightning.cli.app import main; main()"]
HEADER = ["file", "score_Mass", "score_Nodule"]


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """40 PNG files with a table; a Mass is a bright square."""
    root = tmp_path_factory.mktemp("data").resolve() / "scans"
    root.mkdir()
    rng = np.random.default_rng(0)
    lines = ["image,patient,Mass,Nodule"]
    for number in range(40):
        pixels = rng.integers(0, 120, (36 + number % 5, 40), dtype=np.uint8)
        pixels[8:20, 8:20] += 100 * (number % 2)
        cv2.imwrite(str(root / f"{number:02d}.png"), pixels)
        lines.append(f"{number:02d}.png,{number},{number % 2},{number // 2 % 2}")
    (root.parent / "table.csv").write_text("\n".join(lines) + "\n")
    return root


@pytest.fixture(scope="module")
def run(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A toy network, trained for one epoch by the main job."""
    folder = tmp_path_factory.mktemp("run")
    options = ["data=csv", f"data.table={images.parent / 'table.csv'}", f"data.root={images}"]
    options += ["model=resnet50", "model.backbone=resnet10t", "weights=none", "clahe=true"]
    options += ["image_size=32", "batch_size=4", "epochs=1", "trainer=cpu", "threads=1"]
    options += [
        f"cache_dir={folder / 'cache'}",
        "logger=none",
        "callbacks=none",
        "report=false",
        "panel.label=Mass",
    ]
    config, _ = composed([*options, f"hydra.run.dir={folder}"])
    fit(config)
    logging.captureWarnings(False)  # the job sends them to its log
    return folder


@pytest.fixture(scope="module")
def checkpoint(run: Path) -> Path:
    return run / "checkpoints/best.ckpt"


def predict(*arguments: object, code: int = 0) -> Result:
    result = CliRunner().invoke(APP, ["predict", *map(str, arguments)])
    assert result.exit_code == code, f"{result.output}\n{result.exception}"
    return result


def rows(path: Path) -> list[list[str]]:
    with path.open(newline="") as file:
        return list(csv.reader(file))


def names(path: Path) -> list[str]:
    return [Path(row[0]).name for row in rows(path)[1:]]


def test_scores_are_those_of_the_run(run: Path, checkpoint: Path, images: Path) -> None:
    """Loader, file and array: the same scores, through the commands."""
    predict(checkpoint, images, "--out", run / "new", "--batch-size", 4, "--device", "cpu")
    table = rows(run / "new/predictions.csv")
    assert table[0] == HEADER
    assert [row[0] for row in table[1:]] == sorted(str(path) for path in images.iterdir())
    scores = {Path(row[0]).name: np.array(row[1:], np.float32) for row in table[1:]}
    wanted = read_predictions(run / "predictions_test.csv")
    assert len(set(wanted.scores[:, 0])) == len(wanted.image_ids) > 5
    found = [scores[name] for name in wanted.image_ids]
    np.testing.assert_allclose(found, wanted.scores, rtol=0, atol=1e-6)
    classifier = load_classifier(checkpoint, device="cpu")
    assert classifier.preprocessing == {"image_size": 32, "clahe": True}
    arrays = [cv2.imread(str(images / name), cv2.IMREAD_UNCHANGED) for name in wanted.image_ids]
    np.testing.assert_array_equal(classifier(arrays, batch_size=4), wanted.scores)


def test_the_run_leaves_its_results_figure(run: Path) -> None:
    assert (run / "panel_test.png").stat().st_size > 20_000


def test_what_it_leaves(run: Path, checkpoint: Path, images: Path, tmp_path: Path) -> None:
    result = predict(checkpoint, images / "00.png", "--out", tmp_path)
    assert f"1 images scored, 0 were before: {tmp_path / 'predictions.csv'}" in result.output
    left = {path.name for path in tmp_path.iterdir() if not path.name.startswith(".")}
    assert left == {"predictions.csv", "predict.json"}
    facts = json.loads((tmp_path / "predict.json").read_text())
    assert facts["labels"] == ["Mass", "Nodule"]
    assert facts["split"] == load_checkpoint(checkpoint).description.split["fingerprint"]
    assert (facts["preprocessing"]["image_size"], facts["preprocessing"]["clahe"]) == (32, True)
    assert facts["tta"] == "none"
    assert set(facts["versions"]) >= {"torch", "timm", "pydicom"}


def test_files_folders_and_patterns(
    checkpoint: Path, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(
        images, tmp_path / "more", ignore=lambda *_: [f"{n:02d}.png" for n in range(37)]
    )
    (tmp_path / "more/notes.txt").write_text("not an image")
    monkeypatch.chdir(images)
    named = ["00.png", "../scans/00.png", "./01.png", "0[0-3].png", tmp_path / "more"]
    result = predict(checkpoint, *named, "--out", tmp_path / "out")
    wanted = [f"{number:02d}.png" for number in (0, 1, 2, 3, 37, 38, 39)]
    assert names(tmp_path / "out/predictions.csv") == wanted
    assert "skipped notes.txt: no images" in result.output
    assert names(tmp_path / "out/skipped.csv") == ["notes.txt"]


def test_unreadable_files(checkpoint: Path, images: Path, tmp_path: Path) -> None:
    scans = tmp_path / "scans"
    scans.mkdir()
    for name in ("a.png", "c.png"):
        shutil.copy(images / "00.png", scans / name)
    (scans / "b.png").write_bytes((images / "00.png").read_bytes()[:300])
    (scans / "d.jpg").write_bytes(b"")
    out = tmp_path / "out"
    result = predict(checkpoint, scans, "--out", out, code=3)
    assert "2 of 4 files could not be read" in result.output
    assert "Traceback" not in result.output
    assert names(out / "predictions.csv") == ["a.png", "c.png"]
    failed = rows(out / "failed.csv")
    assert failed[0] == ["file", "reason"]
    assert failed[1][0] == str(scans / "b.png")
    assert failed[1][1].startswith("the PNG is truncated")
    assert failed[2][1].startswith("the file is empty")
    before = (out / "predictions.csv").read_bytes()
    shutil.copy(images / "01.png", scans / "b.png")  # mended; the others are not scored again
    result = predict(checkpoint, scans, "--out", out, code=3)
    assert "1 images scored, 2 were before" in result.output
    assert names(out / "predictions.csv") == ["a.png", "c.png", "b.png"]
    assert (out / "predictions.csv").read_bytes().startswith(before)
    assert names(out / "failed.csv") == ["d.jpg"]
    predict(checkpoint, images / "02.png", "--out", out)  # says nothing of d.jpg
    assert names(out / "failed.csv") == ["d.jpg"]
    shutil.copy(images / "01.png", scans / "d.jpg")
    assert "1 images scored, 3 were before" in predict(checkpoint, scans, "--out", out).output
    assert not (out / "failed.csv").exists()


def test_nothing_is_done_after_a_wrong_word(
    checkpoint: Path, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image, out = images / "00.png", tmp_path / "out"
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    cases: list[tuple[list[object], str]] = [
        ([checkpoint, image, tmp_path / "nowhere"], "nowhere: no such file or folder"),
        ([checkpoint, tmp_path], "no image in"),
        ([tmp_path / "no.ckpt", image], "no checkpoint at"),
        ([images / "01.png", image], "is damaged or no checkpoint"),
        ([checkpoint, image, "--device", "cuda"], "torch sees no GPU"),
        ([checkpoint, image, "--device", "tpu"], "device must be auto, cpu or cuda"),
        ([checkpoint, image, "--batch-size", 0], "--batch-size"),
        ([checkpoint], "Missing argument"),
    ]
    for arguments, message in cases:
        assert message in predict(*arguments, "--out", out, code=2).output
        assert not out.exists()
    assert "Missing option '--out'" in predict(checkpoint, image, code=2).output
    (tmp_path / "file").touch()
    assert (
        "cannot write to the folder"
        in predict(checkpoint, image, "--out", tmp_path / "file/x", code=2).output
    )


def test_a_folder_keeps_to_one_checkpoint(checkpoint: Path, images: Path, tmp_path: Path) -> None:
    out, image = tmp_path / "out", images / "00.png"
    other = tmp_path / "other.ckpt"
    other.write_bytes(checkpoint.read_bytes() + b"\n")
    predict(checkpoint, image, "--out", out)
    message = "scores of another checkpoint or version (what differs: checkpoint)"
    assert message in predict(other, image, "--out", out, code=2).output
    same = tmp_path / "same.ckpt"  # by content, not by name
    same.write_bytes(checkpoint.read_bytes())
    assert "0 images scored, 1 were before" in predict(same, image, "--out", out).output
    (out / "predict.json").write_text("{")
    assert "is damaged" in predict(checkpoint, image, "--out", out, code=2).output
    for text in ("[]", "3", "null", '"x"'):
        (out / "predict.json").write_text(text)
        answer = predict(checkpoint, image, "--out", out, code=2).output
        assert "holds scores of another checkpoint or version" in answer
    (out / "predict.json").unlink()
    assert "but no predict.json" in predict(checkpoint, image, "--out", out, code=2).output


@pytest.mark.parametrize("name", ["predictions.csv", "failed.csv"])
def test_a_folder_where_a_file_should_be(
    name: str, checkpoint: Path, images: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    predict(checkpoint, images / "01.png", "--out", out)
    (out / name).unlink(missing_ok=True)
    (out / name).mkdir()
    assert f"{out / name}" in predict(checkpoint, images / "00.png", "--out", out, code=2).output


def test_one_process_a_folder(checkpoint: Path, images: Path, tmp_path: Path) -> None:
    with FileLock(tmp_path / ".lock"):
        result = predict(checkpoint, images, "--out", tmp_path, code=2)
    assert "is being written to by another process" in result.output
    predict(checkpoint, images / "00.png", "--out", tmp_path)


@pytest.mark.parametrize("how", ["removed", "renamed", "made anew"])
def test_a_folder_that_vanished(
    how: str, checkpoint: Path, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    score, out = Classifier.score, tmp_path / "out"

    def vanishing(self: Classifier, squares: np.ndarray) -> np.ndarray:
        if out.is_dir() and not (tmp_path / "moved").exists():
            shutil.move(out, tmp_path / "moved")
            if how == "removed":
                shutil.rmtree(tmp_path / "moved")
            if how == "made anew":
                out.mkdir()
        return score(self, squares)

    monkeypatch.setattr(Classifier, "score", vanishing)
    result = predict(checkpoint, images, "--out", out, "--batch-size", 8, code=2)
    assert f"{out}" in result.output
    assert "gone" in result.output or "was removed or renamed" in result.output
    assert "images scored" not in result.output


def test_interrupted(
    checkpoint: Path, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    score, batches = Classifier.score, []

    def stopped(self: Classifier, squares: np.ndarray) -> np.ndarray:
        batches.append(len(squares))
        if len(batches) == 3:
            raise KeyboardInterrupt
        return score(self, squares)

    monkeypatch.setattr(Classifier, "score", stopped)
    predict(checkpoint, images, "--out", tmp_path, "--batch-size", 8, code=130)
    assert names(tmp_path / "predictions.csv") == [f"{number:02d}.png" for number in range(16)]
    result = predict(checkpoint, images, "--out", tmp_path)
    assert "24 images scored, 16 were before" in result.output
    assert names(tmp_path / "predictions.csv") == [f"{number:02d}.png" for number in range(40)]


def test_killed_and_continued(checkpoint: Path, images: Path, tmp_path: Path) -> None:
    """One row a file after SIGKILL, whatever was on disk by then."""
    scans, out = tmp_path / "scans", tmp_path / "out"
    scans.mkdir()
    for number in range(600):
        os.link(images / "00.png", scans / f"{number:03d}.png")
    command = [
        *XRAY,
        "predict",
        str(checkpoint),
        str(scans),
        "--out",
        str(out),
        "--batch-size",
        "1",
    ]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    table = out / "predictions.csv"
    deadline = time.monotonic() + 120
    while not (table.exists() and table.stat().st_size > 1000):
        assert process.poll() is None, "it ended before it was killed"
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    kept = len(names(table))
    assert 0 < kept < 600
    result = predict(checkpoint, scans, "--out", out, "--batch-size", 200)
    assert f"{600 - kept} images scored, {kept} were before" in result.output
    assert names(table) == [f"{number:03d}.png" for number in range(600)]


def scored(name: str, *scores: float) -> Scored:
    return Scored(Path(name), np.array(scores, np.float32))


def filled(folder: Path, *names: str) -> bytes:
    with ScoreTable(folder, ["Mass", "Nodule"]) as table:
        for number, name in enumerate(names):
            table.add(scored(name, 1 / (3 + number), 0.5))
    return (folder / "predictions.csv").read_bytes()


@pytest.mark.parametrize("last", ["/b.png", '/b,"c"\nd\n.png', "/\udcff.png"])
def test_cut_anywhere(last: str, tmp_path: Path) -> None:
    """Wherever a kill cuts the table, the next run goes on from its last complete row."""
    names = ["/a\n1.png", last]
    whole = filled(tmp_path, *names)
    one = whole[: whole.rindex(b"/") - 1] if whole.count(b'"') > 2 else whole[: whole.rindex(b"/")]
    for size in range(len(whole) + 1):
        (tmp_path / "predictions.csv").write_bytes(whole[:size])
        done = ScoreTable(tmp_path, ["Mass", "Nodule"]).done
        assert done <= set(names)
        assert len(done) == (2 if size == len(whole) else 1 if size >= len(one) else 0)
        missing = [name for name in names if name not in done]
        with ScoreTable(tmp_path, ["Mass", "Nodule"]) as table:
            for name in missing:
                table.add(scored(name, 1 / (3 + names.index(name)), 0.5))
        assert (tmp_path / "predictions.csv").read_bytes() == whole


def test_scores_survive_the_table(tmp_path: Path) -> None:
    values = np.random.default_rng(0).random((50, 2), dtype=np.float32)
    with ScoreTable(tmp_path, ["Mass", "Nodule"]) as table:
        for number, pair in enumerate(values):
            table.add(Scored(Path(f"{number}.png"), pair))
    found = np.array([row[1:] for row in rows(tmp_path / "predictions.csv")[1:]], np.float32)
    np.testing.assert_array_equal(found, values)


@pytest.mark.parametrize(
    ("text", "row"),
    [
        ("file,score_Mass\n", 1),
        ("file,score_Nodule,score_Mass\n/a,1,1\n", 1),
        ("file,score_Mass,score_Nodule\n/a,1\n/b,1,1\n", 2),
        ("file,score_Mass,score_Nodule\n/a,1,1,1\n", 2),
    ],
)
def test_a_table_of_another_maker(text: str, row: int, tmp_path: Path) -> None:
    (tmp_path / "predictions.csv").write_text(text)
    with pytest.raises(TableError, match=rf"row {row}: expected the columns file, score_Mass, sc"):
        ScoreTable(tmp_path, ["Mass", "Nodule"])
    assert (tmp_path / "predictions.csv").read_text() == text


def test_failures_are_on_disk_at_once(tmp_path: Path) -> None:
    labels: Sequence[str] = ["Mass", "Nodule"]
    with ScoreTable(tmp_path, labels) as table:
        for name in ("/a.png", "/b.png"):
            table.add(Scored(Path(name), None, "no"))
        assert rows(tmp_path / "failed.csv")[1:] == [["/a.png", "no"], ["/b.png", "no"]]
        table.add(scored("/a.png", 0, 1))
        assert rows(tmp_path / "predictions.csv") == [HEADER, ["/a.png", "0", "1"]]
    assert rows(tmp_path / "failed.csv") == [["file", "reason"], ["/b.png", "no"]]
    assert ScoreTable(tmp_path, labels).failures == {"/b.png": "no"}


def test_help_tells_the_exit_codes() -> None:
    text = predict("--help").output
    for word in ("Exit code 0", "130", "failed.csv", "--batch-size", "--device"):
        assert word in text


def test_what_changed_is_scored_again(checkpoint: Path, images: Path, tmp_path: Path) -> None:
    """As the shared case stale: another picture under the name of one that is done."""
    scans, out = tmp_path / "scans", tmp_path / "out"
    scans.mkdir()
    for number, name in enumerate("abc"):
        shutil.copy(images / f"{number:02d}.png", scans / f"{name}.png")
    predict(checkpoint, scans, "--out", out)
    before = {Path(row[0]).name: row for row in rows(out / "predictions.csv")[1:]}
    shutil.copy(images / "07.png", scans / "a.png")
    os.utime(scans / "a.png", (1e9, 1e9))
    result = predict(checkpoint, scans, "--out", out)
    assert "1 images scored, 2 were before" in result.output
    assert "1 files were others when they were scored before" in result.output
    after = {Path(row[0]).name: row for row in rows(out / "predictions.csv")[1:]}
    assert [len(rows(out / "predictions.csv")), *sorted(after)] == [4, "a.png", "b.png", "c.png"]
    assert (after["b.png"], after["c.png"]) == (before["b.png"], before["c.png"])
    wanted = load_classifier(checkpoint, device="cpu")(images / "07.png")[0]
    np.testing.assert_allclose([float(score) for score in after["a.png"][1:]], wanted, atol=2e-6)
    (scans / "a.png").write_bytes(b"")  # no image any more: its row goes
    predict(checkpoint, scans, "--out", out, code=3)
    assert sorted(names(out / "predictions.csv")) == ["b.png", "c.png"]
    (out / ".predict.done").unlink()  # unknown is not done
    assert (
        "2 images scored, 0 were before" in predict(checkpoint, scans, "--out", out, code=3).output
    )


def test_pipes_links_and_notes(checkpoint: Path, images: Path, tmp_path: Path) -> None:
    scans, out = tmp_path / "scans", tmp_path / "out"
    scans.mkdir()
    dark = np.linspace(0, 4095, 1600).astype(np.uint16).reshape(40, 40)
    cv2.imwrite(str(scans / "a.png"), dark)
    (scans / "link.png").symlink_to("a.png")
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "zero.png").symlink_to("/dev/zero")
    named = [scans, tmp_path / "pipe.png", tmp_path / "zero.png"]
    output = predict(checkpoint, *named, "--out", out, code=3).output
    assert names(out / "predictions.csv") == ["a.png"]
    assert names(out / "failed.csv") == ["pipe.png", "zero.png"]
    assert all("is a pipe, a socket or a device" in row[1] for row in rows(out / "failed.csv")[1:])
    assert "note: 1 links to listed images are those images: scored once" in output
    assert "16-bit picture of 12-bit values: dark, for it is not stretched (1)" in output
