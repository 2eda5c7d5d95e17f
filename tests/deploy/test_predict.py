"""``predict_files``: what it writes, and how it goes on where it was stopped."""

import json
import os
import shutil
import signal
import sys
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
from filelock import FileLock
from running import kill, read_rows, start
from toy import save_net

from xray_lightning import PredictedFiles, load_classifier, predict_files
from xray_lightning.deploy.classifier import Classifier, FileScores
from xray_lightning.deploy.interpretation import Interpretation
from xray_lightning.deploy.predict import ScoreTable
from xray_lightning.errors import ConfigError, DataNotFoundError, OutputError, TableError
from xray_lightning.evaluation.predictions import read_scores
from xray_lightning.folders import LockedError
from xray_lightning.records import Record
from xray_lightning.report.page import say
from xray_lightning.shards import Shard

LABELS = ("Mass", "Nodule")
READING = Interpretation(LABELS)
KINDS = ("score", "probability", "call")
HEADER = ["file", "study", "gate", *(f"{kind}_{label}" for label in LABELS for kind in KINDS)]


@pytest.fixture
def scans(images: Path, tmp_path: Path) -> Path:
    """A folder of our own with the files a.png, b.png and c.png."""
    folder = tmp_path.resolve() / "scans"
    folder.mkdir()
    for number, name in enumerate("abc"):
        shutil.copy(images / f"{number:02d}.png", folder / f"{name}.png")
    return folder


def names(path: Path) -> list[str]:
    return [Path(row[0]).name for row in read_rows(path)[1:]]


def counts(done: PredictedFiles) -> tuple[int, int, int, int]:
    return done.scored, done.kept, done.changed, len(done.failures)


def test_scores_are_the_classifiers(classifier: Classifier, images: Path, tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    settings = {"batch_size": 7, "progress": lambda *both: told.append(both)}
    done = predict_files(classifier, [images], tmp_path, **settings)
    assert counts(done) == (40, 0, 0, 0)
    assert told == [(number, 40) for number in range(41)]
    table = read_rows(done.table)
    named = (f"{kind}_{label}" for label in classifier.labels for kind in KINDS)
    assert table[0] == ["file", "study", "gate", *named]
    paths = sorted(images.iterdir())
    assert [row[0] for row in table[1:]] == [str(path) for path in paths]
    written = np.array([row[3::3] for row in table[1:]], np.float32)
    np.testing.assert_array_equal(written, classifier(paths, batch_size=7).scores)
    assert PredictedFiles.from_json(json.loads(json.dumps(done.to_json()))) == done


def test_what_it_leaves(classifier: Classifier, images: Path, tmp_path: Path) -> None:
    predict_files(classifier, [images / "00.png"], tmp_path)
    left = {path.name for path in tmp_path.iterdir() if not path.name.startswith(".")}
    assert left == {"predictions.csv", "model.json"}
    identity = json.loads((tmp_path / "model.json").read_text())
    wanted = {"labels": [*classifier.labels], "split": "0123456789abcdef", "tta": "none"}
    assert identity | wanted == identity
    assert identity["preprocessing"].items() >= {"image_size": 32, "clahe": False}.items()
    assert set(identity["versions"]) >= {"torch", "timm", "pydicom"}


def test_files_folders_and_patterns(classifier, images, scans, monkeypatch) -> None:
    (scans / "notes.txt").write_text("not an image")
    monkeypatch.chdir(images)
    named = ["00.png", f"../{images.name}/00.png", "./01.png", "0[0-3].png", scans]
    done = predict_files(classifier, named, scans.parent / "out")
    wanted = [*(f"{number:02d}.png" for number in range(4)), "a.png", "b.png", "c.png"]
    assert names(done.table) == wanted
    assert done.skipped == [str(scans / "notes.txt")]
    assert names(scans.parent / "out/skipped.csv") == ["notes.txt"]
    predict_files(classifier, named[:1], scans.parent / "out")
    assert not (scans.parent / "out/skipped.csv").exists(), "it was of the call before"


def test_unreadable_files_are_tried_again(classifier, images, scans) -> None:
    out, whole = scans.parent / "out", (scans / "b.png").read_bytes()
    (scans / "b.png").write_bytes(whole[:300])
    (scans / "d.jpg").write_bytes(b"")
    done = predict_files(classifier, [scans], out)
    assert counts(done) == (2, 0, 0, 2)
    assert done.failures[str(scans / "b.png")].startswith("the PNG is truncated")
    assert done.failures[str(scans / "d.jpg")].startswith("the file is empty")
    assert read_rows(out / "failed.csv") == [["file", "reason"], *map(list, done.failures.items())]
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
    before = {Path(row[0]).name: row for row in read_rows(table)[1:]}
    shutil.copy(images / "07.png", scans / "a.png")
    os.utime(scans / "a.png", (1e9, 1e9))
    assert counts(predict_files(classifier, [scans], out)) == (1, 2, 1, 0)
    after = {Path(row[0]).name: row for row in read_rows(table)[1:]}
    assert [len(read_rows(table)), *sorted(after)] == [4, "a.png", "b.png", "c.png"]
    assert (after["b.png"], after["c.png"]) == (before["b.png"], before["c.png"])
    wanted = classifier(images / "07.png").scores[0]
    np.testing.assert_allclose([float(score) for score in after["a.png"][3::3]], wanted, atol=2e-6)
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
    assert done.notes.startswith("3 files: ")  # of those that were read


def test_a_folder_keeps_to_one_checkpoint(classifier, checkpoint, scans, net, tmp_path) -> None:
    out, same, other = (tmp_path / name for name in ("out", "same.ckpt", "other.ckpt"))
    predict_files(classifier, [scans], out)
    same.write_bytes(checkpoint.read_bytes())  # by content, not by name
    assert counts(predict_files(load_classifier(same, device="cpu"), [scans], out))[:2] == (0, 3)
    other.write_bytes(checkpoint.read_bytes() + b"\n")
    with pytest.raises(ConfigError, match=r"what differs: checkpoint\)"):
        predict_files(load_classifier(other, device="cpu"), [scans], out)
    damaged = {"{": "cannot be read", "3": "cannot be read", "{}": "another checkpoint"}
    for text, reason in damaged.items():
        (out / "model.json").write_text(text)
        with pytest.raises(ConfigError, match=reason):
            predict_files(classifier, [scans], out)
    (out / "model.json").unlink()
    with pytest.raises(ConfigError, match=r"but no model\.json"):
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
def test_a_folder_that_vanished(how, classifier, images, tmp_path, monkeypatch) -> None:
    check, out = Classifier.score_and_check, tmp_path / "out"

    def vanish(self: Classifier, squares: np.ndarray, told: object) -> object:
        if out.is_dir() and not (tmp_path / "moved").exists():
            shutil.move(out, tmp_path / "moved")
            if how == "removed":
                shutil.rmtree(tmp_path / "moved")
            if how == "made anew":
                out.mkdir()
        return check(self, squares, told)

    monkeypatch.setattr(Classifier, "score_and_check", vanish)
    with pytest.raises(OutputError, match=str(out)):
        predict_files(classifier, [images], out, batch_size=8)


def test_interrupted(classifier, images, tmp_path, monkeypatch) -> None:
    check, batches = Classifier.score_and_check, []

    def stop(self: Classifier, squares: np.ndarray, told: object) -> object:
        batches.append(len(squares))
        if len(batches) == 3:
            raise KeyboardInterrupt
        return check(self, squares, told)

    monkeypatch.setattr(Classifier, "score_and_check", stop)
    with pytest.raises(KeyboardInterrupt):
        predict_files(classifier, [images], tmp_path, batch_size=8)
    assert names(tmp_path / "predictions.csv") == [f"{number:02d}.png" for number in range(16)]
    assert counts(predict_files(classifier, [images], tmp_path)) == (24, 16, 0, 0)
    assert names(tmp_path / "predictions.csv") == [f"{number:02d}.png" for number in range(40)]


def test_killed_and_continued(classifier, checkpoint, images, tmp_path) -> None:
    """One row a file after SIGKILL, whatever was on disk by then."""
    scans, out = tmp_path / "scans", tmp_path / "out"
    scans.mkdir()
    for number in range(600):
        os.link(images / "00.png", scans / f"{number:03d}.png")
    code = (
        "import sys; from xray_lightning import load_classifier, predict_files;"
        "predict_files(load_classifier(sys.argv[1]), [sys.argv[2]], sys.argv[3], batch_size=1)"
    )
    table = out / "predictions.csv"
    ready = lambda _: table.exists() and table.stat().st_size > 1000  # noqa: E731
    process = start([sys.executable, "-c", code, checkpoint, scans, out], ready, 120)
    kill(process)
    assert process.returncode == -signal.SIGKILL
    kept = len(names(table))
    assert 0 < kept < 600
    done = predict_files(classifier, [scans], out, batch_size=200)
    assert counts(done) == (600 - kept, kept, 0, 0)
    assert names(table) == [f"{number:03d}.png" for number in range(600)]


def test_shards_and_one_that_joins_them_are_as_one(classifier, images, tmp_path) -> None:
    one, out = tmp_path / "one", tmp_path / "out"
    predict = partial(predict_files, classifier, [images], batch_size=1)
    shares = [predict(out, shard=Shard(number, 3)) for number in (3, 1)]
    shutil.copytree(out, tmp_path / "late")
    shares.append(predict(out, shard=Shard(2, 3)))
    assert min(share.scored for share in shares) > 5
    assert sum(share.scored for share in shares) == 40
    assert Path(shares[0].folder) == out / "shard-3-of-3"
    one.mkdir()
    shutil.copy(out / ".study.key", one)
    wanted = predict(one).table.read_bytes()
    assert counts(done := predict(out)) == (0, 40, 0, 0)
    assert done.table.read_bytes() == wanted
    assert counts(predict(out)) == (0, 40, 0, 0)
    assert counts(predict(tmp_path / "late")) == (shares[2].scored, 40 - shares[2].scored, 0, 0)
    (out / "shard-1-of-2").mkdir()
    with pytest.raises(ConfigError, match="holds shards of 2 and of 3: delete those"):
        predict(out)


def test_a_shard_of_another_checkpoint_or_at_work_is_not_joined(classifier, scans, net) -> None:
    out, other = scans.parent / "out", save_net(net, scans.parent / "other.ckpt")
    predict_files(load_classifier(other, device="cpu"), [scans], out, shard=Shard(1, 2))
    with pytest.raises(ConfigError, match="shard-1-of-2 holds scores of another checkpoint"):
        predict_files(classifier, [scans], out)
    with FileLock(out / "shard-1-of-2/.lock"), pytest.raises(LockedError, match="shard-1-of-2"):
        predict_files(classifier, [scans], out)
    assert not (out / "predictions.csv").exists()


@pytest.mark.parametrize("text", ["0/3", "4/3", "3", "a/b", "1/2/3", "-1/2"])
def test_a_shard_that_cannot_be(text: str) -> None:
    with pytest.raises(ConfigError, match=rf"shard must be such as 3/16, .*, got '{text}'"):
        Shard.parse(text)
    assert Shard.parse("") == Shard(1, 1)


def scores_of(name: str, *scores: float) -> FileScores:
    return FileScores(Path(name), np.array(scores, np.float32))


@pytest.mark.parametrize("last", ["/b.png", '/b,"c"\nd\n.png', "/\udcff\r.png"])
def test_cut_anywhere(last: str, tmp_path: Path) -> None:
    """Wherever a kill cuts the table, the next run goes on from its last complete row."""
    names = ["/a\n1.png", last]
    with ScoreTable(tmp_path, READING) as table:
        for number, name in enumerate(names):
            table.add(scores_of(name, 1 / (3 + number), 0.5))
    whole = (tmp_path / "predictions.csv").read_bytes()
    one = whole[: whole.rindex(b"/") - 1] if whole.count(b'"') > 2 else whole[: whole.rindex(b"/")]
    for size in range(len(whole) + 1):
        (tmp_path / "predictions.csv").write_bytes(whole[:size])
        done = set(ScoreTable(tmp_path, READING).rows)
        assert done <= set(names)
        assert len(done) == (2 if size == len(whole) else 1 if size >= len(one) else 0)
        missing = [name for name in names if name not in done]
        with ScoreTable(tmp_path, READING) as table:
            for name in missing:
                table.add(scores_of(name, 1 / (3 + names.index(name)), 0.5))
        assert (tmp_path / "predictions.csv").read_bytes() == whole


@pytest.mark.parametrize(
    ("text", "row"),
    [
        ("file,score_Mass,score_Nodule\n/a,1,1\n", 1),  # of an earlier version
        (",".join(reversed(HEADER)), 1),
        (",".join(HEADER) + "\n/a,s,,1\n/b,s,,1,,,1,,\n", 2),
        (",".join(HEADER) + "\n/a,s,,1,,,1,,,1\n", 2),
    ],
)
def test_a_table_of_another_maker(text: str, row: int, tmp_path: Path) -> None:
    (tmp_path / "predictions.csv").write_text(text.rstrip("\n") + "\n")
    with pytest.raises(TableError, match=rf"row {row}: expected the columns file, study, gate"):
        ScoreTable(tmp_path, READING)
    assert (tmp_path / "predictions.csv").read_text() == text.rstrip("\n") + "\n"


def test_what_stands_beside_a_score(checkpoint_with_points, images, tmp_path) -> None:
    """Recomputed by hand from the written scores and model.json; other settings rewrite rows."""
    files, asked = sorted(images.iterdir()), {"validation": {}, 0.02: {"Mass": 0.02}}
    tables = {}
    for prior in (*asked, "estimate"):
        classifier = load_classifier(checkpoint_with_points, device="cpu", prior=prior)
        done = predict_files(classifier, [images], tmp_path)
        table = tables[prior] = pd.read_csv(done.table)
        model = json.loads((tmp_path / "model.json").read_text())
        points = model["operating_points"]["labels"]
        assert (model["prior"], model["source"], len(table)) == (prior, "checkpoint", 40)
        assert points["Mass"]["sensitivity_interval"][0] < points["Mass"]["sensitivity"]
        score = table["score_Mass"]
        assert done.called == {"Mass": (score >= points["Mass"]["threshold"]).sum()}
        assert (table["call_Mass"] == (score >= points["Mass"]["threshold"])).all()
        assert table[["probability_Nodule", "call_Nodule", "call_Effusion"]].isna().all(axis=None)
        line, before = points["Mass"]["calibration"], points["Mass"]["prevalence"]
        odds = line["slope"] * np.log(score / (1 - score)) + line["intercept"]
        if prior != "validation":
            told, now = model["priors"]["Mass"]
            assert told == before
            assert now == asked.get(prior, {"Mass": now})["Mass"]
            odds += np.log(now / (1 - now)) - np.log(before / (1 - before))
            if prior == "estimate":  # Saerens' fixed point: the mean of what it gives
                assert table["probability_Mass"].mean() == pytest.approx(now, abs=1e-5)
        np.testing.assert_allclose(table["probability_Mass"], 1 / (1 + np.exp(-odds)), rtol=1e-4)
    (tmp_path / "bad.png").write_bytes(b"")
    bad = predict_files(classifier, [tmp_path / "bad.png"], tmp_path)  # nothing of the others
    assert (bad.studies, bad.called) == (0, {})
    assert "none of these images has a score" in "".join(say("predicted", bad, "", True))
    assert tables["validation"]["score_Mass"].equals(tables["estimate"]["score_Mass"])
    records = [Record(path.stem, str(n), (n % 2,)) for n, path in enumerate(files)]
    ids, scores = read_scores(tmp_path / "predictions.csv", ["Mass"], [r.image_id for r in records])
    assert ids == [path.stem for path in files]
    np.testing.assert_array_equal(scores[:, 0], tables["estimate"]["score_Mass"].astype("f4"))


def test_studies_and_forms(classifier, write_dicom, images, tmp_path) -> None:
    """Two films of one study, one of another, a PNG; nothing of the UID is written."""
    pixels = cv2.imread(str(images / "00.png"), cv2.IMREAD_UNCHANGED)
    scans = tmp_path / "scans"
    for name, uid in (("a", "1.2.987654"), ("b", "1.2.987654"), ("c", "1.2.3")):
        write_dicom(scans / f"{name}.dcm", pixels, StudyInstanceUID=uid)
    shutil.copy(images / "00.png", scans / "=d.png")
    done = predict_files(classifier, [scans], tmp_path / "out", form="json")
    studies = {Path(row[0]).name: row[1] for row in read_rows(done.table)[1:]}
    assert (done.studies, len(set(studies.values()))) == (3, 3)
    assert studies["a.dcm"] == studies["b.dcm"]
    other = predict_files(classifier, [scans], tmp_path / "other")
    assert read_rows(other.table)[2][1] not in studies.values(), "each folder has a key of its own"
    for path in (tmp_path / "out").iterdir():
        assert b"987654" not in path.read_bytes(), path
    images_told = json.loads((tmp_path / "out/predictions.json").read_text())["images"]
    assert {Path(row["file"]).name: row["study"] for row in images_told} == studies
    assert images_told[0]["call_Mass"] is None
    assert np.float32(images_told[1]["score_Mass"]) == np.float32(read_rows(done.table)[2][3])


@pytest.mark.parametrize(
    ("form", "named"), [("xlsx", "csv, json, parquet, got 'xlsx'"), ("parquet", "needs pyarrow")]
)
def test_forms_that_cannot_be(form, named, classifier, scans, monkeypatch) -> None:
    monkeypatch.setattr("xray_lightning.deploy.predict.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=named):
        predict_files(classifier, [scans], scans.parent / "out", form=form)
    assert not (scans.parent / "out").exists()


def test_failures_are_on_disk_at_once(tmp_path: Path) -> None:
    with ScoreTable(tmp_path, READING) as table:
        for name in ("/a.png", "/b.png"):
            table.add(FileScores(Path(name), None, "no"))
        assert read_rows(tmp_path / "failed.csv")[1:] == [["/a.png", "no"], ["/b.png", "no"]]
        table.add(scores_of("/a.png", 0, 1))
        header, row = read_rows(tmp_path / "predictions.csv")
        assert (header, row[0], row[2:]) == (HEADER, "/a.png", ["", "0", "", "", "1", "", ""])
    assert read_rows(tmp_path / "failed.csv") == [["file", "reason"], ["/b.png", "no"]]
    assert ScoreTable(tmp_path, READING).failures == {"/b.png": "no"}
