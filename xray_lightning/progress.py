"""Progress bars on stderr."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich import progress as bars
from rich.console import Console
from rich.text import Text

Report = Callable[[int, int], None]  # done, in all


class _Rate(bars.ProgressColumn):
    def __init__(self, unit: str) -> None:
        super().__init__()
        self.unit = unit

    def render(self, task: bars.Task) -> Text:
        return Text(f"{task.speed or 0:,.0f} {self.unit}/s" if self.unit else "")


@contextmanager
def show_progress(text: str, *, shown: bool = True, unit: str = "") -> Iterator[Report]:
    """A bar, moved by calling what this gives with the number done and in all, in ``unit``."""
    name = bars.TextColumn("{task.description}", markup=False)  # a label: no format, no markup
    counts = bars.BarColumn(), bars.MofNCompleteColumn(), _Rate(unit), bars.TimeRemainingColumn()
    with bars.Progress(name, *counts, console=Console(stderr=True), disable=not shown) as bar:
        task = bar.add_task(text, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
