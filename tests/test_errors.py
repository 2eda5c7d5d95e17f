"""Every error says what it is, and is what Python's own users catch too."""

import inspect

import pytest

from xray_lightning import errors

CLASSES = {
    name: thing
    for name, thing in inspect.getmembers(errors, inspect.isclass)
    if thing.__module__ == errors.__name__
}


@pytest.mark.parametrize("name", CLASSES)
def test_every_error_is_ours_and_described(name: str) -> None:
    assert issubclass(CLASSES[name], errors.XrayError)
    assert CLASSES[name].__doc__


def test_builtin_relatives() -> None:
    for error in (errors.ConfigError, errors.TableError, errors.SplitError):
        assert issubclass(error, ValueError)
    assert issubclass(errors.InvalidImageError, ValueError)
    assert issubclass(errors.DataNotFoundError, FileNotFoundError)
