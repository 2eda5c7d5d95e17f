"""``xray readers`` on tables as people publish them; figures as of metrics/readers.py."""

import json
import re
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from xray_lightning.cli.app import run_verb
from xray_lightning.errors import ConfigError, TableError
from xray_lightning.evaluation.readers import ReaderStudy, measure_readers
from xray_lightning.metrics.bootstrap import PatientBootstrap
from xray_lightning.metrics.readers import compare_reader, measure_agreement, take_majority

readers = partial(run_verb, "readers")
RNG = np.random.default_rng(0)
TRUTH = (RNG.random(60) < 0.4).astype(int)
MARKS = (TRUTH[:, None] + 0.7 * RNG.normal(size=(60, 3)) > 0.5).astype(int)  # (N, R)
SCORES = np.clip(0.3 * TRUTH + 0.6 * RNG.random(60), 0, 1).round(3)


def write(path: Path, header: str, rows) -> str:
    path.write_text("\n".join([header, *(",".join(map(str, row)) for row in rows)]) + "\n")
    return str(path)


def rows(marks=MARKS):
    """A row for each image and reader, as Google publishes them."""
    words = np.where(marks == 1, "YES", "NO")
    return [
        (i // 3, f"{i}.png", f"R{j}", words[i, j], words[i, -1 - j], "test")
        for i, j in np.ndindex(marks.shape)
    ]


def test_a_row_for_each_image_and_reader(tmp_path, capsys) -> None:
    header = "Patient ID,Image ID,Reader ID,Mass,Nodule,Set ID"
    table = write(tmp_path / "reads.csv", header, rows())
    scores = write(tmp_path / "s.csv", "image,Mass", [(i, SCORES[i]) for i in range(50)])
    readers(
        [table, f"scores={scores}", "draws=50", f"hydra.run.dir={tmp_path / 'o'}"], as_json=True
    )
    facts = json.loads(capsys.readouterr().out)
    assert facts == json.loads((tmp_path / "o/readers.json").read_text())
    assert (facts["images"], facts["patients"], facts["readers"]) == (60, 20, ["R0", "R1", "R2"])
    notes = ["no labels, or not of all tables: Set ID", "10 images without a score"]
    assert facts["notes"] == notes
    study = ReaderStudy.from_json(facts)
    assert {"schema": 2, **study.to_json()} == facts
    order = np.argsort([f"{i}.png" for i in range(60)])
    bootstrap, marks = PatientBootstrap((order // 3).astype(str), 50), MARKS[order].astype(float)
    ends = study.labels["Mass"].agreement.kappa.interval
    assert ends == pytest.approx(measure_agreement(bootstrap, marks).kappa.interval)
    model = np.where(order < 50, SCORES[np.minimum(order, 59)], np.nan)
    own = compare_reader(bootstrap, marks[:, 1], take_majority(marks[:, [0, 2]]), model)
    one = study.labels["Mass"].readers["R1"]
    assert (one.sensitivity, one.auroc.value) == (own.sensitivity, pytest.approx(own.auroc.value))
    majority = study.labels["Mass"].readers["majority"]
    assert np.isnan(majority.sensitivity.value) and majority.auroc.value > 0.5  # noqa: PT018
    assert np.isnan(study.labels["Nodule"].readers["R1"].auroc.value)
    readers([table, "reader=Reader ID", "draws=50", "labels=Mass"], as_json=False)
    text = capsys.readouterr().out
    assert re.search(r"Mass +60 +\d", text) and "Nodule" not in text  # noqa: PT018


def test_a_table_of_each_reader_against_a_truth(tmp_path, capsys) -> None:
    paths = [
        write(
            tmp_path / f"r{j}.csv", "Study,Mass", [(f"a/{i}", m) for i, m in enumerate(MARKS[:, j])]
        )
        for j in range(3)
    ]
    truth = write(tmp_path / "truth.csv", "Study,Mass", [(f"a/{i}", TRUTH[i]) for i in range(60)])
    readers([*paths, f"truth={truth}", "draws=50"], as_json=False)
    text = capsys.readouterr().out
    assert "note: patients are not known: each image counts as its own" in text
    sensitivity = MARKS[TRUTH == 1, 1].mean()
    assert re.search(rf"r1 +{TRUTH.sum()} +{sensitivity:.3f} ", text)
    alone = measure_readers(paths[:1], truth=truth, draws=50).labels["Mass"]
    assert (alone.agreement, [*alone.readers]) == (None, ["r0"])


def test_two_modalities(tmp_path, capsys) -> None:
    ratings = np.clip(np.round(2 + TRUTH + RNG.normal(size=(2, 3, 60))), 1, 5).astype(int)
    ratings[0] += 2 * TRUTH
    cells = [(i, f"R{j}", "AB"[m], ratings[m, j, i]) for m, j, i in np.ndindex(2, 3, 60)]
    table = write(tmp_path / "reads.csv", "case,reader,treatment,rating", cells)
    truth = write(tmp_path / "truth.csv", "case,rating", enumerate(TRUTH))
    readers([table, f"truth={truth}"], as_json=False)
    text = capsys.readouterr().out
    assert re.search(r"rating: F\(1, [\d.]+\) = .* A is read better", text)
    assert re.search(r"mean +0\.\d+ +0\.\d+ +\+0\.\d+ ", text)
    for own, named in (([table], "truth="), ([table, f"truth={truth}", "reader=case"], "twice")):
        with pytest.raises(TableError, match=named):
            readers(own)
    blank = write(tmp_path / "truth.csv", "case,rating", [(i, "") for i in range(60)])
    with pytest.raises(TableError, match="both classes"):
        readers([table, f"truth={blank}"])


@pytest.mark.parametrize(
    ("header", "cells", "settings", "named"),
    [
        ("picture,reader,Mass", [(1, 1, 1)], [], "lacks 1 column: 'image'"),
        ("image,reader,Mass", [(1, 1, 1)], ["patient=who"], "'who'"),
        ("image,reader,Mass", [(1, 1, "big"), (1, 2, 0)], [], "no column of marks"),
        ("image,reader,Mass", [(1, 1, 1), (1, 1, 1)], [], "'1' by reader '1' stands twice"),
        ("image,reader,patient,Mass", [(1, 1, 1, 1), (1, 2, 2, 1)], [], "'1' .* of two patients"),
        ("image,reader,Mass", [(1, "Jo", 1), (2, "Jo", 0)], [], "one reader, 'Jo'"),
        ("image,reader,Mass", [(1, 1, 1), (2, 2, 0)], [], "no image is read by two"),
        ("image,reader,Mass", [(1, 1, 1), (1, 2, 0)], ["labels=Nodule"], "Nodule"),
    ],
)
def test_what_cannot_be_compared(tmp_path, header, cells, settings, named) -> None:
    table = write(tmp_path / "reads.csv", header, cells)
    with pytest.raises((TableError, ConfigError), match=named):
        readers([table, *settings])


def test_readers_of_one_kind_of_mark_and_of_one_image_are_named(tmp_path) -> None:
    cells = [*rows(np.column_stack([MARKS[:, 0], np.zeros(60)])), (20, "x", "R0", "YES", "YES", "")]
    header = "patient,image,reader,Mass,Nodule,Set"
    notes = measure_readers([write(tmp_path / "r.csv", header, cells)], draws=50).notes
    assert "1 image read by one reader" in notes
    assert "Mass: reader R1 marks no image of 60" in notes
