"""Is one model better than another on the same test images? From their tables to a verdict."""

from collections.abc import Sequence
from dataclasses import dataclass
from glob import glob
from pathlib import Path

import numpy as np

from xray_lightning.data.decoding import available_cores
from xray_lightning.data.partition import fingerprint
from xray_lightning.errors import ConfigError, DataNotFoundError, TableError
from xray_lightning.evaluation.predictions import Predictions, read_own
from xray_lightning.evaluation.sweep import FINISHED, find_pooled, read_data_title, read_runs
from xray_lightning.metrics.compare import AurocDifferences, compare_aurocs
from xray_lightning.results import Json
from xray_lightning.wording import tell

TABLE = "predictions_test.csv"

Model = str | Path | Predictions | Sequence[Predictions]


@dataclass(frozen=True)
class Comparison(AurocDifferences):
    """Test AUROC of two models, A and B, on the same images."""

    first: tuple[str, ...]  # tables of A, one a seed
    second: tuple[str, ...]  # tables of B
    fingerprint: str  # of the images
    images: int
    patients: int | None  # how many; None where unknown
    data: str = ""  # title of the data set, "" where the tables are of no run
    draws: int = 2000  # of the bootstrap of patients (and seeds)

    @property
    def tested(self) -> list[str]:
        """Labels that have a p value; their number is what is corrected for."""
        return [label for label, row in self.labels.items() if not np.isnan(row.p_value)]

    @property
    def verdict(self) -> str:
        """One sentence about the mean, one about the labels."""
        return tell(__package__, "comparison", self)[0]

    def to_json(self) -> Json:
        """Plain values of compare.json."""
        return {**super().to_json(), "verdict": self.verdict}


def compare(
    first: Model,
    second: Model,
    *,
    labels: str | Sequence[str] = (),
    draws: int = 2000,  # of the bootstrap
    seed: int = 0,  # of the draws
    threads: int | None = None,  # labels compared at a time; None: the processor's cores
) -> Comparison:
    """Compare two models by AUROC, each draw of patients evaluating both.

    A model is a run folder, a table, a pattern of these or a row of a sweep (see
    :func:`find_tables`); or predictions of the test images, one table a seed. ``labels`` are those
    to be compared, or "shared": what all tables have; none: all, which must be the same.

    Raises:
        ConfigError: ``labels`` names one that a table lacks.
        DataNotFoundError: a pattern finds no run.
        TableError: the test images, their truth or the labels differ; see
            :func:`~xray_lightning.evaluation.predictions.read_own`.
    """
    sides = [_read_tables(model, name) for model, name in ((first, "first"), (second, "second"))]
    if labels:
        kept = _choose_labels(labels, [table for side in sides for table in side.values()])
        sides = [{name: table.keep(kept) for name, table in side.items()} for side in sides]
    name, reference = next(iter(sides[0].items()))
    for side in sides:
        for other, table in side.items():
            require_same_images(name, reference, other, table)
    titles = [read_data_title(Path(next(iter(side)))) for side in sides]
    differences = compare_aurocs(
        reference.labels,
        reference.targets,
        reference.patient_ids,
        *([table.scores[_order(table, reference)] for table in side.values()] for side in sides),
        draws=draws,
        seed=seed,
        threads=threads or available_cores(),
    )
    return Comparison(
        **vars(differences),
        first=tuple(sides[0]),
        second=tuple(sides[1]),
        fingerprint=fingerprint({"test": reference.image_ids}),
        images=len(reference.image_ids),
        patients=reference.patients,
        data=" / ".join(filter(None, dict.fromkeys(titles))),
        draws=draws,
    )


def _read_tables(model: Model, name: str) -> dict[str, Predictions]:
    """The tables of a model, one a seed, by their place."""
    if isinstance(model, str | Path):
        return {str(path): read_own(path) for path in find_tables(str(model))}
    tables = [model] if isinstance(model, Predictions) else model
    return {f"{name}[{seed}]": table for seed, table in enumerate(tables)}


def _choose_labels(asked: str | Sequence[str], tables: Sequence[Predictions]) -> list[str]:
    shared = [x for x in tables[0].labels if all(x in table.labels for table in tables)]
    chosen = shared if asked == "shared" else [asked] if isinstance(asked, str) else list(asked)
    if not chosen or not set(chosen) <= set(shared):
        raise ConfigError(
            f"labels={','.join(chosen)}: these are shared: {', '.join(shared) or 'none'}"
        )
    return chosen


def find_tables(pattern: str) -> list[Path]:
    """The predictions that a run folder, a table or a pattern of these names, sorted."""
    # SWEEP/SETTINGS names the finished runs of one row of the sweep's leaderboard, all seeds;
    # SWEEP, or that, the pooled folds of a cross-validation.
    tables = []
    named = map(Path, sorted(glob(pattern)))  # noqa: PTH207 - Path.glob takes no absolute pattern
    exact = [Path(pattern)] if Path(pattern).exists() else []  # "fold[1]" is a name, too
    for path in exact or list(named) or _find_group(Path(pattern)):
        table = path / TABLE if path.is_dir() else path
        tables += [table] if table.is_file() else find_pooled(path)
    if not tables:
        raise DataNotFoundError(
            f"{pattern} names no run with {TABLE} and no table of predictions; several seeds of "
            'one model are named by a pattern in quotes, such as "outputs/*_xception_*", or by the '
            'row of a sweep\'s ranking, such as "outputs/sweep_x/loss=bce"'
        )
    return tables


def _find_group(path: Path) -> list[Path]:
    """The finished runs of a sweep whose settings are what follows the sweep's folder."""
    folder = next((parent for parent in path.parents if parent.is_dir()), path)
    runs = read_runs(folder) if folder != path else []
    settings = str(path.relative_to(folder))
    group = [run for run in runs if run.state == FINISHED and run.settings == settings]
    if any(run.fold is not None for run in group):
        return find_pooled(folder, settings)
    return [folder / run.folder for run in group]


def require_same_images(
    place: str, reference: Predictions, other_place: str, other: Predictions
) -> None:
    """Refuse to compare scores of different images."""
    prints = [fingerprint({"test": table.image_ids}) for table in (reference, other)]
    if prints[0] != prints[1]:
        raise TableError(
            f"{place} [{prints[0]}] and {other_place} [{prints[1]}] score different test images: a "
            "difference would say nothing about the models. Evaluate both on one split"
        )
    if other.labels != reference.labels:
        raise TableError(f"{place} and {other_place} have different labels: take labels=shared")
    order = _order(other, reference)
    patients = tuple(other.patient_ids[row] for row in order)
    same = np.array_equal(other.targets[order], reference.targets, equal_nan=True)
    if not same or patients != reference.patient_ids:
        raise TableError(
            f"{place} and {other_place} name the same images but other patients or targets: they "
            "were made from different label tables"
        )


def _order(predictions: Predictions, reference: Predictions) -> list[int]:
    rows = {image: row for row, image in enumerate(predictions.image_ids)}
    return [rows[image] for image in reference.image_ids]
