"""The ``xray`` command; heavy imports wait until a verb is called, so that --help is quick."""

import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any

import typer

APP = typer.Typer(
    help="Train, judge and explain chest radiograph classifiers. Not a medical device.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
Overrides = Annotated[
    list[str] | None, typer.Argument(help="settings such as data=nih data.root=DIR")
]
PASS_ON = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}


def run(place: str, *arguments: Any, opens: Sequence[Path] = (), **options: Any) -> None:
    """Call ``xray_lightning.cli.<place>``, and leave with its exit code.

    Args:
        place: module and function, such as "evaluate.evaluate".
        arguments: of the function.
        opens: checkpoints that it opens; missing ones, overrides (the second argument) that no
            evaluation can take, and images that are not there, are refused before torch is loaded.
        options: of the function.
    """
    from xray_lightning.cli.failures import guarded
    from xray_lightning.cli.settings import require_openable

    def command() -> None:
        module, _, name = place.partition(".")
        if opens:
            names, overrides = (arguments[1], ()) if module == "predict" else ((), arguments[1])
            require_openable(opens, overrides, names)
        getattr(import_module(f"xray_lightning.cli.{module}"), name)(*arguments, **options)

    raise typer.Exit(guarded(command))


@APP.command(context_settings=PASS_ON)
def train(context: typer.Context) -> None:
    """Train and evaluate; the same as python train.py, all of Hydra's options included."""
    from xray_lightning.cli.launch import train as command

    raise typer.Exit(command(context.args))


@APP.command()
def evaluate(
    checkpoint: Annotated[Path, typer.Argument(help="outputs/.../checkpoints/best.ckpt")],
    overrides: Overrides = None,
) -> None:
    """Score a checkpoint on its own test images, or on other data or another split by overrides.

    images=all takes every image of the data for a test image; labels=shared, or a list, goes on
    with the labels that data and checkpoint share. Images of patients the checkpoint
    learned from are refused until overlap=exclude leaves them out, or overlap=report scores them
    apart. prior=estimate, 0.05 or '{Mass: 0.05}': the prevalence calibrated scores are to hold for
    (force_estimate: also where the targets refute the estimate).
    trust=true: build the classes it names though they are not ours.
    """
    run("evaluate.evaluate", checkpoint, overrides or [], opens=[checkpoint])


@APP.command()
def predict(
    checkpoint: Annotated[Path, typer.Argument(help="outputs/.../checkpoints/best.ckpt")],
    paths: Annotated[
        list[str], typer.Argument(help="DICOM and image files, folders, quoted patterns, mixed")
    ],
    out: Annotated[Path, typer.Option(help="folder of predictions.csv and failed.csv")],
    batch_size: Annotated[int, typer.Option(min=1, help="images a batch")] = 32,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda")] = "auto",
) -> None:
    """Score new files; preprocessing comes from the checkpoint. Run it again to continue.

    Exit code 0: all scored; 2: a wrong path, checkpoint or setting, nothing was done; 3: some
    files could not be read, failed.csv names them, the others are scored; 130, 143, 129: stopped.
    """
    run("predict.predict", checkpoint, paths, out, batch_size, device, opens=[checkpoint])


@APP.command()
def convert(
    source: Annotated[Path, typer.Argument(metavar="IN", help="folder of DICOM files")],
    out: Annotated[Path, typer.Argument(help="folder for the PNG files and headers.csv")],
    bits: Annotated[int, typer.Option(help="8 or 16 bits a pixel")] = 8,
    workers: Annotated[int | None, typer.Option(min=1, help="threads; default: the cores")] = None,
    rename: Annotated[bool, typer.Option("--rename", help="number the images")] = False,
    frame: Annotated[int | None, typer.Option(min=0, help="of several frames, from 0")] = None,
    colour: Annotated[str | None, typer.Option(help="luma: colour becomes grey")] = None,
) -> None:
    """DICOM files to PNG, with a table of headers that names nobody. Run it again to continue.

    Exit code 0: all converted; 2: a wrong path or setting; 3: some files could not be read,
    failed.csv names them, the others are done; 130, 143, 129: stopped.
    """
    choice: dict[str, Any] = {"rename": rename, "frame": frame, "colour": colour}
    run("convert.convert_tree", source, out, bits=bits, workers=workers, **choice)


@APP.command()
def cache(overrides: Overrides = None) -> None:
    """Decode a data set ahead of training: xray cache data=nih data.root=DIR image_size=256."""
    run("datasets.cache", overrides or [])


@APP.command()
def data(
    overrides: Overrides = None,
    json: Annotated[bool, typer.Option("--json", help="print plain JSON")] = False,
) -> None:
    """What is in a folder: counts per label and part, images on disk, problems."""
    run("datasets.data", overrides or [], json)


@APP.command()
def score(
    table: Annotated[Path, typer.Argument(help="CSV: image id, one score in [0, 1] per label")],
    overrides: Overrides = None,
    json: Annotated[bool, typer.Option("--json", help="print plain JSON")] = False,
) -> None:
    """Score anybody's predictions: xray score TABLE.csv data=nih data.root=DIR subset=test.

    Without subset=train|val|test (of split=) the images that have a score are scored. Also:
    labels=shared|[Mass,Nodule] (those of the data that the table has), allow_missing=true,
    subgroups=true, points=val (operating points and calibrations fitted on that part's scores;
    operating_point.rule=, calibration=), prior=[force_]estimate|0.05|... (the prevalence that
    calibrated scores are to hold for; else that of points=), draws=2000, bootstrap_seed=0,
    hydra.run.dir=DIR.
    """
    run("score.score", table, overrides or [], json)


@APP.command()
def compare(
    first: Annotated[str, typer.Argument(help="a run folder, a predictions table, or a pattern")],
    second: Annotated[str, typer.Argument(help="another; several seeds: a pattern in quotes")],
    json: Annotated[bool, typer.Option("--json", help="print plain JSON")] = False,
    draws: Annotated[int, typer.Option(help="bootstrap draws of patients")] = 2000,
    seed: Annotated[int, typer.Option(help="of the draws")] = 0,
    out: Annotated[Path | None, typer.Option(help="folder for compare.json")] = None,
    labels: Annotated[str, typer.Option(help="shared, or a list such as Mass,Nodule")] = "",
) -> None:
    """Is model A better than model B on the same test images? Paired bootstrap of patients.

    Several seeds of a model: a pattern in quotes, or the row of a sweep's ranking, such as
    "outputs/sweep_x/loss=bce" "outputs/sweep_x/loss=focal"; the folder of a sweep over the folds
    of split=kfold: all images, each scored by the fold that had not seen it.
    """
    sides = first, second, labels
    run("compare.compare_runs", *sides, draws=draws, seed=seed, as_json=json, out=out)


@APP.command()
def sweep(
    folder: Annotated[Path, typer.Argument(help="the sweep's folder: outputs/sweep_...")],
    test: Annotated[
        bool, typer.Option("--test", help="test of all, not of the first alone")
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="print plain JSON")] = False,
) -> None:
    """Compare the runs of a finished, killed or running sweep, ranked by validation AUROC.

    The folds of a cross-validation are pooled: predictions.csv, pooled.json, pooled.png.
    """
    run("multirun.sweep", folder, test, json)


@APP.command()
def audit(
    overrides: Overrides = None,
    json: Annotated[bool, typer.Option("--json", help="print plain JSON")] = False,
) -> None:
    """What a split does to a score, from the label table: xray audit data=nih data.root=DIR.

    Leakage, shift, scores that need no image; writes audit.json and audit.html. Also: split=, also
    a leaky one (somebody's lists: split=lists split.train=FILE split.val=FILE split.test=FILE),
    lists=FILE,FILE (known test lists), rsna_map=FILE (which NIH images RSNA's challenge has),
    duplicates=true (exact and near-duplicate images, by the cache of image_size=), checkpoint=FILE,
    predictions=RUN, draws=500, bootstrap_seed=0, hydra.run.dir=DIR.
    """
    run("audit.audit", overrides or [], json)


@APP.command()
def explain(
    checkpoint: Annotated[Path, typer.Argument(help="outputs/.../checkpoints/best.ckpt")],
    overrides: Overrides = None,
    json: Annotated[bool, typer.Option("--json", help="print plain JSON")] = False,
) -> None:
    """Where does it look, and can that be believed? Writes RUN/explain/.

    Maps against boxes beside controls, a gallery of hits and misses, saliency tests, shortcut
    tests. Takes the overrides of evaluate, and: subset=val|test, methods=cam,gradcam,...|all|none
    (scored against boxes), saliency=METHODS|none (put to the saliency tests), label= (of these),
    positives=48 (images of these), seeds=CKPT,CKPT (the same from other seeds), permuted=CKPT
    (trained with permute_labels=true), shortcuts=true, draws=1000, bootstrap_seed=0.
    """
    run("explain.explain", checkpoint, overrides or [], json, opens=[checkpoint])


@APP.command()
def shortcuts(
    checkpoints: Annotated[list[str], typer.Argument(help="best.ckpt, one or more, then settings")],
    json: Annotated[bool, typer.Option("--json", help="print plain JSON")] = False,
) -> None:
    """Is a label read off the film instead of the chest? Covers corners, border and letters.

    Writes shortcuts.json into each run; scores are those of the test set, without flips. Also:
    settings such as data=nih data.root=DIR draws=2000.
    """
    paths = [Path(text) for text in checkpoints if "=" not in text]
    overrides = [text for text in checkpoints if "=" in text]
    run("shortcuts.shortcuts", paths, overrides, json, opens=paths)


@APP.command()
def report(
    run_folder: Annotated[Path, typer.Argument(metavar="RUN", help="outputs/..., a finished run")],
    json: Annotated[bool, typer.Option("--json", help="print plain JSON")] = False,
    trust: Annotated[bool, typer.Option("--trust", help="build classes that are not ours")] = False,
) -> None:
    """Make report.html and report.json of a run again; training has made them at its end.

    One page without scripts or network: verdict, figures with intervals, curves, calibration,
    subgroups, the audit of the split (if the data set is where it was), how to reproduce, and what
    is not known.
    """
    run("report.report", run_folder, json, trust)


def main() -> None:
    """Entry point."""
    sys.exit(APP())
