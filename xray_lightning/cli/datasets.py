"""``xray data`` and ``xray cache``: what is in a folder, and its images decoded; without torch."""

from collections.abc import Sequence

from xray_lightning.cli.config import compose_settings, make
from xray_lightning.cli.request import present
from xray_lightning.data.cache import open_cache
from xray_lightning.data.partition import split_source
from xray_lightning.data.source import Source, readable_records, usage_notes
from xray_lightning.data.summary import summarise_data
from xray_lightning.folders import prepare_folder
from xray_lightning.progress import show_progress
from xray_lightning.report.page import say
from xray_lightning.report.terminal import counts_table


def cache(overrides: Sequence[str], *, as_json: bool = False) -> None:
    """Decode a data set's images at the working size, and compare all with their checksums."""
    config, _ = compose_settings(overrides)
    source: Source = make(config.data)
    records, notes = readable_records(source), usage_notes(source)
    opened = open_cache(source, records, size=config.image_size, root=config.cache_dir)
    with show_progress("comparing checksums") as report:
        for row in range(len(records)):
            opened.square(row)
            report(row + 1, len(records))
    size, gigabytes = config.image_size, opened.images.nbytes / 1e9
    facts = {"path": str(opened.path), "images": len(records), "image_size": size}
    present(
        facts | {"bytes": opened.images.nbytes, "notes": notes},
        as_json,
        *(f"note: {note}" for note in notes),
        f"{len(records):,} images at {size} px, {gigabytes:.2f} GB: {opened.path}",
    )


def data(overrides: Sequence[str], *, as_json: bool = False) -> None:
    """What is in a folder: counts by label and subset, images on disk, problems; no pixels."""
    config, run_dir = compose_settings(overrides)
    source: Source = make(config.data)
    split = split_source(source, make(config.split), source.records)
    summary = summarise_data(source, split)
    path = run_dir and prepare_folder(run_dir) / "data.json"
    lines = counts_table(summary), *say("data", summary)
    present(summary.to_json(), as_json, *lines, path=path)
