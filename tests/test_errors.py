"""The tree drawn in the docstring is the real one."""

import inspect
import re

import pytest

from xray_lightning import errors

CLASSES = {
    name: thing
    for name, thing in inspect.getmembers(errors, inspect.isclass)
    if thing.__module__ == errors.__name__
}


def drawn_tree() -> dict[str, str | None]:
    """Class -> parent, by the indentation of the drawing."""
    parents: dict[str, str | None] = {}
    path: list[str] = []
    for line in (errors.__doc__ or "").splitlines():
        found = re.match(r"^    ([│├└─ ]*)([A-Z]\w+Error)  ", line)
        if found:
            depth = len(found[1]) // 4
            del path[depth:]
            parents[found[2]] = path[-1] if path else None
            path.append(found[2])
    return parents


def test_docstring_draws_the_real_tree() -> None:
    tree = drawn_tree()
    assert set(tree) == set(CLASSES)
    for name, parent in tree.items():
        assert CLASSES[name].__bases__[0].__name__ == (parent or "Exception"), name


@pytest.mark.parametrize("name", CLASSES)
def test_every_error_is_ours_and_described(name: str) -> None:
    assert issubclass(CLASSES[name], errors.XrayError)
    assert CLASSES[name].__doc__


def test_builtin_relatives() -> None:
    for error in (errors.ConfigError, errors.TableError, errors.SplitError):
        assert issubclass(error, ValueError)
    assert issubclass(errors.InvalidImageError, ValueError)
    assert issubclass(errors.DataNotFoundError, FileNotFoundError)
