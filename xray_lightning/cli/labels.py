"""``xray labels``: the common vocabulary of labels beside the data sets named; no pixels."""

from collections.abc import Sequence

from xray_lightning.cli.config import compose_settings, make
from xray_lightning.cli.request import present
from xray_lightning.cli.sets import split_sets
from xray_lightning.data.labels import tabulate_labels
from xray_lightning.data.source import Source
from xray_lightning.data.vocabulary import list_sets
from xray_lightning.report.terminal import labels_tables


def labels(overrides: Sequence[str], *, as_json: bool = False) -> None:
    """Print the map, with images counted where a folder is given; see ``xray labels --help``."""
    settings, rest = split_sets(overrides)
    if not settings:
        compose_settings(rest)  # refuses what no setting has
    sources = {name: _open(own, rest) for name, own in settings.items()}
    table = tabulate_labels(sources or dict.fromkeys(list_sets()))
    notes = [
        f"note: {name}: {note}"
        for name, source in sources.items()
        for note in (source.notes if source else ())
    ]
    present(table.to_json(), as_json, *labels_tables(table), *notes)


def _open(own: Sequence[str], rest: Sequence[str]) -> Source | None:
    """The data set; None if nothing says where it is."""
    config, _ = compose_settings([*rest, *own])
    if len(own) == 1 and "???" in dict(config.data.items_ex(resolve=False)).values():
        return None
    source: Source = make(config.data)
    return source
