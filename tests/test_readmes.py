"""Every command of the READMEs is one that is known; those of the phantom alone are run."""

import re
import shlex
from pathlib import Path

import pytest
from running import xray

from xray_lightning.cli.app import VERBS
from xray_lightning.cli.request import read_request
from xray_lightning.cli.settings import find_conf, read_known_keys

ROOT = Path(__file__).parents[1]
OWN = re.compile(r"\b([a-z][a-z0-9_.]*)=")  # a setting that the help of a verb names
KEYS = {key for node in read_known_keys().values() for key in node} | {
    path.name for path in find_conf().iterdir()
}


def read_commands() -> dict[str, list[str]]:
    """Words of each ``xray`` and ``train.py`` line in a block of code, without its remark."""
    pages = [page.read_text() for page in ROOT.glob("xray_lightning/**/*.md")]
    pages += [(ROOT / name).read_text() for name in ("README.md", "conf/README.md")]
    blocks = [part for page in pages for part in re.split(r"^```.*$", page, flags=re.M)[1::2]]
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    found = re.compile(r"^(?:\$ )?(?:xray|(?=python train\.py))\s*(.*)")
    texts = {match[1] for line in lines if (match := found.match(line))}
    return {text: shlex.split(text, comments=True) for text in sorted(texts)}


COMMANDS = read_commands()


@pytest.mark.parametrize("text", COMMANDS)
def test_settings_and_files_are_known(text: str) -> None:
    verb, *words = COMMANDS[text]
    if verb == "python":
        settings, known = [word for word in words if re.match(r"\+?[\w.]+=", word)], set()
    else:
        assert verb in VERBS
        usage, _, text = VERBS[verb]
        flags = words[words.index("--out") : words.index("--out") + 2] if "--out" in words else []
        settings = read_request(usage, [w for w in words if w not in (*flags, "--json")]).settings
        known = {*OWN.findall(text + VERBS["evaluate"][2] * ("settings of evaluate" in text))}
    for setting in settings:
        key = setting.partition("=")[0].lstrip("+")
        parts = key.split(".")
        assert key in known or parts[-1] in KEYS or parts[0] in ("hydra", "data"), setting


@pytest.mark.parametrize(
    "text", [text for text in COMMANDS if re.match("(data|audit|cache) data=phantom", text)]
)
def test_commands_of_the_phantom_run(text: str, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    xray(*COMMANDS[text], "data.patients=12")
