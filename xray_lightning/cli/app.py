"""The ``xray`` command: one grammar for all verbs; heavy imports wait until a verb is called.

Files come first, every setting is ``key=value`` as in training, and the only flags are ``--json``,
``--out`` and ``--help``. Flags of earlier versions, such as ``--draws 500``, mean ``draws=500``.
"""

import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import nullcontext, redirect_stdout
from importlib import import_module
from pathlib import Path
from typing import Annotated

import typer

import xray_lightning
from xray_lightning.cli.failures import GO_ON, run_guarded
from xray_lightning.cli.request import DEFAULTS, read_request
from xray_lightning.errors import DataNotFoundError

APP = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
)
PASS_ON = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}
PAGE = Path(__file__).with_name("help.md").read_text(encoding="utf-8")
SECTION = re.compile(r"^## (\w+) ?(.*) \((.+)\)\n+((?:(?!## ).*\n)*)", re.MULTILINE)
# verb -> the files that come first, the function of cli/, its settings; in the order of --help
VERBS = {verb: section for verb, *section in SECTION.findall(PAGE)}
ABSENT = {  # what is said of a first file that is not there, before the modules of its verb load
    "RUN": "{} holds no run: it does not exist. Name the folder of a training run",
    "TABLE": "there is no table {}",
    "FOLDER": "{} holds no runs; name the folder that train.py -m made",
}
OPENING = ("evaluate", "explain", "shortcuts")  # their modules load torch: looked at before


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


@APP.command(context_settings=PASS_ON)
def train(context: typer.Context) -> None:
    """Train and evaluate; the same as python train.py, all of Hydra's options included."""
    from xray_lightning.cli.train import train as command

    raise typer.Exit(command(context.args))


def run_verb(
    name: str, words: Sequence[object], *, out: Path | None = None, as_json: bool = False
) -> None:
    """What ``xray NAME WORDS`` does; with ``--json`` all but the result goes to stderr."""
    usage, place, _ = VERBS[name]
    request = read_request(usage, [*map(str, words)], out, as_json)
    if (absent := ABSENT.get(usage.split(" ")[0])) and not Path(request.files[0]).exists():
        raise DataNotFoundError(absent.format(request.files[0]))
    request = request.read(DEFAULTS.get(name, {}), composes=name in DEFAULTS["keys"]["composing"])
    if name in OPENING:
        from xray_lightning.cli.settings import require_openable

        request = require_openable(request)
    module, function = place.split(".")
    command = getattr(import_module(f"xray_lightning.cli.{module}"), function)
    with redirect_stdout(sys.stderr) if as_json else nullcontext():
        command(request)


def read_docstring(place: str) -> str:
    """What a function of ``cli/`` says it does, without importing it."""
    module, name = place.split(".")
    text = Path(__file__).with_name(f"{module}.py").read_text(encoding="utf-8")
    return re.split(rf'\ndef {name}\(.*\n    """', text)[1].partition('"""')[0]


def add_verb(name: str, usage: str, place: str, text: str) -> None:
    """Make a function of ``cli/`` a command."""
    help_text, metavar = "files, then settings such as data=nih", f"{usage} [KEY=VALUE]...".strip()
    argument = typer.Argument(help=help_text, metavar=metavar, autocompletion=complete)

    def command(
        words: Annotated[list[str] | None, argument] = None,
        json: Annotated[bool, typer.Option("--json", help="print plain JSON")] = False,
        out: Annotated[Path | None, typer.Option(help="folder for what is written")] = None,
    ) -> None:
        kept = "" if name == "serve" else GO_ON
        code = run_guarded(lambda: run_verb(name, words or [], out=out, as_json=json), kept)
        raise typer.Exit(code)

    APP.command(
        name,
        help=f"{read_docstring(place)}\n\n{text}",
        context_settings={"ignore_unknown_options": True},
        options_metavar="[--json] [--out DIR]",
    )(command)


for _name, _section in VERBS.items():
    add_verb(_name, *_section)


def main() -> None:
    """Entry point."""
    sys.exit(APP())
