"""Verbs that take files or give one: predict, export, serve, convert."""

import os
import sys
from collections.abc import Collection
from pathlib import Path

from xray_lightning.cli.failures import PartialError
from xray_lightning.cli.request import DEFAULTS, Own, Request
from xray_lightning.cli.settings import find_checkpoint, require_openable
from xray_lightning.data.convert import NAMES, PngOptions, convert_folder
from xray_lightning.data.files import find_images
from xray_lightning.data.tables import format_count
from xray_lightning.errors import ConfigError, DataNotFoundError, require_choice
from xray_lightning.progress import show_progress
from xray_lightning.report.page import say
from xray_lightning.shards import Shard
from xray_lightning.wording import fault, name_first

CHECKED = 5  # films an export is checked on


def predict(request: Request) -> None:
    """Score new files; preprocessing comes from the checkpoint. Run it again to continue."""
    own, folder, images = request.own, request.require_out(), find_images(request.files[1:])
    if own["points"] not in ("checkpoint", "none") and not Path(own["points"]).exists():
        raise DataNotFoundError(f"{own['points']}: no such file or folder")
    checkpoint, form = find_checkpoint(request.files[0]), own["format"]
    from xray_lightning.deploy.classifier import load_classifier  # torch, after the paths
    from xray_lightning.deploy.predict import predict_files

    if (shard := Shard.parse(own["shard"])).count > 1 and (own["maps"] or own["dicom_out"]):
        raise ConfigError("maps= and dicom_out= need all studies: leave out shard=")
    if own["dicom_out"] or own["stow"]:
        from xray_lightning.report.pacs import require_pacs, write_dicom_results

        require_pacs(folder, own["dicom_out"], own["stow"])
    classifier = load_classifier(checkpoint, device=own["device"], **read_points(own))
    if own["maps"] or own["dicom_out"]:
        classifier.require_maps(own["method"])
    with show_progress("scoring images") as report:
        how = {"batch_size": own["batch_size"], "workers": own["workers"], "form": form}
        done = predict_files(classifier, images, folder, **how, shard=shard, progress=report)
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
    present_files(request, values, lines)
    require_whole(failures, len(images.images), shard.folder(folder), "read")
    require_whole(unwritten, len(images.images), place, "returned as DICOM")


def read_points(own: Own) -> Own:
    """``points=``, ``prior=`` and how points are fitted, as ``load_classifier`` takes them."""
    from xray_lightning.cli.config import read_value

    names = "prior", "calibration", "operating_point.rule", "operating_point.value"
    fit = {name.split(".")[-1]: read_value(name, own[name]) for name in names if own[name]}
    return {"points": own["points"], "trust": own["trust"], **fit}


def export(request: Request) -> None:
    """A checkpoint as one file for other programs: xray export RUN format=onnx --out model.onnx."""
    own, out, trust = request.own, request.require_out(), request.own["trust"]
    if own["int8"]:
        if own["format"] != "onnx" or own["films"]:
            raise ConfigError("int8=true is ONNX, and its own test films decide: leave out films=")
        (place,) = require_openable(request).files
        from xray_lightning.cli.opening import open_checkpoint
        from xray_lightning.deploy.export import quantise_checkpoint

        told = [*request.rest, f"trust={str(trust).lower()}"]
        config, opened = open_checkpoint(Path(place), told)
        choice = {"draws": config.draws, "trust": trust}
        whole = quantise_checkpoint(Path(place), out, opened.data, **choice)
        sizes = f"{whole.bytes / 1e6:,.1f} MB ({whole.float_bytes / 1e6:,.1f} in float32)"
        request.present(whole.to_json(), f"{whole.path}: {sizes}", whole.sentence)
        return
    request.read(DEFAULTS["export"])  # refuses the rest
    films = find_images([own["films"]]).images[:CHECKED] if own["films"] else []
    checkpoint = find_checkpoint(request.files[0])
    from xray_lightning.deploy.export import export_checkpoint  # torch, after the paths

    done = export_checkpoint(checkpoint, out, own["format"], films=films, trust=trust)
    request.present(done.to_json(), *say("exported", done, own["format"]))


def weights(request: Request) -> None:
    """A backbone's tensors as a safe file: xray weights convert FILE.pth --out FILE.safetensors."""
    (action, name), out = request.files, request.require_out()
    require_choice("xray weights", action, ("convert",))
    if out.suffix != ".safetensors" or not out.parent.is_dir():
        raise ConfigError(f"--out must be a file .safetensors in a folder that is there, got {out}")
    if not Path(name).is_file():
        raise DataNotFoundError(f"{name}: no such file")
    from xray_lightning.models.backbones import convert_weights  # torch, after the paths

    count, size = convert_weights(Path(name), out), out.stat().st_size
    values = {"path": str(out), "tensors": count, "bytes": size}
    request.present(values, f"{out}: {count:,} tensors, {size / 1e6:,.1f} MB")


def serve(request: Request) -> None:
    """A page and an API for new films, on this machine: xray serve RUN; more RUNs: side by side."""
    own, paths = dict(request.own), [find_checkpoint(name) for name in request.files]
    from xray_lightning import ServeLimits, serve
    from xray_lightning.deploy.classifier import load_models

    models = load_models(paths, device=own["device"], **read_points(own))
    own["token"] = own["token"] or os.environ.get("XRAY_TOKEN", "")
    limits = ServeLimits(*(own[n] for n in ("megabytes", "megapixels", "seconds", "queue")))
    serve(models, limits, **{name: own[name] for name in ("host", "port", "token", "method")})


def convert(request: Request) -> None:
    """DICOM files to PNG, with a table of headers without names. Run it again to continue."""
    own, (root, out) = request.own, map(Path, request.files)
    options = PngOptions(own["bits"], own["rename"], own["frame"], own["colour"] or None)
    shard = Shard.parse(own["shard"])
    with show_progress("converting", shown=sys.stderr.isatty()) as progress:
        how = {"shard": shard, "workers": own["workers"], "progress": progress}
        done = convert_folder(root, out, options, **how)
    names = out / NAMES if own["rename"] else ""
    present_files(request, done.to_json(), say("converted", done, out, names))
    count = done.converted + done.before + len(done.failures)
    require_whole(done.failures, count, shard.folder(out), "converted")


def present_files(request: Request, values: Own, lines: list[str]) -> None:
    """What was done, and the notes that apply; in JSON those of the reader, as a list."""
    request.present({**values, "notes": list(filter(None, [values["notes"]]))}, *lines)


def require_whole(failures: Collection[str], count: int, folder: Path, what: str) -> None:
    """Leave with the exit code of a part if some of the files could not be done."""
    if failures:
        raise PartialError(fault("partly_done", failures, count, folder, what))
