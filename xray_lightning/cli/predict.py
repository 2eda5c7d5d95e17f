"""``xray predict``: the scores of any files, written as they come."""

from collections.abc import Sequence
from pathlib import Path

from xray_lightning.cli.failures import PartialError
from xray_lightning.data.files import find_images
from xray_lightning.progress import show_progress
from xray_lightning.report.terminal import show
from xray_lightning.writing import json_text

NAMED = 3  # skipped files in the terminal; skipped.csv has them all


def predict(
    checkpoint: Path,
    names: Sequence[str],
    folder: Path,
    batch_size: int,
    device: str,
    *,
    as_json: bool = False,
) -> None:
    """Score every image that ``names`` lead to, see :func:`~xray_lightning.predict_files`."""
    images = find_images(names)
    from xray_lightning.deploy.classifier import load_classifier  # torch, after the paths
    from xray_lightning.deploy.predict import predict_files

    classifier = load_classifier(checkpoint, device=device)
    with show_progress("scoring images") as report:
        done = predict_files(classifier, images, folder, batch_size=batch_size, progress=report)
    notes = []
    if done.links:
        notes.append(f"{len(done.links):,} links to listed images are those images: scored once")
    if done.skipped:
        named = ", ".join(Path(name).name for name in done.skipped[:NAMED])
        more = f" and {len(done.skipped) - NAMED:,} more" if len(done.skipped) > NAMED else ""
        notes.append(f"skipped {named}{more}: not images (skipped.csv has the list)")
    if done.changed:
        notes.append(f"{done.changed:,} files were others when they were scored before")
    if done.notes:
        notes.append(done.notes)
    if as_json:
        print(json_text(done.to_json()))
    else:
        show(f"{done.scored:,} images scored, {done.kept:,} were before: {done.table}")
        show(*(f"note: {note}" for note in notes))
    if done.failures:
        raise PartialError(
            f"{len(done.failures):,} of {len(images.images):,} files could not be read; "
            f"{folder / 'failed.csv'} says why, and running this again tries them again"
        )
