"""One vocabulary for the labels of several data sets: ``labels.yaml``, and data sets read by it.

A label map, YAML too, is of one data set: which words of its table say that a finding is there.
"""

import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache
from pathlib import Path

import numpy as np
import yaml  # type: ignore[import-untyped]

from xray_lightning.data.source import Identity, Mask, Pixels, Source, say
from xray_lightning.data.tables import open_text
from xray_lightning.errors import ConfigError, TableError
from xray_lightning.records import Record, rename_labels
from xray_lightning.wording import fault

LabelMap = Mapping[str, frozenset[str]]  # label -> words

MAP = Path(__file__).with_name("labels.yaml")


@dataclass(frozen=True)
class Finding:
    """A finding of ``labels.yaml``."""

    name: str  # of the finding, the label of a data set read by this vocabulary
    snomed: int | None  # SNOMED CT code; None where none was looked up
    wider: tuple[str, ...]  # names of the findings of which it is one kind
    union: tuple[str, ...]  # names of findings that together are exactly this one
    # the label of each data set; several where only their union is the finding
    words: Mapping[str, tuple[str, ...]]


@dataclass(frozen=True)
class Wording:
    """Which labels of a data set tell a finding: the one of them, or the union of several."""

    words: tuple[str, ...]
    derived: bool = False  # from other findings, none of which is this one


@cache
def read_vocabulary() -> Mapping[str, Finding]:
    """The findings of ``labels.yaml`` by name, in its order."""
    findings = {}
    for name, entry in yaml.safe_load(MAP.read_text(encoding="utf-8")).items():
        code = entry.pop("snomed", None)
        lists = {k: (one,) if isinstance(one, str) else tuple(one) for k, one in entry.items()}
        wider, union = lists.pop("wider", ()), lists.pop("union", ())
        findings[name] = Finding(name, code, wider, union, lists)
    return findings


def list_sets() -> tuple[str, ...]:
    """The data sets of which ``labels.yaml`` knows the words, by first mention."""
    return tuple(dict.fromkeys(name for f in read_vocabulary().values() for name in f.words))


def list_wider(name: str) -> Iterator[str]:
    """The findings of which this one is a kind, the nearest first."""
    finding = read_vocabulary().get(name)
    for wider in finding.wider if finding else ():
        yield wider
        yield from list_wider(wider)


def name_words() -> dict[str, str]:
    """The finding that a data set's own label tells, or one of several that tell it."""
    findings = read_vocabulary().values()
    return {word: f.name for f in findings for words in f.words.values() for word in words}


def find_ancestors(labels: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Of each label the others that are a wider finding, the nearest first; without those of none.

    A label is the finding of its name, else the one that a data set calls so.

    >>> find_ancestors(["Lung Opacity", "Edema", "Effusion"])
    {'Edema': ('Lung Opacity',)}
    """
    words = name_words()
    names = {label if label in read_vocabulary() else words.get(label): label for label in labels}
    wider = {
        label: tuple(dict.fromkeys(names[other] for other in list_wider(name) if other in names))
        for name, label in names.items()
        if name
    }
    return {label: others for label, others in wider.items() if others}


def list_narrower(name: str) -> tuple[str, ...]:
    """The findings that are one kind of this one."""
    return tuple(finding.name for finding in read_vocabulary().values() if name in finding.wider)


def find_wording(data_set: str, labels: Sequence[str], label: str) -> Wording | None:
    """The labels of a data set that tell a finding; None where it does not tell.

    >>> find_wording("rsna", ["Lung Opacity"], "Pneumonia")
    Wording(words=('Lung Opacity',), derived=False)
    >>> find_wording("nih", ["Mass", "Nodule"], "Nodule/Mass")
    Wording(words=('Nodule', 'Mass'), derived=True)
    """
    findings = read_vocabulary()
    finding = findings.get(label)
    words = finding.words.get(data_set, ()) if finding else ()
    if words and set(words) <= set(labels):
        return Wording(words)
    if label in labels and not any(label in f.words.get(data_set, ()) for f in findings.values()):
        return Wording((label,))
    parts = [find_wording(data_set, labels, name) for name in finding.union] if finding else []
    if not parts or None in parts:
        return None
    return Wording(tuple(word for part in parts if part for word in part.words), derived=True)


def tells(source: Source, label: str) -> bool:
    """Whether a data set tells a finding, of itself or by an exact union."""
    return find_wording(source.name, source.labels, label) is not None


def list_findings(data_set: str, labels: Sequence[str]) -> list[str]:
    """What a data set's own labels tell, in the order of ``labels.yaml``; unknown ones follow."""
    candidates = dict.fromkeys([*read_vocabulary(), *labels])
    wordings = {name: find_wording(data_set, labels, name) for name in candidates}
    return [name for name, wording in wordings.items() if wording and not wording.derived]


def shared_labels(sources: Sequence[Source]) -> list[str]:
    """The findings that every data set tells, those of an exact union too if one names it itself.

    >>> from xray_lightning import Phantom
    >>> shared_labels([Phantom(patients=20)])[:2]
    ['Atelectasis', 'Cardiomegaly']
    """
    return [name for name in union_labels(sources) if all(tells(s, name) for s in sources)]


def union_labels(sources: Sequence[Source]) -> list[str]:
    """The findings that at least one data set tells by its own labels, by ``labels.yaml``."""
    known = {name for source in sources for name in list_findings(source.name, source.labels)}
    order = [*read_vocabulary(), *(label for source in sources for label in source.labels)]
    return [name for name in dict.fromkeys(order) if name in known]


def require_findings(labels: Sequence[str], sources: Sequence[Source]) -> tuple[str, ...]:
    """The labels, each a finding of the vocabulary or a data set's own label that has its name."""
    known = list(dict.fromkeys([*read_vocabulary(), *union_labels(sources)]))
    if isinstance(labels, str) or not labels or len(set(labels)) < len(labels):
        raise ConfigError(f"labels is a list of different findings such as Mass, got {labels!r}")
    called = name_words()
    for label in labels:
        if label not in known:
            near = get_close_matches(label, [*known, *called], 1)
            raise ConfigError(fault("unknown_finding", label, near, called, known))
    return tuple(labels)


def relabel(source: Source, labels: Sequence[str]) -> Source:
    """The data set with the labels of the common vocabulary, its images unchanged.

    Args:
        source: the data set, whose ``name`` says which words of ``labels.yaml`` are its own.
        labels: L findings, in the order of the targets; NaN where the data set does not tell.

    Raises:
        ConfigError: neither the vocabulary nor the data set knows a label; names the nearest.
    """
    own = source.source if isinstance(source, Relabelled) else source
    return Relabelled(own, require_findings(labels, [own]))


class Relabelled(Source):
    """A data set with labels of the common vocabulary; :func:`relabel` makes one."""

    title = ""

    def __init__(self, source: Source, labels: tuple[str, ...]) -> None:
        for name in (*Source.__annotations__, "title", "missing"):  # but what follows
            setattr(self, name, getattr(source, name))
        self.source, self.labels = source, labels
        wordings = {label: find_wording(source.name, source.labels, label) for label in labels}
        self.wordings = {label: wording for label, wording in wordings.items() if wording}
        self.notes = (*source.notes, *say("relabelled", labels, self.wordings))
        words = {label: wording.words for label, wording in self.wordings.items()}
        self.records = rename_labels(source.records, source.labels, labels, words)

    def read(self, record: Record) -> Pixels:
        """As the data set does."""
        return self.source.read(record)

    def mask(self, record: Record, label: str) -> Mask | None:
        """Exactly where a finding is: where any of the data set's own labels of it is."""
        wording = self.wordings.get(label)
        masks = [self.source.mask(record, word) for word in wording.words] if wording else []
        known = [mask for mask in masks if mask is not None]
        return np.any(known, axis=0) if known and len(known) == len(masks) else None

    def identity(self) -> Identity:
        """That of the data set: the pixels are its own."""
        return self.source.identity()


def read_label_map(path: Path) -> dict[str, frozenset[str]]:
    """Words of each label, ``Effusion: [pleural effusion, empyema]`` a line; any may repeat."""
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
