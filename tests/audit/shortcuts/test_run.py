"""Verdicts of networks whose answers are known, what they look at, and probes by hand."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedGroupKFold
from toy import data_fixture

from xray_lightning import PatientBootstrap, Phantom, Record, XrayDataModule, XrayNet
from xray_lightning.audit import shortcuts
from xray_lightning.audit.label_table import LabelTable
from xray_lightning.audit.shift import score_by_metadata
from xray_lightning.audit.shortcuts import Probe, Sample, Shortcuts, draw_sample, examine, probe


@pytest.fixture(scope="module")
def sample(films) -> Sample:
    return Sample(*films[1:])


@pytest.fixture(scope="module")
def dishonest(reader, films, sample: Sample) -> Shortcuts:
    phantom, images, *_ = films
    known = replace(
        sample,
        marker=np.stack([phantom.marker(record) for record in phantom.records]),
        attributes={"view: AP": np.array([float(r.view == "AP") for r in phantom.records])},
        floor=np.column_stack([images.mean(dim=(1, 2, 3)), np.full(len(images), np.nan)]),
    )
    return examine(reader(honest=False), known, draws=200)


def test_a_reader_of_corners_is_caught(dishonest: Shortcuts, sample: Sample) -> None:
    nodule, emphysema = dishonest.labels["Nodule"], dishonest.labels["Emphysema"]
    assert (nodule.verdict, nodule.covered["corners"].verdict) == (shortcuts.CAUGHT, "flagged")
    assert nodule.covered["planted marker"].verdict == "flagged"
    assert nodule.auroc.value > 0.8
    assert "of its AUROC of 0." in nodule.reason
    assert "closer by" in nodule.reason
    assert emphysema.verdict == shortcuts.NOT_CAUGHT
    assert emphysema.covered["corners"].auroc.region.value == pytest.approx(0, abs=1e-9)
    assert "takes at most" in emphysema.reason
    assert shortcuts.write_gist(dishonest) == "caught: Nodule; not caught: 1; undecided: 0"
    assert (dishonest.images, dishonest.patients) == (len(sample.images), len(set(sample.patients)))
    assert list(dishonest.probes) == ["view: AP", "Emphysema", "Nodule"]
    assert 0.5 < dishonest.probes["view: AP"].trained <= 1
    assert nodule.positives == (sample.targets[:, 1] == 1).sum()
    assert 0 < emphysema.floor.value < 1
    assert nodule.floor.to_json() == {"value": None, "interval": None}
    assert set(nodule.maps) == {"outside", "border", "corners"}
    assert nodule.maps["corners"].grid == (16, 16)
    values = replace(dishonest, weights_sha256="abc").to_json()
    assert Shortcuts.from_json(values).to_json() == values


def test_maps_may_be_given(reader, sample: Sample) -> None:
    """They get the positives of each label; a flagged one is named, and decides nothing."""
    asked: dict[str, int] = {}

    def corner(net, batch: torch.Tensor, label: str) -> np.ndarray:
        asked[label] = asked.get(label, 0) + len(batch)
        maps = np.zeros((len(batch), 16, 16))
        maps[:, 0, 0] = 1
        return maps

    nodule = examine(reader(honest=True), sample, draws=200, maps=corner).labels["Nodule"]
    assert asked["Nodule"] == (sample.targets[:, 1] == 1).sum()
    assert nodule.verdict == shortcuts.NOT_CAUGHT
    assert list(nodule.covered) == ["corners", "border", "letters"]
    assert nodule.floor is None
    assert nodule.maps["corners"].verdict == "flagged"
    assert "its maps are denser than in the body in: outside, border, corners" in nodule.reason


def test_labels_without_positives_are_undecided_and_unknown_ones_left_out(reader, sample) -> None:
    absent = replace(sample, targets=np.where([True, False], 0, sample.targets))
    emphysema, nodule = examine(reader(honest=True), absent, draws=200).labels.values()
    assert emphysema.verdict == "undecided"
    assert "fewer than ten patients with or without it" in emphysema.reason
    assert emphysema.maps == {}
    assert nodule.verdict == shortcuts.NOT_CAUGHT
    unknown = replace(sample, targets=np.where([True, False], np.nan, sample.targets))
    left = examine(reader(honest=True), unknown, draws=200)
    assert set(left.labels) == set(left.probes) == {"Nodule"}


SIZE = 32
data = data_fixture(Phantom(80, size=64, shortcut="marker", shortcut_label="Mass"))


def test_a_subset_and_a_sample_of_it(data: XrayDataModule) -> None:
    labels = ("Extra", *reversed(data.labels))
    whole, records = draw_sample(data, "test", labels), data.subset_records("test")
    rows = data.split.subsets
    assert whole.images.shape == (len(records), 1, SIZE, SIZE)
    assert torch.equal(whole.images[3], data.dataset("test")[3]["image"])
    assert np.isnan(whole.targets[:, 0]).all()
    assert np.array_equal(whole.targets[:, :0:-1], data.subset_targets("test"))
    assert whole.patients.tolist() == [record.patient_id for record in records]
    assert whole.attributes.keys() == {"sex: M", "view: AP", "word: AP or PORT"}
    table = LabelTable.of(data.records, data.labels)
    floor = score_by_metadata(table, rows["train"], rows["test"], 0)
    np.testing.assert_array_equal(whole.floor[:, :0:-1], floor)
    assert whole.marker.shape == (len(records), SIZE, SIZE)
    some, again = (draw_sample(data, "test", labels, limit=9, seed=1) for _ in range(2))
    assert len(some.images) == len(some.targets) == len(some.marker) == 9
    assert torch.equal(some.images, again.images)
    places = [int((whole.images == one).all(dim=(1, 2, 3)).nonzero()[0]) for one in some.images]
    assert np.array_equal(some.targets, whole.targets[places], equal_nan=True)
    assert np.array_equal(some.patients, whole.patients[places])


def test_the_marker_is_known_to_the_last_pixel(data: XrayDataModule) -> None:
    records = list(data.source.records)
    masks = shortcuts.locate_marker(data.source, records, SIZE)
    plain = Phantom(80, size=64)
    for record, mask in zip(records, masks, strict=True):
        exact = plain.read(record) != data.source.read(record)
        assert mask.any() == exact.any()
        assert mask[np.nonzero(exact)[0] // 2, np.nonzero(exact)[1] // 2].all()
        assert mask.sum() <= 9
    assert shortcuts.locate_marker(plain, records, SIZE) is None


def test_attributes_of_records() -> None:
    rows = [("M", "PA"), ("F", "AP"), ("", "LL")]
    records = [Record("a", "p", (0.0,), sex=sex, view=view) for sex, view in rows]
    attributes = shortcuts.read_attributes(object(), records)  # type: ignore[arg-type]
    assert attributes.keys() == {"sex: M", "view: AP"}
    np.testing.assert_array_equal(attributes["sex: M"], [1, 0, np.nan])
    np.testing.assert_array_equal(attributes["view: AP"], [0, 1, np.nan])
    phantom = Phantom(4)
    words = shortcuts.read_attributes(phantom, phantom.records)["word: AP or PORT"]
    assert words.tolist() == [float(phantom.word(record) != "") for record in phantom.records]


N, PATIENTS = 300, 100
DRAW = np.random.default_rng(0)
CODES = np.sort(DRAW.integers(0, PATIENTS, N))
ATTRIBUTE = (CODES % 3 == 0).astype(float)  # of patients, as sex is
NOISE = DRAW.normal(size=(N, 12))
TOLD = NOISE + np.outer(ATTRIBUTE, np.eye(12)[2] * 2)
BOOTSTRAP = PatientBootstrap(CODES, 100)


def test_against_scikit_learn() -> None:
    """Fold by fold, standardised by hand."""
    found = Probe.of([TOLD, NOISE], ATTRIBUTE, BOOTSTRAP, seed=4)
    folds, scores = StratifiedGroupKFold(5, shuffle=True, random_state=4), np.zeros(N)
    for learned, held in folds.split(TOLD, ATTRIBUTE, CODES):
        features = (TOLD - TOLD[learned].mean(axis=0)) / TOLD[learned].std(axis=0)
        model = LogisticRegression(C=shortcuts.PENALTY, max_iter=1000)
        model.fit(features[learned], ATTRIBUTE[learned])
        scores[held] = features[held] @ model.coef_[0] + model.intercept_
    assert found.trained == pytest.approx(roc_auc_score(ATTRIBUTE, scores))
    assert found.interval[0] < found.trained < found.interval[1]
    assert found.trained > 0.85
    assert found.random_interval[0] < 0.5 < found.random_interval[1]
    assert (found.known, found.positive) == (N, int(ATTRIBUTE.sum()))


def test_patients_are_not_recognised() -> None:
    """Features that name the patient tell of patients only if their images are split up."""
    features = np.eye(PATIENTS)[CODES] + 0.01 * DRAW.normal(size=(N, PATIENTS))
    assert probe(features, ATTRIBUTE, BOOTSTRAP, seed=0).value < 0.65
    assert probe(features, ATTRIBUTE, PatientBootstrap(np.arange(N), 20), seed=0).value > 0.9


def test_unknown_attribute_are_left_out() -> None:
    attribute = np.where(CODES % 5 == 0, np.nan, ATTRIBUTE)
    known = ~np.isnan(attribute)
    found = Probe.of([TOLD, NOISE], attribute, BOOTSTRAP, seed=0)
    alone = probe(TOLD[known], attribute[known], BOOTSTRAP.subset(known), seed=0)
    assert found.trained == pytest.approx(alone.value)
    assert (found.known, found.positive) == (known.sum(), (attribute == 1).sum())


@pytest.mark.parametrize("value", [0.0, 1.0, np.nan])
def test_too_few_patients(value: float) -> None:
    attribute = np.full(N, value)
    attribute[CODES < 9] = 1 - value  # nine patients of the other kind
    found = Probe.of([TOLD, NOISE], attribute, BOOTSTRAP, seed=0)
    assert np.isnan([found.trained, *found.interval, found.random, *found.random_interval]).all()


def test_the_same_architecture_with_random_weights() -> None:
    torch.manual_seed(1)
    net = XrayNet(("Mass",), "test_resnet", head="pcam", image_size=32).eval()
    state = torch.get_rng_state()
    found, again = shortcuts.build_untrained(net, 0), shortcuts.build_untrained(net, 0)
    assert torch.equal(torch.get_rng_state(), state)
    assert found.config == net.config
    assert not found.training
    torch.testing.assert_close(found.state_dict(), again.state_dict(), rtol=0, atol=0)
    own = dict(net.named_parameters())
    assert any(not torch.equal(tensor, own[name]) for name, tensor in found.named_parameters())
