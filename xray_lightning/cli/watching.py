"""Progress bars on stderr."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

Item = TypeVar("Item")
Report = Callable[[int, int], None]  # done, in all


@contextmanager
def watching(what: str, *, shown: bool = True) -> Iterator[Report]:
    """A bar, moved by calling what this gives with the number done and the number in all."""
    name = TextColumn("{task.description}", markup=False)  # a label is neither format nor markup
    columns = name, BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with Progress(*columns, console=Console(stderr=True), disable=not shown) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def watched(items: Iterable[Item], what: str, count: int, *, shown: bool = True) -> Iterator[Item]:
    """The items, behind a bar."""
    with watching(what, shown=shown) as report:
        for done, item in enumerate(items, 1):
            yield item
            report(done, count)
