"""Several data sets on one command line."""

import pytest

from xray_lightning import ConfigError, Several
from xray_lightning.cli.config import compose_settings, join_sets, make
from xray_lightning.cli.sets import split_sets


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
    config, _ = compose_settings([*named, *own, "seed=3"])
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
        ("data=[nih,chexprt]", "no data set 'chexprt'"),
        ("data=[nih,nih]", "twice"),
        ("data=[nih,rsna] data.root=x", r"data\.nih\.root= or data\.rsna\.root="),
        ("data=[nih,rsna] data.csv.table=x", r"of which data set"),
        ("data=[nih,rsna] data.nih.rot=x", r"of nih.*data\.rot: data\.root\?"),
        ("data=[nih,rsna] data.nih.root=x", r"data\.rsna\.root="),
    ],
)
def test_refused_before_anything_is_read(settings: str, named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        join_sets(settings.split())


def test_a_set_of_the_user_s_own(tmp_path) -> None:
    (tmp_path / "own" / "data").mkdir(parents=True)
    text = "# @package _global_\ndata: {_target_: xray_lightning.Phantom, patients: 5, seed: 9}\n"
    text += "image_size: 32\nbatch_size: 4\nepochs: 1\nweights: none\n"
    (tmp_path / "own" / "data" / "here.yaml").write_text(text)
    for place in (f"hydra.searchpath=[file://{tmp_path}/own]", f"--config-dir={tmp_path}/own"):
        (joined,) = [t for t in join_sets([place, "data=[here,phantom]"]) if "sources" in t]
        config, _ = compose_settings(["data=several", joined, "data.sources.phantom.patients=4"])
        source = make(config.data)
        assert isinstance(source, Several)
        assert source.population == "phantom-0,phantom-9"
