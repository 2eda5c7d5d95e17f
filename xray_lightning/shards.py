"""One of several tasks that share work, on machines that see one disk: ``shard=3/16``.

Each has files of its own. The same command without ``shard=`` joins what they did, and does what is
missing, so the result is that of one task, proven by the same checks.
"""

import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from zlib import crc32

from xray_lightning.errors import ConfigError
from xray_lightning.folders import lock_folder


@dataclass(frozen=True)
class Shard:
    """The ``number``-th of ``count`` tasks, counted from 1; without arguments all of the work."""

    number: int = 1
    count: int = 1

    @classmethod
    def parse(cls, text: str) -> "Shard":
        """Of a setting such as ``3/16``; empty: all of the work. ConfigError for anything else."""
        match = re.fullmatch(r"([0-9]{1,6})/([0-9]{1,6})", text or "1/1")
        if match is None or not 1 <= int(match[1]) <= int(match[2]):
            raise ConfigError(f"shard must be such as 3/16, the third of sixteen, got {text!r}")
        return cls(int(match[1]), int(match[2]))

    def owns(self, name: str) -> bool:
        """Whether the file of this name is this task's; others added later change nothing."""
        return crc32(name.encode(errors="surrogateescape")) % self.count == self.number - 1

    def folder(self, out: Path) -> Path:
        """Where this task writes: ``out`` itself, or its own folder in it."""
        return out / f"shard-{self.number}-of-{self.count}" if self.count > 1 else out


WHOLE = Shard()


@contextmanager
def lock_shards(out: Path) -> Iterator[list[Path]]:
    """The folders of tasks in ``out``, for this process alone; ConfigError: of two divisions."""
    names = [re.fullmatch(r"shard-([0-9]+)-of-([0-9]+)", path.name) for path in out.glob("shard-*")]
    found = sorted((int(name[2]), int(name[1]), out / name[0]) for name in names if name)
    if len(counts := sorted({count for count, *_ in found})) > 1:
        told = " and of ".join(map(str, counts))
        raise ConfigError(f"{out} holds shards of {told}: delete those of the one division")
    with ExitStack() as locks:
        for *_, folder in found:
            locks.enter_context(lock_folder(folder))
        yield [folder for *_, folder in found]
