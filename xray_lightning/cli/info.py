"""``xray info`` and ``xray list``: what is installed, and what can be chosen."""

import json
from collections.abc import Mapping
from pathlib import Path

import yaml  # type: ignore[import-untyped]
from rich.table import Column, Table

from xray_lightning.cli.request import Request
from xray_lightning.cli.settings import find_conf
from xray_lightning.errors import require_choice
from xray_lightning.report.page import say
from xray_lightning.report.terminal import show
from xray_lightning.wording import first_sentence

LISTS = ("models", "heads", "losses", "data", "experiments", "metrics", "methods")
GROUPS = {"models": "model", "losses": "loss", "data": "data", "experiments": "experiment"}


def show_info(request: Request) -> None:
    """Versions, processors, GPU, the cache of decoded images, and what can be installed extra."""
    from xray_lightning.training.environment import describe_extras, describe_machine  # torch

    cache = Path("outputs/cache")
    sizes = [path.stat().st_size for path in cache.rglob("*") if path.is_file()]
    facts = {
        **describe_machine(),
        "configuration": str(find_conf()),
        "cache": f"{cache}: {sum(sizes) / 1e6:,.0f} MB" if sizes else f"{cache}: not there yet",
        "extras": describe_extras(),
    }
    print_pairs(request, facts)


def show_list(request: Request) -> None:
    """What can be chosen: xray list models|heads|losses|data|experiments|metrics|methods."""
    require_choice("xray list", request.files[0], LISTS)
    print_pairs(request, list_choices(request.files[0]))


def print_pairs(request: Request, pairs: Mapping[str, object]) -> None:
    """Names and what each is, within 80 columns; as JSON without the number of a schema."""
    if request.as_json:
        print(json.dumps(pairs, indent=2), file=request.stream)
        return
    table = Table.grid(padding=(0, 2))
    table.width, table.columns = 80, [Column(min_width=13), Column()]
    for name, told in pairs.items():
        several = told.items() if isinstance(told, Mapping) else ()
        table.add_row(name, ", ".join(map(" ".join, several)) or str(told))
    show(table)


def list_choices(what: str) -> dict[str, str]:
    """Names and what each is; of a group of ``conf/`` the first comment of its files."""
    if what in GROUPS:
        files = sorted((find_conf() / GROUPS[what]).glob("*.yaml"))
        return {path.stem: read_comment(path) for path in files}
    if what == "heads":
        from xray_lightning.models.heads import HEADS

        return {name: first_sentence(str(head.__doc__)) for name, head in HEADS.items()}
    return dict(yaml.safe_load(Path(__file__).with_name("choices.yaml").read_bytes())[what])


def read_comment(path: Path) -> str:
    """The first sentence of the comment that a file begins with, after instructions to Hydra."""
    lines = path.read_text(encoding="utf-8").splitlines()
    comments = [line.partition("#")[2].strip() for line in lines if "#" in line]
    return first_sentence("\n".join(text for text in comments if not text.startswith("@")))


def show_settings() -> None:
    """``train.py --help``: every setting with its comment, and what Hydra's options do."""
    settings = (find_conf() / "train.yaml").read_text(encoding="utf-8").split("\nrun_dir:")[0]
    usage, more = say("settings")
    print(usage, settings, more, sep="\n\n")
