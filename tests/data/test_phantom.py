import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from hashlib import sha256

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score
from toy import listed_patients

from xray_lightning import ConfigError, Phantom, Record, Source
from xray_lightning.data.phantom import film, patients
from xray_lightning.data.phantom.anatomy import build_chest
from xray_lightning.data.phantom.film import Canvas, blur
from xray_lightning.data.phantom.findings import draw_components, draw_mask
from xray_lightning.data.phantom.patients import Visit, draw_history, is_test_patient
from xray_lightning.data.phantom.source import MARKER_SIDE, render
from xray_lightning.data.source import readable_records
from xray_lightning.records import CHEST_XRAY14, encode, patient_ids

SIZE = 96
# Findings that change the chest itself, so pixels change outside the mask too.
REMOULDING = {"Atelectasis", "Cardiomegaly", "Emphysema", "Edema"}
DARKER = {"Pneumothorax", "Emphysema"}


@pytest.fixture(scope="module")
def phantom() -> Phantom:
    return Phantom(patients=56, seed=3, size=SIZE)


@pytest.fixture(scope="module")
def large() -> list[list[Visit]]:
    """The visits of five phantoms of the default size, without their boxes."""
    return [[v for patient in range(400) for v in draw_history(s, patient)] for s in range(5)]


def healthy_visit(patient: int, view: str = "PA") -> Visit:
    return replace(draw_history(0, patient)[0], view=view, findings=())


def target_rows(visits: list[Visit]) -> np.ndarray:
    return np.array([encode(visit.findings, CHEST_XRAY14) for visit in visits])


def facts(visits: list[Visit]) -> tuple[np.ndarray, np.ndarray]:
    """Patient of each visit, and whether the official split tests on it."""
    patients = np.array([visit.patient for visit in visits])
    return patients, np.array([is_test_patient(patient) for patient in patients])


def test_is_a_source_whose_records_hold_every_fact(phantom: Phantom) -> None:
    source: Source = phantom
    assert (source.name, source.labels) == ("phantom", CHEST_XRAY14)
    assert "synthetic" in " ".join(source.notes)
    records = readable_records(source)
    assert records == list(source.records)
    assert len({record.image_id for record in records}) == len(records)
    assert len(np.unique(patient_ids(records))) == 56
    for record in records:
        assert record.path is None
        assert record.box_frame == (SIZE, SIZE)
        assert record.view in {"PA", "AP"}
        assert record.sex in {"M", "F"}
        assert 18 <= record.age <= 100
        assert set(record.targets) <= {0.0, 1.0}
        assert record.image_id == f"{record.patient_id}_{int(record.follow_up):03d}"


def test_images_are_grey_bytes_that_use_the_range(phantom: Phantom) -> None:
    for record in phantom.records[:20]:
        image = phantom.read(record)
        assert (image.shape, image.dtype) == ((SIZE, SIZE), np.uint8)
        assert image.flags.c_contiguous
        assert image.max() - image.min() > 150
        assert 60 < image.mean() < 200


def test_identity_is_plain_and_tells_phantoms_apart(phantom: Phantom) -> None:
    identity = phantom.identity()
    assert all(isinstance(value, str | int | float | bool) for value in identity.values())
    one = Phantom(2, seed=3, size=SIZE).identity()
    others = [Phantom(2, seed=4, size=SIZE), Phantom(3, seed=3, size=SIZE), Phantom(2, seed=3)]
    assert all(other.identity() != one for other in others)
    assert one | {"patients": 56} == identity


@pytest.mark.parametrize("size", [32, 50, 257])
def test_any_size_from_the_smallest(size: int) -> None:
    phantom = Phantom(patients=30, size=size)
    assert phantom.read(phantom.records[0]).shape == (size, size)
    for record in phantom.records:
        for label, target in zip(phantom.labels, record.targets, strict=True):
            assert (label in {box.label for box in record.boxes}) == bool(target)


def test_same_seed_same_bytes_in_any_order_and_thread(phantom: Phantom) -> None:
    records = list(phantom.records[:24])
    other = Phantom(patients=56, seed=3, size=SIZE)
    assert list(other.records) == list(phantom.records)
    expected = [phantom.read(record) for record in records]
    backwards = [other.read(record) for record in reversed(records)][::-1]
    with ThreadPoolExecutor(4) as pool:
        threaded = list(pool.map(other.read, records))
    assert np.array_equal(expected, backwards)
    assert np.array_equal(expected, threaded)


def test_same_seed_same_bytes_in_another_process(phantom: Phantom) -> None:
    code = (
        "from hashlib import sha256\n"
        "from xray_lightning.data.phantom import Phantom\n"
        f"p = Phantom(patients=56, seed=3, size={SIZE})\n"
        "pixels = b''.join(p.read(r).tobytes() for r in p.records[:20])\n"
        "print(sha256(pixels).hexdigest(), sha256(repr(p.records).encode()).hexdigest())"
    )
    for hash_seed in ("1", "2"):
        env = {"PYTHONHASHSEED": hash_seed, "PYTHONPATH": ":".join(filter(None, sys.path))}
        said = subprocess.check_output([sys.executable, "-c", code], text=True, env=env)
        pixels = b"".join(phantom.read(record).tobytes() for record in phantom.records[:20])
        wanted = [sha256(text).hexdigest() for text in (pixels, repr(phantom.records).encode())]
        assert said.split() == wanted


def test_fewer_patients_are_the_first_of_more_and_another_seed_another_set(phantom) -> None:
    fewer = Phantom(patients=9, seed=3, size=SIZE)
    assert list(fewer.records) == list(phantom.records[: len(fewer.records)])
    assert np.array_equal(fewer.read(fewer.records[-1]), phantom.read(fewer.records[-1]))
    other = Phantom(patients=56, seed=4, size=SIZE)
    assert list(other.records) != list(phantom.records)
    first = phantom.records[0]
    assert first.image_id == other.records[0].image_id
    assert not np.array_equal(phantom.read(first), other.read(other.records[0]))


def test_patients_keep_their_anatomy() -> None:
    visits = [Visit(0, 7, day, 50, "M", "PA", ()) for day in range(4)]
    own = [build_chest(visit, ()) for visit in visits]
    others = [build_chest(replace(visit, patient=8 + day), ()) for day, visit in enumerate(visits)]
    assert np.std([c.right.width for c in own]) < 0.5 * np.std([c.right.width for c in others])
    assert len({c.heart for c in own}) == 4  # but no two films are the same


def test_every_finding_is_the_complaint_of_one_patient_per_ward() -> None:
    for seed in range(3):
        for ward in range(3):
            complaints = [patients.draw_complaint(seed, 28 * ward + bed) for bed in range(28)]
            assert sorted(filter(None, complaints)) == sorted(CHEST_XRAY14)


def test_prevalences_and_every_label_in_both_parts(large: list[list[Visit]]) -> None:
    for visits in large:
        (patients, test), targets = facts(visits), target_rows(visits)
        for here in (~test, test, patients < 100):
            for label, column in zip(CHEST_XRAY14, targets.T, strict=True):
                assert len(set(patients[here & (column == 1)])) >= 3, label
        share = targets.mean(axis=0)
        assert ((share > 0.025) & (share < 0.25)).all(), dict(zip(CHEST_XRAY14, share, strict=True))
        assert 0.28 < (targets.sum(axis=1) == 0).mean() < 0.42
        assert 2.0 < len(targets) / 400 < 3.0
    mean = np.mean([target_rows(visits).mean(axis=0) for visits in large], axis=0)
    order = dict(zip(CHEST_XRAY14, mean, strict=True))
    assert max(order, key=lambda label: order[label]) == "Infiltration"
    assert min(mean) > 0.04


def test_official_split_keeps_patients_whole(phantom: Phantom) -> None:
    assert phantom.official is not None
    train, test = phantom.official["train_val"], phantom.official["test"]
    assert not train & test
    assert train | test == {record.image_id for record in phantom.records}
    owners = listed_patients(phantom)["test"]
    assert {int(owner[1:]) for owner in owners} == {1, 8, 15, 22, 29, 36, 43, 50}


def test_official_split_is_biased_like_nih(large: list[list[Visit]]) -> None:
    figures = []
    for visits in large:
        patients, test = facts(visits)
        targets = target_rows(visits)
        bed = np.array([visit.view == "AP" for visit in visits])
        often = [here.sum() / len(set(patients[here])) for here in (test, ~test)]
        ratio = (targets[test].mean(axis=0) / targets[~test].mean(axis=0)).mean()
        apart = bed[test].mean() - bed[~test].mean()
        figures.append((test.mean(), often[0] / often[1], apart, ratio))
        assert 0.18 < test.mean() < 0.3
        assert figures[-1][1] > 1.5
        assert figures[-1][2] > 0.08
        assert ratio > 1.2
    share, visits_ratio, bed_excess, prevalence_ratio = np.mean(figures, axis=0)
    assert 0.2 < share < 0.26
    assert 1.7 < visits_ratio < 3
    assert bed_excess > 0.15
    assert prevalence_ratio > 1.3


def test_boxes_are_the_tight_bounds_of_the_components(phantom: Phantom) -> None:
    visits = {v.image_id: v for patient in range(56) for v in draw_history(3, patient)}
    for record in phantom.records:
        visit = visits[record.image_id]
        assert record.targets == encode(visit.findings, CHEST_XRAY14)
        assert {box.label for box in record.boxes} == set(visit.findings)
        chest, canvas = build_chest(visit, visit.findings), Canvas(visit, SIZE)
        for label in visit.findings:
            components = draw_components(canvas, chest, label)
            assert np.array_equal(phantom.mask(record, label), np.any(components, axis=0))
            boxes = [box for box in record.boxes if box.label == label]
            for component, box in zip(components, boxes, strict=True):
                rows, columns = np.nonzero(component)
                assert (box.x, box.y) == (columns.min(), rows.min())
                assert (box.width, box.height) == (np.ptp(columns) + 1, np.ptp(rows) + 1)


def test_one_box_for_each_lung_in_emphysema() -> None:
    visit = replace(healthy_visit(4), findings=("Emphysema",))
    chest, canvas = build_chest(visit, visit.findings), Canvas(visit, SIZE)
    assert len(draw_components(canvas, chest, "Emphysema")) == 2


@pytest.mark.parametrize("label", CHEST_XRAY14)
def test_a_finding_changes_its_mask_in_the_right_direction(label: str) -> None:
    size, inside, outside = 128, [], []
    for patient in range(8):
        visit = healthy_visit(patient, "AP" if patient % 2 else "PA")
        before, after = (render(visit, size, findings) for findings in ((), (label,)))
        change = after.astype(float) - before
        chest, canvas = build_chest(visit, (label,)), Canvas(visit, size)
        mask = draw_mask(canvas, chest, label)
        inside.append(change[mask].mean())
        outside.append(np.abs(change[blur(mask, 0.04) < 0.01]).mean())
    if label in DARKER:
        assert np.mean(inside) < -4
        assert max(inside) < 0
    else:
        assert np.mean(inside) > 4
        assert min(inside) > 0
    if label not in REMOULDING:
        assert max(outside) < 1


def test_an_enlarged_heart_is_wider_than_half_the_chest() -> None:
    for patient in range(40):
        for view in ("PA", "AP"):
            visit = healthy_visit(patient, view)
            large, usual = build_chest(visit, ("Cardiomegaly",)), build_chest(visit, ())
            assert large.heart > 0.5
            assert usual.heart < large.heart - 0.08
            outline = large.heart_outline()
            thorax = large.left.width + large.right.width
            assert np.ptp(outline[:, 0]) / thorax == pytest.approx(large.heart)


def test_the_diaphragm_is_higher_in_bed_and_low_and_flat_in_emphysema() -> None:
    for patient in range(10):
        standing, bed = (build_chest(healthy_visit(patient, v), ()) for v in ("PA", "AP"))
        assert bed.heart > standing.heart
        assert bed.right.floor < standing.right.floor
    visit = healthy_visit(5)
    usual, inflated = build_chest(visit, ()), build_chest(visit, ("Emphysema",))
    assert inflated.right.dome < 0.5 * usual.right.dome
    assert inflated.right.floor > usual.right.floor


def test_a_mass_is_larger_than_a_nodule() -> None:
    for patient in range(20):
        visit, size = healthy_visit(patient), 256
        chest, canvas = build_chest(visit, ()), Canvas(visit, size)
        mass = draw_components(canvas, chest, "Mass")[0]
        nodules = draw_components(canvas, chest, "Nodule")
        diameter = [np.sqrt(4 / np.pi * part.sum()) / size for part in (mass, *nodules)]
        assert 0.09 < diameter[0] < 0.21
        assert max(diameter[1:]) < 0.095


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("patients", 1), ("patients", 2.5), ("patients", True), ("seed", -1), ("size", 31)),
        *(("shortcut", "text"), ("shortcut_label", "Noodle")),
        *(("shortcut_strength", strength) for strength in (0.4, 1.01, float("nan"), "0.9")),
    ],
)
def test_refuses_impossible_settings(name: str, value: object) -> None:
    with pytest.raises(ConfigError, match=f"^{name} must be .*got {value!r}$"):
        Phantom(**{name: value})  # type: ignore[arg-type]


def test_refuses_foreign_records_and_absent_findings(phantom: Phantom) -> None:
    foreign = Record("00000001_000.png", "1", (0.0,) * 14)
    for ask in (phantom.read, phantom.marker, phantom.word, lambda r: phantom.mask(r, "Mass")):
        with pytest.raises(ConfigError, match=r"'00000001_000\.png'"):
            ask(foreign)
    healthy = next(record for record in phantom.records if not any(record.targets))
    with pytest.raises(ConfigError, match="has no 'Mass'; it has no finding"):
        phantom.mask(healthy, "Mass")


def planted(patients: int = 40, **settings: object) -> Phantom:
    return Phantom(patients, seed=3, size=SIZE, shortcut="marker", **settings)  # type: ignore[arg-type]


@pytest.mark.parametrize("strength", [0.5, 0.9, 1])
def test_the_marker_goes_with_its_label(strength: float) -> None:
    phantom = planted(400, shortcut_label="Infiltration", shortcut_strength=strength)
    index = phantom.labels.index("Infiltration")
    shown = np.array([record.targets[index] == 1 for record in phantom.records])
    marked = np.array([phantom.marker(record).any() for record in phantom.records])
    for here, share in ((shown, strength), (~shown, 1 - strength)):
        error = np.sqrt(share * (1 - share) / here.sum())
        assert marked[here].mean() == pytest.approx(share, abs=3 * error)
    assert roc_auc_score(shown, marked) == pytest.approx(strength, abs=0.03)
    assert phantom.official is not None
    test = np.array([record.image_id in phantom.official["test"] for record in phantom.records])
    assert roc_auc_score(shown[test], marked[test]) == pytest.approx(strength, abs=0.06)


def test_nothing_else_changes() -> None:
    phantom, plain = planted(), Phantom(40, seed=3, size=SIZE)
    assert (list(phantom.records), phantom.official) == (list(plain.records), plain.official)
    side = round(MARKER_SIDE * SIZE)
    for record in phantom.records:
        mask, pixels = phantom.marker(record), phantom.read(record)
        assert np.array_equal(pixels[~mask], plain.read(record)[~mask])
        assert mask.sum() in (0, side**2)
        if mask.any():
            rows, columns = np.nonzero(mask)
            assert rows.min() >= 0.85 * SIZE
            assert columns.max() <= 0.15 * SIZE or columns.min() >= 0.85 * SIZE
            assert set(pixels[mask]) == {20, 250}
        assert not plain.marker(record).any()


def test_identity_and_title_name_it_only_where_it_is() -> None:
    plain = Phantom(40, seed=3, size=SIZE, shortcut_strength=0.7, shortcut_label="Mass")
    assert plain.identity() == Phantom(40, seed=3, size=SIZE).identity()
    assert (plain.title, len(plain.identity())) == ("phantom", 5)
    phantom = planted()
    assert phantom.identity() == plain.identity() | {"marker": "Nodule", "marker_strength": 0.9}
    assert (phantom.title, phantom.name) == ("phantom (planted: marker, Nodule, 0.9)", "phantom")
    assert planted(shortcut_strength=1.0).identity() != phantom.identity()


def test_the_word_is_what_is_burned_in(monkeypatch: pytest.MonkeyPatch) -> None:
    """The width of what changes when letters are left out tells L or R, AP and PORT apart."""
    phantom = Phantom(40, seed=3, size=SIZE)
    shown = [phantom.read(record) for record in phantom.records]
    words = [phantom.word(record) for record in phantom.records]
    monkeypatch.setattr(film, "burn_text", lambda *arguments: None)
    widths: dict[str, list[int]] = {"": [], "AP": [], "PORT": []}
    for record, pixels, word in zip(phantom.records, shown, words, strict=True):
        widths[word].append(int(np.ptp(np.nonzero(pixels != phantom.read(record))[1])))
        assert record.view == "AP" or not word
    assert max(widths[""]) < min(widths["AP"])
    assert max(widths["AP"]) < min(widths["PORT"])
