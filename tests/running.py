"""Commands as a user gives them, each in a process of its own, forked after torch is imported.

The imports take longer than most commands at toy size. They are done once, by a server that reads
orders line by line, computes nothing itself (OpenMP's threads do not outlive a fork) and forks.
"""

import asyncio
import csv
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
MAIN = "from xray_lightning.cli.app import main; main()"
XRAY = [sys.executable, "-c", MAIN]
TRAIN = [sys.executable, str(ROOT / "train.py")]
SECONDS = 540  # a command that takes longer is killed
SEARCH = {"PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])}  # toy.py too
# A training of seconds: what it logs, watches and draws besides is left out.
TOY = ["model=resnet50", "model.backbone=resnet10t", "image_size=32", "batch_size=8", "trainer=cpu"]
TOY += ["logger=none", "callbacks=none", "report=false"]
LIGHT = """
import xray_lightning.cli.app, xray_lightning.cli.train, xray_lightning.cli.audit
import xray_lightning.cli.report, xray_lightning.cli.score
import hydra.main, omegaconf, pydantic.types
"""  # all but torch
HEAVY = """
import xray_lightning.audit.shortcuts, xray_lightning.cli.fit, xray_lightning.explain.run
import xray_lightning.evaluation.compare, xray_lightning.deploy.predict
"""
SERVER = """
import gc, json, os, runpy, signal, sys
gc.freeze()  # else each child looks through all that the server imported: two seconds
for line in sys.stdin:
    words, folder, variables, place, seconds = json.loads(line)
    if child := os.fork():
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
        continue
    signal.alarm(seconds)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(variables)
    nothing = os.open(os.devnull, os.O_RDONLY)
    for number, source in enumerate((nothing, os.open(place, os.O_WRONLY))):
        os.dup2(source, number)
    os.dup2(1, 2)
    code = words.pop(1) if words[0] == "-c" else None
    sys.argv = words
    exec(code, {"__name__": "__main__"}) if code else runpy.run_path(words[0], run_name="__main__")
    sys.exit()
"""


@cache
def _server(imports: str) -> subprocess.Popen[str]:
    words = [sys.executable, "-c", imports + SERVER]
    return subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def run(
    command: list[str], folder: Path, code: int = 0, *, imports: str = HEAVY, **variables: str
) -> str:
    """What a command of Python says, both streams; it must end with this exit code."""
    with tempfile.NamedTemporaryFile() as file:
        server = _server(imports)
        order = [command[1:], str(folder), os.environ | variables, file.name, SECONDS]
        print(json.dumps(order), file=server.stdin, flush=True)
        ended = int(server.stdout.readline())
        text = Path(file.name).read_text(errors="replace")
    assert ended == code, text[-6000:]
    return text


def xray(*words: object, code: int = 0) -> str:
    """What ``xray`` says in this process, by both streams but for --json; its exit code is this."""
    from typer.testing import CliRunner

    from xray_lightning.cli.app import APP

    done = CliRunner().invoke(APP, [str(word) for word in words])
    assert done.exit_code == code, f"{done.output}\n{done.exception!r}"
    return done.stdout if "--json" in words else done.output


def start(
    command: list[Any], ready: Callable[..., object], seconds: float = 300, **settings: Any
) -> subprocess.Popen[str]:
    """A process that still runs once what is waited for is there."""
    usual = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "env": os.environ | SEARCH}
    process = subprocess.Popen(command, text=True, **usual | settings)
    deadline = time.monotonic() + seconds
    try:
        while not ready(process):
            assert process.poll() is None, process.communicate()[0][-3000:]
            assert time.monotonic() < deadline
            time.sleep(0.02)
    except BaseException:
        process.kill()
        raise
    return process


def kill(process: subprocess.Popen[str]) -> str:
    """What a process had said."""
    process.kill()
    return process.communicate()[0]


def run_alone(command: list[Any], folder: Path | None = None, code: int = 0) -> Any:
    """A command in a process that is not forked, its two streams apart."""
    settings = {"capture_output": True, "text": True, "timeout": 900, "check": False}
    done = subprocess.run(command, cwd=folder, env=os.environ | SEARCH, **settings)
    assert done.returncode == code, f"{done.stdout[-4000:]}\n{done.stderr[-4000:]}"
    return done


def ask(app: Any, *requests: Any, **usual: Any) -> list[Any]:
    """A service's answers at once: to films as bytes, to paths, to what else httpx takes."""
    from httpx import ASGITransport, AsyncClient

    def spell(one: Any) -> dict[str, Any]:
        call = {"method": "GET" if isinstance(one, str) else "POST", "url": "/v1/predict"} | usual
        names = {str: "url", bytes: "content"}
        return call | ({names[type(one)]: one} if type(one) in names else one)

    async def send() -> list[Any]:
        async with AsyncClient(transport=ASGITransport(app), base_url="http://x") as client:
            return await asyncio.gather(*(client.request(**spell(one)) for one in requests))

    return asyncio.run(send())


def read_rows(path: Path) -> list[list[str]]:
    """The rows of a CSV file, its header first."""
    with path.open(encoding="utf-8", newline="") as file:
        return [*csv.reader(file)]


def read_table(path: Path) -> list[dict[str, str]]:
    """The rows of a CSV file below its header, by column."""
    header, *rows = read_rows(path)
    return [dict(zip(header, row, strict=True)) for row in rows]


def comparable(path: Path) -> str:
    """A file's text; of metrics.csv all but the clock's column."""
    if path.name != "metrics.csv":
        return path.read_text()
    return str([row | {"images_per_second": ""} for row in read_table(path)])


def write_run(
    folder: Path,
    overrides: list[str],
    val: float | None = 0.5,
    split: str = "patient",
    data: dict[str, str] | None = None,
    **more: object,
) -> None:
    """What a sweep reads of a finished run; ``more`` stands beside the name of its split."""
    folder.mkdir(parents=True, exist_ok=True)
    parts = {"val": f"v-{split}", "test": f"t-{split}"}
    names = {"name": split, "fingerprint": f"f-{split}", "parts": parts, **more}
    seed = next((int(word[5:]) for word in overrides if word.startswith("seed=")), 0)
    facts = {"overrides": overrides, "seed": seed, "split": names}
    facts["data"] = data or {"name": "phantom"}
    subset = {"auroc": {"mean": val, "defined": 13}}
    (folder / "environment.json").write_text(json.dumps(facts))
    (folder / "metrics.json").write_text(json.dumps({"val": subset, "test": subset}))
