"""A data set, a splitter and a sampler of the user's own, handed in from Python and by a folder."""

import re
from collections.abc import Sequence

import cv2
import numpy as np
import own_parts
import pytest
import torch
from matplotlib.patches import Rectangle
from running import xray
from toy import write_image, write_lines

import xray_lightning as xl
from xray_lightning import Phantom, Record, Source, XrayDataModule, make_split
from xray_lightning.cli.train import train
from xray_lightning.data.partition import Split, replace_test, split_source
from xray_lightning.data.source import readable_records, select_views
from xray_lightning.errors import ConfigError, DataError, DataNotFoundError

DATA = """# @package _global_
data:
  _target_: own_parts.Clinic
  root: ???
image_size: 32
batch_size: 8
epochs: 1
weights: none
"""
CONFIGS = {
    "data/mine.yaml": DATA,
    "split/mine.yaml": '_target_: own_parts.split_by_digit\n_partial_: true\ntest: "5"\n',
    "sampler/mine.yaml": "_target_: own_parts.positives_twice\n_partial_: true\n",
}


@pytest.fixture
def clinic(tmp_path) -> own_parts.Clinic:
    """Images of six patients and a folder of configurations."""
    for name, text in CONFIGS.items():
        write_lines(tmp_path / "conf" / name, text)
    rng = np.random.default_rng(0)
    for patient in range(6):
        for visit, finding in enumerate(("none", "Mass", "Edema", "MassEdema")):
            pixels = rng.integers(0, 255, (40, 32), np.uint8)
            write_image(tmp_path / f"images/p{patient}_{visit}_{finding}.png", pixels)
    return own_parts.Clinic(tmp_path / "images")


def test_an_example_and_its_figure(clinic: Source, tmp_path) -> None:
    example = clinic[1]
    pixels = cv2.imread(str(tmp_path / "images/p0_1_Mass.png"), cv2.IMREAD_GRAYSCALE)
    assert (len(clinic), len(list(clinic))) == (24, 24)
    assert (example["image"].shape, example["image"].dtype) == ((1, 40, 32), torch.float32)
    np.testing.assert_array_equal(example["image"][0].numpy(), pixels / np.float32(255))
    assert example["targets"].tolist() == [1.0, 0.0]
    assert (example["image_id"], example["patient_id"]) == ("p0_1_Mass.png", "p0")
    figure = clinic.plot(1)
    (axes,) = figure.axes
    (box,) = [patch for patch in axes.patches if isinstance(patch, Rectangle)]
    assert (*box.get_xy(), box.get_width(), box.get_height()) == (4, 2, 8, 6)
    assert axes.get_title() == "p0_1_Mass.png: Mass"
    figure.savefig(tmp_path / "plot.png")


def test_boxes_are_drawn_at_the_size_of_the_file() -> None:
    source = Phantom(patients=8, size=64)
    index = next(i for i, record in enumerate(source.records) if record.boxes)
    drawn = source.plot(index).axes[0].patches
    assert [p.get_width() for p in drawn] == [box.width for box in source.records[index].boxes]
    assert source[index]["image"].shape == (1, 64, 64)


def test_what_a_source_has_by_default(tmp_path) -> None:
    source = Source()
    source.records = [Record("a", "p", ()), Record("b", "p", (), tmp_path / "b.png")]
    assert (source.title, source.population, source.official) == ("source", "", None)
    assert source.missing == ("a",)
    assert source.identity() == {"source": "source", "reader": 2}


@pytest.mark.parametrize(
    ("records", "named"),
    [
        ([Record("a", "p", (1.0,))], "a has 1 targets, the data set has 2 labels: Mass, Edema"),
        ([Record("a", "p", (1.0, 0.0)), Record("a", "q", (1.0, 0.0))], "image_id 'a'"),
    ],
)
def test_records_that_cannot_be(records: list[Record], named: str) -> None:
    source = Source()
    source.labels, source.records, source.missing = ("Mass", "Edema"), records, ()
    with pytest.raises(DataError, match=named):
        readable_records(source)


def test_handed_in_from_python(clinic: Source, tmp_path) -> None:
    settings = {"split": own_parts.split_by_digit, "sampler": own_parts.positives_twice}
    data = XrayDataModule(clinic, image_size=32, cache_dir=tmp_path / "cache", **settings)
    assert [*map(len, data.split.subsets.values())] == [16, 4, 4]
    assert len(data.draw_targets()) == 16 + 12
    assert next(iter(data.train_dataloader()))["image"].shape == (28, 1, 32, 32)


MINE = ("data=mine", "split=mine", "sampler=mine")


@pytest.mark.usefixtures("clinic")
def test_counted_by_the_command(tmp_path) -> None:
    search = f"hydra.searchpath=[file://{tmp_path / 'conf'}]"
    text = xray("data", search, *MINE[:2], f"data.root={tmp_path / 'images'}")
    assert "24 images of 6 patients, 12 boxes on 12 images; 24 images on disk" in text


SETS: tuple[object, ...] = (
    *(xl.ChestXray14, xl.Rsna, xl.CheXpert, xl.Mimic, xl.Vindr, xl.Siim, xl.ChestXDet),
    *(xl.PadChest, xl.OpenI, xl.NihExperts),
)


@pytest.mark.parametrize("data_set", SETS)
def test_a_folder_without_its_tables(data_set, tmp_path) -> None:
    expected, here = re.escape(data_set.facts.expected), re.escape(str(tmp_path))
    with pytest.raises(DataNotFoundError, match=rf"nowhere does not exist\. {expected}$"):
        data_set(tmp_path / "nowhere")
    with pytest.raises(DataNotFoundError, match=rf"there is no .*{here}/.+\. {expected}$"):
        data_set(tmp_path)


@pytest.mark.filterwarnings("ignore::xray_lightning.UnknownPatientsWarning")
@pytest.mark.parametrize("data_set", [each for each in SETS if each.facts.counts])
def test_real_tables_hold_what_was_published(data_set, tables) -> None:
    if not (tables / data_set.name).is_dir():
        pytest.skip(f"no {data_set.name} in {tables}")
    source = data_set(tables / data_set.name)
    assert source.counts
    assert not [note for note in source.notes if "expected" in note]


class Choice(Source):
    """Two patients whose labels were read by choice."""

    name = "choice"

    def __init__(self, **choices: str) -> None:
        self.choices = choices
        views = ("PA", "AP", "LL", "")
        self.records = [Record(f"{i}.png", f"p{i}", (1.0,), view=v) for i, v in enumerate(views)]


def test_choices_are_in_title_and_fingerprints() -> None:
    def split(records: Sequence[Record], _: object) -> Split:
        return make_split("mine", records, {"train": [0, 1], "val": [2], "test": [3]})

    sources = Choice(), Choice(blank="negative"), Choice(blank="unknown")
    splits = [split_source(source, split, source.records) for source in sources]
    assert Choice(blank="unknown").title == "choice (blank: unknown)"
    prints = [{s.fingerprint, *s.subset_fingerprints.values()} for s in splits]
    assert len(set.union(*prints)) == 12  # none is another's
    moved = replace_test(splits[1], Choice().records, np.array([0]))
    assert moved.subset_fingerprints["train"] == splits[1].subset_fingerprints["train"]


def test_views() -> None:
    records, notes = Choice().records, []
    assert [r.view for r in select_views(records, ["PA", "AP"], notes)] == ["PA", "AP"]
    assert notes == ["LEFT OUT: views LL 1, unknown 1 (data.views=[PA, AP])"]
    assert len(select_views(records, None, notes)) == 4
    for wrong in (["pa"], "PA"):
        with pytest.raises(ConfigError, match="AP, LL, PA, unknown; got"):
            select_views(records, wrong, notes)


@pytest.mark.usefixtures("clinic")
def test_trained_from_a_folder_of_configurations(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    run = tmp_path / "run"
    words = ["--config-dir=conf", "trainer=debug", *MINE, f"data.root={tmp_path / 'images'}"]
    words += ["model.backbone=test_resnet", "threads=1", "workers=0", "logger=none", "draws=20"]
    assert train([*words, "report=false", "callbacks=none", "hydra.run.dir=run"]) == 0
    assert (run / "metrics.json").is_file()
    assert "own_parts.split_by_digit" in (run / "config.yaml").read_text()
