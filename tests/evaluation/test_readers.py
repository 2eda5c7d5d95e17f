"""``xray readers`` on tables as people publish them; metrics/readers.py computes the figures."""

import json
import re

import numpy as np
import pandas as pd
import pytest
from running import xray

from xray_lightning import ReaderStudy, measure_readers
from xray_lightning.metrics import readers as metrics

RNG = np.random.default_rng(0)
TRUTH = (RNG.random(60) < 0.4).astype(float)
MARKS = (TRUTH[:, None] + 0.7 * RNG.normal(size=(60, 3)) > 0.5).astype(float)  # (N, R)
RATINGS = RNG.normal(size=360) + np.tile(np.repeat(TRUTH, 3), 2) * np.repeat([9, 0], 180)


@pytest.fixture(autouse=True)
def _tables(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    images = [f"{i}.png" for i in range(60)]
    rows = pd.DataFrame({"image_id": np.repeat(images, 3), "rad_id": ["R0", "R1", "R2"] * 60})
    rows = rows.assign(who=np.repeat(np.arange(60) // 3, 3), Set="test")
    rows.assign(Mass=np.where(MARKS.ravel() == 1, "YES", "NO")).to_csv("reads.csv")
    pd.concat([rows.assign(by=k) for k in "AB"]).assign(Mass=RATINGS).to_csv("both.csv")
    pd.DataFrame({"image": range(50), "Mass": RNG.random(50)}).to_csv("scores.csv", index=False)
    pd.DataFrame({"image_id": images, "Mass": TRUTH}).to_csv("truth.csv", index=False)


def test_readers_a_model_and_two_modalities() -> None:
    facts = json.loads(xray("readers", "reads.csv", "scores=scores.csv", "patient=who", "--json"))
    study = ReaderStudy.from_json(facts)
    assert {"schema": 2, **study.to_json()} == facts
    assert (study.images, study.patients, study.unscored) == (60, 20, 10)
    assert study.ignored == {"Set": "row 2: 'Set' is 'test', not a mark"}
    expected = metrics.measure_agreement(MARKS, [i // 3 for i in range(60)])
    assert study.agreement["Mass"].kappa.interval == pytest.approx(expected.kappa.interval)
    others = metrics.take_majority(MARKS[:50, [0, 2]])
    one, whole = (study.figures["Mass"][name] for name in ("R1", "majority of all"))
    assert one.sensitivity.value == pytest.approx(MARKS[:50, 1][others == 1].mean())
    assert np.isnan(whole.sensitivity.value) > np.isnan(whole.auroc)
    text = xray("readers", "reads.csv", "truth=truth.csv")
    assert re.search(rf"R1 +{TRUTH.sum():.0f} +{MARKS[TRUTH == 1, 1].mean():.3f} ", text)
    assert "A is read better" in xray("readers", "both.csv", "modality=by", "truth=truth.csv")
    test = measure_readers("both.csv", modality="by", truth="truth.csv").tests["Mass"]
    assert (test.images, test.p_value) == (60, metrics.bound_p_value(test.hillis, 3))


@pytest.mark.parametrize(
    ("words", "named"),
    [
        ("reads.csv image=picture", "lacks 1 column: 'picture'"),
        ("reads.csv reeder=who", "unknown setting reeder: reader"),
        ("reads.csv labels=Nodule", "labels=Nodule: these are shared: Mass"),
        ("reads.csv reader=Set", "row 2: image '0.png' stands twice"),
        ("reads.csv patient=rad_id", "row 3: image '0.png' has two patients"),
        ("truth.csv reader=Mass", "no column beside 'image_id' and 'Mass' holds marks"),
        ("both.csv modality=by", "two modalities and truth="),
        ("reads.csv truth=scores.csv", "truth=scores.csv: Mass must be 0 or 1"),
    ],
)
def test_what_cannot_be_compared(words: str, named: str) -> None:
    assert named in xray("readers", *words.split(), code=2)
