"""How far a run is: frames, rate and time left, on a terminal."""

from __future__ import annotations

from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress
from rich.text import Text


class RateColumn(ProgressColumn):
    """Frames a second over the last half minute."""

    def render(self, task: Task) -> Text:
        """The rate of a task, empty at its beginning."""
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else f"{speed:.1f} fps")


class Progress:
    """A progress bar that takes itself away when done; nothing where the console is no terminal.

    ``total``: how many frames are expected, None when nobody knows.
    """

    def __init__(self, console: Console, what: str, total: int | None, *, quiet: bool = False) -> None:
        self._bar = RichProgress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            RateColumn(),
            TimeRemainingColumn(compact=True),
            console=console,
            transient=True,
            refresh_per_second=5,
            disable=quiet or not console.is_terminal,
        )
        self._task = self._bar.add_task(what, total=total)

    def advance(self, frames: int = 1) -> None:
        """So many frames more."""
        self._bar.advance(self._task, frames)

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()
