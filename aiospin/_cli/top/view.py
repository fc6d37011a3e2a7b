"""A census as people see it: a table that changes in place, or lines."""

from __future__ import annotations

import os
import select
import sys
import termios
import time
import tty
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from aiospin._cli.live import rich_for

if TYPE_CHECKING:
    from types import TracebackType

    from typing_extensions import Self

    from aiospin._cli.top.census import Census, ReaderRow, SegmentRow

COLUMNS: Final = (
    "broadcast",
    "state",
    "pid",
    "messages/s",
    "bytes/s",
    "messages",
    "lag",
    "bytes held",
    "command",
)
_LEFT: Final = frozenset({"broadcast", "state", "command"})
# Columns of a terminal, below which it has no room for these.
_WIDE: Final = {"messages": 92, "command": 112}


class Line(NamedTuple):
    cells: tuple[str, ...]
    style: str


def title(census: Census) -> str:
    count = len(census.segments)
    broadcasts = "1 broadcast" if count == 1 else f"{count or 'no'} broadcasts"
    return f"{broadcasts} in {census.folder}, {show_bytes(census.free_bytes)} free"


def lines(census: Census) -> list[Line]:
    """A line for each broadcast, and one for each of its readers."""
    found = []
    for segment in census.segments:
        found.append(_segment_line(segment))
        found += [_reader_line(reader) for reader in segment.readers]
    return found


def remarks(census: Census) -> list[str]:
    """Why a broadcast is not live."""
    return [f"{row.name}: {row.reason}" for row in census.segments if row.reason is not None]


def _segment_line(row: SegmentRow) -> Line:
    writer = row.writer
    held = ""
    if row.used_bytes is not None and row.capacity is not None:
        held = f"{row.used_bytes / row.capacity:.0%} of {show_bytes(row.capacity)}"
        if row.large_messages:
            held += f" + {show_bytes(row.large_bytes)}"
    return Line(
        (
            row.name,
            "parked" if writer and writer.parked else row.state,
            str(writer.pid) if writer else "",
            _rate(row.messages_per_second),
            show_bytes(row.bytes_per_second),
            f"{row.messages:,}" if row.messages is not None else "",
            "",
            held,
            printable((writer and writer.command) or ""),
        ),
        "bold"
        if row.state == "live"
        else "yellow"
        if row.state in ("closed", "foreign")
        else "red",
    )


def _reader_line(row: ReaderRow) -> Line:
    return Line(
        (
            f"  reader {row.slot}",
            _reader_state(row),
            str(row.pid),
            _rate(row.messages_per_second),
            show_bytes(row.bytes_per_second),
            "",
            f"{row.lag_messages:,}",
            show_bytes(row.lag_bytes),
            printable(row.command or ""),
        ),
        "" if row.alive else "red",
    )


def _reader_state(row: ReaderRow) -> str:
    if not row.alive:
        return "dead"
    if row.joining:
        return "joining"
    return {"word": "parked", "bell": "on bell", None: "reads"}[row.parked]


def _rate(number: float | None) -> str:
    return "" if number is None else f"{number:,.0f}"


def show_bytes(number: float | None) -> str:
    """Three digits: ``832 B``, ``1.5 KiB``, ``16 MiB``; nothing for None."""
    if number is None:
        return ""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(number) < 1000:  # not 1024: "1010 KiB" would be wider
            return f"{number:.3g} {unit}" if unit != "B" else f"{number:.0f} B"
        number /= 1024
    return f"{number:,.3g} TiB"


def printable(text: str) -> str:
    """A command line may have anything in it, also what a terminal would obey."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)


class PlainView:
    """Lines, without control characters."""

    def show(self, census: Census) -> None:
        print(title(census))
        table = [COLUMNS, *(line.cells for line in lines(census))]
        widths = [max(map(len, column)) for column in zip(*table, strict=True)]
        if census.segments:
            for cells in table:
                row = "  ".join(
                    cell.ljust(width) if name in _LEFT else cell.rjust(width)
                    for name, cell, width in zip(COLUMNS, cells, widths, strict=True)
                )
                print(row.rstrip())
        print("\n".join([*remarks(census), ""]), flush=True)


class LiveView:
    """A table that fills the terminal, until q is pressed.

    :raises RichMissingError: it cannot.
    """

    def __init__(self) -> None:
        with rich_for("the live table"):
            from rich.console import Console
            from rich.live import Live
        self._live = Live(console=Console(highlight=False), screen=True, auto_refresh=False)
        self._keys = sys.stdin.fileno() if sys.stdin is not None and sys.stdin.isatty() else None
        self._settings: list[Any] = []
        self._next = time.monotonic()

    def __enter__(self) -> Self:
        if self._keys is not None:
            self._settings = termios.tcgetattr(self._keys)
            tty.setcbreak(self._keys)
        self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._live.stop()
        if self._keys is not None:
            termios.tcsetattr(self._keys, termios.TCSADRAIN, self._settings)

    def show(self, census: Census) -> None:
        from rich.console import Group
        from rich.table import Table
        from rich.text import Text

        width = self._live.console.width
        shown = [place for place, name in enumerate(COLUMNS) if width >= _WIDE.get(name, 0)]
        names = [COLUMNS[place] for place in shown]
        table = Table(
            box=None, header_style="reverse", expand="command" in names, padding=(0, 2, 0, 0)
        )
        for name in names:
            table.add_column(
                name,
                justify="left" if name in _LEFT else "right",
                no_wrap=True,
                overflow="ellipsis",
                max_width=40 if name == "broadcast" else None,
                ratio=1 if name == "command" else None,
            )
        for line in lines(census):
            table.add_row(*(Text(line.cells[place]) for place in shown), style=line.style)
        below = [Text(remark, style="yellow") for remark in remarks(census)]
        self._live.update(Group(Text(title(census)), table, *below), refresh=True)

    def ended(self, interval: float) -> bool:
        """Wait until the next look is due. True: q was pressed."""
        while (left := self._next - time.monotonic()) > 0:
            if self._keys is None:
                time.sleep(left)
            elif select.select([self._keys], [], [], left)[0]:
                key = os.read(self._keys, 1)
                if not key:
                    self._keys = None  # the terminal is gone
                elif key in b"qQ":
                    return True
        self._next = time.monotonic() + interval
        return False
