"""The planted marker: where it is, on whose films, and that nothing else changes."""

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from xray_lightning.data.phantom import Phantom, film
from xray_lightning.data.phantom.source import MARKER_SIDE
from xray_lightning.errors import ConfigError

SIZE = 96


def planted(patients: int = 40, **settings: object) -> Phantom:
    return Phantom(patients, seed=3, size=SIZE, shortcut="marker", **settings)  # type: ignore[arg-type]


def carried(phantom: Phantom) -> tuple[np.ndarray, np.ndarray]:
    """Which films carry the marker, and which show the label, (N,) bool each."""
    index = phantom.labels.index("Infiltration")
    shown = np.array([record.targets[index] == 1 for record in phantom.records])
    return np.array([phantom.marker(record).any() for record in phantom.records]), shown


@pytest.mark.parametrize("strength", [0.5, 0.9, 1])
def test_the_marker_goes_with_its_label(strength: float) -> None:
    phantom = planted(400, shortcut_label="Infiltration", shortcut_strength=strength)
    marked, shown = carried(phantom)
    for here, share in ((shown, strength), (~shown, 1 - strength)):
        error = np.sqrt(share * (1 - share) / here.sum())
        assert marked[here].mean() == pytest.approx(share, abs=3 * error)
    assert roc_auc_score(shown, marked) == pytest.approx(strength, abs=0.03)
    assert phantom.official is not None
    test = np.array([record.image_id in phantom.official["test"] for record in phantom.records])
    assert roc_auc_score(shown[test], marked[test]) == pytest.approx(strength, abs=0.06)


def test_nothing_else_changes() -> None:
    phantom, plain = planted(), Phantom(40, seed=3, size=SIZE)
    assert list(phantom.records) == list(plain.records)
    assert phantom.official == plain.official
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
    assert phantom.title == "phantom (planted: marker, Nodule, 0.9)"
    assert phantom.name == "phantom"
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


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("shortcut", "text"),
        ("shortcut_label", "Noodle"),
        *(("shortcut_strength", strength) for strength in (0.4, 1.01, float("nan"), "0.9")),
    ],
)
def test_refuses_impossible_settings(name: str, value: object) -> None:
    with pytest.raises(ConfigError, match=f"^{name} must be .*got {value!r}$"):
        Phantom(4, **{name: value})  # type: ignore[arg-type]
