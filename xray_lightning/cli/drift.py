"""``xray drift``: are new films, scores and prevalences those of a run's validation?"""

from pathlib import Path

from xray_lightning.cli.report import open_again
from xray_lightning.cli.request import Request
from xray_lightning.deploy.drift import measure_drift
from xray_lightning.folders import prepare_folder
from xray_lightning.progress import show_progress
from xray_lightning.report.page import page, say
from xray_lightning.writing import open_replacing

SETTINGS = {"patient": "", "draws": 2000, "seed": 0, "batch_size": 32, "workers": None}


def drift(request: Request) -> None:
    """Are these films, scores and prevalences those of validation? A folder, or a score table."""
    own = request.read(**SETTINGS, device="auto", trust=False)
    (run, new), trust, source = map(Path, request.files), own.pop("trust"), None
    if new.is_dir():
        _, source, _, own["missing"] = open_again(run, trust)
    folder = request.out or run / f"drift_{new.stem}"
    with show_progress("scoring films", shown=new.is_dir()) as progress:
        result = measure_drift(run, new, folder / "scores", source, **own, progress=progress)
    from xray_lightning.report.drawings import scores_figure  # Matplotlib

    figure = scores_figure([test for test in result.tests if test.name in result.prevalences])
    said = {"verdict": say("drift", result), "notes": say("drift_notes", result)}
    values = {"drift": result, "figure": figure, "command": " ".join(request.words), **said}
    with open_replacing(prepare_folder(folder) / "drift.html") as file:
        file.write(page("drift.html.j2", values))
    lines = (*said["verdict"], *said["notes"], f"written to {folder}")
    request.present(result.to_json(), *lines, path=folder / "drift.json")
