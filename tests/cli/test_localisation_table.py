import re

import numpy as np
import pytest

from xray_lightning.cli.explain_tables import energy_line, methods_table
from xray_lightning.cli.localisation_table import localisation_table, published_lines
from xray_lightning.evaluation.published import published_boxes
from xray_lightning.explain.localisation import localisation
from xray_lightning.explain.located import Located
from xray_lightning.report.terminal import show


def located(count: int) -> Located:
    maps = np.random.default_rng(count).random((count, 4, 4), dtype=np.float32)
    boxes = [[(0.0, 0.0, 9.0, 9.0), (20.0, 20.0, 9.0, 9.0)]] * count
    return Located({"cam": maps}, boxes, [f"p{row}" for row in range(count)])


def rows_of(text: str) -> dict[str, list[str]]:
    cells = [re.split(" {2,}", line.strip()) for line in text.splitlines()]
    return {row[0]: row[1:] for row in cells if row}


def test_table(capsys: pytest.CaptureFixture[str]) -> None:
    facts = localisation({"Mass": located(12), "Hernia": located(1)}, size=32, draws=40)
    published = published_boxes("nih")
    show(localisation_table(facts, "cam", "test [f00d]", published), *published_lines(published))
    text = capsys.readouterr().out
    rows = rows_of(text)
    assert "test [f00d]" in text
    mass = facts["labels"]["Mass"]["methods"]
    shown = mass["cam"]["pointing_game"]
    controls = [
        f"{mass[n]['pointing_game']['value']:.3f}" for n in ("random", "centre", "mean box")
    ]
    assert rows["Mass"] == [
        "24",
        f"{shown['value']:.3f}",
        "{:.3f}-{:.3f}".format(*shown["interval"]),
        *controls,
        "1.000",
        *(
            f"{mass[n]['t_iobb']['0.1']['value']:.3f} ({mass[n]['afp']['0.1']['value']:.1f})"
            for n in ("cam", "random")
        ),
        "0.435 (0.6)",
    ]
    assert rows["Hernia"][2:5:2] == ["too few", rows["Hernia"][4]]
    assert rows["Hernia"][5] == "-", "no other patient, no mean box"
    assert rows["Hernia"][-1] == "-"
    assert rows["mean"][0] == "26"
    assert rows["mean"][2] == "too few"
    assert rows["mean"][5] == "-", "of one label: nothing beside it is"
    assert "published pointing game of random map: 0.228" in text


def test_no_published_column_beside_other_data(capsys: pytest.CaptureFixture[str]) -> None:
    facts = localisation({"Mass": located(12)}, size=32, draws=40)
    show(localisation_table(facts, "cam", "phantom", published_boxes("phantom")))
    assert "Wang" not in capsys.readouterr().out


def test_means_over_fewer_labels_and_maps_are_said_to_be(
    capsys: pytest.CaptureFixture[str],
) -> None:
    dark = located(12)
    dark.maps["cam"][:5] -= 2
    facts = localisation({"Hernia": located(1), "Mass": dark}, size=32, draws=40)
    show(methods_table(facts), *energy_line(facts, ["cam"]))
    rows = rows_of(text := capsys.readouterr().out)
    assert rows["mean box, 1 labels"][0].startswith(
        f"{facts['labels']['Mass']['methods']['mean box']['pointing_game']['value']:.3f}"
    )
    assert {"cam", "random", "ceiling"} < set(rows)
    assert "no energy, of 13: cam 5" in text
    assert energy_line(facts, ["random"]) == []
