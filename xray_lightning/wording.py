"""What is said in words: sentences from templates, words for numbers."""

import re
from collections.abc import Collection, Sequence
from functools import cache, partial
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jinja2 import Environment


def tell(package: str, subject: str, *about: Any) -> list[str]:
    """The sentences of a macro of a package's ``sentences.txt.j2``; text from data stands as is."""
    macro = getattr(open_templates(package).get_template("sentences.txt.j2").module, subject)
    return [line for line in macro(*about).split("\n") if line]


def fault(subject: str, *about: Any) -> str:
    """What an error says: a macro of ``errors.txt.j2``; text from data stands as is."""
    errors = open_templates(__package__).get_template("errors.txt.j2").module
    return str(getattr(errors, subject)(*about))


@cache
def open_templates(package: str) -> "Environment":
    """The templates of a package's folder; what is put into HTML is escaped."""
    from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape

    environment = Environment(
        loader=PackageLoader(package, ""),
        autoescape=select_autoescape(("html.j2",)),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "number": number,
        "percent": lambda share: "-" if share is None else f"{100 * share:.1f} %",
        "interval": partial(interval_text, between=" to "),
        "p_value": p_text,
        "whole": lambda count: "-" if count is None else f"{count:,}",
        "patients": patients_text,
        "first_few": name_first,
        "repr": repr,
        "cell": lambda text: " ".join(str(text).split()).replace("|", "\\|"),  # of Markdown
    }
    return environment


def number(value: float | None, digits: int = 3, sign: str = "") -> str:
    """A number, or "-" where it is undefined; ``sign``: "+" for a difference.

    >>> number(None), number(1234.5, 1), number(0.25, sign="+"), number(-0.0001)
    ('-', '1,234.5', '+0.250', '0.000')
    """
    return "-" if value is None or value != value else f"{value:{sign}z,.{digits}f}"  # or NaN


def interval_text(
    ends: Sequence[float | None] | None,
    digits: int = 3,
    scale: float = 1,
    between: str = "-",
    sign: str = "",
) -> str:
    """Both ends, "-" where they are undefined; ``sign``: see :func:`number`.

    >>> interval_text([0.5, 0.75], between=" to "), interval_text(None)
    ('0.500 to 0.750', '-')
    """
    low, high = ends or (None, None)
    if low is None or high is None or low != low or high != high:  # NaN
        return "-"
    return f"{scale * low:{sign}z.{digits}f}{between}{scale * high:{sign}z.{digits}f}"


def p_text(value: float | None) -> str:
    """A p value, never as 0.

    >>> p_text(1e-9), p_text(0.25)
    ('< 0.001', '0.250')
    """
    return "< 0.001" if value is not None and value < 0.001 else number(value)


def patients_text(count: int | None) -> str:
    """How many patients, where the label table tells them.

    >>> patients_text(1), patients_text(None)
    ('1 patient', 'an unknown number of patients')
    """
    plural = "" if count == 1 else "s"
    return "an unknown number of patients" if count is None else f"{count:,} patient{plural}"


def name_first(names: Collection[str], most: int = 3) -> str:
    """The first names, and how many more there are.

    >>> name_first("abcde")
    'a, b, c and 2 more'
    """
    more = f" and {len(names) - most:,} more" if len(names) > most else ""
    return ", ".join([*names][:most]) + more


def first_sentence(text: str) -> str:
    """Without references such as :func:`name`.

    >>> first_sentence("Mean over space, then one layer, see :func:`mean`. More.")
    'Mean over space, then one layer.'
    """
    sentence = re.split(r"(?<=[a-z0-9)%`])\.\s", text.strip().partition("\n\n")[0] + " ")[0]
    plain = re.sub(r",? see :\w+:`[^`]*`|:\w+:`~?([^`]*)`", r"\1", " ".join(sentence.split()))
    return plain.rstrip(".") + "."


def shorten(name: str, length: int = 38) -> str:
    """The name, its middle left out where it is long."""
    half = length // 2 - 1
    return name if len(name) <= length else f"{name[:half]}…{name[-half:]}"
