"""``predict_files``: what it writes, and how it goes on where it was stopped."""

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
from filelock import FileLock

from xray_lightning import PredictedFiles, load_classifier, predict_files
from xray_lightning.deploy.classifier import Classifier, FileScores
from xray_lightning.deploy.predict import ScoreTable
from xray_lightning.errors import ConfigError, DataNotFoundError, OutputError, TableError
from xray_lightning.folders import LockedError
from xray_lightning.models.network import XrayNet

LABELS = ("Mass", "Nodule")
HEADER = ["file", "score_Mass", "score_Nodule"]


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """40 PNG files."""
    root = tmp_path_factory.mktemp("data").resolve()
    rng = np.random.default_rng(0)
    for number in range(40):
        pixels = rng.integers(0, 250, (36 + number % 5, 40), dtype=np.uint8)
        cv2.imwrite(str(root / f"{number:02d}.png"), pixels)
    return root


@pytest.fixture
def scans(images: Path, tmp_path: Path) -> Path:
    """A folder of our own with the files a.png, b.png and c.png."""
    folder = tmp_path.resolve() / "scans"
    folder.mkdir()
    for number, name in enumerate("abc"):
        shutil.copy(images / f"{number:02d}.png", folder / f"{name}.png")
    return folder


@pytest.fixture(scope="module")
def classifier(checkpoint: Path) -> Classifier:
    return load_classifier(checkpoint, device="cpu")


def rows(path: Path) -> list[list[str]]:
    with path.open(newline="") as file:
        return list(csv.reader(file))


def names(path: Path) -> list[str]:
    return [Path(row[0]).name for row in rows(path)[1:]]


def counts(done: PredictedFiles) -> tuple[int, int, int, int]:
    return done.scored, done.kept, done.changed, len(done.failures)


def test_scores_are_the_classifiers(classifier: Classifier, images: Path, tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    done = predict_files(
        classifier, [images], tmp_path, batch_size=7, progress=lambda *both: told.append(both)
    )
    assert counts(done) == (40, 0, 0, 0)
    assert told == [(number, 40) for number in range(41)]
    table = rows(done.table)
    assert table[0] == ["file", *(f"score_{label}" for label in classifier.labels)]
    paths = sorted(images.iterdir())
    assert [row[0] for row in table[1:]] == [str(path) for path in paths]
    written = np.array([row[1:] for row in table[1:]], np.float32)
    np.testing.assert_array_equal(written, classifier(paths, batch_size=7))
    assert PredictedFiles.from_json(json.loads(json.dumps(done.to_json()))) == done


def test_what_it_leaves(classifier: Classifier, images: Path, tmp_path: Path) -> None:
    predict_files(classifier, [images / "00.png"], tmp_path)
    left = {path.name for path in tmp_path.iterdir() if not path.name.startswith(".")}
    assert left == {"predictions.csv", "predict.json"}
    identity = json.loads((tmp_path / "predict.json").read_text())
    assert identity["labels"] == list(classifier.labels)
    assert (identity["split"], identity["tta"]) == ("0123456789abcdef", "none")
    preprocessing = identity["preprocessing"]
    assert (preprocessing["image_size"], preprocessing["clahe"]) == (32, False)
    assert set(identity["versions"]) >= {"torch", "timm", "pydicom"}


def test_files_folders_and_patterns(
    classifier: Classifier, images: Path, scans: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (scans / "notes.txt").write_text("not an image")
    monkeypatch.chdir(images)
    named = ["00.png", f"../{images.name}/00.png", "./01.png", "0[0-3].png", scans]
    done = predict_files(classifier, named, scans.parent / "out")
    wanted = [*(f"{number:02d}.png" for number in range(4)), "a.png", "b.png", "c.png"]
    assert names(done.table) == wanted
    assert done.skipped == [str(scans / "notes.txt")]
    assert names(scans.parent / "out/skipped.csv") == ["notes.txt"]


def test_unreadable_files_are_tried_again(
    classifier: Classifier, images: Path, scans: Path
) -> None:
    out, whole = scans.parent / "out", (scans / "b.png").read_bytes()
    (scans / "b.png").write_bytes(whole[:300])
    (scans / "d.jpg").write_bytes(b"")
    done = predict_files(classifier, [scans], out)
    assert counts(done) == (2, 0, 0, 2)
    assert done.failures[str(scans / "b.png")].startswith("the PNG is truncated")
    assert done.failures[str(scans / "d.jpg")].startswith("the file is empty")
    assert rows(out / "failed.csv") == [["file", "reason"], *map(list, done.failures.items())]
    before = done.table.read_bytes()
    (scans / "b.png").write_bytes(whole)
    assert counts(predict_files(classifier, [scans], out)) == (1, 2, 0, 1)
    assert names(done.table) == ["a.png", "c.png", "b.png"]
    assert done.table.read_bytes().startswith(before), "the others are not scored again"
    predict_files(classifier, [images / "02.png"], out)  # says nothing of d.jpg
    assert names(out / "failed.csv") == ["d.jpg"]
    shutil.copy(images / "01.png", scans / "d.jpg")
    assert counts(predict_files(classifier, [scans], out)) == (1, 3, 0, 0)
    assert not (out / "failed.csv").exists()


def test_what_changed_is_scored_again(classifier: Classifier, images: Path, scans: Path) -> None:
    """As the shared case stale: another picture under the name of one that is done."""
    out = scans.parent / "out"
    table = predict_files(classifier, [scans], out).table
    before = {Path(row[0]).name: row for row in rows(table)[1:]}
    shutil.copy(images / "07.png", scans / "a.png")
    os.utime(scans / "a.png", (1e9, 1e9))
    assert counts(predict_files(classifier, [scans], out)) == (1, 2, 1, 0)
    after = {Path(row[0]).name: row for row in rows(table)[1:]}
    assert [len(rows(table)), *sorted(after)] == [4, "a.png", "b.png", "c.png"]
    assert (after["b.png"], after["c.png"]) == (before["b.png"], before["c.png"])
    wanted = classifier(images / "07.png")[0]
    np.testing.assert_allclose([float(score) for score in after["a.png"][1:]], wanted, atol=2e-6)
    (scans / "a.png").write_bytes(b"")  # not an image any more: its row goes
    assert counts(predict_files(classifier, [scans], out)) == (0, 2, 1, 1)
    assert sorted(names(table)) == ["b.png", "c.png"]
    (out / ".predict.done").unlink()  # unknown is not done
    assert counts(predict_files(classifier, [scans], out)) == (2, 0, 2, 1)


def test_pipes_links_and_notes(classifier: Classifier, scans: Path) -> None:
    dark = np.linspace(0, 4095, 1600).astype(np.uint16).reshape(40, 40)
    cv2.imwrite(str(scans / "a.png"), dark)
    (scans / "link.png").symlink_to("a.png")
    pipe, zero = scans.parent / "pipe.png", scans.parent / "zero.png"
    os.mkfifo(pipe)
    zero.symlink_to("/dev/zero")
    done = predict_files(classifier, [scans, pipe, zero], scans.parent / "out")
    assert names(done.table) == ["a.png", "b.png", "c.png"]
    assert set(done.failures) == {str(pipe), str(zero)}
    assert all("is a pipe, a socket or a device" in reason for reason in done.failures.values())
    assert done.links == [str(scans / "link.png")]
    assert "16-bit picture of 12-bit values: dark, for it is not stretched (1)" in done.notes


def test_a_folder_keeps_to_one_checkpoint(
    classifier: Classifier, checkpoint: Path, scans: Path, net: XrayNet, tmp_path: Path
) -> None:
    out, same, other = (tmp_path / name for name in ("out", "same.ckpt", "other.ckpt"))
    predict_files(classifier, [scans], out)
    same.write_bytes(checkpoint.read_bytes())  # by content, not by name
    assert counts(predict_files(load_classifier(same, device="cpu"), [scans], out))[:2] == (0, 3)
    other.write_bytes(checkpoint.read_bytes() + b"\n")
    with pytest.raises(ConfigError, match=r"what differs: checkpoint\)"):
        predict_files(load_classifier(other, device="cpu"), [scans], out)
    for text, reason in (
        ("{", "cannot be read"),
        ("3", "cannot be read"),
        ("{}", "another checkpoint"),
    ):
        (out / "predict.json").write_text(text)
        with pytest.raises(ConfigError, match=reason):
            predict_files(classifier, [scans], out)
    (out / "predict.json").unlink()
    with pytest.raises(ConfigError, match=r"but no predict\.json"):
        predict_files(classifier, [scans], out)
    nameless = Classifier(net, {"image_size": 32, "clahe": False}, device="cpu")
    with pytest.raises(ConfigError, match="needs a classifier of a checkpoint"):
        predict_files(nameless, [scans], tmp_path / "new")


@pytest.mark.parametrize("name", ["predictions.csv", "failed.csv"])
def test_a_folder_where_a_file_should_be(name: str, classifier: Classifier, scans: Path) -> None:
    out = scans.parent / "out"
    predict_files(classifier, [scans / "a.png"], out)
    (out / name).unlink(missing_ok=True)
    (out / name).mkdir()
    with pytest.raises(TableError, match=str(out / name)):
        predict_files(classifier, [scans / "b.png"], out)


def test_nothing_is_made_for_nothing(classifier: Classifier, scans: Path) -> None:
    out = scans.parent / "out"
    with pytest.raises(DataNotFoundError, match="nowhere"):
        predict_files(classifier, [scans, "nowhere"], out)
    assert not out.exists()
    out.mkdir()
    with FileLock(out / ".lock"), pytest.raises(LockedError):
        predict_files(classifier, [scans], out)


@pytest.mark.parametrize("how", ["removed", "renamed", "made anew"])
def test_a_folder_that_vanished(
    how: str, classifier: Classifier, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    score, out = Classifier.score, tmp_path / "out"

    def vanish(self: Classifier, squares: np.ndarray) -> np.ndarray:
        if out.is_dir() and not (tmp_path / "moved").exists():
            shutil.move(out, tmp_path / "moved")
            if how == "removed":
                shutil.rmtree(tmp_path / "moved")
            if how == "made anew":
                out.mkdir()
        return score(self, squares)

    monkeypatch.setattr(Classifier, "score", vanish)
    with pytest.raises(OutputError, match=str(out)):
        predict_files(classifier, [images], out, batch_size=8)


def test_interrupted(
    classifier: Classifier, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    score, batches = Classifier.score, []

    def stop(self: Classifier, squares: np.ndarray) -> np.ndarray:
        batches.append(len(squares))
        if len(batches) == 3:
            raise KeyboardInterrupt
        return score(self, squares)

    monkeypatch.setattr(Classifier, "score", stop)
    with pytest.raises(KeyboardInterrupt):
        predict_files(classifier, [images], tmp_path, batch_size=8)
    assert names(tmp_path / "predictions.csv") == [f"{number:02d}.png" for number in range(16)]
    assert counts(predict_files(classifier, [images], tmp_path)) == (24, 16, 0, 0)
    assert names(tmp_path / "predictions.csv") == [f"{number:02d}.png" for number in range(40)]


def test_killed_and_continued(
    classifier: Classifier, checkpoint: Path, images: Path, tmp_path: Path
) -> None:
    """One row a file after SIGKILL, whatever was on disk by then."""
    scans, out = tmp_path / "scans", tmp_path / "out"
    scans.mkdir()
    for number in range(600):
        os.link(images / "00.png", scans / f"{number:03d}.png")
    code = (
        "import sys; from xray_lightning import load_classifier, predict_files;"
        "predict_files(load_classifier(sys.argv[1]), [sys.argv[2]], sys.argv[3], batch_size=1)"
    )
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    process = subprocess.Popen(
        [sys.executable, "-c", code, checkpoint, scans, out], env=environment
    )
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
    done = predict_files(classifier, [scans], out, batch_size=200)
    assert counts(done) == (600 - kept, kept, 0, 0)
    assert names(table) == [f"{number:03d}.png" for number in range(600)]


# --- the table ----------------------------------------------------------------------------------


def scores_of(name: str, *scores: float) -> FileScores:
    return FileScores(Path(name), np.array(scores, np.float32))


def fill(folder: Path, *names: str) -> bytes:
    with ScoreTable(folder, LABELS) as table:
        for number, name in enumerate(names):
            table.add(scores_of(name, 1 / (3 + number), 0.5))
    return (folder / "predictions.csv").read_bytes()


@pytest.mark.parametrize("last", ["/b.png", '/b,"c"\nd\n.png', "/\udcff.png"])
def test_cut_anywhere(last: str, tmp_path: Path) -> None:
    """Wherever a kill cuts the table, the next run goes on from its last complete row."""
    names = ["/a\n1.png", last]
    whole = fill(tmp_path, *names)
    one = whole[: whole.rindex(b"/") - 1] if whole.count(b'"') > 2 else whole[: whole.rindex(b"/")]
    for size in range(len(whole) + 1):
        (tmp_path / "predictions.csv").write_bytes(whole[:size])
        done = ScoreTable(tmp_path, LABELS).done
        assert done <= set(names)
        assert len(done) == (2 if size == len(whole) else 1 if size >= len(one) else 0)
        missing = [name for name in names if name not in done]
        with ScoreTable(tmp_path, LABELS) as table:
            for name in missing:
                table.add(scores_of(name, 1 / (3 + names.index(name)), 0.5))
        assert (tmp_path / "predictions.csv").read_bytes() == whole


def test_scores_survive_the_table(tmp_path: Path) -> None:
    values = np.random.default_rng(0).random((50, 2), dtype=np.float32)
    with ScoreTable(tmp_path, LABELS) as table:
        for number, pair in enumerate(values):
            table.add(FileScores(Path(f"{number}.png"), pair))
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
        ScoreTable(tmp_path, LABELS)
    assert (tmp_path / "predictions.csv").read_text() == text


def test_failures_are_on_disk_at_once(tmp_path: Path) -> None:
    with ScoreTable(tmp_path, LABELS) as table:
        for name in ("/a.png", "/b.png"):
            table.add(FileScores(Path(name), None, "no"))
        assert rows(tmp_path / "failed.csv")[1:] == [["/a.png", "no"], ["/b.png", "no"]]
        table.add(scores_of("/a.png", 0, 1))
        assert rows(tmp_path / "predictions.csv") == [HEADER, ["/a.png", "0", "1"]]
    assert rows(tmp_path / "failed.csv") == [["file", "reason"], ["/b.png", "no"]]
    assert ScoreTable(tmp_path, LABELS).failures == {"/b.png": "no"}
