"""What the parent shows: a live table for people, lines for pipes and CI."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Final

import aiospin
from aiospin._cli.live import rich_for

if TYPE_CHECKING:
    from aiospin._cli.demo.parent import ReaderRow, Run

LINE_INTERVAL: Final = 1.0  # seconds between two lines

COLUMNS: Final = (
    "reader",
    "loop",
    "policy",
    "messages",
    "p50 µs",
    "p99 µs",
    "CPU %",
    "lag",
    "tick p99 ms",
)


def cells(row: ReaderRow, policy: str) -> tuple[str, ...]:
    """The columns of one reader."""
    state = row.state
    return (
        row.child.name.split()[0],
        row.loop,
        policy,
        f"{state.messages:,}",
        f"{state.latency_p50_ns / 1e3:.1f}",
        f"{state.latency_p99_ns / 1e3:.1f}",
        f"{state.cpu * 100:.1f}",
        f"{state.lag:,}",
        f"{state.late_p99_ns / 1e6:.2f}",
    )


def title(run: Run) -> str:
    pace = f"{run.rate:g} words/s" if run.rate else "as fast as they are read"
    return (
        f"aiospin {aiospin.__version__} demo: {run.text.source} ({len(run.text.words):,} words, "
        f"{run.text.nbytes:,} bytes), {pace}, {run.seconds:g} s, "
        f"waiting with {aiospin.capabilities().backend}"
    )


def progress(run: Run) -> str:
    return f"engine sent {run.sent.messages:,} words, {run.sent.nbytes:,} bytes"


def remarks(run: Run) -> list[str]:
    """What did not go as was meant, so far."""
    found = [f"reader {row.child.name}: {row.note}" for row in run.rows if row.note]
    found += [
        f"reader {row.child.name}: {row.child.failure}"
        for row in run.rows
        if row.child.failure is not None
    ]
    return found


def digests(run: Run) -> list[tuple[str, str, str]]:
    """Who, the SHA-256, and what follows from it."""
    found = [("engine", run.sent.digest or "-", f"{run.sent.messages:,} words sent")]
    for row in run.rows:
        same = row.state.digest is not None and row.state.digest == run.sent.digest
        found.append(
            (
                f"reader {row.child.name}",
                row.state.digest or "-",
                "the same" if same else "DIFFERENT" if row.state.digest else "never finished",
            )
        )
    return found


def verdict(run: Run) -> tuple[bool, list[str]]:
    failures = run.failures()
    if failures:
        return False, ["FAILED", *failures]
    early = ", ended early by Ctrl-C" if run.interrupted else ""
    good = (
        f"OK: {len(run.rows)} readers received exactly what was sent, "
        f"{run.sent.messages:,} words, {run.sent.nbytes:,} bytes{early}"
    )
    return True, [good]


class PlainView:
    """A line a second, without control characters."""

    def __init__(self) -> None:
        self._began = self._shown = time.monotonic()

    def begin(self, run: Run) -> None:
        print(title(run), flush=True)
        for remark in remarks(run):
            print(remark, flush=True)

    def update(self, run: Run) -> None:
        now = time.monotonic()
        if now - self._shown < LINE_INTERVAL:
            return
        self._shown = now
        readers = "".join(
            f" | {row.child.name}: {row.state.messages}"
            f" p50 {row.state.latency_p50_ns / 1e3:.0f} p99 {row.state.latency_p99_ns / 1e3:.0f} us"
            f" cpu {row.state.cpu * 100:.0f}% lag {row.state.lag}"
            for row in run.rows
        )
        print(f"{now - self._began:5.1f} s  sent {run.sent.messages}{readers}", flush=True)

    def end(self, run: Run) -> None:
        table = [COLUMNS, *(cells(row, run.policy) for row in run.rows)]
        widths = [max(map(len, column)) for column in zip(*table, strict=True)]
        for line in table:
            print("  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)))
        for remark in remarks(run):
            print(remark)
        for who, digest, outcome in digests(run):
            print(f"{who:<18} {digest} {outcome}")
        print("\n".join(verdict(run)[1]), flush=True)

    def close(self) -> None:
        pass


class RichView:
    """A table that changes in place.

    :raises RichMissingError: it cannot.
    """

    def __init__(self) -> None:
        with rich_for("the live table"):
            from rich.console import Console
            from rich.live import Live
        self._console = Console(highlight=False)
        self._live = Live(console=self._console, auto_refresh=False)

    def begin(self, run: Run) -> None:
        self._console.print(title(run))
        self._live.start()

    def update(self, run: Run) -> None:
        self._live.update(self._picture(run), refresh=True)

    def end(self, run: Run) -> None:
        from rich.table import Table
        from rich.text import Text

        if self._live.is_started:
            self._live.update(self._picture(run), refresh=True)
            self._live.stop()  # leaves the last picture above what follows
        table = Table("", "SHA-256 of all bytes", "", box=None)
        for who, digest, outcome in digests(run):
            table.add_row(who, digest, outcome)
        self._console.print(table)
        good, lines = verdict(run)
        for line in lines:
            self._console.print(Text(line, style="bold green" if good else "bold red"))

    def close(self) -> None:
        self._live.stop()

    def _picture(self, run: Run) -> Any:
        from rich.console import Group
        from rich.table import Table
        from rich.text import Text

        table = Table()
        for name in COLUMNS:
            table.add_column(name, justify="left" if name in COLUMNS[:3] else "right")
        for row in run.rows:
            table.add_row(*cells(row, run.policy), style="red" if row.child.failure else None)
        lines = [Text(remark, style="yellow") for remark in remarks(run)]
        return Group(table, progress(run), *lines)
