"""``xray audit``: leakage, shift, image-free baselines and the change from validation to test."""

from collections.abc import Collection
from dataclasses import replace
from pathlib import Path

from xray_lightning.audit.leakage import compare_images
from xray_lightning.audit.run import audit_split
from xray_lightning.cli.config import compose_settings, make
from xray_lightning.cli.request import Own, Request, read_names
from xray_lightning.data.nih import read_nih_map
from xray_lightning.data.partition import FaultySplitError, NameIndex, read_list, split_source
from xray_lightning.data.source import Source, used_records
from xray_lightning.errors import ConfigError
from xray_lightning.evaluation.predictions import read_own
from xray_lightning.folders import prepare_folder
from xray_lightning.progress import show_progress
from xray_lightning.records import read_column
from xray_lightning.writing import write_file


def audit(request: Request) -> None:
    """What a split does to a score, from the label table: xray audit data=nih data.root=DIR."""
    own, config = request.own, compose_settings(request.rest, request.own)
    source: Source = make(config.data)
    tables = [Path(own["predictions"], f"predictions_{name}.csv") for name in ("val", "test")]
    predictions = (read_own(tables[0]), read_own(tables[1])) if own["predictions"] else None
    source = used_records(source) if predictions else source
    try:
        split = split_source(source, make(config.split), source.records)
    except FaultySplitError as error:  # which no training may use: to count what is wrong with it
        split = error.split
    folder = prepare_folder(request.out or Path(f"outputs/audit_{source.name}_{split.fingerprint}"))
    duplicates = None
    if own["duplicates"]:
        size, root = config.image_size, config.cache_dir
        with show_progress("comparing checksums") as report:
            duplicates = compare_images(source, split, size=size, cache_dir=root, report=report)
    from xray_lightning.report.audit import audit_page, audit_tables  # slow; the data are there

    result = audit_split(
        source,
        split,
        lists=_read_lists(own, source),
        predictions=predictions,
        checkpoint=own["checkpoint"],
        duplicates=duplicates,
        draws=own["draws"],
        seed=own["bootstrap_seed"],
    )
    result = replace(result, command=" ".join(["xray audit", *request.words]))
    write_file(folder / "audit.html", audit_page(result))
    notes = (*(f"note: {note}" for note in result.notes), f"written to {folder}")
    lines = (*audit_tables(result), *result.gist, *notes)
    request.present(result.to_json(), *lines, path=folder / "audit.json")


def _read_lists(own: Own, source: Source) -> dict[str, Collection[str]]:
    """Known image names by what they are: the files of lists=, and NIH's names in RSNA's map."""
    paths = map(Path, read_names(own["lists"]))
    index = NameIndex([*read_column(source.records, "image_id"), *source.exposures.values()])
    lists: dict[str, Collection[str]] = {f"list {path}": read_list(path, index) for path in paths}
    if own["rsna_map"]:
        if source.population != "nih":
            raise ConfigError(f"rsna_map names NIH's images: it tells nothing of {source.name}'s")
        images = read_nih_map(Path(own["rsna_map"]))
        lists[f"RSNA challenge ({len(images):,} images, by its map)"] = frozenset(images.values())
    return lists
