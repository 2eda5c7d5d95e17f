"""``xray predict`` and ``xray convert``: files in, files out, written as they come."""

import os
import sys
from collections.abc import Collection, Sequence
from contextlib import redirect_stdout
from pathlib import Path

from xray_lightning.cli.failures import PartialError
from xray_lightning.cli.request import Facts, Own, present
from xray_lightning.data.convert import NAMES, PngOptions, convert_folder
from xray_lightning.data.files import find_images
from xray_lightning.data.tables import format_count
from xray_lightning.hub import name_place
from xray_lightning.progress import show_progress
from xray_lightning.report.page import say

CHECKED = 5  # films an export is checked on
NAMED = 3  # files in the terminal; skipped.csv and failed.csv have them all


def predict(checkpoint: Path, names: Sequence[str], folder: Path, own: Own, as_json: bool) -> None:
    """Score every image that ``names`` lead to, see :func:`~xray_lightning.predict_files`."""
    images = find_images(names)
    from xray_lightning.deploy.classifier import load_classifier  # torch, after the paths
    from xray_lightning.deploy.predict import predict_files, require_form

    require_form(own["format"])
    if own["dicom_out"] or own["stow"]:
        from xray_lightning.report.pacs import require_pacs, write_dicom_results

        require_pacs(folder, own["dicom_out"], own["stow"])
    form, batch, workers = own["format"], own["batch_size"], own["workers"]
    classifier = load_classifier(checkpoint, device=own["device"], **read_points(own))
    if own["maps"] or own["dicom_out"]:
        classifier.require_maps(own["method"])
    with show_progress("scoring images") as report:
        done = predict_files(classifier, images, folder, batch_size=batch, workers=workers,
                             form=form, progress=report)  # fmt: skip
    values, skipped = done.to_json(), name_first([Path(name).name for name in done.skipped])
    lines = say("predicted", done, skipped, "estimate" in own["prior"])
    failures, unwritten, place = done.failures, dict[str, str](), Path(own["dicom_out"])
    if own["maps"]:
        from xray_lightning.report.studies import write_study_pages

        with show_progress("drawing studies") as report:
            pages = write_study_pages(classifier, folder, method=own["method"], progress=report)
        lines.append(f"note: {format_count(pages.written, 'study')} drawn: {pages.index}")
        values, failures = values | {"pages": pages.to_json()}, failures | pages.failures
    if own["dicom_out"]:
        choice = {"method": own["method"], "stow": own["stow"]}
        dicom = write_dicom_results(classifier, folder, place, **choice)
        lines += say("returned", dicom, own["stow"])
        values, unwritten = values | {"dicom": dicom.to_json()}, dicom.failures
    present_files(values, as_json, lines)
    require_whole(failures, len(images.images), folder, "read")
    require_whole(unwritten, len(images.images), place, "returned as DICOM")


def read_points(own: Own) -> Own:
    """``points=``, ``prior=`` and how points are fitted, as ``load_classifier`` takes them."""
    from xray_lightning.cli.config import read_value  # Hydra, which most calls do not need

    names = "prior", "calibration", "operating_point.rule", "operating_point.value"
    fit = {name.split(".")[-1]: read_value(name, own[name]) for name in names if own[name]}
    return {"points": own["points"], "trust": own["trust"], **fit}


def export(
    checkpoint: Path, out: Path, own: Own, films: Sequence[str], rest: Sequence[str], as_json: bool
) -> None:
    """Write a checkpoint as one file, see :func:`~xray_lightning.export_checkpoint`."""
    paths, format = find_images(films).images[:CHECKED] if films else [], own["format"]
    from xray_lightning.cli.opening import open_checkpoint  # torch, after the paths
    from xray_lightning.deploy.export import export_checkpoint, quantise_checkpoint

    if own["int8"]:
        with redirect_stdout(sys.stderr if as_json else sys.stdout):
            trust = own["trust"]
            opened = open_checkpoint(checkpoint, [*rest, f"trust={str(trust).lower()}"])
            choice = {"draws": opened.config.draws, "trust": trust}
            whole = quantise_checkpoint(checkpoint, out, opened.data, **choice)
        sizes = f"{whole.bytes / 1e6:,.1f} MB ({whole.float_bytes / 1e6:,.1f} in float32)"
        present(whole.to_json(), as_json, f"{whole.path}: {sizes}", whole.sentence)
        return
    done = export_checkpoint(checkpoint, out, format, films=paths, trust=own["trust"])
    present(done.to_json(), as_json, *say("exported", done, format))


def serve(paths: Sequence[Path], own: Own) -> None:
    """Serve a page and an API, see :func:`~xray_lightning.serve`; a run's folder names a model."""
    from xray_lightning import Classifier, ServeLimits, load_classifier, serve

    models: dict[str, Classifier] = {}
    for path in paths:  # as they are: what the hub keeps is a link to a name without an ending
        run, file = path.resolve(), Path(name_place(path))
        name = run.parts[-3] if run.parent.name == "checkpoints" else file.stem
        name += f"_{len(models) + 1}" if name in models else ""
        models[name] = load_classifier(path, device=own["device"], **read_points(own))
    own["token"] = own["token"] or os.environ.get("XRAY_TOKEN", "")
    limits = ServeLimits(*(own[name] for name in ("megabytes", "megapixels", "seconds", "queue")))
    serve(models, limits, **{name: own[name] for name in ("host", "port", "token", "method")})


def convert(root: Path, out: Path, own: Own, as_json: bool) -> None:
    """Convert every DICOM file below ``root``, see :func:`~xray_lightning.convert_folder`."""
    options = PngOptions(own["bits"], own["rename"], own["frame"], own["colour"] or None)
    with show_progress("converting", shown=sys.stderr.isatty()) as progress:
        done = convert_folder(root, out, options, workers=own["workers"], progress=progress)
    names = out / NAMES if own["rename"] else ""
    present_files(done.to_json(), as_json, say("converted", done, out, names))
    count = done.converted + done.before + len(done.failures)
    require_whole(done.failures, count, out, "converted")


def present_files(values: Facts, as_json: bool, lines: Sequence[str]) -> None:
    """What was done, and the notes that apply; in JSON those of the reader, as a list."""
    present({**values, "notes": list(filter(None, [values["notes"]]))}, as_json, *lines)


def name_first(names: Collection[str]) -> str:
    """The first names, and how many more there are."""
    more = f" and {len(names) - NAMED:,} more" if len(names) > NAMED else ""
    return ", ".join([*names][:NAMED]) + more


def require_whole(failures: Collection[str], count: int, folder: Path, what: str) -> None:
    """Leave with the exit code of a part if some of the files could not be done."""
    if failures:
        raise PartialError(
            f"{len(failures):,} of {count:,} files could not be {what}: {name_first(failures)}; "
            f"{folder / 'failed.csv'} says why, and running this again tries them again"
        )
