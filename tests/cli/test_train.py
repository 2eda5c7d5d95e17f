"""The folder of a sweep, and what each conf/sweep file runs."""

import pytest
from hydra import compose, initialize_config_dir
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from toy import MODELS

from xray_lightning.cli.config import compose_settings
from xray_lightning.cli.settings import find_conf
from xray_lightning.cli.train import name_folders
from xray_lightning.errors import ConfigError
from xray_lightning.models.heads import HEADS


def folder(*arguments: str) -> str:
    (found,) = {*name_folders(arguments)} - {*arguments}
    return found


def test_the_same_command_has_the_same_folder() -> None:
    place = folder("-m", "sweep=losses", "seed=0,1")
    assert place.startswith("hydra.sweep.dir=outputs/sweep_losses_")
    same = ("sweep=losses", "seed=0,1", "hydra/launcher=joblib", "hydra.launcher.n_jobs=2")
    assert folder(*same) == place, "another launcher goes on where the first one stopped"
    others = [
        folder("-m", "sweep=losses", "seed=0,2"),
        folder("-m", "sweep=losses"),
        folder("-m", "sweep=heads", "seed=0,1"),
        folder("--config-name", "config", "-m", "sweep=losses", "seed=0,1"),
    ]
    assert len({place, *others}) == 5


@pytest.mark.parametrize(
    "arguments",
    [["-m", "seed=0,1"], ["sweep=null"], ["sweep="], ["sweep=losses", "hydra.sweep.dir=mine"], []],
)
def test_other_commands_stay_as_they_are(arguments: list[str]) -> None:
    assert name_folders(arguments) == arguments


def test_overrides_stay_in_one_piece_and_one_sweep_at_a_time() -> None:
    assert name_folders(["run_dir=a"]) == ["hydra.run.dir=a"]
    assert name_folders(["sweep=losses", "run_dir=a"]) == ["sweep=losses", "hydra.sweep.dir=a"]
    found = name_folders(["--config-dir", "x", "sweep=seeds", "epochs=1", "-m"])
    assert [text.split("=")[0] for text in found] == [
        *("--config-dir", "x", "sweep", "hydra.sweep.dir", "epochs", "-m")
    ]
    with pytest.raises(ConfigError, match="sweep=losses,heads: one sweep at a time"):
        name_folders(["-m", "sweep=losses,heads"])


def jobs(*arguments: str) -> list[list[str]]:
    """What Hydra's own sweeper makes of a command."""
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(find_conf()), version_base="1.3"):
        chosen = [text for text in arguments if text.startswith("sweep=")]
        hydra = compose("train", chosen, return_hydra_config=True).hydra
        assert hydra.mode.name == "MULTIRUN", "sweep= needs no -m"
        params = [f"{key}={value}" for key, value in hydra.sweeper.params.items()]
        parser = OverridesParser.create(GlobalHydra.instance().config_loader())
        parsed = parser.parse_overrides([*params, *arguments])
        ((found),) = BasicSweeper.split_arguments(parsed, None)
    return found


def options(group: str) -> set[str]:
    return {path.stem for path in (find_conf() / group).glob("*.yaml")}


PHANTOM = {
    f"phantom/{path.stem}"
    for path in (find_conf() / "experiment/phantom").glob("*.yaml")
    if not path.stem.startswith("shortcut")  # compared with each other, not with these
}


@pytest.mark.parametrize(
    ("name", "key", "values"),
    [
        ("phantom", "experiment", PHANTOM),
        ("losses", "loss", options("loss") - {"conditional"}),
        ("heads", "model.head", set(HEADS)),
        ("backbones", "model", {*MODELS} - {"eva_x_tiny"}),
        ("splits", "split", {"patient", "official", "image"}),
        ("seeds", "seed", set("01234")),
    ],
)
def test_grids_are_complete_and_compose(name: str, key: str, values: set[str]) -> None:
    found = jobs(f"sweep={name}")
    assert sorted(job[0] for job in found) == sorted(f"{key}={value}" for value in values)
    compose_settings(found[-1])  # tests/test_conf.py composes every option


def test_every_grid_is_tested() -> None:
    assert options("sweep") == {"losses", "heads", "backbones", "splits", "seeds", "phantom"}


def test_later_settings_win_and_seeds_are_added() -> None:
    found = jobs("sweep=losses", "loss=bce,focal", "seed=0,1,2")
    assert (len(found), {job[0] for job in found}) == (6, {"loss=bce", "loss=focal"})
    assert jobs("sweep=seeds", "seed=7") == [["seed=7", "sweep=seeds"]]
