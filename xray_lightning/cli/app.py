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
from xray_lightning.cli.failures import GO_ON, run_guarded
from xray_lightning.cli.request import Request, read_request, take_own
from xray_lightning.errors import ConfigError

APP = typer.Typer(
    help="Train, evaluate and explain chest radiograph classifiers. Not a medical device.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
)
PASS_ON = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}
ANY_FLAG = {"ignore_unknown_options": True}
OUT = "folder for what is written"
PAGE = Path(__file__).with_name("help.md").read_text(encoding="utf-8")
TEXTS = dict(part.split("\n\n", 1) for part in PAGE.split("\n## ")[1:])  # verb -> its settings
POINTS = {"device": "auto", "method": "cam", "trust": False, "points": "checkpoint", "prior": ""}
POINTS |= dict.fromkeys(("calibration", "operating_point.rule", "operating_point.value"), "")
Command = Callable[[Request], None]
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


def verb(files: str = "", kept: str = GO_ON) -> Callable[[Command], Command]:
    """A verb from a function of its request; ``files`` are the first arguments: "IN OUT..."."""

    def register(function: Command) -> Command:
        usage = f"{files} [KEY=VALUE]...".strip()
        help_text = "files, then settings such as data=nih"
        argument = typer.Argument(help=help_text, metavar=usage, autocompletion=complete)

        def command(
            words: Annotated[list[str] | None, argument] = None,
            json: Annotated[bool, typer.Option("--json", help="print plain JSON")] = False,
            out: Annotated[Path | None, typer.Option(help=OUT)] = None,
        ) -> None:
            code = run_guarded(lambda: function(read_request(files, words or [], out, json)), kept)
            raise typer.Exit(code)

        name = function.__name__.removesuffix("_")
        APP.command(
            name,
            help=f"{function.__doc__}\n\n{TEXTS.get(name, '')}",
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

    paths = [find_checkpoint(name) for name in checkpoints]
    require_openable(paths, [] if images else request.overrides, images)
    return paths


@APP.command(context_settings=PASS_ON)
def train(context: typer.Context) -> None:
    """Train and evaluate; the same as python train.py, all of Hydra's options included."""
    from xray_lightning.cli.train import train as command

    raise typer.Exit(command(context.args))


@verb("CHECKPOINT")
def evaluate(request: Request) -> None:
    """Score a checkpoint, or a run's best, on its own test images or on other data."""
    (checkpoint,) = require_files(request, request.files)
    call("evaluate.evaluate_checkpoint", checkpoint, request.overrides, as_json=request.as_json)


@verb("CHECKPOINT PATH...")
def predict(request: Request) -> None:
    """Score new files; preprocessing comes from the checkpoint. Run it again to continue."""
    forms = "csv", "json", "parquet"
    own = {"format": forms, "maps": False, "dicom_out": "", "stow": ""}
    chosen = request.read(batch_size=32, workers=None, **own, **POINTS)
    out, needed = request.require_out(), list(request.files[1:])
    needed += [] if chosen["points"] in ("checkpoint", "none") else [chosen["points"]]
    (checkpoint,) = require_files(request, request.files[:1], needed)
    call("files.predict", checkpoint, request.files[1:], out, chosen, request.as_json)


@verb("CHECKPOINT")
def export(request: Request) -> None:
    """A checkpoint as one file for other programs: xray export RUN format=onnx --out model.onnx."""
    formats = "onnx", "pt2", "safetensors"
    known = {"format": formats, "films": "", "int8": False, "trust": False}
    chosen, rest = take_own(request.settings, known)
    if not chosen["int8"]:
        request.read(**known)  # refuses the rest
    elif chosen["format"] != "onnx" or chosen["films"]:
        raise ConfigError("int8=true is ONNX, and its own test films decide: leave out films=")
    out, films = request.require_out(), [chosen["films"]] if chosen["films"] else []
    (checkpoint,) = require_files(request, request.files, films or ["."])
    call("files.export", checkpoint, out, chosen, films, rest, request.as_json)


@verb("CHECKPOINT...", kept="")
def serve(request: Request) -> None:
    """A page and an API for new films, on this machine: xray serve RUN; more RUNs: side by side."""
    limits = {"megabytes": 64, "megapixels": 40, "seconds": 30, "queue": 16}
    chosen = request.read(host="127.0.0.1", port=8000, token="", **limits, **POINTS)
    call("files.serve", require_files(request, request.files, ["."]), chosen)


@verb("IN OUT")
def convert(request: Request) -> None:
    """DICOM files to PNG, with a table of headers without names. Run it again to continue."""
    chosen = request.read(bits=8, workers=None, rename=False, frame=None, colour="")
    call("files.convert", *map(Path, request.files), chosen, request.as_json)


@verb()
def cache(request: Request) -> None:
    """Decode a data set ahead of training: xray cache data=nih data.root=DIR image_size=256."""
    call("datasets.cache", request.overrides, as_json=request.as_json)


@verb()
def data(request: Request) -> None:
    """What is in a folder: counts per label and subset, images on disk, problems."""
    call("datasets.data", request.overrides, as_json=request.as_json)


@verb()
def labels(request: Request) -> None:
    """How each data set calls a finding: xray labels data.sets=[nih,chexpert]; none: all."""
    call("labels.labels", request.overrides, as_json=request.as_json)


@verb("TABLE")
def score(request: Request) -> None:
    """Score anybody's predictions: xray score TABLE.csv data=nih data.root=DIR subset=test."""
    call("score.score", Path(request.files[0]), request.overrides, request.as_json)


@verb("FIRST SECOND")
def compare(request: Request) -> None:
    """Is model A better than model B on the same test images? Paired bootstrap of patients."""
    chosen = request.read(draws=2000, seed=0, labels="")
    sides = *request.files, chosen.pop("labels")
    call("compare.compare_models", *sides, **chosen, as_json=request.as_json, out=request.out)


@verb("CHECKPOINT...")
def external(request: Request) -> None:
    """Does it work in another hospital? xray external CKPT data=[rsna] data.rsna.root=DIR."""
    call("external.external", request.files, request.overrides, as_json=request.as_json)


@verb("FOLDER")
def sweep(request: Request) -> None:
    """Compare the runs of a finished, killed or running sweep, ranked by validation AUROC."""
    chosen = request.read(test=False)
    call("multirun.sweep", Path(request.files[0]), chosen["test"], request.as_json)


@verb()
def audit(request: Request) -> None:
    """What a split does to a score, from the label table: xray audit data=nih data.root=DIR."""
    call("audit.audit", request.overrides, request.as_json)


@verb("CHECKPOINT")
def explain(request: Request) -> None:
    """Where does it look, and can that be believed? Writes RUN/explain/."""
    (checkpoint,) = require_files(request, request.files)
    call("explain.explain", checkpoint, request.overrides, request.as_json)


@verb("CHECKPOINT...")
def shortcuts(request: Request) -> None:
    """Is a label read off the film instead of the chest? Covers corners, border and letters."""
    paths = require_files(request, request.files)
    call("explain.shortcuts", paths, request.overrides, request.as_json)


@verb("RUN")
def report(request: Request) -> None:
    """Make report.html and report.json of a run again; training has made them at its end."""
    chosen = request.read(trust=False)
    call("report.report", Path(request.files[0]), request.as_json, chosen["trust"])


@verb("RUN")
def card(request: Request) -> None:
    """A run as model card and as CLAIM 2024 and TRIPOD+AI sheet, as far as its files tell."""
    request.read()
    call("report.card", request)


@verb("RUN REPO")
def push(request: Request) -> None:
    """A run's best checkpoint and card into a repository of the Hugging Face hub."""
    call("report.push", request, **request.read(public=False))


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
