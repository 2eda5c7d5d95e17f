"""The findings of ChestX-ray14, and how a table's words become a vector of targets."""

from collections.abc import Iterable, Sequence

from xray_lightning.errors import TableError

NO_FINDING = "No Finding"

# Order of the dataset paper (Wang et al., CVPR 2017, table of ChestX-ray14).
CHEST_XRAY14 = (
    "Atelectasis",
    "Cardiomegaly",
    "Effusion",
    "Infiltration",
    "Mass",
    "Nodule",
    "Pneumonia",
    "Pneumothorax",
    "Consolidation",
    "Edema",
    "Emphysema",
    "Fibrosis",
    "Pleural_Thickening",
    "Hernia",
)

# BBox_List_2017.csv writes one finding differently from the label table.
ALIASES = {"Infiltrate": "Infiltration", "Pleural Thickening": "Pleural_Thickening"}


def canonical(finding: str, labels: Sequence[str], place: str) -> str:
    """The name of ``finding`` in ``labels``.

    Args:
        finding: a word of a table, spaces around it allowed.
        labels: the known labels.
        place: where the word stands, for the message.

    Raises:
        TableError: the word is no label and no known alias of one.

    >>> canonical("Infiltrate", CHEST_XRAY14, "row 2")
    'Infiltration'
    """
    name = finding.strip()
    name = ALIASES.get(name, name)
    if name not in labels:
        raise TableError(
            f"{place}: unknown label {finding.strip()!r}; the known labels are {', '.join(labels)}"
            f" (and {NO_FINDING!r})"
        )
    return name


def encode(findings: Iterable[str], labels: Sequence[str], place: str = "") -> tuple[float, ...]:
    """Targets of one image, 1.0 where a finding is present; ``No Finding`` is the all-zero vector.

    Returns:
        One number per label, (L,).

    Raises:
        TableError: an unknown finding, or ``No Finding`` beside a finding.

    >>> encode(["Mass"], ("Mass", "Nodule"))
    (1.0, 0.0)
    """
    words = {word.strip() for word in findings}
    if NO_FINDING in words and len(words) > 1:
        raise TableError(f"{place}: {NO_FINDING!r} stands beside {sorted(words - {NO_FINDING})}")
    present = {canonical(word, labels, place) for word in words - {NO_FINDING}}
    return tuple(float(label in present) for label in labels)
