"""How far a long measurement is: a bar on the terminal, on stderr, beside results on stdout."""

from __future__ import annotations

import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

from aiospin._cli.live import rich_for

if TYPE_CHECKING:
    from collections.abc import Iterator


class Progress(Protocol):
    def begin(self, what: str) -> None:
        """This is measured now."""

    def end(self, seconds: float) -> None:
        """It was; that is how much of the total it is."""

    def put_away(self) -> None:
        """Before something else is printed; begin() brings it back."""


class NoBar:
    def begin(self, what: str) -> None:
        pass

    def end(self, seconds: float) -> None:
        pass

    def put_away(self) -> None:
        pass


class Bar:
    """:raises RichMissingError: there can be none."""

    def __init__(self, total: float) -> None:
        with rich_for("the progress bar"):
            from rich.console import Console
            from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
            from rich.progress import Progress as RichProgress
        self._bar = RichProgress(
            BarColumn(),
            TextColumn("{task.percentage:>3.0f}%"),
            TimeRemainingColumn(),
            TextColumn("{task.description}"),
            console=Console(stderr=True, highlight=False),
            transient=True,
            # One that redraws itself would do so, in a thread, in the middle of what is measured.
            auto_refresh=False,
            redirect_stdout=False,
            redirect_stderr=False,
        )
        self._task = self._bar.add_task("", total=total)

    def begin(self, what: str) -> None:
        self._bar.update(self._task, description=what)
        self._bar.start()
        self._bar.refresh()

    def end(self, seconds: float) -> None:
        self._bar.advance(self._task, seconds)

    def put_away(self) -> None:
        self._bar.stop()


@contextmanager
def progress(total: float, plain: bool) -> Iterator[Progress]:
    """A bar where there is somebody at a terminal to see it and he did not ask for none."""
    if plain or sys.stderr is None or not sys.stderr.isatty():
        yield NoBar()
        return
    bar = Bar(total)
    try:
        yield bar
    finally:
        bar.put_away()
