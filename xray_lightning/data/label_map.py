"""Label maps: which words of a data set's table say that a finding is there; plain YAML."""

import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path

from xray_lightning.data.tables import open_text
from xray_lightning.errors import TableError

LabelMap = Mapping[str, frozenset[str]]  # label -> words


def read_label_map(path: Path) -> dict[str, frozenset[str]]:
    """Words of each label, ``Effusion: [pleural effusion, empyema]`` a line; any may repeat."""
    import yaml  # type: ignore[import-untyped]

    with open_text(path, "label map") as file:
        try:
            entries = yaml.safe_load(file.read())
        except yaml.YAMLError as error:
            raise TableError(f"{path} is not YAML: {error}") from error
    if not isinstance(entries, dict) or not entries:
        raise TableError(f"{path} is not a label map: it needs lines such as 'Mass: [mass]'")
    for label, words in entries.items():
        if not (isinstance(words, list) and words and all(isinstance(word, str) for word in words)):
            raise TableError(f"{path}: {label} needs a list of words such as [mass], got {words!r}")
    return {str(label): frozenset(word.strip() for word in entries[label]) for label in entries}


def encode_words(words: Iterable[str], label_map: LabelMap) -> tuple[float, ...]:
    """1.0 for each label that one of the words says by its whole name, else 0.0, (L,).

    >>> encode_words(["pseudonodule", "mass"], {"Mass": {"mass"}, "Nodule": {"nodule"}})
    (1.0, 0.0)
    """
    there = frozenset(words)
    return tuple([0.0 if there.isdisjoint(own) else 1.0 for own in label_map.values()])


def name_map(label_map: LabelMap, usual: Path) -> dict[str, str]:
    """For a source's ``choices``: a checksum of a map that says other than the ``usual`` one."""
    if label_map == read_label_map(usual):
        return {}
    text = repr([(label, sorted(words)) for label, words in label_map.items()])
    return {"label_map": f"{zlib.crc32(text.encode()):08x}"}
