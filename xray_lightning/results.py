"""Results as types: frozen dataclasses that become JSON and come back from it."""

from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields
from types import UnionType
from typing import Any, ClassVar, Self, get_args, get_origin, get_type_hints

from xray_lightning.writing import Json as Json
from xray_lightning.writing import to_plain


@dataclass(frozen=True)
class Result:
    """Base of a frozen dataclass of plain values, NaN where unknown, and of other results.

    A field that had another name in the JSON of schema 1 keeps it there beside the new one:
    ``subsets: dict[str, int] = field(metadata={"was": "parts"})``.
    """

    also: ClassVar[tuple[str, ...]] = ()  # properties that JSON has beside the fields

    def to_json(self) -> Json:
        """Plain values by field that counts in ``==``; NaN becomes None, a tuple a list."""
        values: Json = {}
        for field in filter(lambda field: field.compare, fields(self)):
            names = (field.name, field.metadata.get("was", field.name))
            values |= dict.fromkeys(names, to_plain(getattr(self, field.name)))
        return values | {name: to_plain(getattr(self, name)) for name in self.also}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """The result that :meth:`to_json` gave these values; further keys are left out."""
        kinds, own = get_type_hints(cls), {}
        for field in fields(cls):
            name, old = field.name, field.metadata.get("was", field.name)
            key = name if name in values else old
            if key in values or field.default is field.default_factory is MISSING:  # a KeyError
                own[name] = _typed(kinds[name], values[key])
        return cls(**own)


def _typed(kind: Any, value: Any) -> Any:
    """A JSON value as the type of its field says: None as NaN for a float, a list as a tuple."""
    origin, inner = get_origin(kind), get_args(kind)
    if value is None and origin is tuple:  # an interval
        return tuple(_typed(one, None) for one in inner)
    if value is None:
        return float("nan") if kind is float else None
    if origin is UnionType:  # X | None
        return _typed(inner[0], value)
    if isinstance(kind, type) and hasattr(kind, "from_json"):
        return kind.from_json(value)
    if origin is dict:
        return {key: _typed(inner[1], entry) for key, entry in value.items()}
    if origin is list:
        return [_typed(inner[0], entry) for entry in value]
    if origin is tuple:
        inner = inner[:1] * len(value) if inner[-1] is ... else inner
        return tuple(_typed(one, entry) for one, entry in zip(inner, value, strict=True))
    return float(value) if kind is float else value
