"""The main job as a user runs it: whole commands, on the phantom, at toy size."""

import json
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from pytorch_lightning.loggers import TensorBoardLogger
from running import MAIN, ROOT, TRAIN, XRAY, comparable, kill, read_table, run, start
from toy import aurocs_of_labels

from xray_lightning import ConfigError, TrackioLogger, load_checkpoint, read_predictions
from xray_lightning.report.finish import SHARED, share_files
from xray_lightning.writing import read_json

# A ResNet of 5 M parameters with dropout; 150 images; two cores.
COMPLETE = ["data.patients=60", "image_size=32", "batch_size=16", "epochs=3", "augment=light"]
COMPLETE += ["model=resnet50", "model.backbone=resnet10t", "model.dropout=0.2"]
COMPLETE += ["schedule=plateau", "schedule.patience=0", "freeze_epochs=1", "ema_decay=0.9"]
COMPLETE += ["draws=100", "callbacks.heat_maps.every=3", "callbacks.heat_maps.images=1"]
QUICK = ["report=false", "callbacks.heat_maps=null"]  # pages and pictures take longest
TOY = [*COMPLETE, *QUICK]
FILES = ["config.yaml", "environment.json", "metrics.csv", "metrics.json", "evaluation.json"]
FILES += ["operating_points.json", "report.html", "report.json", "train.log"]
FILES += ["predictions_val.csv", "predictions_test.csv", "maps/val_epoch3.png", "maps/test.npz"]
FILES += ["roc_val.png", "roc_test.png", "curves.png", "class_distribution.png", "montage.png"]
FILES += ["checkpoints/best.ckpt", "checkpoints/last.ckpt"]


@pytest.fixture(scope="module")
def trained(folder: Path) -> Path:
    """A run made by ``xray train`` from a folder that is not the repository."""
    text = run([*XRAY, "train", *COMPLETE], folder)
    runs = [path for path in (folder / "outputs").iterdir() if path.name != "cache"]
    assert len(runs) == 1, "xray train writes to ./outputs"
    assert f"run directory: {runs[0]}" in text
    assert "images per second" in text
    assert "mean test AUROC 0." in text
    return runs[0]


def metrics(run_folder: Path, subset: str) -> dict[str, object]:
    return read_json(run_folder / "metrics.json")[subset]


def test_run_directory_is_complete(trained: Path) -> None:
    for name in FILES:
        assert (trained / name).stat().st_size > 0, name


def test_metrics_agree_with_scikit_learn(trained: Path) -> None:
    for subset in ("val", "test"):
        auroc = metrics(trained, subset)["auroc"]
        table = read_predictions(trained / f"predictions_{subset}.csv")
        told = np.array([auroc["labels"][label] for label in table.labels], dtype=float)
        expected = aurocs_of_labels(table.scores, table.targets)
        np.testing.assert_allclose(told, expected, rtol=0, atol=1e-6)
        assert auroc["defined"] == np.isfinite(expected).sum()
        assert auroc["mean"] == pytest.approx(np.nanmean(expected), abs=1e-6)


def test_metrics_csv_holds_the_score_of_the_kept_epoch(trained: Path) -> None:
    rows, val = read_table(trained / "metrics.csv"), metrics(trained, "val")
    assert [row["epoch"] for row in rows] == ["0", "1", "2"]
    (epoch, choice), page = val["checkpoint"].values(), (trained / "report.html").read_text()
    assert f"the checkpoint is of epoch {epoch}, the {choice}" in page
    kept = float(rows[epoch - 1]["val/auroc"])
    assert val["auroc"]["mean"] == pytest.approx(kept, abs=1e-6)
    assert float(rows[-1]["images_seen"]) == 3 * float(rows[0]["images_seen"])


def test_fingerprints_stand_everywhere(trained: Path) -> None:
    split = json.loads((trained / "environment.json").read_text())["split"]
    checkpoint = load_checkpoint(trained / "checkpoints/best.ckpt")
    about = checkpoint.description
    assert split == {"parts": split["subsets"]} | {k: about.split[k] for k in split if k != "parts"}
    points = json.loads((trained / "operating_points.json").read_text())
    assert points.pop("schema") == 2
    assert points == {**about.operating_points, "weights_sha256": checkpoint.weights_sha256}
    assert about.operating_points["fingerprint"] == split["parts"]["val"]
    assert metrics(trained, "test")["fingerprint"] == split["parts"]["test"]
    assert split["fingerprint"] in (trained / "train.log").read_text()


def test_every_file_names_the_weights(trained: Path) -> None:
    weights = load_checkpoint(trained / "checkpoints/best.ckpt").weights_sha256
    told = [metrics(trained, "val"), metrics(trained, "test")]
    told += [read_json(trained / f"{n}.json") for n in ("evaluation", "operating_points")]
    told.append(read_json(trained / "report.json")["test"])
    assert [one["weights_sha256"] for one in told] == [weights] * 5
    assert f"SHA-256 {weights}" in (trained / "report.html").read_text()


def told_by(folder: Path, *words: object, code: int = 0, program: str = MAIN) -> str:
    """What a verb says, without its line breaks."""
    command = [sys.executable, "-c", program, *map(str, words)]
    return " ".join(run(command, folder, code).split())


def test_evaluate_gives_the_same_numbers(trained: Path, folder: Path) -> None:
    alone = folder / "alone.ckpt"  # no side file
    alone.write_bytes((trained / "checkpoints/best.ckpt").read_bytes())
    text = run([*XRAY, "evaluate", str(alone), "hydra.run.dir=again"], folder)
    again, before = (folder / "again/evaluation.json", trained / "evaluation.json")
    told = json.loads(before.read_text()) | {"checkpoint": str(alone)}
    assert json.loads(again.read_text()) == told
    assert metrics(folder / "again", "test") == metrics(trained, "test")
    same = (folder / "again/predictions_test.csv").read_bytes()
    assert same == (trained / "predictions_test.csv").read_bytes()
    assert f"mean test AUROC {metrics(trained, 'test')['auroc']['mean']}" in text
    assert "identical" in told_by(folder, "compare", trained, "again", "--draws", "40")


def test_evaluate_never_replaces_the_figures_of_a_run(trained: Path, folder: Path) -> None:
    best = str(trained / "checkpoints/best.ckpt")
    before = (trained / "metrics.json").read_bytes()
    text = run([*XRAY, "evaluate", best, f"hydra.run.dir={trained}"], folder, 2)
    assert "is the folder of a training run" in text
    assert (trained / "metrics.json").read_bytes() == before


def test_evaluate_on_another_split(trained: Path, folder: Path) -> None:
    best = str(trained / "checkpoints/best.ckpt")
    text = run([*XRAY, "evaluate", best, "split.seed=1"], folder, 2)
    assert "show patients that the checkpoint was trained or chosen on: overlap=exclude" in text
    text = run([*XRAY, "evaluate", best, "split.seed=1", "overlap=report", "tta=flip"], folder)
    assert "are not those of the training run" in text
    assert "each with its mirror image (tta=flip)" in text
    (made,) = trained.glob("evaluate_*_flip")
    assert [metrics(own, "test")["tta"] for own in (trained, made)] == ["none", "flip"]
    unseen, seen = (metrics(made, subset) for subset in ("test", "test_seen"))
    assert unseen["fingerprint"] != metrics(trained, "test")["fingerprint"]
    assert f"{seen['images']} that show patients it learned from are scored apart" in text
    own = set(read_predictions(trained / "predictions_test.csv").patient_ids)
    assert set(read_predictions(made / "predictions_test.csv").patient_ids) <= own
    assert not set(read_predictions(made / "test_seen/predictions_test.csv").patient_ids) & own


def test_evaluate_refuses_another_label_set(trained: Path, folder: Path) -> None:
    (folder / "table.csv").write_text("image,patient,Opacity\na.png,1,1\nb.png,2,0\nc.png,3,1\n")
    for name in "abc":
        (folder / f"{name}.png").write_bytes(b"never read")
    best = str(trained / "checkpoints/best.ckpt")
    text = run([*XRAY, "evaluate", best, "data=csv", "data.table=table.csv"], folder, 2)
    assert "was trained on the 14 labels" in text
    assert "Traceback" not in text


def test_config_is_reusable(trained: Path, folder: Path) -> None:
    untouched = [trained / name for name in ("config.yaml", "metrics.csv")]
    before = [path.read_bytes() for path in untouched]
    reuse = ["--config-dir", str(trained.relative_to(folder)), "--config-name", "config"]
    run([*TRAIN, *reuse, *QUICK, "hydra.run.dir=reused"], folder)
    for name in ("metrics.csv", "metrics.json", "predictions_test.csv"):
        assert comparable(folder / "reused" / name) == comparable(trained / name), name
    assert (folder / "reused/tensorboard").is_dir()
    assert before == [path.read_bytes() for path in untouched]


def start_run(folder: Path, *settings: str) -> subprocess.Popen[str]:
    """A run in a folder, once its first epoch is in the last checkpoint."""
    command = [*TRAIN, *TOY, *settings, f"hydra.run.dir={folder}"]
    last = folder / "checkpoints/last.ckpt"
    return start(command, lambda _: last.exists(), 120, cwd=folder.parent)


def test_killed_and_resumed_equals_uninterrupted(trained: Path, folder: Path) -> None:
    killed = folder / "killed"
    kill(start_run(killed))
    assert not (killed / "metrics.json").exists()
    run([*TRAIN, "resume=killed", "workers=2"], folder)  # the number of workers changes nothing
    resumed = json.loads((killed / "environment.json").read_text())["resumed"]
    assert len(resumed) == 1
    for name in ("metrics.csv", "metrics.json", "predictions_test.csv", "predictions_val.csv"):
        assert comparable(killed / name) == comparable(trained / name), name
    ours = torch.load(killed / "checkpoints/last.ckpt", weights_only=True)
    theirs = torch.load(trained / "checkpoints/last.ckpt", weights_only=True)
    assert ours["epoch"] == theirs["epoch"] == 2
    torch.testing.assert_close(ours["state_dict"], theirs["state_dict"], rtol=0, atol=0)
    assert ours["ema"]["updates"] == theirs["ema"]["updates"] == theirs["global_step"]
    torch.testing.assert_close(ours["ema"]["weights"], theirs["ema"]["weights"], rtol=0, atol=0)


def test_interrupted_by_the_user(folder: Path) -> None:
    process = start_run(folder / "stopped", "epochs=500")
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    assert process.returncode == 130
    assert "continue with: python train.py resume=" in (folder / "stopped/train.log").read_text()


KILLED = (  # once the new predictions are written
    "import os; from xray_lightning.report import finish; "
    f"finish.evaluate_run = lambda *all, **more: os._exit(137); {MAIN}"
)


@pytest.mark.slow
def test_taken_further_and_killed(trained: Path, folder: Path) -> None:
    """A run folder tells of one model: it is not shown or compared until it is finished."""
    further, told = folder / "further", partial(told_by, folder)
    shutil.copytree(trained, further)
    table = (further / "predictions_test.csv").read_bytes()
    go_on = ("train", "resume=further", "trainer.max_epochs=6")
    told(*go_on, code=137, program=KILLED)
    assert (further / "predictions_test.csv").read_bytes() != table
    assert not (further / "metrics.json").exists()
    said = told("compare", trained, "further", code=2)
    assert "further is not finished: it has no metrics.json" in said
    assert "python train.py resume=further goes on" in said
    assert "better" not in said
    for words in (["report", "further"], ["audit", COMPLETE[0], "predictions=further"]):
        assert "further is not finished" in told(*words, code=2)
    told(*go_on)  # and now it ends
    assert "verdict:" in told("compare", trained, "further", "--draws", "40")
    told("report", "further")
    other = metrics(further, "test")["weights_sha256"]
    assert other != metrics(trained, "test")["weights_sha256"]
    shutil.copy(trained / "predictions_test.csv", further)  # of the same images
    for words in (["compare", trained, "further"], ["report", "further"]):
        assert "is not the table that metrics.json beside it is of" in told(*words, code=2)


def test_resume_refuses_changed_data(trained: Path, folder: Path) -> None:
    moved = folder / "moved"
    shutil.copytree(trained, moved)
    config = (moved / "config.yaml").read_text()
    (moved / "config.yaml").write_text(config.replace("patients: 60", "patients: 61"))
    assert "the data changed since" in run([*TRAIN, "resume=moved"], folder, 2)


@pytest.mark.slow
def test_trackers_get_settings_tables_and_figures(folder: Path) -> None:
    """Of MLflow, W&B (offline) and TensorBoard; no film, and no image's id."""
    place, loggers = folder / "tracked", "logger=[wandb,mlflow,tensorboard]"
    run([*TRAIN, "experiment=smoke", loggers, f"hydra.run.dir={place}/run", *QUICK], folder)
    with sqlite3.connect(place / "mlflow.db") as rows:
        assert {("val/auroc",), ("train/loss",)} < {*rows.execute("select key from metrics")}
        assert ("tta", "none") in [*rows.execute("select key, value from params")]
    files = {path.name: path.read_bytes() for path in place.glob("mlflow/*/artifacts/*")}
    assert files == {name: (place / "run" / name).read_bytes() for name in SHARED}
    wandb, board = ([*(place / "run" / name).rglob("*")] for name in ("wandb", "tensorboard"))
    told = [b"".join(path.read_bytes() for path in own if path.is_file()) for own in (wandb, board)]
    assert all(name in own for own in told for name in (b"val/auroc", b"roc_test", b"tta"))
    drawn = {path.name.rsplit("_", 2)[0] for path in wandb if path.suffix == ".png"}
    assert drawn == {name[:-4] for name in SHARED if name.endswith(".png")}
    ids = read_predictions(place / "run/predictions_test.csv").image_ids
    assert [name for name in ids if name.encode() in b"".join([*told, *files.values()])] == []


@pytest.mark.slow
def test_trackio_gets_settings_tables_and_figures(folder: Path) -> None:
    """Of one run that was resumed; no film, and no image's id."""
    place = folder / "told"
    settings = ["experiment=smoke", "logger=trackio", f"hydra.run.dir={place}/run", *QUICK]
    run([*TRAIN, *settings], folder)
    run([*TRAIN, f"resume={place}/run", "trainer.max_epochs=4"], folder)
    with sqlite3.connect(place / "trackio/xray_lightning.db") as rows:
        ((run_name, config),) = rows.execute("select run_name, config from configs")
        text = "".join(str(row) for row in rows.execute("select * from metrics"))
    assert (run_name, json.loads(config)["tta"]) == ("run", "none")
    assert all(name in text for name in ("val/auroc", "train/loss", '"epoch":3', "roc_test"))
    files = {path.read_bytes() for path in (place / "trackio").rglob("*") if path.is_file()}
    assert {(place / "run" / name).read_bytes() for name in SHARED} <= files
    ids = read_predictions(place / "run/predictions_test.csv").image_ids
    assert [name for name in ids if name.encode() in b"".join(files)] == []


def test_trackio_is_an_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("xray_lightning.report.finish.find_spec", lambda _: None)
    with pytest.raises(ConfigError, match=r"no trackio: pip install .*\[trackers\]"):
        TrackioLogger("run")


def test_a_tracker_out_of_reach_leaves_the_run_alone(tmp_path: Path, caplog) -> None:
    class Gone(TensorBoardLogger):
        experiment = property(lambda _: Path("/nowhere").read_text())

    share_files([Gone(tmp_path)], tmp_path)
    assert "Gone got no tables and figures: [Errno 2] No such file" in caplog.text


@pytest.mark.slow
@pytest.mark.alone
def test_first_readme_command(folder: Path) -> None:
    started = time.perf_counter()
    command = [*TRAIN, "model=xception", "split=patient", "hydra.run.dir=demo"]
    print(run(command, folder))
    print(f"command 1 took {time.perf_counter() - started:.0f} s")
    assert metrics(folder / "demo", "test")["auroc"]["mean"] >= 0.80


@pytest.mark.slow
def test_real_sample(shared_data: Path, folder: Path) -> None:
    options = ["data=nih", f"data.root={shared_data / 'nih-sample'}", "split=official"]
    options += ["model=densenet121", "model.weights=none", "image_size=96"]
    run([*TRAIN, *options, "trainer.max_epochs=2", "hydra.run.dir=nih"], folder)
    run([*XRAY, "evaluate", "nih/checkpoints/best.ckpt", "hydra.run.dir=nih-again"], folder)
    assert metrics(folder / "nih", "test") == metrics(folder / "nih-again", "test")
    assert metrics(folder / "nih", "test")["images"] == 125


@pytest.mark.slow
def test_several_real_samples(shared_data: Path, folder: Path) -> None:
    nih, rsna = shared_data / "nih-sample", shared_data / "rsna-sample"
    options = ["data=several", "data.sets=[nih,rsna]", f"data.nih.root={nih}"]
    options += [f"data.rsna.root={rsna}", f"data.rsna.nih_map={rsna / 'nih_image_index.csv'}"]
    options += ["model=mobilenetv2", "weights=none", "image_size=32", "sampler=hospital_balanced"]
    printed = run([*TRAIN, *options, "trainer.max_epochs=1", "hydra.run.dir=both"], folder)
    assert "AUROC at which the network's features tell the hospital: nih " in printed
    evaluation = json.loads((folder / "both" / "evaluation.json").read_text())
    assert evaluation["pooled"]["hospital_alone"].keys() == {"Pneumonia"}
    assert evaluation["labels"]["Mass"]["known"] < evaluation["labels"]["Pneumonia"]["known"]
    other = ["data=nih", f"data.root={nih}", "images=all"]
    run([*XRAY, "evaluate", "both", *other, "overlap=exclude", "hydra.run.dir=both-nih"], folder)
    assert 0 < metrics(folder / "both-nih", "test")["images"] < 937  # without those it learned from
    again = run([*XRAY, "evaluate", "both", "hydra.run.dir=both-again"], folder)
    assert "hospital" in again


@pytest.mark.slow
def test_wheel_works_without_the_repository(folder: Path) -> None:
    build = ["-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder / "dist")]
    quiet = {"check": True, "stdout": subprocess.DEVNULL}
    subprocess.run([sys.executable, *build, ROOT], cwd=folder, **quiet)
    (wheel,) = (folder / "dist").glob("*.whl")
    install = ["-m", "pip", "install", "--no-deps", "--target", "site", str(wheel)]
    subprocess.run([sys.executable, *install], cwd=folder, **quiet)
    alone = folder / "alone"
    alone.mkdir()
    place = "import xray_lightning.cli.settings as l; print(l.find_conf())"
    paths = f"import sys; sys.path.insert(0, {str(folder / 'site')!r}); "
    python = [sys.executable, "-c"]
    text = subprocess.run([*python, paths + place], cwd=alone, capture_output=True, text=True)
    assert text.stdout.strip() == str(folder / "site/xray_lightning/conf")
    call = paths + "from xray_lightning.cli.app import main; main()"
    train = [*python, call, "train", "experiment=smoke", "logger=none"]
    subprocess.run(train, cwd=alone, **quiet)
    assert (alone / "outputs").is_dir()
