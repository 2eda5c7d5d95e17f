"""What `from xray_lightning import ...` offers, and what its errors are caught as."""

import ast
import inspect
import re
from importlib.metadata import version

import pytest
from test_house import TREES

import xray_lightning
from xray_lightning import errors


@pytest.mark.parametrize("name", xray_lightning._HOMES)
def test_every_name_can_be_imported(name: str) -> None:
    thing = getattr(xray_lightning, name)
    assert thing.__doc__
    assert thing.__module__.startswith("xray_lightning.")
    if inspect.isfunction(thing):
        kinds = {k: str(v.annotation) for k, v in inspect.signature(thing).parameters.items()}
        assert not {
            k
            for k, kind in kinds.items()
            if "Path" in kind and not {"str", "bytes"} & set(re.findall(r"\w+", kind))
        }


def test_all_is_what_dir_shows_and_nothing_else_is_there() -> None:
    assert set(xray_lightning.__all__) <= set(dir(xray_lightning))
    assert {*xray_lightning._HOMES, "__version__"} == set(xray_lightning.__all__)
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        xray_lightning.nothing  # noqa: B018


def test_names_keep_to_the_vocabulary() -> None:
    """Of the words that CONTRIBUTING.md replaced, none is in a public name, nor in an argument."""
    old = re.compile(r"judg|apprais|verdict|bundle|(?<![a-z])(parts?|found)(?![a-z])")
    nodes = (node for tree in TREES.values() for node in ast.walk(tree))
    kinds = (ast.FunctionDef, ast.ClassDef)
    names = {node.name for node in nodes if isinstance(node, kinds) and node.name[0] != "_"}
    kept = {"verdict", "margin_verdict", "combine_verdicts", "verdict_of"}  # of tests
    assert {name for name in names - kept if old.search(name.lower())} == set()


def test_version_is_that_of_the_distribution() -> None:
    assert xray_lightning.__version__ == version("xray_lightning")


def test_every_error_is_ours_described_and_what_users_of_python_catch_too() -> None:
    for name, error in inspect.getmembers(errors, inspect.isclass):
        if error.__module__ == errors.__name__:
            assert issubclass(error, errors.XrayError), name
            assert error.__doc__, name
    values = errors.ConfigError, errors.TableError, errors.SplitError, errors.InvalidImageError
    assert all(issubclass(error, ValueError) for error in values)
    assert issubclass(errors.DataNotFoundError, FileNotFoundError)
