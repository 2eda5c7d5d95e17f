import pytest
from hydra.errors import InstantiationException, MissingConfigException, OverrideParseException
from omegaconf import OmegaConf

from xray_lightning import Several
from xray_lightning.cli.config import change_settings, compose_settings, join_sets, make, split_sets
from xray_lightning.cli.request import read_labels
from xray_lightning.data.source import choose_labels
from xray_lightning.errors import ConfigError, DataNotFoundError

DATA = {"_target_": "xray_lightning.data.phantom.Phantom", "patients": 4, "seed": 0}
SAVED = {"data": DATA, "split": {"_target_": "x", "seed": 1}, "image_size": 32, "seed": 0}


def test_composed_with_the_folder_for_results_and_made_of_plain_containers() -> None:
    config = compose_settings(["data.patients=7", "run_dir=a/b"])
    assert (config.data.patients, config.run_dir, config.model.weights) == (7, "a/b", "none")
    assert type(make(config.split).keywords["fractions"]) is list


def test_value_and_group_overrides() -> None:
    config = change_settings(SAVED, ["seed=3", "split=official", "split.val_fraction=0.2"])
    assert (config.seed, config.split._target_) == (3, "xray_lightning.official_split")
    assert (config.split.val_fraction, config.image_size) == (0.2, 32)


def test_another_data_set() -> None:
    config = change_settings(SAVED, ["data=nih", "data.root=/x"])
    assert config.data.root == "/x"
    assert "patients" not in config.data
    assert config.image_size == 32, "the data group's image_size must not leak into a saved run"


@pytest.mark.parametrize(
    ("texts", "error", "message"),
    [
        (["+a=1", "~seed", "seed=1,2"], ConfigError, "only KEY=VALUE"),
        *(([f"{key}=1"], ConfigError, f"unknown setting {key}") for key in ("sed", "data.root")),
        (["nothing.at.all=1"], ConfigError, "unknown setting nothing.at.all"),
        (["seed"], OverrideParseException, "seed"),
    ],
)
def test_only_plain_changes_of_known_settings(texts: list[str], error, message: str) -> None:
    for text in texts:
        with pytest.raises(error, match=message):
            change_settings(SAVED, [text])


class Holder:
    def __init__(self, size: int, labels: tuple[str, ...]) -> None:
        self.size, self.labels = size, labels


def test_text_from_data_is_never_evaluated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DEMO_SECRET", "hunter2")
    node = OmegaConf.create({"_target_": f"{__name__}.Holder", "size": "${oc.decode:'3'}"})
    labels = ("${oc.env:DEMO_SECRET}", "???", "${seed}")
    made = make(node, labels=labels)
    assert (made.size, made.labels) == (3, labels)


def test_what_a_constructor_raises_keeps_its_place() -> None:
    node = OmegaConf.create({"_target_": f"{__name__}.Holder", "length": 3})
    with pytest.raises(InstantiationException, match="Holder") as caught:
        make(node, labels=())
    assert isinstance(caught.value.__cause__, TypeError)
    gone = {"_target_": "xray_lightning.CsvTable", "table": "/nowhere/labels.csv"}
    for inside in (gone, {"_target_": "builtins.list", "_args_": [[gone]]}):
        with pytest.raises(DataNotFoundError, match=r"/nowhere/labels\.csv"):
            make(OmegaConf.create(inside))


def test_a_table_of_its_own_brings_its_split(tmp_path) -> None:
    saved = compose_settings([])
    plain = OmegaConf.to_container(saved)
    table = ["data=csv", f"data.table={tmp_path}/t.csv"]
    assert change_settings(plain, table).split._target_.endswith("auto_split")
    assert change_settings(plain, [*table, "split=kfold"]).split._target_.endswith("kfold_split")
    assert change_settings(plain, [*table, "split.seed=3"]).split._target_.endswith("patient_split")
    assert change_settings(plain, ["data=nih"]).split == saved.split
    assert compose_settings(table).split._target_.endswith("auto_split")
    assert compose_settings([*table, "split=patient"]).split._target_.endswith("patient_split")


def test_labels_asked() -> None:
    two = ["Mass", "Edema"], ["Edema", "Hernia", "Mass"]
    assert choose_labels("shared", *two) == ("Mass", "Edema")
    asked = read_labels("[Edema, Mass]")
    assert choose_labels(asked, ["Mass", "Edema"]) == asked == ("Edema", "Mass")
    for text, known in (("Hernia", "Mass"), ("shared", "Edema"), ("[]", "Mass")):
        with pytest.raises(ConfigError, match=r"these are shared: (Mass|none)"):
            choose_labels(read_labels(text), ["Mass"], [known])


@pytest.mark.parametrize(
    "named", [["data=several", "data.sets=[nih,rsna]"], ["data=[nih,rsna]"], ["data=[nih, rsna]"]]
)
def test_the_two_ways_to_name_sets(named: list[str]) -> None:
    own = ["data.nih.root=a b", "data.rsna.root=r", "data.rsna.label=X", "data.labels=shared"]
    sets, rest = split_sets([*named, *own, "seed=3"])
    assert sets == {
        "nih": ["data=nih", "data.root=a b"],
        "rsna": ["data=rsna", "data.root=r", "data.label=X"],
    }
    assert rest == ["data.labels=shared", "seed=3"]
    config = compose_settings([*named, *own, "seed=3"])
    assert config.data._target_ == "xray_lightning.Several"
    assert (config.data.sources.nih.root, config.data.sources.rsna.label) == ("a b", "X")
    assert (config.data.labels, config.seed, config.image_size) == ("shared", 3, 224)


def test_one_set_or_none() -> None:
    assert split_sets(["data=nih", "data.root=x"]) == ({"nih": ["data=nih", "data.root=x"]}, [])
    assert split_sets(["data.root=x"]) == ({}, ["data.root=x"])
    assert join_sets(["data=nih", "data.root=x"]) == ["data=nih", "data.root=x"]
    joined = join_sets(["data=[nih,phantom]", "data.nih.root=${oc.env:HOME}"])
    assert join_sets(joined) == joined  # as a run records its command
    assert "${oc.env:HOME}" in joined[-1]


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ("data=[nih,chexprt]", "Could not find 'data/chexprt'"),
        ("data=[nih,nih]", "twice"),
        ("data=[nih,rsna] data.root=x", r"data\.nih\.root= or data\.rsna\.root="),
        ("data=[nih,rsna] data.csv.table=x", r"of which data set"),
        ("data=[nih,rsna] data.nih.rot=x", r"of nih.*data\.rot: data\.root\?"),
        ("data=[nih,rsna] data.nih.root=x", r"data\.rsna\.root="),
    ],
)
def test_refused_before_anything_is_read(settings: str, named: str) -> None:
    with pytest.raises((ConfigError, MissingConfigException), match=named):
        join_sets(settings.split())


def test_a_set_of_the_user_s_own(tmp_path) -> None:
    (tmp_path / "own" / "data").mkdir(parents=True)
    text = "# @package _global_\ndata: {_target_: xray_lightning.Phantom, patients: 5, seed: 9}\n"
    text += "image_size: 32\nbatch_size: 4\nepochs: 1\nweights: none\n"
    (tmp_path / "own" / "data" / "here.yaml").write_text(text)
    for place in (f"hydra.searchpath=[file://{tmp_path}/own]", f"--config-dir={tmp_path}/own"):
        (joined,) = [t for t in join_sets([place, "data=[here,phantom]"]) if "sources" in t]
        config = compose_settings(["data=several", joined, "data.sources.phantom.patients=4"])
        source = make(config.data)
        assert isinstance(source, Several)
        assert source.population == "phantom-0,phantom-9"
