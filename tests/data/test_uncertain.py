"""Codes of a labeler as targets, and that a share trains a loss and tells no metric anything."""

import math
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from xray_lightning.audit.label_table import LabelTable
from xray_lightning.data.datamodule import XrayDataModule
from xray_lightning.data.phantom import Phantom
from xray_lightning.data.samplers import disease_balanced_sampler, prevalence
from xray_lightning.data.source import Source, describe_targets
from xray_lightning.data.splits import patient_split
from xray_lightning.data.summary import summarise_data
from xray_lightning.data.uncertain import Coding, parse_code
from xray_lightning.errors import ConfigError
from xray_lightning.evaluation.predictions import Predictions
from xray_lightning.metrics.auroc import PerLabelAUROC, auroc_per_label
from xray_lightning.metrics.bootstrap import PatientBootstrap
from xray_lightning.metrics.compare import compare_aurocs
from xray_lightning.metrics.estimates import estimate_metrics
from xray_lightning.metrics.operating_points import choose_threshold, fit_operating_point
from xray_lightning.records import target_matrix
from xray_lightning.report.figures import findings_text

NAN = math.nan
LABELS = ("Edema", "Fracture")
CODES = np.array([[1.0, NAN], [-1.0, 0.0], [NAN, -1.0], [-1.0, -1.0]])
IDS = ["a.jpg", "b.jpg", "c.jpg", "d.jpg"]


@pytest.mark.parametrize(
    ("uncertain", "blank", "expected"),
    [
        ("zeros", "negative", [[1, 0], [0, 0], [0, 0], [0, 0]]),
        ("ones", "negative", [[1, 0], [1, 0], [0, 1], [1, 1]]),
        ("ignore", "unknown", [[1, NAN], [NAN, 0], [NAN, NAN], [NAN, NAN]]),
        (
            {"default": "ignore", "Edema": "ones"},
            {"default": "negative", "Fracture": "unknown"},
            [[1, NAN], [1, 0], [0, NAN], [1, NAN]],
        ),
        ({"Edema": "zeros", "Fracture": "ones"}, "negative", [[1, 0], [0, 0], [0, 1], [0, 1]]),
    ],
)
def test_codes_become_targets(uncertain: Any, blank: Any, expected: Any) -> None:
    targets = Coding(LABELS, uncertain, blank).read(CODES, IDS)
    np.testing.assert_array_equal(targets, expected)


def test_smooth_draws_from_its_range_for_each_image_alone() -> None:
    names, codes = [f"{i}.jpg" for i in range(4_000)], np.full((4_000, 2), -1.0)
    smooth = Coding(LABELS, "smooth")
    shares = smooth.read(codes, names)
    assert ((shares > 0.55) & (shares < 0.85)).all()
    np.testing.assert_allclose(shares.mean(axis=0), 0.70, atol=0.005)
    np.testing.assert_allclose(shares.std(axis=0), 0.30 / math.sqrt(12), atol=0.005)
    assert abs(np.corrcoef(shares.T)[0, 1]) < 0.05
    again = smooth.read(codes[:9], names[:9][::-1])
    np.testing.assert_array_equal(again, shares[:9][::-1])  # whatever else is in the table
    assert (replace(smooth, seed=1).read(codes, names) != shares).any()
    whole = replace(smooth, smooth=(0, 1)).read(codes, names).astype(np.float32)
    assert ((whole > 0) & (whole < 1)).all()  # never certain, in single precision either


def test_choices_name_what_targets_depend_on() -> None:
    assert Coding(LABELS, "zeros", "negative", seed=3).describe() == {
        "uncertain": "zeros", "blank": "negative",
    }  # fmt: skip
    choice = {"default": "ones", "Edema": "smooth"}
    assert Coding((*LABELS, "Pneumonia"), choice, "unknown", smooth=(0, 0.3)).describe() == {
        "uncertain": "ones but Edema smooth", "blank": "unknown", "smooth": "0 to 0.3", "seed": "0",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("settings", "value"),
    [
        ({"uncertain": "maybe"}, "maybe"),
        ({"blank": "zeros"}, "zeros"),
        ({"uncertain": {"Oedema": "ones", "default": "zeros"}}, "Oedema"),
        ({"uncertain": {"Edema": "ones"}}, "Edema"),  # nothing for Fracture
        ({"smooth": (0.9, 0.1)}, "0.9, 0.1"),
        ({"smooth": (0, 2)}, "0, 2"),
        ({"smooth": None}, "None"),
    ],
)
def test_wrong_choices(settings: dict[str, Any], value: str) -> None:
    with pytest.raises(ConfigError, match=value):
        Coding(LABELS, **settings).read(CODES, IDS)


@pytest.mark.parametrize("cell", ["2", "present", "nan", "0.5"])
def test_no_code(cell: str) -> None:
    assert [parse_code(code) for code in ("1.0", "0", "-1.0")] == [1, 0, -1]
    with pytest.raises(ValueError):  # noqa: PT011  # the table says where
        parse_code(cell)


def with_targets(share: float) -> Source:
    """A phantom, every third target of which is ``share``."""
    source = Phantom(patients=40, size=32)
    holes = np.random.default_rng(0).random((len(source.records), 14)) < 1 / 3
    source.records = [
        replace(record, targets=tuple(np.where(hole, share, record.targets).tolist()))
        for record, hole in zip(source.records, holes, strict=True)
    ]
    return source


SHARES, UNKNOWN = with_targets(0.7), with_targets(NAN)


def test_tables_splits_and_samplers_take_a_share_as_unknown(tmp_path: Path) -> None:
    sampler = partial(disease_balanced_sampler, normal_share=0)
    ours, theirs = (
        XrayDataModule(source, sampler=sampler, image_size=32, cache_dir=tmp_path)
        for source in (SHARES, UNKNOWN)
    )
    assert ours.split.fingerprint == theirs.split.fingerprint
    summaries = [summarise_data(s, patient_split(s.records, None)) for s in (SHARES, UNKNOWN)]
    assert summaries[0] == summaries[1]
    for subset in ("train", "val", "test"):
        np.testing.assert_array_equal(ours.subset_targets(subset), theirs.subset_targets(subset))
    np.testing.assert_array_equal(ours.class_counts(), theirs.class_counts())
    np.testing.assert_array_equal(ours.positive_weight(), theirs.positive_weight())
    np.testing.assert_array_equal(ours.draw_targets(2), theirs.draw_targets(2))
    tables = [LabelTable.of(source.records, source.labels) for source in (SHARES, UNKNOWN)]
    np.testing.assert_array_equal(tables[0].targets, tables[1].targets)
    assert describe_targets(LABELS, (0.7, 1.0)) == "Fracture; unknown: Edema"
    assert findings_text(np.array([0.7, 0.0]), LABELS) == "unknown"
    raw = target_matrix(SHARES.records, shares=True)
    np.testing.assert_array_equal(prevalence(raw), prevalence(target_matrix(UNKNOWN.records)))


def test_training_images_carry_shares_and_evaluated_ones_do_not(tmp_path: Path) -> None:
    data = XrayDataModule(SHARES, image_size=32, cache_dir=tmp_path)
    for subset in ("train", "val", "test"):
        targets = data.dataset(subset).targets
        assert bool((targets == np.float32(0.7)).any()) == (subset == "train")
        assert bool(torch.isnan(targets).any()) == (subset != "train")
    data.permute_labels = True  # the control moves shares with the rest of their image's targets
    hard, soft = (data.subset_targets("train", shares=shares) for shares in (False, True))
    np.testing.assert_array_equal(np.isnan(hard), soft == np.float32(0.7))


def test_metrics_take_a_share_as_unknown() -> None:
    soft = target_matrix(SHARES.records, shares=True)
    scores = np.random.default_rng(1).random(soft.shape)
    patients = [record.patient_id for record in SHARES.records]
    bootstrap, half = PatientBootstrap(patients, draws=30), dict.fromkeys(SHARES.labels, 0.5)

    def figures(targets: Any) -> list[Any]:
        tensors, metric = (torch.tensor(scores), torch.tensor(targets)), PerLabelAUROC(14)
        metric.update(*tensors)
        columns = scores[:, 1], targets[:, 1]
        ids = tuple(record.image_id for record in SHARES.records)
        single = scores.astype(np.float32)
        return [
            auroc_per_label(*tensors),
            metric.compute(),
            estimate_metrics(SHARES.labels, scores, targets, patients, thresholds=half, draws=30),
            compare_aurocs(SHARES.labels, targets, patients, [scores], [scores**2 % 0.3], draws=30),
            choose_threshold(*columns, minimum_positives=1),
            fit_operating_point(*columns, bootstrap, minimum_positives=1),
            Predictions(SHARES.labels, ids, tuple(patients), targets, single).targets.tolist(),
        ]

    assert repr(figures(soft)) == repr(figures(target_matrix(UNKNOWN.records)))
