"""Several data sets as one, with the labels of a common vocabulary."""

import gc
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property

from xray_lightning.data.source import Identity, Mask, Pixels, Source
from xray_lightning.data.vocabulary import (
    Relabelled,
    require_findings,
    shared_labels,
    tells,
    union_labels,
)
from xray_lightning.errors import ConfigError
from xray_lightning.records import Record, patients_known


@contextmanager
def _pause_collector() -> Iterator[None]:
    """No garbage collection meanwhile: with 200,000 records in the making it trebles the time."""
    before = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if before:
            gc.enable()


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
    """

    name = "several"

    @_pause_collector()
    def __init__(
        self,
        sources: Mapping[str, Source] | None,
        *,
        labels: Sequence[str] = "union",
        allow_missing: bool = False,
    ) -> None:
        if not sources:
            raise ConfigError(
                "several data sets are read together by data=several data.sets=[nih,chexpert] "
                "data.nih.root=DIR data.chexpert.root=DIR"
            )
        self.labels = _choose_labels(list(sources.values()), labels)
        self.sources = {name: Relabelled(source, self.labels) for name, source in sources.items()}
        parts = self.sources.items()
        self.allow_missing = allow_missing or all(s.allow_missing for _, s in parts if s.missing)
        if all(source.population for source in sources.values()):
            self.population = ",".join(sorted({s.population for s in sources.values()}))
        self._own = {f"{name}/{r.image_id}": r for name, s in parts for r in s.records}
        self.records = tuple(self._renamed())
        self.official = _unite_official(self.sources)
        self.notes = (
            *(f"{name}: {note}" for name, source in parts for note in source.notes),
            *_describe_shared(self.records),
        )
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
        return self.sources[record.hospital].read(self._own[record.image_id])

    def mask(self, record: Record, label: str) -> Mask | None:
        """As its own data set does."""
        return self.sources[record.hospital].mask(self._own[record.image_id], label)

    def identity(self) -> Identity:
        """Those of all data sets."""
        return {"source": self.name} | {
            f"{name}.{key}": value
            for name, source in self.sources.items()
            for key, value in source.identity().items()
        }

    def _renamed(self) -> Iterable[Record]:
        """The records by ids that are unique among all data sets."""
        for name, source in self.sources.items():
            namespace = source.population or name
            for r in source.records:
                study = f"{name}/{r.study_id}" if r.study_id else ""
                image, patient = f"{name}/{r.image_id}", f"{namespace}/{r.patient_id}"
                yield Record(
                    *(image, patient, r.targets, r.path, r.boxes, r.box_frame),
                    *(r.age, r.sex, r.view, r.follow_up, study, name),
                )


def find_untold(source: Source) -> dict[str, str]:
    """The data sets that tell no patients, and what counts as one there: "image" or "report"."""
    parts = source.sources if isinstance(source, Several) else {source.name: source}
    reports = {name: part.owner for name, part in parts.items() if part.owner != Source.owner}
    anonymous = [name for name, part in parts.items() if not patients_known(part.records)]
    return dict.fromkeys(anonymous, "image") | reports


def _choose_labels(sources: Sequence[Source], labels: Sequence[str]) -> tuple[str, ...]:
    """The labels of all: "union", "shared", or those named."""
    told = union_labels(sources)
    if labels == "union":
        return tuple(told)
    if labels == "shared":
        shared = shared_labels(sources)
        if not shared:
            each = "; ".join(f"{s.name}: {', '.join(union_labels([s]))}" for s in sources)
            raise ConfigError(f"data.labels=shared, but no label is shared ({each})")
        return tuple(shared)
    chosen = require_findings(labels, sources)
    if untold := [label for label in chosen if not any(tells(s, label) for s in sources)]:
        raise ConfigError(
            f"data.labels: no data set here tells {', '.join(untold)}; they tell {', '.join(told)}"
        )
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


def _describe_shared(records: Sequence[Record]) -> list[str]:
    """A sentence for each two data sets with images of the same patients."""
    patients: dict[str, set[str]] = {}
    for record in records:
        patients.setdefault(record.hospital, set()).add(record.patient_id)
    names = list(patients)
    return [
        f"{len(both):,} patients are in both {first} and {second}: no split sets them apart"
        for place, first in enumerate(names)
        for second in names[place + 1 :]
        if (both := patients[first] & patients[second])
    ]
