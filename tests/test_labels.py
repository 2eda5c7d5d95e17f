"""From the words of a table to targets."""

import pytest

from xray_lightning.errors import TableError
from xray_lightning.labels import ALIASES, CHEST_XRAY14, NO_FINDING, canonical, encode


def test_fourteen_labels() -> None:
    assert len(set(CHEST_XRAY14)) == len(CHEST_XRAY14) == 14
    assert NO_FINDING not in CHEST_XRAY14
    assert set(ALIASES.values()) <= set(CHEST_XRAY14)


@pytest.mark.parametrize("label", CHEST_XRAY14)
def test_one_finding_is_one_hot(label: str) -> None:
    targets = encode([label], CHEST_XRAY14)
    assert sum(targets) == 1
    assert CHEST_XRAY14[targets.index(1.0)] == label
    assert canonical(f" {label} ", CHEST_XRAY14, "here") == label


def test_order_repeats_and_spaces_do_not_matter() -> None:
    labels = ("Mass", "Nodule", "Edema")
    assert encode([" Edema", "Mass ", "Edema"], labels) == (1.0, 0.0, 1.0)
    assert encode([], labels) == encode([NO_FINDING], labels) == (0.0, 0.0, 0.0)


def test_aliases() -> None:
    assert encode(["Infiltrate", "Pleural Thickening"], CHEST_XRAY14) == encode(
        ["Infiltration", "Pleural_Thickening"], CHEST_XRAY14
    )


def test_alias_of_a_label_that_is_not_asked_for() -> None:
    with pytest.raises(TableError, match="unknown label 'Infiltrate'; the known labels are Mass"):
        canonical("Infiltrate", ("Mass",), "row 3")


def test_unknown_finding() -> None:
    with pytest.raises(TableError, match=r"^row 7: unknown label 'Masss'.*\(and 'No Finding'\)"):
        encode(["Masss"], CHEST_XRAY14, "row 7")


def test_no_finding_beside_a_finding() -> None:
    with pytest.raises(TableError, match=r"row 2: 'No Finding' stands beside \['Mass'\]"):
        encode([NO_FINDING, "Mass"], CHEST_XRAY14, "row 2")
