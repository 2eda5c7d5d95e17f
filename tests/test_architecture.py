"""A module imports from a lower floor, or from its own folder without a circle."""

import ast
import re
from graphlib import TopologicalSorter
from pathlib import Path

from test_house import ROOT, TREES

FLOORS = [
    ["errors", "formats", "processes", "wording"],
    ["writing"],
    ["records", "folders", "results", "progress"],
    ["hub", "shards"],
    ["data", "models", "metrics"],
    ["checkpoint"],
    ["training"],
    ["evaluation"],
    ["explain"],
    ["deploy"],
    ["audit"],
    ["report"],
    ["cli"],
]
FLOOR = {unit: floor for floor, units in enumerate(FLOORS) for unit in units}
OF_THE_COMMANDS = {"hydra", "omegaconf", "typer"}
NAMES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for path in TREES
}


def imports(path: Path) -> set[str]:
    """The modules a file imports: ours by the longest name that is a file."""
    names: set[str] = set()
    for node in ast.walk(TREES[path]):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            inner = {f"{node.module}.{alias.name}" for alias in node.names}
            names |= (inner & NAMES.keys()) or {node.module}
    return names


def test_imports_go_down() -> None:
    for name, path in NAMES.items():
        unit = name.split(".")[1] if "." in name else "cli"
        for target in imports(path):
            other = target.split(".")[1] if target.startswith("xray_lightning.") else unit
            assert unit == other or FLOOR[other] < FLOOR[unit], f"{name} imports {target}"


def test_no_circles() -> None:
    graph = {name: imports(path) & NAMES.keys() - {name} for name, path in NAMES.items()}
    tuple(TopologicalSorter(graph).static_order())


def test_borders() -> None:
    for name, path in NAMES.items():
        roots = {target.split(".")[0] for target in imports(path)}
        assert name.startswith("xray_lightning.cli") or not roots & OF_THE_COMMANDS, name
        assert name == "xray_lightning.data.transforms" or "albumentations" not in roots, name


def test_every_error_has_its_words() -> None:
    code = "".join(path.read_text() for path in TREES)
    words = re.findall(r"{% macro (\w+)", (ROOT / "xray_lightning" / "errors.txt.j2").read_text())
    assert sorted(set(re.findall(r"""\bfault\(\s*["'](\w+)""", code))) == sorted(words)


def test_top_level_is_fixed() -> None:
    allowed = {"README.md", "pyproject.toml", "conf", "xray_lightning", "train.py", "tests"}
    allowed |= {"outputs", "LICENSE", "CITATION.cff"}
    found = {p.name for p in ROOT.iterdir() if not p.name.startswith(".")} - {"build", "dist"}
    assert {name for name in found if not name.endswith(".egg-info")} <= allowed
