"""Several data sets as one, with the labels of a common vocabulary."""

from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cached_property
from itertools import combinations

from xray_lightning.data import vocabulary
from xray_lightning.data.source import Identity, Mask, Pixels, Source, say
from xray_lightning.errors import ConfigError, DataError
from xray_lightning.records import Record, Records, patients_known, read_column, replace_columns
from xray_lightning.wording import fault


class Several(Source):
    """Data sets read together; a target is NaN where its data set does not tell the label.

    Image ids begin with the name of the data set (``nih/00000001_000.png``), and so do patient ids,
    with that of the population where it is known: patients of NIH and of RSNA with its map are the
    same people, and no split sets their images apart.

    Args:
        sources: the data sets by name, each with labels of its own.
        labels: "union": every finding that one of them tells; "shared": those that all tell; or a
            list, each told by one of them.
        allow_missing: let commands that read pixels leave out the images that are not on disk; also
            where each data set with missing images allows it.

    Raises:
        ConfigError: there is no data set, none tells a label, or they share none.
        DataError: a file is of different patients in two of them.
    """

    name = "several"

    def __init__(
        self,
        sources: Mapping[str, Source] | None,
        *,
        labels: Sequence[str] = "union",
        allow_missing: bool = False,
    ) -> None:
        if not sources:
            raise ConfigError(fault("no_sets"))
        self.labels = _choose_labels(list(sources.values()), labels)
        self.sources = {k: vocabulary.Relabelled(s, self.labels) for k, s in sources.items()}
        parts = self.sources.items()
        self.allow_missing = allow_missing or all(s.allow_missing for _, s in parts if s.missing)
        if all(source.population for source in sources.values()):
            self.population = ",".join(sorted({s.population for s in sources.values()}))
        renamed = {name: _rename(name, source) for name, source in parts}
        ids = [read_column(records, "image_id") for records in renamed.values()]
        self._rows = {image: row for images in ids for row, image in enumerate(images)}
        self.records = Records.join([*renamed.values()])
        owned = {*zip(*(read_column(self.records, k) for k in ("path", "patient_id")), strict=True)}
        files = Counter(path for path, _ in owned if path).most_common(1)
        if files and files[0][1] > 1:
            raise DataError(fault("two_patients", files[0][0]))
        self.official = _unite_official(self.sources)
        patients = {name: {*read_column(own, "patient_id")} for name, own in renamed.items()}
        pairs = combinations(patients.items(), 2)
        shared = [(one, two, len(first & second)) for (one, first), (two, second) in pairs]
        notes = [f"{name}: {note}" for name, source in parts for note in source.notes]
        self.notes = (*notes, *say("in_both", shared))
        self.choices = {f"{n} {k}": v for n, source in parts for k, v in source.choices.items()}
        self.counts = {f"{n} {k}": v for n, source in parts for k, v in source.counts.items()}

    @property
    def title(self) -> str:
        """The titles of all, by name."""
        return " + ".join(s.title.replace(s.name, k, 1) for k, s in self.sources.items())

    @cached_property
    def missing(self) -> Sequence[str]:
        """Ids of the records without a file, in table order."""
        return tuple(f"{n}/{image}" for n, s in self.sources.items() for image in s.missing)

    def read(self, record: Record) -> Pixels:
        """As its own data set does."""
        source = self.sources[record.hospital]
        return source.read(source.records[self._rows[record.image_id]])

    def mask(self, record: Record, label: str) -> Mask | None:
        """As its own data set does."""
        source = self.sources[record.hospital]
        return source.mask(source.records[self._rows[record.image_id]], label)

    def identity(self) -> Identity:
        """Those of all data sets."""
        return {"source": self.name} | {
            f"{name}.{key}": value
            for name, source in self.sources.items()
            for key, value in source.identity().items()
        }


def _rename(name: str, source: Source) -> Records:
    """The records by ids that are unique among all data sets."""
    records, namespace = source.records, source.population or name
    return replace_columns(
        records,
        image_id=[f"{name}/{image}" for image in read_column(records, "image_id")],
        patient_id=[f"{namespace}/{patient}" for patient in read_column(records, "patient_id")],
        study_id=[study and f"{name}/{study}" for study in read_column(records, "study_id")],
        hospital=[name] * len(records),
    )


def find_untold(source: Source) -> dict[str, str]:
    """The data sets that tell no patients, and what counts as one there: "image" or "report"."""
    parts = source.sources if isinstance(source, Several) else {source.name: source}
    reports = {name: part.owner for name, part in parts.items() if part.owner != Source.owner}
    anonymous = [name for name, part in parts.items() if not patients_known(part.records)]
    return dict.fromkeys(anonymous, "image") | reports


def _choose_labels(sources: Sequence[Source], labels: Sequence[str]) -> tuple[str, ...]:
    """The labels of all: "union", "shared", or those named."""
    told = vocabulary.union_labels(sources)
    if labels == "union":
        return tuple(told)
    if labels == "shared":
        shared = vocabulary.shared_labels(sources)
        if not shared:
            each = [f"{s.name}: {', '.join(vocabulary.union_labels([s]))}" for s in sources]
            raise ConfigError(f"data.labels=shared, but no label is shared ({'; '.join(each)})")
        return tuple(shared)
    chosen = vocabulary.require_findings(labels, sources)
    if untold := [k for k in chosen if not any(vocabulary.tells(s, k) for s in sources)]:
        raise ConfigError(fault("untold", untold, told))
    return chosen


def _unite_official(sources: Mapping[str, Source]) -> dict[str, frozenset[str]] | None:
    """The publishers' splits together, where all have one; where one has no val, as train_val."""
    if not all(source.official for source in sources.values()):
        return None
    whole = any("train_val" in (source.official or ()) for source in sources.values())
    united: dict[str, set[str]] = {}
    for name, source in sources.items():
        for subset, ids in (source.official or {}).items():
            key = "train_val" if whole and subset in ("train", "val") else subset
            united.setdefault(key, set()).update(f"{name}/{image}" for image in ids)
    return {subset: frozenset(ids) for subset, ids in united.items()}
