from dataclasses import dataclass, field

import numpy as np

from xray_lightning.results import Result


@dataclass(frozen=True)
class Part(Result):
    value: float
    interval: tuple[float, float]


@dataclass(frozen=True)
class Whole(Result):
    subsets: dict[str, int] = field(metadata={"was": "parts"})
    rows: list[Part]
    share: float | None
    part: Part | None
    words: tuple[str, ...] = ()


def test_there_and_back() -> None:
    nan = float("nan")
    whole = Whole({"test": 3}, [Part(1.0, (0.5, nan))], None, Part(nan, (nan, nan)), ("a", "b"))
    values = whole.to_json()
    assert values["parts"] == values["subsets"] == {"test": 3}
    assert values["rows"] == [{"value": 1.0, "interval": [0.5, None]}]
    assert values["part"]["value"] is values["share"] is None
    assert values["words"] == ["a", "b"]
    again = Whole.from_json(values)
    assert again.to_json() == values
    assert np.isnan(again.rows[0].interval[1])
    assert Whole.from_json({**values, "part": None}).part is None


def test_files_of_schema_1_and_fields_with_a_default() -> None:
    old = {"parts": {"val": 1}, "rows": [], "share": 2, "part": None}
    assert Whole.from_json(old) == Whole({"val": 1}, [], 2.0, None)


def test_properties_that_json_has_too() -> None:
    class Told(Part):
        also = ("interval_is_known",)
        interval_is_known = property(lambda self: self.interval[0] == self.interval[0])

    values = Told(1.0, (float("nan"), 1.0)).to_json()
    assert values == {"value": 1.0, "interval": [None, 1.0], "interval_is_known": False}
    assert Told.from_json(values).to_json() == values
