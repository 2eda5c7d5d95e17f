"""Imports go one way: from a lower rank, or from lower files of the same sub-package."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "xray_lightning"

RANKS = [
    ["errors"],
    ["writing"],
    ["labels", "records", "grid"],
    ["data", "models", "losses", "ranking", "optim", "explain", "metrics"],
    ["checkpoint", "overlays", "predictions"],
    ["task", "scores"],
    [
        "callbacks",
        "evaluation",
        "audit",
        "inference",
        "export",
        "overlap",
        "localisation",
        "saliency",
    ],
    ["shortcuts"],
    ["report"],
    ["cli"],
]
RANK = {unit: rank for rank, units in enumerate(RANKS) for unit in units}

# Order of files inside the sub-packages whose files import each other.
INNER = {
    "data": [
        ["files", "names"],
        ["dicom"],
        ["tiff"],
        ["source", "images", "tables", "transforms", "partition", "geometry", "samplers"],
        [
            "nih",
            "phantom",
            "lists",
            "manifest",
            "nih_map",
            "headers",
        ],
        ["csv", "splits", "decoding", "rsna", "conversion"],
        ["cache"],
        ["dataset"],
        ["datamodule"],
    ],
    "models": [
        ["layout", "pooling", "weights"],
        ["attention"],
        ["heads"],
        ["network"],
    ],
    "metrics": [
        ["auroc", "clusters"],
        ["ranks", "delong", "calibration", "localisation"],
        ["judge", "compare", "subgroups", "points"],
    ],
    "callbacks": [
        ["averaging", "freezing", "progress", "seeding", "metrics_file", "heatmaps", "keeping"]
    ],
    "explain": [["pixels"], ["maps"], ["__init__"]],
    "localisation": [["located"], ["figures"]],
    "audit": [
        ["columns", "duplicates", "leakage"],
        ["shift", "decomposition"],
        ["baselines"],
        ["facts"],
    ],
    "report": [
        ["comparison", "heat", "published", "run_files"],
        ["figures", "calls", "run_words"],
        ["panel", "gallery", "saliency", "page", "run_facts"],
        ["audit_page", "run_figures"],
        ["run_page"],
    ],
    "saliency": [
        ["verdicts", "layers"],
        ["study"],
        ["similarity", "evidence"],
        ["facts"],
    ],
    "shortcuts": [
        ["regions", "verdicts"],
        ["occlusion", "energy", "probe"],
        ["facts"],
    ],
    "cli": [
        ["processes"],
        ["failures", "folders", "locate", "tables", "watching"],
        ["keys"],
        ["settings"],
        ["overrides", "judgement", "priors", "trust"],
        ["judging", "audit", "folds"],
        ["multirun"],
        ["conclusion", "report"],
        ["build"],
        ["provenance"],
        ["compose"],
        ["restart"],
        [
            "evaluate",
            "datasets",
            "launch",
            "score",
            "compare",
            "convert",
            "localisation_table",
            "predict",
        ],
        ["explain_settings", "shortcuts"],
        ["explain_tables"],
        ["explain"],
        ["app"],
    ],
}

MODULES = sorted(PACKAGE.rglob("*.py"))


def imports(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {f"{node.module}.{alias.name}" for alias in node.names} | {node.module}
    return names


def unit_of(parts: tuple[str, ...]) -> str:
    return parts[0].removesuffix(".py")


def inner_rank(unit: str, name: str) -> int | None:
    for rank, files in enumerate(INNER.get(unit, [])):
        if name in files:
            return rank
    return None


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_go_one_way(path: Path) -> None:
    here = path.relative_to(PACKAGE).parts
    if here == ("__init__.py",):
        return
    unit = unit_of(here)
    assert unit in RANK, f"{unit} has no rank: give it one in RANKS"
    for name in imports(path):
        target = name.split(".")
        if target[0] != "xray_lightning" or len(target) == 1:
            continue
        if target[1] != unit:
            assert target[1] in RANK, f"{path.name} imports {name}"
            assert RANK[target[1]] < RANK[unit], f"{path.name} (rank {RANK[unit]}) imports {name}"
        elif len(here) > 1 and len(target) > 2:
            mine = inner_rank(unit, here[1].removesuffix(".py"))
            theirs = inner_rank(unit, target[2])
            assert theirs is not None, f"{unit}/{target[2]} has no place in INNER"
            same_package = len(here) > 2 and here[1] == target[2]
            assert mine is not None
            assert theirs < mine or same_package, f"{unit}/{here[1]} imports {name}"


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_borders(path: Path) -> None:
    here = path.relative_to(PACKAGE).parts
    roots = {name.split(".")[0] for name in imports(path)}
    if here[0] != "cli":
        assert not roots & {"hydra", "omegaconf"}, "only cli/ knows Hydra"
    if here != ("data", "transforms.py"):
        assert "albumentations" not in roots, "only data/transforms.py imports albumentations"


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_files_stay_small(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= 450


def test_package_stays_small() -> None:
    # 24,000 before trust, signals, locks, checksums and folds; consolidation takes it down again.
    assert sum(len(path.read_text().splitlines()) for path in MODULES) < 25300


def test_top_level_is_fixed() -> None:
    allowed = {"README.md", "pyproject.toml", "conf", "xray_lightning", "train.py", "tests"}
    allowed |= {"outputs", "LICENSE"}
    found = {p.name for p in ROOT.iterdir() if not p.name.startswith(".")} - {"build", "dist"}
    assert {name for name in found if not name.endswith(".egg-info")} <= allowed


# Everything else goes through xray_lightning/writing.py: whole under its final name, or not there.
WRITERS = {
    "writing.py": {"open", "savefig"},
    "report/page.py": {"savefig"},  # into memory
    "callbacks/heatmaps.py": {"savez"},  # these three into a file of writing.py
    "checkpoint.py": {"torch.save"},
    "cli/provenance.py": {"OmegaConf.save"},
    "cli/predict.py": {"open"},  # rows added one by one; a half one is cut off before the next run
    "data/files.py": {"open"},  # what was done, line by line; a half line means: do it again
    "data/manifest.py": {"open"},  # the cache: what counts stands in done.bin
    "data/decoding.py": {"open"},
}
WRITING = {"write_text", "write_bytes", "savez", "savez_compressed", "to_csv", "imwrite", "savefig"}
WRITING |= {"to_json", "to_pickle", "tofile", "savetxt", "TemporaryDirectory", "mkstemp", "dump"}


def writes(call: ast.Call) -> str | None:
    """What a call writes with; None if it writes no file."""
    name = ast.unparse(call.func)
    short = name.rpartition(".")[2]
    if short == "open":
        texts = [*call.args, *(key.value for key in call.keywords if key.arg == "mode")]
        modes = [each.value for each in texts if isinstance(each, ast.Constant)]
        known = bool(modes) or not texts
        return None if known and not any(set("wax+") & set(str(mode)) for mode in modes) else short
    if short == "save":
        return name
    return short if short in WRITING else None


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_one_way_to_write(path: Path) -> None:
    calls = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
    found = {writes(call) for call in calls} - {None}
    assert found <= WRITERS.get(path.relative_to(PACKAGE).as_posix(), set())


@pytest.mark.parametrize(
    "text", ["p.open('w')", "open(p, 'ab')", "p.open(mode)", "figure.savefig(p)", "np.save(p, x)"]
)
def test_writing_is_noticed(text: str) -> None:
    (call,) = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Call)]
    assert writes(call)
