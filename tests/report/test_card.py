"""A card says what the files of a run say; a page a study says what was predicted of it."""

import os
import re
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from huggingface_hub import ModelCard
from running import xray
from toy import save_net, toy_net

import xray_lightning as xl
from xray_lightning.writing import read_json

BLANK = "___ (to be filled in by the authors)"
MAP = {"pointing_game": {"value": 0.5124, "interval": [0.4, 0.6]}, "iou": {"value": 0.12}}
SHORTCUT = {"auroc": {"value": 0.71}, "verdict": "caught", "reason": "a|b"}
EXPLAIN: dict[str, object] = {
    "localisation": {"mean": {"labels": 3, "methods": {"cam": MAP}}},
    "saliency": {"cam": {"finding": "Mass", "verdict": "failed"}},
    "shortcuts": {"labels": {"Mass": SHORTCUT}},
}


@pytest.fixture(scope="module")
def text(made_run) -> str:
    return xl.card_text(xl.read_run(made_run))


def tables(text: str) -> dict[str, dict[str, list[str]]]:
    """Section -> first cell -> the other cells of its table."""
    found = {}
    for part in text.split("\n## ")[1:]:
        rows = [re.split(r"(?<!\\)\|", line)[1:-1] for line in part.splitlines() if line[:1] == "|"]
        assert len({*map(len, rows)}) <= 1, part
        found[part.partition("\n")[0]] = {r[0].strip(): [*map(str.strip, r[1:])] for r in rows[2:]}
    return found


def shown(value: float | None, ends: list[float] | None):
    yield "-" if value is None else str(round(value, 3)).ljust(5, "0")
    yield " to ".join(str(round(end, 3)).ljust(5, "0") for end in ends) if ends else "-"


def test_every_number_is_that_of_the_files(text: str, made_run) -> None:
    names, found = ("evaluation", "metrics", "environment"), tables(text)
    evaluation, metrics, environment = (read_json(made_run / f"{name}.json") for name in names)
    labels, mean = evaluation["labels"], evaluation["mean"]

    def both(row, *names: str) -> list[str]:
        pairs = [(row[name]["value"], row[name]["patient_interval"]) for name in names]
        return [word for pair in pairs for word in shown(*pair)]

    rows = labels | {f"**mean of {evaluation['defined']['auroc']}**": mean}
    wanted = {k: both(row, "auroc", "average_precision", "brier")[:5] for k, row in rows.items()}
    assert found["Results"] == wanted
    for label, row in labels.items():
        val, count = metrics["val"]["positives"][label], row["positive_patients"]
        there = f"{row['positives']} ({count} patient{'s' * (count != 1)})"
        assert found["Labels"][label] == ["not told", str(val), there, str(row["known"])]
    points = {k: v["threshold"] for k, v in evaluation["operating_points"]["labels"].items()}
    wanted = {k: [next(shown(v, None)), *both(labels[k], "sensitivity", "specificity")]
              for k, v in points.items() if v is not None}  # fmt: skip
    assert found["Operating points"] == wanted != {}
    groups = [row for row in evaluation["subgroups"] if row["label"] == "mean"]
    assert {k: row[:3] for k, row in found["Subgroups"].items()} == {
        f"{r['dimension']} {r['group']}": [str(r["images"]), *shown(r["auroc"], r["interval"])]
        for r in groups
    }
    for name in ("calibration_error", "calibrated_error"):
        assert "{} ({})".format(*both(mean, name)) in text.replace("\n", " ")
    for subset, count in environment["split"]["images"].items():
        assert f"{subset} {count}" in text
    assert f"mean AUROC {metrics['val']['auroc']['mean']:.3f}\nover " in text
    assert "Epoch 2 of 3, by the best mean AUROC on validation" in text
    (result,) = ModelCard(text).data.eval_results
    assert (result.metric_type, result.dataset_name) == ("roc_auc", "phantom")
    assert result.metric_value == round(mean["auroc"]["value"], 4)
    assert re.findall(r"\b[0-9a-f]{16,}\b", text) == [], "fingerprints"


def test_sheets(made_run, tmp_path) -> None:
    _, *sheets = xl.write_card(xl.read_run(made_run), tmp_path)
    headings = re.findall(r"^## (.+)$", (tmp_path / "README.md").read_text(), re.MULTILINE)
    anchors = {heading.lower().replace(" ", "-") for heading in headings}
    for path, count, last in zip(sheets, (44, 52), (44, 27), strict=True):
        sheet = path.read_text()
        rows = re.findall(r"^\| (\d+)([a-g]?) \| .+ \| (.+) \|$", sheet, re.MULTILINE)
        assert len({row[:2] for row in rows}) == count == sheet.count("\n| ") - 2
        assert [*dict.fromkeys(int(number) for number, _, _ in rows)] == [*range(1, last + 1)]
        links = re.findall(r"README\.md#([\w-]+)", sheet)
        assert set(links) <= anchors
        assert f"{len(links)} of {count} items are answered" in sheet
        assert all(re.search(r"README\.md#|not done in|^___ \(to be", row[2]) for row in rows)
        assert sheet.count(BLANK) > count / 3


def test_explained(made_run, text: str) -> None:
    found = tables(xl.card_text(replace(xl.read_run(made_run), explain=EXPLAIN)))
    assert found["Localisation"] == {"cam": ["0.512", "0.400 to 0.600", "0.120"]}
    assert found["Shortcuts"] == {"Mass": ["0.710", r"caught: a\|b"]}
    assert text.count("Not done in this run: `xray explain RUN`") == 3


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"leaked_patients": 0}, "No patient that the data name has images in more than one"),
        ({"leaked_patients": 1}, "**1 patient has images in more than one subset.**"),
        ({"leaked_patients": None}, "whether the subsets share some is not known"),
        ({"images": {"train": 1, "val": 1, "test": 1}}, "the split uses 3, so 345 are left out"),
        ({"name": "official", "settings": {"val_fraction": 0.1}}, "\nofficial. Images: "),
    ],
)
def test_split(made_run, change: dict[str, object], says: str) -> None:
    run = xl.read_run(made_run)
    split = {**run.environment["split"], **change}
    origin = replace(run.evaluation.origin, data_images=348, data='a|b: "<x>"')
    run = replace(run, evaluation=replace(run.evaluation, origin=origin))
    text = xl.card_text(replace(run, environment={**run.environment, "split": split}))
    assert ModelCard(text).data.eval_results[0].dataset_name == 'a|b: "<x>"'
    assert says in text


def test_settings_are_shown_without_their_folders(made_run) -> None:
    config = "{permute_labels: true, model: {_target_: a.Net, weights: /secret/w, t: /secret/t}}"
    text = xl.card_text(replace(xl.read_run(made_run), config=config))
    assert "secret" not in text
    assert re.search(r"> Warning: The training labels.*Net \(t t\).*Weights: w\W", text, re.DOTALL)
    for damaged in ("{", "- a", "seed", ""):
        with pytest.raises(xl.ConfigError, match=r"config\.yaml is damaged or no plain settings"):
            xl.card_text(replace(xl.read_run(made_run), config=damaged))


def test_command(run_folder) -> None:
    assert f"{run_folder}/x/README.md" in xray("card", run_folder, "--out", run_folder / "x")


LABELS = ("Mass", "Pleural/Effusion", "Edema")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every score is near 0.5; Mass is always called, the second never, the third unknown."""
    net, ids = toy_net(LABELS), tuple(map(str, range(40)))
    targets = np.repeat(np.array([[0, 0], [1, 1]], np.float32), 20, axis=0)
    scores = targets * 0.05 + np.linspace(0, 0.06, 40, dtype=np.float32)[:, None]
    scores += np.array([0.0, 0.85], np.float32)
    points = xl.fit_operating_points(
        xl.Predictions(LABELS[:2], ids, ids, targets, scores), draws=50
    )
    return save_net(net, tmp_path_factory.mktemp("run") / "best.ckpt", points=points.to_json())


@pytest.fixture
def scans(write_dicom, tmp_path: Path) -> Path:
    """Two films of a study, and a PNG."""
    rng = np.random.default_rng(0)
    for name in ("JANE_a", "JANE_b"):
        pixels = rng.integers(0, 256, (60, 50), dtype=np.uint8)
        told = {"StudyInstanceUID": "1.2.987654", "PatientName": "Zqx^Jane"}
        write_dicom(tmp_path / "scans" / f"{name}.dcm", pixels, **told)
    cv2.imwrite(str(tmp_path / "scans/<c>.png"), rng.integers(0, 256, (60, 50), dtype=np.uint8))
    return tmp_path / "scans"


def test_pages(checkpoint: Path, scans: Path, tmp_path: Path) -> None:
    classifier, out = xl.load_classifier(checkpoint, device="cpu"), tmp_path / "out"
    xl.predict_files(classifier, [scans], out)
    told: list[tuple[int, int]] = []
    done = xl.write_study_pages(classifier, out, progress=lambda *both: told.append(both))
    assert (done.written, done.failures, told[-1]) == (2, {}, (2, 2))
    assert xl.StudyPages.from_json(done.to_json()) == done
    index = Path(done.index).read_text()
    links = re.findall(r'href="([0-9a-f]{12}\.html)"', index)
    assert "JANE_a.dcm, JANE_b.dcm" in index
    assert "&lt;c&gt;.png" in index
    sizes = []
    for link in links:
        page = (out / "studies" / link).read_text()
        pictures = re.findall(r'src="(\S+)', page)
        assert all(address.startswith("data:image/jpeg;base64,") for address in pictures)
        words = re.sub(r'src="\S+', "", page)
        for secret in ("<script", "JANE", "987654", "Zqx", "&lt;c", str(scans)):
            assert secret not in words
        assert "<strong>Mass</strong>: probability" in page
        assert ", called</figcaption>" in page
        sizes.append(len(pictures))
    assert sorted(sizes) == [3, 6]  # the film, what is called, one more
    overlays = sorted(path.name[12:] for path in (out / "overlays").iterdir())
    both = "Mass", "Pleural_Effusion"
    assert set(overlays) == {f"_{number}_{name}.jpg" for number in (1, 2) for name in both}
    assert cv2.imread(str(next((out / "overlays").iterdir()))).shape == (512, 512, 3)


def test_only_what_changed_is_drawn_again(checkpoint: Path, scans: Path, tmp_path: Path) -> None:
    classifier, out = xl.load_classifier(checkpoint, device="cpu"), tmp_path / "out"
    xl.predict_files(classifier, [scans], out)
    assert [xl.write_study_pages(classifier, out).written for _ in range(2)] == [2, 0]
    cv2.imwrite(str(scans / "<c>.png"), np.eye(60, dtype=np.uint8) * 255)
    os.utime(scans / "<c>.png", (1e9, 1e9))
    xl.predict_files(classifier, [scans], out)
    assert xl.write_study_pages(classifier, out).written == 1
    other = xl.load_classifier(checkpoint, device="cpu", prior={"Mass": 0.01})
    xl.predict_files(other, [scans], out)
    (scans / "<c>.png").unlink()
    done = xl.write_study_pages(other, out)
    (reason,) = done.failures.values()
    assert done.written == 1
    assert "cannot be opened" in reason


@pytest.mark.parametrize(("points", "said"), [("none", "nothing is"), ("checkpoint", "Without c")])
def test_without_points_or_calibration(checkpoint, scans, tmp_path, points, said) -> None:
    classifier = xl.load_classifier(checkpoint, device="cpu", points=points)
    xl.predict_files(classifier, [scans / "<c>.png"], tmp_path / "out")
    told = (model := tmp_path / "out/model.json").read_text()
    model.write_text(re.sub(r'"calibration": \{[^{}]*\}', '"calibration": null', told))
    index = Path(xl.write_study_pages(classifier, tmp_path / "out", method="gradient").index)
    (page,) = (path.read_text() for path in index.parent.iterdir() if path != index)
    assert said in page
    assert "32 x 32 cells" in page


def test_what_cannot_be_drawn(checkpoint: Path, scans: Path, tmp_path: Path) -> None:
    classifier = xl.load_classifier(checkpoint, device="cpu")
    for method, said in (("seen", "got 'seen'"), ("cbam", "no spatial gates")):
        with pytest.raises(xl.ConfigError, match=said):
            xl.write_study_pages(classifier, tmp_path, method=method)
    (tmp_path / "model.json").write_text("[]")
    with pytest.raises(xl.OutputError, match=r"model\.json is damaged"):
        xl.write_study_pages(classifier, tmp_path)
