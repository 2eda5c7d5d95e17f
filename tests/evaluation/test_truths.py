"""The same scores against several truths, beside a plain bootstrap and scikit-learn."""

import json
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from running import xray
from sklearn.metrics import roc_auc_score
from toy import NIH_HEADER

from xray_lightning import ConfigError, ExpertTruth, NihExperts, Predictions, score_truths
from xray_lightning.cli.app import run_verb
from xray_lightning.metrics.compare import compare_truths
from xray_lightning.records import CHEST_XRAY14
from xray_lightning.wording import tell

score = partial(run_verb, "score")
PATIENTS, IMAGES = 150, 2  # images of each


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory):
    """The text miner misses half of what the readers see; the scores follow the miner."""
    root = tmp_path_factory.mktemp("nih")
    random = np.random.default_rng(0)
    lines = [f"{NIH_HEADER},Fracture,Pneumothorax,Airspace opacity,Nodule or mass,Set Id"]
    scores = ["image," + ",".join(f"prob_{label}" for label in CHEST_XRAY14)]
    for patient in range(PATIENTS):
        for number in range(IMAGES):
            image = f"{patient:08d}_{number:03d}.png"
            readers, mined, mass = (random.random(3) < (0.4, 0.5, 0.3)).tolist()
            found = ["Pneumothorax"] * (readers and mined) + ["Mass"] * mass
            text = "|".join(found) or "No Finding"
            answers = ("NO", "YES" if readers else "NO", "NO", "YES" if mass else "NO")
            lines.append(
                f"{image},{text},{number},{patient},50,M,PA,9,9,1,1,{','.join(answers)},"
                f"{'test' if patient % 2 else 'val'}"
            )
            values = dict.fromkeys(CHEST_XRAY14, 0.5)
            values["Pneumothorax"] = 0.5 * random.random() + 0.3 * (readers and mined)
            values["Mass"] = 0.6 * random.random() + 0.1 * mass
            scores.append(",".join([image, *map(str, values.values())]))
    scores.append(",".join(["00099999_000.png", *["0.1"] * 14]))  # not among these images
    (root / "google2019_nih-chest-xray-labels.csv").write_text("\n".join(lines))
    (root / "scores.csv").write_text("\n".join(scores))
    return root


def test_beside_a_plain_bootstrap() -> None:
    random = np.random.default_rng(1)
    patients = np.repeat(np.arange(200), 2)
    first = (random.random(400) < 0.4).astype(float)
    second = np.where(random.random(400) < 0.2, 1 - first, first)
    scores = random.random(400) + 0.5 * second
    second[::20] = np.nan
    row = compare_truths(scores, first, second, patients)
    known = np.flatnonzero(~np.isnan(second))
    aurocs = [roc_auc_score(truth[known], scores[known]) for truth in (first, second)]
    assert (row.first, row.second) == pytest.approx(aurocs)
    draws = []
    for _ in range(500):
        drawn = random.integers(200, size=200)
        rows = np.concatenate([2 * drawn, 2 * drawn + 1])
        rows = rows[~np.isnan(second[rows])]
        draws.append(np.subtract(*(roc_auc_score(t[rows], scores[rows]) for t in (first, second))))
    assert (row.interval[1] - row.interval[0]) / 2 == pytest.approx(1.96 * np.std(draws), rel=0.15)
    assert row.distinguishable
    assert row.difference < 0
    tell_of = partial(tell, "xray_lightning.evaluation", "truths", "Mass", "readers")
    for p, said in (0.04, "by so much the score is agreement with it"), (0.1, "no difference"):
        assert said in tell_of(replace(row, corrected=p))[0], "not the uncorrected interval"


def test_equal_truths_differ_by_nothing() -> None:
    truth = np.arange(40) % 2.0
    row = compare_truths(np.random.default_rng(2).random(40), truth, truth, np.arange(40))
    assert (row.difference, row.interval) == (0, None)


def test_command(folder, tmp_path) -> None:
    overrides = ["data=nih_expert", f"data.root={folder}", "truth=experts", "draws=99", "doubts=9"]
    words = ["score", folder / "scores.csv", *overrides]
    printed = json.loads(xray(*words, "--out", tmp_path, "--json"))
    truths = ExpertTruth.from_json(printed)
    pneumothorax, mass = truths.rows
    assert (pneumothorax.images, pneumothorax.patients) == (300, 150)
    assert pneumothorax.both == pneumothorax.text_positives < pneumothorax.positives
    assert pneumothorax.auroc.distinguishable
    assert "by so much the score is agreement with it" in printed["sentences"][0]
    missed = (pneumothorax.positives - pneumothorax.both) / 300
    assert pneumothorax.doubts["random"].value == pytest.approx(missed)
    assert (mass.doubts["doubted"].value, mass.scores) == (0, ("Nodule", "Mass"))
    assert mass.auroc.difference == 0  # the same truth: nothing to test
    assert "untested" in printed["sentences"][1]
    assert "data.rsna" in truths.left_out["Pneumonia"]
    assert json.loads((tmp_path / "truths.json").read_text()) == printed
    shown = xray(*words, "split=official", "subset=test")
    assert max(map(len, shown.split("the images of each row")[0].splitlines())) <= 80
    assert "150" in shown


def test_scores_are_in_the_order_of_their_images(folder) -> None:
    source = NihExperts(folder)
    scores, rows = np.random.default_rng(3).random((len(source.records), 1), dtype=np.float32), []
    for order in (slice(None), slice(None, None, -1)):
        records, column = source.records[order], scores[order]
        table = Predictions.of(records, ["Pneumothorax"], column, column)
        rows.append(score_truths(table, source, draws=20).rows[0].auroc.difference)
    assert rows[0] == pytest.approx(rows[1], abs=1e-12)


def test_errors(folder, tmp_path) -> None:
    overrides = ["data=nih_expert", f"data.root={folder}"]
    with pytest.raises(ConfigError, match="panel"):
        score([folder / "scores.csv", *overrides, "truth=panel"])
    with pytest.raises(ConfigError, match="phantom"):
        score([folder / "scores.csv", "data=phantom", "truth=experts"])
    other = tmp_path / "other.csv"
    other.write_text("image,Hernia\n00000000_000.png,0.5")
    with pytest.raises(ConfigError, match="Pneumothorax"):
        score([other, *overrides, "truth=experts"])
    source = NihExperts(folder)
    one = np.full((1, 1), 0.5, np.float32)
    for labels, image in ((("Pneumonia",), "00000000_000.png"), (("Pneumothorax",), "x.png")):
        with pytest.raises(ConfigError, match="nothing to compare"):
            score_truths(Predictions(labels, (image,), ("0",), one, one), source)
