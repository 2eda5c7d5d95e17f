"""``xray score`` on the phantom's label table; the figures themselves are those of evaluate."""

import json
import re
from functools import partial

import numpy as np
import pandas as pd
import pytest
from running import xray

from xray_lightning import ConfigError, MissingImagesError, Phantom, TableError, patient_split
from xray_lightning.cli.app import run_verb
from xray_lightning.data.partition import fingerprint
from xray_lightning.records import target_matrix

score = partial(run_verb, "score")
PHANTOM = Phantom(patients=60)
DATA = ["data.patients=60", "draws=50"]
TEST = [
    PHANTOM.records[row].image_id
    for row in patient_split(PHANTOM.records, PHANTOM.official).subsets["test"]
]
EVERY = [record.image_id for record in PHANTOM.records]


def write(folder, images: list[str]):
    """Scores that know a good deal about the truth."""
    rng = np.random.default_rng(0)
    by_id = {record.image_id: record for record in PHANTOM.records}
    scores = 0.5 * rng.random((len(images), 14)) + 0.4 * target_matrix([by_id[i] for i in images])
    table = pd.DataFrame(scores, images, [f"prob_{label}" for label in PHANTOM.labels])
    table.to_csv(folder / "scores.csv", index_label="image")
    return folder / "scores.csv"


def tell(table, *settings: str, words: bool = False):
    """What the command says of a table: as JSON, or in words."""
    text = xray("score", table, *DATA, *settings, *[] if words else ["--json"])
    return text if words else json.loads(text)


def test_a_part(tmp_path) -> None:
    facts = tell(write(tmp_path, EVERY), "subset=test", f"hydra.run.dir={tmp_path / 'out'}")
    assert facts == json.loads((tmp_path / "out/score.json").read_text())
    assert (facts["images"], facts["fingerprint"]) == (len(TEST), fingerprint({"test": TEST}))
    assert facts["split"]["name"] == "patient"
    mass = facts["labels"]["Infiltration"]
    low, high = mass["auroc"]["patient_interval"]
    assert low < mass["auroc"]["value"] < high
    assert set(mass["auroc"]) >= {"value", "patient_interval", "image_interval"}
    assert facts["mean"]["auroc"]["value"] > 0.8


def test_labels_to_read_again(tmp_path) -> None:
    table = write(tmp_path, EVERY)
    text = tell(table, "subset=train", "doubts=12", f"hydra.run.dir={tmp_path}", words=True)
    rows = pd.read_csv(tmp_path / "doubts.csv")
    scores, first = pd.read_csv(table).set_index("image"), rows.iloc[0]
    assert first.probability == pytest.approx(scores.loc[first.image, f"prob_{first.label}"])
    assert rows.doubt.tolist() == pytest.approx((rows.target - rows.probability).abs().tolist())
    assert (len(rows), rows.doubt.is_monotonic_decreasing) == (12, True)
    assert f"{first.image} {first.label}: " in text
    assert all(words in text for words in ("raw sc", "no neigh", "memorised", "need not be wrong"))


def test_what_has_a_score(tmp_path) -> None:
    text, count = tell(write(tmp_path, EVERY[:70]), words=True), len(EVERY)
    assert "70 images of " in text
    assert f"{count - 70:,} of the {count:,} images in the label table have no score" in text
    assert "ratio: their width over that" in text


def test_undefined_figures_have_a_reason(tmp_path) -> None:
    healthy = [record.image_id for record in PHANTOM.records if not any(record.targets)]
    table = write(tmp_path, healthy)
    assert "Hernia: AUROC is undefined, no positive image" in tell(table, words=True)
    facts = tell(table)
    hernia = facts["labels"]["Hernia"]
    assert (hernia["auroc"]["value"], hernia["undefined"]) == (None, "no positive image")
    assert facts["defined"]["auroc"] == 0


def test_missing_and_other_images(tmp_path) -> None:
    table = write(tmp_path, TEST[1:])
    with pytest.raises(MissingImagesError, match=f"1 of the {len(TEST)} images in test have no"):
        score([table, *DATA, "subset=test"], as_json=True)
    text = tell(table, "subset=test", "allow_missing=true", words=True)
    assert f"1 of the {len(TEST)} images in the test have no score" in text
    text, extra = tell(write(tmp_path, EVERY), "subset=test", words=True), len(EVERY) - len(TEST)
    assert f"{extra} scored images are not in test and were left out" in text


@pytest.mark.parametrize(
    ("setting", "match"),
    [
        ("subset=dev", "subset must be train or val or test, got 'dev'"),
        ("allow_missing=yes", "allow_missing must be true or false, got 'yes'"),
        ("draws=0", "draws must be an integer of at least 1, got '0'"),
        ("doubts=0", "doubts must be an integer of at least 1, got '0'"),
        ("subgroups=1", "subgroups must be true or false, got '1'"),
        ("prior=often", "prior must be validation, estimate, force_estimate, a prevalence"),
        ("prior=0.1", "prior=0.1 corrects calibrated scores, and no calibration is there for all"),
        ("thresholds=a", "thresholds must be numbers such as 0.01,0.05 or 0.01:0.5, got 'a'"),
        ("prevalence=0.1:2", "prevalence must lie between 0 and 1 and rise, got 0.1, 0.15"),
        ("points=val", "points='val': operating points are chosen on one of train, val, test, and"),
        ("bootstrap_seed=-1", "bootstrap_seed must be an integer of at least 0, got '-1'"),
    ],
)
def test_bad_settings(setting: str, match: str, tmp_path) -> None:
    with pytest.raises(ConfigError, match=match):
        score([write(tmp_path, TEST), *DATA[:1], setting], as_json=True)


def test_points_of_one_part_are_applied_to_another(tmp_path) -> None:
    table = write(tmp_path, EVERY)
    settings = ["subset=test", "points=train", "operating_point.rule=f1", "calibration=temperature"]
    facts = tell(table, *settings, "subgroups=true", "prior=force_estimate")
    mass = facts["validation"]["labels"]["Infiltration"]
    how = facts["validation"]["rule"], mass["calibration"]["method"]
    assert (*how, bool(facts["subgroups"])) == ("f1", "temperature", True)
    assert facts["labels"]["Infiltration"]["f1"]["value"] > 0.5
    before, now = facts["priors"]["Infiltration"]
    assert before == mass["prevalence"] != now
    assert "operating points: f1 on train" in tell(table, *settings, words=True)


def test_points_need_every_score_of_their_part(tmp_path) -> None:
    for images, part in ((TEST, "val"), ([*{*EVERY} - {*TEST}], "test")):
        with pytest.raises(MissingImagesError, match=f"no image of the {part} has a score"):
            score([write(tmp_path, images), *DATA, "subset=test", "points=val"], as_json=True)
    with pytest.raises(ConfigError, match="points='test': operating points are chosen on one of"):
        score([write(tmp_path, TEST), *DATA, "subset=test", "points=test"], as_json=True)


def test_the_labels_that_the_table_has(tmp_path) -> None:
    table, shared = write(tmp_path, TEST), list(PHANTOM.labels[:3])
    pd.read_csv(table).iloc[:, :4].to_csv(table, index=False)
    with pytest.raises(TableError, match=r"has no score for .*labels=shared"):
        score([table, *DATA, "subset=test"], as_json=True)
    facts = tell(table, "subset=test", "labels=shared")
    assert list(facts["labels"]) == shared
    assert facts["fingerprint"] == fingerprint({"test": TEST})  # the split is of all labels
    assert f"labels left out: {', '.join(PHANTOM.labels[3:])}" in facts["notes"]
    assert list(tell(table, "subset=test", f"labels=[{shared[1]}]")["labels"]) == shared[1:2]
    with pytest.raises(ConfigError, match=f"these are shared: {', '.join(shared)}"):
        score([table, *DATA, "labels=Hernia"], as_json=True)


def test_thresholds_and_prevalences(tmp_path) -> None:
    settings = ["subset=test", "points=train", "thresholds=0.1,0.2", "prevalence=0.01:0.03"]
    asked = write(tmp_path, EVERY), *settings, "prior={Infiltration: 0.03}"
    facts = tell(*asked)
    before = facts["validation"]["labels"]["Infiltration"]["prevalence"]
    known = facts["priors"], facts["patients_known"]
    assert known == ({"Infiltration": [before, 0.03]}, True)
    assert facts["net_benefit"]["Effusion"]["thresholds"] == [0.1, 0.2]
    assert facts["at_prevalence"]["Infiltration"]["prevalences"] == [0.01, 0.02, 0.03]
    text = " ".join(tell(*asked, words=True).split())
    assert f"corrected to another prevalence: Infiltration {before:.3f} to 0.030" in text
    assert "operating points at a prevalence of 2 %" in text
    assert re.search(r"net benefit is shown at no threshold: .*Infiltration", text)
    assert re.search(r"raw ones, without a calibration: .*Hernia", text)
