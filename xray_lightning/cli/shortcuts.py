"""``xray shortcuts``: which labels of a checkpoint are read off the film instead of the chest."""

import sys
from collections.abc import Sequence
from contextlib import redirect_stdout
from dataclasses import replace
from pathlib import Path

from xray_lightning.audit.shortcuts.run import Shortcuts, find_shortcuts, write_gist
from xray_lightning.cli.opening import home, open_checkpoint
from xray_lightning.deploy.classifier import find_device
from xray_lightning.folders import prepare_folder
from xray_lightning.report.shortcut_tables import shortcut_lines
from xray_lightning.report.terminal import show
from xray_lightning.writing import json_text, write_json


def shortcuts(checkpoints: Sequence[Path], overrides: Sequence[str], as_json: bool = False) -> None:
    """Test checkpoints on the test set of their own data, or of other data by overrides."""
    results: dict[str, Shortcuts] = {}
    for path in checkpoints:
        with redirect_stdout(sys.stderr if as_json else sys.stdout):  # its notes are not JSON
            at_hand = open_checkpoint(path, overrides)
        data = at_hand.data
        data.split = at_hand.splits["test"]
        net = at_hand.checkpoint.build_net().to(find_device("auto"))
        folder = prepare_folder(at_hand.run_dir or home(path))
        result = find_shortcuts(net, data, draws=at_hand.config.draws)
        result = replace(result, weights_sha256=at_hand.checkpoint.weights_sha256)
        results[str(path)] = result
        write_json(result.to_json(), folder / "shortcuts.json")
        if not as_json:
            show(*shortcut_lines(result, str(path)))
    if as_json:
        print(json_text({path: result.to_json() for path, result in results.items()}))
    elif len(results) > 1:
        show(*(f"{path}: {write_gist(result)}" for path, result in results.items()))
