"""One grammar for all verbs, and what the command says of itself."""

import json
from pathlib import Path

import pytest
from running import xray

import xray_lightning
from xray_lightning.cli.app import APP, complete
from xray_lightning.cli.info import LISTS, list_choices
from xray_lightning.cli.request import Request, read_request
from xray_lightning.cli.train import train
from xray_lightning.errors import ConfigError
from xray_lightning.explain.maps import GATES
from xray_lightning.explain.maps import METHODS as MAP_METHODS
from xray_lightning.models.heads import HEADS
from xray_lightning.training.environment import is_installed

VERBS = sorted(command.name for command in APP.registered_commands if command.name)


@pytest.mark.parametrize(
    ("usage", "arguments", "request_"),
    [
        ("", ["data=nih"], Request((), ("data=nih",))),
        ("CHECKPOINT", ["a.ckpt", "split.seed=1"], Request(("a.ckpt",), ("split.seed=1",))),
        ("FIRST SECOND", ["s/loss=a", "s/loss=b"], Request(("s/loss=a", "s/loss=b"))),
        ("C PATH...", ["c", "x", "batch_size=2", "y"], Request(("c", "x", "y"), ("batch_size=2",))),
        ("IN OUT", ["a", "b", "--bits", "16"], Request(("a", "b"), ("bits=16",))),
        ("A B", ["a", "b", "--x=1", "--rename"], Request(("a", "b"), ("x=1", "rename=true"))),
        ("", ["hydra/launcher=x", "+a=1"], Request((), ("hydra/launcher=x", "+a=1"))),
    ],
)  # fmt: skip
def test_files_then_settings(usage: str, arguments: list[str], request_: Request) -> None:
    assert read_request(usage, arguments) == request_


@pytest.mark.parametrize(
    ("usage", "arguments", "named"),
    [
        ("CHECKPOINT", [], "CHECKPOINT"),
        ("CHECKPOINT", ["data=nih"], "data=nih"),
        ("CHECKPOINT PATH...", ["a.ckpt"], "PATH"),
        ("FIRST SECOND", ["a", "b", "c"], "'c'"),
        ("FIRST SECOND", ["a", "b", "--draws"], "--draws"),
    ],
)
def test_arguments_that_are_neither(usage: str, arguments: list[str], named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        read_request(usage, arguments)


def test_settings_have_the_type_of_their_default() -> None:
    request = Request((), ("draws=50", "rename=true", "name=a=b", "workers=null"))
    own = {"draws": 2000, "rename": False, "name": "", "workers": None, "frame": None}
    given = {"draws": 50, "rename": True, "name": "a=b", "workers": None, "frame": None}
    assert request.read(own).own == given


@pytest.mark.parametrize(
    ("text", "named"),
    [("drwas=1", "draws"), ("draws=few", "'few'"), ("draws=0", "'0'"), ("test=maybe", "'maybe'")],
)
def test_settings_that_cannot_be_read(text: str, named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        Request((), (text,)).read({"draws": 2000, "test": False})
    with pytest.raises(ConfigError, match=text.split("=")[0]):
        Request((), (text,)).read({})


def test_the_folder_of_results() -> None:
    named = read_request("", ["hydra.run.dir=a", "seed=1", "hydra.run.dir=b"])
    assert (named, named.words) == (Request((), ("seed=1",), Path("b")), ["seed=1", "--out", "b"])
    assert Request((), (), Path("o")).require_out() == Path("o")
    with pytest.raises(ConfigError, match="--out"):
        Request(()).require_out()


@pytest.mark.parametrize("name", VERBS)
def test_help_of_every_verb(name: str) -> None:
    text = xray(name, "--help")
    assert "--json" in text and "--out" in text  # noqa: PT018
    assert max(map(len, text.splitlines())) <= 80


def test_version() -> None:
    assert xray("--version").split() == ["xray_lightning", xray_lightning.__version__]


def test_info() -> None:
    facts = json.loads(xray("info", "--json"))
    assert facts["version"] == xray_lightning.__version__
    assert {"torch", "timm", "pydicom"} <= set(facts["packages"])
    assert facts["extras"]["dev"] == "installed"
    assert is_installed("torch>=2") and not is_installed("no-such-thing>=1")  # noqa: PT018
    assert max(map(len, (lines := xray("info").splitlines()))) <= 80
    assert all(line[14] == " " and line[15] != " " for line in lines)  # in one column


@pytest.mark.parametrize("what", LISTS)
def test_lists(what: str) -> None:
    choices = json.loads(xray("list", what, "--json"))
    assert choices and all(choices.values())  # noqa: PT018
    text = xray("list", what)
    assert all(name in text for name in choices)
    assert max(map(len, text.splitlines())) <= 80


def test_lists_are_complete() -> None:
    assert list_choices("heads").keys() == HEADS.keys()
    assert list_choices("methods").keys() == {*MAP_METHODS, GATES}
    assert "auroc" in list_choices("metrics")
    assert {"phantom", "nih"} <= list_choices("data").keys()


def test_an_unknown_list() -> None:
    assert "models" in xray("list", "colours", code=2)


def test_completion() -> None:
    assert list(complete("sp")) == ["split="]
    assert {"split=patient", "split=official"} <= set(complete("split="))
    assert list(complete("draws=")) == []


def test_help_of_training_shows_the_comments(capsys: pytest.CaptureFixture[str]) -> None:
    assert train(["--help"]) == 0
    assert "draws: 2000" in (text := capsys.readouterr().out)
    assert "# bootstrap draws of patients" in text
