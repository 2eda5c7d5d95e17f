"""Several data sets beside each other: what their hospitals share, and how they differ."""

from dataclasses import dataclass
from itertools import combinations

import numpy as np

from xray_lightning.audit.duplicates import Duplicates
from xray_lightning.audit.label_table import Size
from xray_lightning.audit.leakage import read_labels
from xray_lightning.audit.shift import Shift, measure_shift
from xray_lightning.data.several import Several, find_untold
from xray_lightning.errors import ConfigError
from xray_lightning.metrics.bootstrap import PatientBootstrap
from xray_lightning.results import Result


@dataclass(frozen=True)
class Hospitals(Result):
    """What the hospitals share, and how the others differ from the first, the base."""

    base: str
    sizes: dict[str, Size]  # by hospital
    patients: dict[str, int | None]  # "nih and rsna": in both; None: no common patient ids
    pictures: dict[str, int | None]  # pairs of copies; None: none of one set's was compared
    compared: dict[str, int]  # images of each hospital whose pixels were compared
    shifts: dict[str, Shift]  # of each other hospital


def compare_hospitals(
    source: Several,
    *,
    duplicates: Duplicates | None = None,  # of ``compare_images``, if pixels were compared
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
    table, untold = read_labels(source), find_untold(source)
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
    shifts = {
        other: measure_shift(
            table, {base: rows[base], other: rows[other]}, bootstrap, seed, (base, other)
        )
        for other in others
    }
    sizes = {name: Size.of(table, own, told=name not in untold) for name, own in rows.items()}
    compared = duplicates.compared if duplicates else {}
    return Hospitals(base, sizes, patients, pictures, compared, shifts)
