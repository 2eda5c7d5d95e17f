"""A checkpoint or a run folder of somebody else runs no code, whatever its settings name."""

from collections.abc import Callable
from functools import reduce
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf
from running import xray
from toy import save_net
from typer.testing import CliRunner

from xray_lightning import CheckpointError, ConfigError, XrayNet
from xray_lightning.cli.app import APP, run_verb
from xray_lightning.cli.config import compose_settings, list_targets, read_config, require_trusted
from xray_lightning.cli.fit import resume_run
from xray_lightning.cli.opening import open_checkpoint

HOSTILE = """os.system os.popen os.remove os.execv posix.system pty.spawn subprocess.run
    subprocess.Popen subprocess.check_output pathlib.Path.write_text pathlib.Path.unlink
    pathlib.PosixPath.write_bytes builtins.eval builtins.exec builtins.open open io.open
    builtins.__import__ importlib.import_module runpy.run_path pandas.read_pickle pickle.loads
    pickle.load joblib.load numpy.load torch.load torch.save torch.hub.load torch.jit.load
    torch.utils.cpp_extension.load shutil.copy shutil.rmtree functools.partial functools.reduce
    hydra.utils.get_method hydra.utils.get_object hydra.utils.instantiate hydra.utils.call
    operator.attrgetter types.FunctionType code.interact webbrowser.open urllib.request.urlopen
    logging.FileHandler logging.config.dictConfig smtplib.SMTP ctypes.CDLL yaml.unsafe_load
    timm.create_model torch.optim.sys torch.optim.adam.torch.load
    torch.optim.lr_scheduler.types.FunctionType torch.serialization.load
    pytorch_lightning.loggers.tensorboard.os.system
    xray_lightning.data.cache.create_folder xray_lightning.cli.multirun.SweepTable
    xray_lightning.training.environment.subprocess.run xray_lightning.write_predictions
    xray_lightning.checkpoint.store_operating_points xray_lightning.writing.write_json
    xray_lightning.training.losses.torch.load xray_lightning.load_checkpoint""".split()  # noqa: SIM905 - a column of quotes reads worse
PLACES: dict[str, Callable[[object], dict[str, object]]] = {
    "augment": lambda call: {"augment": call},
    "deep": lambda call: {"data": {"_target_": "xray_lightning.Phantom", "seed": [{"a": call}]}},
    "args": lambda call: {"split": {"_target_": "xray_lightning.Phantom", "_args_": [[call]]}},
    "partial": lambda call: {"sampler": call | {"_partial_": True}},
    "logger": lambda call: {"logger": {"_recursive_": False, "x": call}},
}


@pytest.fixture
def foreign(tmp_path: Path) -> Callable[[dict[str, object]], Path]:
    """Writes a run of somebody else, config.yaml and both checkpoints; gives the checkpoint."""
    settings = compose_settings(["data.patients=30", "image_size=32", "model.backbone=test_resnet"])
    settings.cache_dir, settings.run_dir = str(tmp_path / "cache"), str(tmp_path / "run")
    plain = OmegaConf.to_container(settings, resolve=True)
    net = XrayNet(["Mass"], "test_resnet", image_size=32)
    subsets = dict.fromkeys(("train", "val", "test"), "0")

    def write(change: dict[str, object]) -> Path:
        place = tmp_path / "run" / "checkpoints"
        place.mkdir(parents=True, exist_ok=True)
        description = {"format": 1, "net": net.config, "config": plain | change, "validation": {}}
        description["preprocessing"] = {"image_size": 32, "clahe": False}
        description["split"] = {"name": "patient", "fingerprint": "0", "parts": subsets}
        for name in ("best", "last"):
            save_net(net, place / f"{name}.ckpt", description)
        OmegaConf.save(OmegaConf.create(plain | change), tmp_path / "run" / "config.yaml")
        return place / "best.ckpt"

    return write


@pytest.mark.parametrize("target", HOSTILE)
def test_a_hostile_target_is_refused_wherever_it_stands(target: str) -> None:
    call = {"_target_": target, "path": "/nowhere/made"}
    for within in PLACES.values():
        with pytest.raises(ConfigError, match=r"x.ckpt: .*trust=true") as caught:
            require_trusted(within(call), Path("x.ckpt"))
        assert f"_target_={target!r}" in str(caught.value)


NO_NAMES = (None, 3, ["os.system"], {"_target_": "os.system"}, "${x}", "")
READS = ("${oc.env:HOME}", "${run_dir}${oc.env:HOME}", "a ${seed}", "${${run_dir}:HOME}")


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        *(({"loss": {"_target_": each}, "x": "os.system"}, r"loss._target_=") for each in NO_NAMES),
        *(({"data": {"root": each}}, r"data.root=.*would be evaluated") for each in READS),
        ({"seed": torch.zeros(1)}, r"seed=.*is not a plain value"),
        ({"seed": reduce(lambda inner, _: [inner], range(100), [])}, r"seed.*is not a plain value"),
    ],
)
def test_only_plain_names_and_values(settings: dict[str, object], match: str) -> None:
    with pytest.raises(ConfigError, match=match):
        require_trusted(settings, Path("x.ckpt"))


@pytest.mark.parametrize(
    "target",
    [
        *("xray_lightning.Focal", "xray_lightning.Rsna", "xray_lightning.patient_split"),
        *("torch.optim.Adam", "torch.optim.NAdam", "torch.optim.lr_scheduler.StepLR"),
        *("pytorch_lightning.Trainer", "pytorch_lightning.loggers.TensorBoardLogger"),
    ],
)
def test_our_own_are_built(target: str) -> None:
    require_trusted({"a": [{"_target_": target, "x": "${run_dir}/maps", "y": None}]}, Path("x"))


def test_nothing_of_the_command_line_is_built() -> None:
    assert not [name for name in list_targets() if ".cli." in name]


def test_a_run_of_ours_is_trusted() -> None:
    for overrides in ([], ["data=nih", "data.root=x", "experiment=xray14_xception_cbam_wce"]):
        plain = OmegaConf.to_container(compose_settings(overrides), resolve=True)
        require_trusted(plain, Path("config.yaml"))


@pytest.mark.parametrize("key", ["augment", "loss", "logger"])
def test_no_verb_builds_it(foreign: Callable[..., Path], tmp_path: Path, key: str) -> None:
    victim = tmp_path / "victim"
    call = {"_target_": "pathlib.Path.write_text", "_args_": [str(victim), "gotcha"]}
    call["_args_"][0] = {"_target_": "pathlib.Path", "_args_": [str(victim)]}  # type: ignore[index]
    best = foreign({key: {"x": call} if key == "logger" else call})
    run = best.parents[1]
    for verb in (["evaluate"], ["explain"], ["shortcuts"]):
        xray(*verb, best, code=2)
    for overrides in ([], ["trust=false"]):
        with pytest.raises(ConfigError, match=f"best.ckpt: {key}.*pathlib"):
            open_checkpoint(best, overrides)
        with pytest.raises(ConfigError, match=f"config.yaml: {key}.*pathlib"):
            resume_run(run, overrides)
    assert not victim.exists()
    with pytest.raises(ConfigError, match=r"trust must be true or false, got 'yes'"):
        resume_run(run, ["trust=yes"])
    best = foreign({key: {"x": call} if key == "logger" else call, "trust": True})
    with pytest.raises(ConfigError, match=r"config.yaml: .*pathlib"):
        resume_run(run, [])  # the file cannot say so itself
    with pytest.raises(ConfigError, match=r"best.ckpt: .*pathlib"):
        open_checkpoint(best, [])
    config, _ = resume_run(run, ["trust=true"])  # the user's own
    assert config[key] == ({"x": call} if key == "logger" else call)


def test_where_things_lie_may_change_on_the_way(foreign: Callable[..., Path]) -> None:
    data = {"_target_": "xray_lightning.data.csv.CsvTable", "table": "old/t.csv", "root": "old"}
    run = foreign({"data": data | {"boxes": None, "labels": None}}).parents[1]
    moved = ["++data.root=/new", "data.table=/new/t.csv", "cache_dir=/new/cache"]
    config, last = resume_run(run, [f"resume={run}", *moved])
    assert (config.data.root, config.data.table) == ("/new", "/new/t.csv")
    assert (config.cache_dir, config.run_dir) == ("/new/cache", str(run))
    assert last.path == run / "checkpoints" / "last.ckpt"
    for change in ("seed=1", "data.labels=[Mass]", "model.dropout=0.5"):
        with pytest.raises(ConfigError, match="a resumed run keeps its settings"):
            resume_run(run, [change])


@pytest.mark.parametrize("name", ["best.ckpt", "last.ckpt"])
def test_damage_is_said_before_a_run_goes_on(foreign: Callable[..., Path], name: str) -> None:
    path = foreign({}).with_name(name)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=f"{name} is damaged"):
        resume_run(path.parents[1], [])
    path.unlink()
    (path.parents[1] / "metrics.csv").write_text("epoch\n0\n1\n")  # so it was there once
    with pytest.raises(CheckpointError, match="no checkpoint at"):
        resume_run(path.parents[1], [])


def test_report_builds_nothing(run_folder: Path, tmp_path: Path) -> None:
    config = OmegaConf.load(run_folder / "config.yaml")
    config.data = {"_target_": "builtins.open", "_args_": [str(tmp_path / "victim"), "w"]}
    OmegaConf.save(config, run_folder / "config.yaml")
    with pytest.raises(ConfigError, match=r"config.yaml: data._target_='builtins.open'"):
        run_verb("report", [run_folder])
    assert not (tmp_path / "victim").exists()
    config.data = {"_target_": "collections.OrderedDict"}
    OmegaConf.save(config, run_folder / "config.yaml")
    result = CliRunner().invoke(APP, ["report", str(run_folder), "--trust"])
    assert isinstance(result.exception, AttributeError)  # it was built, and is no data set


@pytest.mark.parametrize(
    "text",
    [
        "seed: !!python/object/apply:os.system ['touch VICTIM']",
        "seed: !!python/name:os.system",
        "seed: !!python/object/new:subprocess.Popen [[touch, VICTIM]]",
        "seed: !!python/module:os",
        *("seed: [1", "seed: ${oc.env:HOME", "- 1", "7", "a: &a [*a]", "\x00"),
    ],
)
def test_python_in_yaml_is_an_error_with_a_name(text: str, tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(text.replace("VICTIM", str(tmp_path / "victim")))
    with pytest.raises(ConfigError, match=r"config.yaml is (damaged|not a mapping)"):
        read_config(tmp_path)
    assert not (tmp_path / "victim").exists()


def test_a_path_in_yaml_is_no_plain_value(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("cache_dir: !!python/object/apply:pathlib.PosixPath [a]")
    with pytest.raises(ConfigError, match=r"cache_dir=.* is not a plain value"):
        read_config(tmp_path, trust=False)
