"""The audit of a split: leakage, shift, scores without an image, the change of a model's score."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import combinations
from pathlib import Path

import numpy as np

from xray_lightning.audit import leakage as leaks
from xray_lightning.audit import shift as shifting
from xray_lightning.audit.decomposition import Decomposition, ScoredSubset, decompose
from xray_lightning.audit.label_table import LabelTable, Size
from xray_lightning.data.partition import Split, fingerprint
from xray_lightning.data.several import Several, find_untold
from xray_lightning.data.source import Source
from xray_lightning.errors import ConfigError, TableError
from xray_lightning.evaluation.predictions import Predictions
from xray_lightning.metrics.bootstrap import PatientBootstrap
from xray_lightning.results import Result
from xray_lightning.wording import fault, tell

DRAWS = 500
say = partial(tell, __package__)  # the sentences of a subject


@dataclass(frozen=True)
class Hospitals(Result):
    """What the hospitals share, and how the others differ from the first, the base."""

    base: str
    sizes: dict[str, Size]  # by hospital
    patients: dict[str, int | None]  # "nih and rsna": in both; None: no common patient ids
    pictures: dict[str, int | None]  # pairs of copies; None: none of one set's was compared
    compared: dict[str, int]  # images of each hospital whose pixels were compared
    shifts: dict[str, shifting.Shift]  # of each other hospital


def compare_hospitals(
    source: Several,
    *,
    duplicates: leaks.Duplicates | None = None,  # of ``compare_images``, if pixels were compared
    draws: int = 500,  # of the bootstrap over patients
    seed: int = 0,  # of the draws and the trees
) -> Hospitals:
    """Compare the hospitals of several data sets by their label tables; no pixels are read.

    Each is compared with the first: prevalence, age, sex, view and images per patient, and whether
    trees tell its images from metadata alone, in folds of patients. A patient of two hospitals is
    one person, whose images are drawn together.

    Raises:
        ConfigError: there is one data set only.
    """
    base, *others = source.sources
    if not others:
        raise ConfigError(f"one data set alone, {base}: there is no other hospital to compare with")
    table, untold = leaks.read_labels(source), find_untold(source)
    homes = np.array([record.hospital for record in source.records])
    rows = {name: np.flatnonzero(homes == name) for name in source.sources}
    bootstrap = PatientBootstrap(table.patients, draws, seed)
    patients, pictures = {}, {}
    for pair in combinations(source.sources, 2):
        name = " and ".join(pair)
        populations = {source.sources[hospital].population for hospital in pair}
        comparable = len(populations) == 1 and "" not in populations
        first, second = (table.patients[rows[hospital]] for hospital in pair)
        patients[name] = len(np.intersect1d(first, second)) if comparable else None
        pictures[name] = duplicates.between.get(name) if duplicates else None
    pairs = {other: {base: rows[base], other: rows[other]} for other in others}
    apart = {k: shifting.measure_shift(table, v, bootstrap, seed) for k, v in pairs.items()}
    sizes = {name: Size.of(table, own, told=name not in untold) for name, own in rows.items()}
    compared = duplicates.compared if duplicates else {}
    return Hospitals(base, sizes, patients, pictures, compared, apart)


@dataclass(frozen=True)
class Audit(Result):
    """What a split does to a score; audit.json."""

    data: str
    split: dict[str, object]  # name, fingerprint, settings
    images: int
    patients: int | None  # None where the label table tells none
    labels: list[str]
    subsets: dict[str, Size] = field(metadata={"was": "parts"})
    leakage: leaks.Leakage
    shift: shifting.Shift
    baselines: list[shifting.Baseline]
    decomposition: Decomposition | None  # None without predictions
    draws: int
    seed: int
    notes: list[str]  # of the source and the split
    gist: list[str]  # what to know first, one sentence each
    command: str = ""  # that made it, if one did
    hospitals: Hospitals | None = None  # None of one data set


def audit_split(
    source: Source,
    split: Split,
    *,
    lists: Mapping[str, Collection[str]] | None = None,
    exposures: Mapping[str, str] | None = None,  # None: the source's
    predictions: tuple[Predictions, Predictions] | None = None,
    checkpoint: Path | str | None = None,  # whose training patients are looked for
    duplicates: leaks.Duplicates | None = None,  # of ``compare_images``, if pixels were compared
    draws: int = DRAWS,  # of the bootstrap over patients
    seed: int = 0,  # of the draws and the trees
) -> Audit:
    """Audit a split of the data set from its label table alone; no pixels are read.

    ``lists`` are the image names of known test sets, as ids of the data where they are any;
    ``exposures`` the name of the radiograph that an image shows, see :class:`Source`;
    ``predictions`` those of one model on validation and on test, to decompose the change.

    Raises:
        TableError: the predictions are not of the split.
        CheckpointError: the checkpoint cannot be read.
    """
    table = leaks.read_labels(source)
    bootstrap = PatientBootstrap(table.patients, draws, seed)
    exposures = source.exposures if exposures is None else exposures
    leakage = _find_leaks(source, split, lists or {}, exposures, checkpoint, duplicates)
    told, subsets = not leakage.patients.untold, shifting.add_train_val(split.subsets)
    change = predictions and decompose_change(source, split, *predictions, draws=draws, seed=seed)
    hospitals = None
    if isinstance(source, Several) and len(source.sources) > 1:
        hospitals = compare_hospitals(source, duplicates=duplicates, draws=draws, seed=seed)
    named = {"name": split.name, "fingerprint": split.fingerprint}
    audit = Audit(
        data=source.title,
        split={**named, "settings": dict(split.settings)},
        images=len(source.records),
        patients=bootstrap.patients if told else None,
        labels=list(source.labels),
        subsets={subset: Size.of(table, rows, told=told) for subset, rows in subsets.items()},
        leakage=leakage,
        shift=shifting.measure_shift(table, subsets, bootstrap, seed),
        baselines=shifting.score_baselines(table, split.subsets, bootstrap, seed),
        decomposition=change,
        draws=draws,
        seed=seed,
        notes=[*source.notes, *split.notes],
        gist=[],
        hospitals=hospitals,
    )
    return replace(audit, gist=write_gist(audit))


def write_gist(audit: Audit) -> list[str]:
    """What to know first, one sentence each, leaks first."""
    *_, others, trained = (row.result for row in audit.baselines)
    sentences = say("gist", audit.leakage, audit.shift, others, trained, audit.decomposition)
    return sentences + (say("hospitals", audit.hospitals) if audit.hospitals else [])


def _find_leaks(
    source: Source,
    split: Split,
    lists: Mapping[str, Collection[str]],
    exposures: Mapping[str, str],
    checkpoint: Path | str | None,
    duplicates: leaks.Duplicates | None,
) -> leaks.Leakage:
    ids = [record.image_id for record in source.records]
    shown = [exposures.get(image, image) for image in ids]
    own = {_name_list(source, subset): images for subset, images in (source.official or {}).items()}
    aliases = list(zip(ids, shown, strict=True))
    return leaks.Leakage(
        patients=leaks.count_patients(source, split.subsets),
        images=leaks.count_overlap(ids, split.subsets),
        exposures=leaks.count_overlap(shown, split.subsets) if exposures else None,
        lists=[leaks.match_list(*one, aliases, split.subsets) for one in {**own, **lists}.items()],
        checkpoint=leaks.match_checkpoint(Path(checkpoint), source, split) if checkpoint else None,
        duplicates=duplicates,
    )


def decompose_change(
    source: Source, split: Split, val: Predictions, test: Predictions, *, draws: int, seed: int
) -> Decomposition:
    """The change from validation to test; refuses tables of other labels or another split."""
    if val.labels != test.labels:
        raise TableError(f"the two tables have other labels: {val.labels} and {test.labels}")
    by_id = {record.image_id: record for record in source.records}
    scored = []
    for subset, table in (("val", val), ("test", test)):
        if unknown := [image for image in table.image_ids if image not in by_id]:
            raise TableError(fault("other_data", unknown))
        theirs, own = fingerprint({subset: table.image_ids}), split.subset_fingerprints[subset]
        if theirs != own:  # the page would mix two splits
            raise TableError(fault("other_split", subset, theirs, split.name, own))
        rows = [by_id[image] for image in table.image_ids]
        columns = LabelTable.of(rows, table.labels, leaks.name_untold(source))
        columns = replace(columns, targets=table.targets.astype(np.float64))
        scored.append(ScoredSubset(columns, table.scores.astype(np.float64)))
    groups = {}
    for name, images in (source.official or {}).items():
        on_val, on_test = (np.isin(table.image_ids, list(images)) for table in (val, test))
        if on_val.any() and on_test.any() and not (on_val.all() and on_test.all()):
            groups[_name_list(source, name)] = (on_val, on_test)
    return decompose(scored[0], scored[1], groups, draws=draws, seed=seed)


def _name_list(source: Source, subset: str) -> str:
    """What to call a list that comes with the data: NIH's is the publisher's, a table's is not."""
    if source.population:
        return f"publisher's {subset} list"
    return f"{source.name} table's {subset} rows"
