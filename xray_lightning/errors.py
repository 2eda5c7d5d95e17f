"""Exceptions a user may catch; the command line prints the message of one and exits with 2."""

import math
from collections.abc import Iterable
from numbers import Integral, Real
from operator import ge, gt, le, lt
from typing import Any

BOUNDS = {"(": (gt, "above"), "[": (ge, "of at least"), ")": (lt, "below"), "]": (le, "at most")}


class XrayError(Exception):
    """Base of every error of this package that the user can act on."""


class ConfigError(XrayError, ValueError):
    """A setting has a value that cannot work; the message names the values that do."""


class DataError(XrayError):
    """Something is wrong with the data set."""


class DataNotFoundError(DataError, FileNotFoundError):
    """A folder, a table or a list file is not where it was looked for."""


class TableError(DataError, ValueError):
    """A table lacks a column, repeats an image or names an unknown label."""


class MissingImagesError(DataError):
    """The table names images that are not on disk."""


class InvalidImageError(DataError, ValueError):
    """a file is not a readable image; the message names the file and the reason."""


class SplitError(DataError, ValueError):
    """A split is empty, shares patients between its subsets, or does not match its lists."""


class CacheError(XrayError):
    """The image cache cannot be built or belongs to other data."""


class CheckpointError(XrayError):
    """A checkpoint is damaged, foreign, or of another label set."""


class WeightsError(CheckpointError):
    """Weights cannot be had, or fit the network only in part."""


class OutputError(XrayError):
    """Results cannot be written (a folder vanished, a full disk), or written ones are damaged."""


class NonFiniteLossError(XrayError):
    """Training produced a loss that is NaN or infinite; the message names the images."""


def require_integer(name: str, value: Any, least: int) -> int:
    """The value, if it is a whole number of at least ``least``."""
    if isinstance(value, bool) or not isinstance(value, Integral) or value < least:
        raise ConfigError(f"{name} must be an integer of at least {least}, got {value!r}")
    return int(value)


def require_number(
    name: str, value: Any, low: float, high: float = math.inf, ends: str = "[)"
) -> float:
    """The value, if it is a number in an interval such as [0, 1), whose brackets are ``ends``."""
    (above, least), (below, most) = (BOUNDS[end] for end in ends)
    number = isinstance(value, Real) and not isinstance(value, bool)
    if number and above(value, low) and below(value, high):
        return float(value)
    limit = "" if math.isinf(high) else f" and {most} {high:g}"
    raise ConfigError(f"{name} must be a number {least} {low:g}{limit}, got {value!r}")


def require_choice(name: str, value: object, choices: Iterable[str]) -> None:
    """Refuse what is none of the words that a setting may be."""
    if value not in (known := tuple(choices)):
        raise ConfigError(f"{name} must be one of {', '.join(known)}, got {value!r}")
