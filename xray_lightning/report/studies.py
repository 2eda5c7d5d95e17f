"""A page for each study of predicted files: the films, maps of findings, probabilities, calls."""

from base64 import b64encode
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path

import cv2
import numpy as np

from xray_lightning.data.decoding import available_cores, decode_ahead, single_threaded_opencv
from xray_lightning.data.files import Journal
from xray_lightning.data.geometry import fit_square
from xray_lightning.data.images import Pixels, read_image
from xray_lightning.deploy.classifier import Classifier
from xray_lightning.deploy.interpretation import Interpretation
from xray_lightning.deploy.predict import ScoreTable
from xray_lightning.errors import DataError
from xray_lightning.explain.maps import enlarge
from xray_lightning.folders import lock_folder, prepare_folder
from xray_lightning.report.gallery import common_scale, paint
from xray_lightning.report.page import page
from xray_lightning.results import Json, Result
from xray_lightning.writing import read_json, write_file

SIDE = 512  # px of a film on a page
DONE = ".studies.done"
LEAST = 2  # findings of a film that have a map; all that are called have one


@dataclass(frozen=True)
class StudyPages(Result):
    """What :func:`write_study_pages` did."""

    index: str  # the page that names the files of each study
    written: int  # pages
    failures: dict[str, str] = field(default_factory=dict)  # study without a page, and why


def write_study_pages(
    classifier: Classifier,  # the one that made the scores
    folder: str | Path,  # as ``predict_files`` left it
    *,
    method: str = "cam",  # of :func:`~xray_lightning.class_maps`
    progress: Callable[[int, int], object] | None = None,  # called with studies done and to do
) -> StudyPages:
    """Overlays and one HTML page for each study in a folder of ``predict_files``.

    Writes ``studies/<study>.html``, self-contained and without a name of a file or a patient,
    ``studies/index.html``, which names the files, and ``overlays/<study>_<image>_<finding>.jpg``.
    Maps are of the findings that are called, at least the two of the highest probability.

    Raises:
        ConfigError: the network gives no such maps.
        OutputError: there is no model.json that can be read.
    """
    folder, report = Path(folder), progress or (lambda done, count: None)
    classifier.require_maps(method)
    model, studies = read_json(folder / "model.json"), dict[str, list[str]]()
    with lock_folder(folder), single_threaded_opencv():
        pages, overlays = (prepare_folder(folder / name) for name in ("studies", "overlays"))
        table, journal = ScoreTable(folder, Interpretation.from_json(model)), Journal(folder / DONE)
        for name, (study, *_) in table.rows.items():
            studies.setdefault(study, []).append(name)
        images = {study: describe(names, table) for study, names in studies.items()}
        stamps = {k: sha256(repr((row, method)).encode()).hexdigest() for k, row in images.items()}
        todo = {
            k: names
            for k, names in studies.items()
            if journal.stamps.get(k) != stamps[k] or not (pages / f"{k}.html").is_file()
        }
        failures, workers = {}, available_cores()  # fmt: skip
        with closing(decode_ahead(_load, todo.values(), workers=workers, ahead=4)) as loaded:
            for number, (study, films) in enumerate(zip(todo, loaded, strict=True), 1):
                if isinstance(films, str):
                    failures[study] = films
                else:
                    _draw(classifier, films, images[study], overlays / study, method)
                    values = {"study": study, "images": images[study], "method": method}
                    _write(pages / f"{study}.html", model, **values)
                    journal.add({study: stamps[study]})
                report(number, len(todo))
        names = {study: [Path(name).name for name in files] for study, files in studies.items()}
        index = {"study": "", "names": names, "images": images, "failures": failures}
        _write(pages / "index.html", model, **index)
    return StudyPages(str(pages / "index.html"), len(todo) - len(failures), failures)


def _write(path: Path, model: Json, **values: object) -> None:
    write_file(path, page("study.html.j2", {**values, "model": model}), errors="surrogateescape")


def _load(names: Sequence[str]) -> list[Pixels] | str:
    """The pictures of a study, or why one of them cannot be read any more."""
    try:
        return [read_image(Path(name)) for name in names]
    except DataError as error:
        return str(error)


def describe(names: Sequence[str], table: ScoreTable) -> list[Json]:
    """Rows of each film's table, what is called first, then by probability or score."""
    reading, scores = table.interpretation, np.stack([table.rows[name][1] for name in names])
    known = reading.operating_points.labels if reading.operating_points else {}
    points = [known.get(label) for label in reading.labels]
    keys, images = ("label", "point", "threshold", "score", "probability", "call"), list[Json]()
    for columns in zip(scores, reading.probabilities(scores), reading.calls(scores), strict=True):
        values = reading.labels, points, reading.thresholds, *columns
        rows = [dict(zip(keys, row, strict=True)) for row in zip(*values, strict=True)]
        by = "score" if np.isnan(columns[1]).all() else "probability"
        rows.sort(key=lambda row: (row["call"] != 1, -np.nan_to_num(row[by], nan=-1.0)))
        images.append({"rows": rows, "maps": [], "gate": table.rows[names[len(images)]][2]})
    return images


def _draw(
    classifier: Classifier,
    films: Sequence[Pixels],
    images: Sequence[Json],
    place: Path,
    method: str,
) -> None:
    """Add the pictures of a study's films, as data: addresses; overlays are files too."""
    for number, (image, film) in enumerate(zip(images, films, strict=True), 1):
        grey, image["cells"], maps = draw_maps(classifier, film, image["rows"], method)
        image["film"] = _encode(grey)
        for row, picture in maps:
            name = row["label"].replace("/", "_").replace(" ", "_")
            path = place.with_name(f"{place.name}_{number}_{name}.jpg")
            image["maps"].append({**row, "picture": _encode(picture, path)})


def draw_maps(
    classifier: Classifier, film: Pixels, rows: Sequence[Json], method: str
) -> tuple[Pixels, tuple[int, ...], list[tuple[Json, Pixels]]]:
    """A film (H, W, 3), the cells of its maps, and those of ``LEAST`` rows and of all called."""
    square, grey = classifier.fit(film), np.repeat(fit_square(film, SIDE)[..., None], 3, axis=2)
    shown = [row for at, row in enumerate(rows) if row["call"] == 1 or at < LEAST]
    heats = classifier.map_squares(square[None], [row["label"] for row in shown], method)[0]
    pictures = list[Pixels]()
    for heat in heats:
        large = cv2.resize(enlarge(heat, len(square), classifier.grids), (SIDE, SIDE))
        colours = paint(np.asarray(large, np.float32), common_scale([heat]))
        opacity = colours[..., 3:]
        picture = np.rint(255 * opacity * colours[..., :3] + (1 - opacity) * grey)
        pictures.append(picture.astype(np.uint8))
    return grey, heats.shape[1:], [*zip(shown, pictures, strict=True)]


def _encode(picture: Pixels, path: Path | None = None) -> str:
    """A picture (H, W, 3) RGB as a data: address, into a file too."""
    quality = [cv2.IMWRITE_JPEG_QUALITY, 88]
    data = cv2.imencode(".jpg", np.ascontiguousarray(picture[..., ::-1]), quality)[1].tobytes()
    if path:
        write_file(path, data)
    return f"data:image/jpeg;base64,{b64encode(data).decode('ascii')}"
