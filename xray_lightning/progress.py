"""Progress bars on stderr."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text

Report = Callable[[int, int], None]  # done, in all


class _Rate(ProgressColumn):
    def __init__(self, unit: str) -> None:
        super().__init__()
        self.unit = unit

    def render(self, task: Task) -> Text:
        return Text(f"{task.speed or 0:,.0f} {self.unit}/s" if self.unit else "")


@contextmanager
def show_progress(text: str, *, shown: bool = True, unit: str = "") -> Iterator[Report]:
    """A bar, moved by calling what this gives with the number done and in all, in ``unit``."""
    name = TextColumn("{task.description}", markup=False)  # a label is neither format nor markup
    columns = name, BarColumn(), MofNCompleteColumn(), _Rate(unit), TimeRemainingColumn()
    with Progress(*columns, console=Console(stderr=True), disable=not shown) as bar:
        task = bar.add_task(text, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
