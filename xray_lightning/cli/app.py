"""The ``xray`` command: one grammar for all verbs; heavy imports wait until a verb is called.

Files come first, every setting is ``key=value`` as in training, and the only flags are ``--json``,
``--out`` and ``--help``. Flags of earlier versions, such as ``--draws 500``, mean ``draws=500``.
"""

import sys
from collections.abc import Callable, Iterator, Sequence
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any

import typer

import xray_lightning
from xray_lightning.cli.request import Request, read_request
from xray_lightning.errors import ConfigError

APP = typer.Typer(
    help="Train, evaluate and explain chest radiograph classifiers. Not a medical device.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
)
PASS_ON = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}
ANY_FLAG = {"ignore_unknown_options": True}
VERSION = typer.Option("--version", help="and leave")
OUT = "folder for what is written"
LISTS = ("models", "heads", "losses", "data", "experiments", "metrics", "methods")


@APP.callback(invoke_without_command=True)
def take_options(
    version: Annotated[bool, typer.Option("--version", help="and leave")] = False,
) -> None:
    """Train, evaluate and explain chest radiograph classifiers. Not a medical device."""
    if version:
        print(f"xray_lightning {xray_lightning.__version__}")
        raise typer.Exit


def complete(incomplete: str) -> Iterator[str]:
    """Settings that begin so: the groups of ``conf/``, and the names of one."""
    from xray_lightning.cli.settings import find_conf

    group, chosen, _ = incomplete.partition("=")
    for folder in sorted(path for path in find_conf().iterdir() if path.is_dir()):
        if chosen and folder.name == group:
            yield from (f"{group}={path.stem}" for path in sorted(folder.glob("*.yaml")))
        elif not chosen and folder.name.startswith(group):
            yield f"{folder.name}="


def verb(files: str = "") -> Callable[[Callable[[Request], None]], Callable[[Request], None]]:
    """A verb from a function of its request; ``files`` are the first arguments: "IN OUT..."."""

    def register(function: Callable[[Request], None]) -> Callable[[Request], None]:
        usage = f"{files} [KEY=VALUE]...".strip()
        help_text = "files, then settings such as data=nih"
        argument = typer.Argument(help=help_text, metavar=usage, autocompletion=complete)

        def command(
            arguments: Annotated[list[str] | None, argument] = None,
            json: Annotated[bool, typer.Option("--json", help="print plain JSON")] = False,
            out: Annotated[Path | None, typer.Option(help=OUT)] = None,
        ) -> None:
            from xray_lightning.cli.failures import run_guarded

            given = arguments or []
            raise typer.Exit(run_guarded(lambda: function(read_request(files, given, out, json))))

        APP.command(
            function.__name__.removesuffix("_"),
            help=function.__doc__,
            context_settings=ANY_FLAG,
            options_metavar="[--json] [--out DIR]",
        )(command)
        return function

    return register


def call(place: str, *arguments: Any, **options: Any) -> None:
    """Call ``xray_lightning.cli.<place>``, a module and its function, such as "score.score"."""
    module, name = place.split(".")
    getattr(import_module(f"xray_lightning.cli.{module}"), name)(*arguments, **options)


def require_files(
    request: Request, checkpoints: Sequence[str], images: Sequence[str] = ()
) -> list[Path]:
    """The checkpoints, once they, the settings and the images were found sound without torch."""
    from xray_lightning.cli.settings import find_checkpoint, require_openable

    paths = [find_checkpoint(Path(name)) for name in checkpoints]
    require_openable(paths, [] if images else request.overrides, images)
    return paths


@APP.command(context_settings=PASS_ON)
def train(context: typer.Context) -> None:
    """Train and evaluate; the same as python train.py, all of Hydra's options included."""
    from xray_lightning.cli.train import train as command

    raise typer.Exit(command(context.args))


@verb("CHECKPOINT")
def evaluate(request: Request) -> None:
    """Score a checkpoint, or a run's best, on its own test images or on other data.

    Other data or another split: data=csv data.table=t.csv, split=official. images=all takes every
    image for a test image; labels=shared, or a list, goes on with the labels that data and
    checkpoint share. Images of patients the checkpoint learned from are refused until
    overlap=exclude leaves them out, or overlap=report scores them apart (by the pixels of its own
    data where ids tell nothing). prior=estimate, 0.05 or '{Mass: 0.05}': the prevalence calibrated
    scores are to hold for (force_estimate: also where the targets refute the estimate). trust=true:
    build the classes it names though they are not of this package.
    """
    (checkpoint,) = require_files(request, request.files)
    call("evaluate.evaluate_checkpoint", checkpoint, request.overrides, **request.json_option)


@verb("CHECKPOINT PATH...")
def predict(request: Request) -> None:
    """Score new files; preprocessing comes from the checkpoint. Run it again to continue.

    Paths are DICOM and image files, folders, quoted patterns, mixed; --out is the folder of
    predictions.csv and failed.csv. Settings: batch_size=32 device=auto|cpu|cuda.

    Exit code 0: all scored; 2: a wrong path, checkpoint or setting, nothing was done; 3: some
    files could not be read, failed.csv names them, the others are scored; 130, 143, 129: stopped.
    """
    chosen = request.read(batch_size=32, device="auto")
    out = request.require_out()
    (checkpoint,) = require_files(request, request.files[:1], request.files[1:])
    call("files.predict", checkpoint, request.files[1:], out, **chosen, **request.json_option)


@verb("IN OUT")
def convert(request: Request) -> None:
    """DICOM files to PNG, with a table of headers without names. Run it again to continue.

    Settings: bits=8|16, workers= (threads; the cores unless set), rename=true (number the images),
    frame= (of several frames, from 0), colour=luma (colour becomes grey).

    Exit code 0: all converted; 2: a wrong path or setting; 3: some files could not be read,
    failed.csv names them, the others are done; 130, 143, 129: stopped.
    """
    chosen = request.read(bits=8, workers=None, rename=False, frame=None, colour="")
    chosen["colour"] = chosen["colour"] or None
    source, out = map(Path, request.files)
    call("files.convert", source, out, **chosen, **request.json_option)


@verb()
def cache(request: Request) -> None:
    """Decode a data set ahead of training: xray cache data=nih data.root=DIR image_size=256."""
    call("datasets.cache", request.overrides, **request.json_option)


@verb()
def data(request: Request) -> None:
    """What is in a folder: counts per label and subset, images on disk, problems."""
    call("datasets.data", request.overrides, **request.json_option)


@verb()
def labels(request: Request) -> None:
    """How each data set calls a finding: xray labels data.sets=[nih,chexpert]; none: all.

    Images are counted where a folder is given: data.nih.root=DIR.
    """
    call("labels.labels", request.overrides, **request.json_option)


@verb("TABLE")
def score(request: Request) -> None:
    """Score anybody's predictions: xray score TABLE.csv data=nih data.root=DIR subset=test.

    The table has an image id and one score in [0, 1] per label. Without subset=train|val|test (of
    split=) the images that have a score are scored. Also: labels=shared|[Mass,Nodule] (those of
    the data that the table has), allow_missing=true, subgroups=true, points=val (operating points
    and calibrations fitted on that subset's scores; operating_point.rule=, calibration=),
    prior=[force_]estimate|0.05|... (the prevalence that calibrated scores are to hold for; else
    that of points=), draws=2000, bootstrap_seed=0. truth=experts with data=nih_expert: how much of
    the score of a network trained on NIH is agreement with NIH's text miner?
    """
    call("score.score", Path(request.files[0]), request.overrides, request.as_json)


@verb("FIRST SECOND")
def compare(request: Request) -> None:
    """Is model A better than model B on the same test images? Paired bootstrap of patients.

    Each is a run folder, a predictions table or a pattern. Several seeds of a model: a pattern in
    quotes, or the row of a sweep's ranking, such as "outputs/sweep_x/loss=bce"
    "outputs/sweep_x/loss=focal"; the folder of a sweep over the folds of split=kfold: all images,
    each scored by the fold that had not seen it. Settings: draws=2000 seed=0 labels=shared|A,B;
    --out is the folder for compare.json.
    """
    chosen = request.read(draws=2000, seed=0, labels="")
    sides = *request.files, chosen.pop("labels")
    call("compare.compare_models", *sides, **chosen, as_json=request.as_json, out=request.out)


@verb("CHECKPOINT...")
def external(request: Request) -> None:
    """Does it work in another hospital? xray external CKPT data=[rsna,chexpert] data.rsna.root=DIR.

    Checkpoints, runs or quoted patterns, on test sets with settings of their own. By the labels
    that both know: AUROC and its difference from the internal test, calls at the internal operating
    points, calibration. Patients a model learned from are left out, by their ids or the pixels.
    Also: draws=2000, bootstrap_seed=0, batch_size=, workers=, trainer=, cache_dir=, trust=true.
    """
    call("external.external", request.files, request.overrides, **request.json_option)


@verb("FOLDER")
def sweep(request: Request) -> None:
    """Compare the runs of a finished, killed or running sweep, ranked by validation AUROC.

    The folds of a cross-validation are pooled: predictions.csv, pooled.json, pooled.png.
    test=true: the test AUROC of all runs, not of the first alone.
    """
    chosen = request.read(test=False)
    call("multirun.sweep", Path(request.files[0]), chosen["test"], request.as_json)


@verb()
def audit(request: Request) -> None:
    """What a split does to a score, from the label table: xray audit data=nih data.root=DIR.

    Leakage, shift, scores that need no image; writes audit.json and audit.html. Also: split=, also
    a leaky one (somebody's lists: split=lists split.train=FILE split.val=FILE split.test=FILE),
    lists=FILE,FILE (known test lists), rsna_map=FILE (which NIH images RSNA's challenge has),
    duplicates=true (exact and near-duplicate images, by the cache of image_size=), checkpoint=FILE,
    predictions=RUN, draws=500, bootstrap_seed=0.
    """
    call("audit.audit", request.overrides, request.as_json)


@verb("CHECKPOINT")
def explain(request: Request) -> None:
    """Where does it look, and can that be believed? Writes RUN/explain/.

    Maps against boxes beside controls, a gallery of hits and misses, saliency tests, shortcut
    tests. Takes the settings of evaluate, and: subset=val|test, methods=cam,gradcam,...|all|none
    (scored against boxes), saliency=METHODS|none (put to the saliency tests), label= (of these),
    positives=48 (images of these), seeds=CKPT,CKPT (the same from other seeds), permuted=CKPT
    (trained with permute_labels=true), shortcuts=true, draws=1000, bootstrap_seed=0.
    """
    (checkpoint,) = require_files(request, request.files)
    call("explain.explain", checkpoint, request.overrides, request.as_json)


@verb("CHECKPOINT...")
def shortcuts(request: Request) -> None:
    """Is a label read off the film instead of the chest? Covers corners, border and letters.

    Writes shortcuts.json into each run; scores are those of the test set, without flips. Also:
    settings such as data=nih data.root=DIR draws=2000.
    """
    paths = require_files(request, request.files)
    call("explain.shortcuts", paths, request.overrides, request.as_json)


@verb("RUN")
def report(request: Request) -> None:
    """Make report.html and report.json of a run again; training has made them at its end.

    One page without scripts or network: results with intervals, curves, calibration, subgroups,
    the audit of the split (if the data set is where it was), how to reproduce, and what is not
    known. trust=true: build classes that are not of this package.
    """
    chosen = request.read(trust=False)
    call("report.report", Path(request.files[0]), request.as_json, chosen["trust"])


@verb()
def info(request: Request) -> None:
    """Versions, processors, GPU, the cache of decoded images, and what can be installed extra."""
    request.read()
    call("info.show_info", request.as_json)


@verb("WHAT")
def list_(request: Request) -> None:
    """What can be chosen: xray list models|heads|losses|data|experiments|metrics|methods."""
    request.read()
    if (what := request.files[0]) not in LISTS:
        raise ConfigError(f"xray list {what}: name one of {', '.join(LISTS)}")
    call("info.show_list", what, request.as_json)


def main() -> None:
    """Entry point."""
    sys.exit(APP())
