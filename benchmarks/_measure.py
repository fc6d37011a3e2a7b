"""What the benchmarks have in common: event loops, fresh processes, spreads, tables and JSON.

A number here is that of a process that has done nothing else before: what a process learned, allocated or warmed up
in one measurement would be part of the next. Every number is taken several times and shown with its spread, which on a
shared or virtual machine says how far to trust it.
"""

from __future__ import annotations

import argparse
import importlib
import json
import multiprocessing
import os
import platform
import signal
import statistics
import sys
import tempfile
import time
import traceback
from collections import deque
from ctypes import CDLL
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import anyio

import aiospin

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Sequence
    from multiprocessing.context import SpawnProcess
    from types import TracebackType

    from typing_extensions import Self

LOOPS: dict[str, dict[str, Any]] = {
    "asyncio": {"backend": "asyncio"},
    "uvloop": {"backend": "asyncio", "backend_options": {"use_uvloop": True}},
    "trio": {"backend": "trio"},
}
PR_SET_PDEATHSIG = 1  # <linux/prctl.h>
PATIENCE = 60.0  # seconds without a word from a process, beyond what it was asked to take: it hangs


def present_loops(names: Sequence[str]) -> list[str]:
    """Those that are installed here, if they need to be; says why of the others. What is no loop is always here."""
    found = []
    for name in names:
        try:
            if name in LOOPS:
                importlib.import_module(name)
            found.append(name)
        except ImportError as error:
            print(f"  {name}: left out: {error}; pip install {name}", flush=True)
    return found


def run_on(loop: str, function: Callable[..., Awaitable[Any]], *args: Any) -> Any:
    """Run a coroutine function on the event loop of that name."""
    return anyio.run(function, *args, **LOOPS[loop])


# ---- fresh processes ----


def meeting_folder() -> tempfile.TemporaryDirectory[str]:
    """Where processes find each other, in memory: a file there that they map costs no writing to a disk."""
    return tempfile.TemporaryDirectory(prefix="bench-", dir="/dev/shm")


@dataclass
class _Failure:
    """What a process says before it ends by an exception."""

    traceback: str


@dataclass
class Hand:
    """A process of a crew, and what it said that was not asked for yet."""

    name: str
    process: SpawnProcess
    control: Connection
    said: deque[Any] = field(default_factory=deque)


class Crew:
    """The processes of one measurement. Where one of them fails, all are ended, and the error is raised here: a
    measurement never hangs because its other half died."""

    def __init__(self) -> None:
        self._context = multiprocessing.get_context("spawn")
        self._hands: list[Hand] = []

    def start(self, function: Callable[..., None], *args: Any) -> Hand:
        """Run ``function(control, *args)`` in a fresh process; ``control`` is its end of a connection to here."""
        ours, theirs = self._context.Pipe()
        process = self._context.Process(
            target=_work, args=(theirs, function, args), name=function.__name__, daemon=True
        )
        process.start()
        theirs.close()
        hand = Hand(function.__name__, process, ours)
        self._hands.append(hand)
        return hand

    def hear(self, hand: Hand, seconds: float = 0.0) -> Any:
        """The next thing that this process says, for which it may take so many seconds."""
        deadline = time.monotonic() + seconds + PATIENCE
        while not hand.said:
            talking = {other.control: other for other in self._hands if not other.control.closed}
            for control in wait(list(talking), deadline - time.monotonic()):
                self._listen(talking[control])  # type: ignore[index]
            if time.monotonic() >= deadline:
                raise RuntimeError(f"the {hand.name} process has said nothing for {PATIENCE:g} s")
        return hand.said.popleft()

    def bring_together(self, writer: Hand, readers: list[Hand]) -> None:
        """Let the readers attach once the writer is open, and the writer begin once they have."""
        self.hear(writer)
        for reader in readers:
            reader.control.send("the writer is open")
        for reader in readers:
            self.hear(reader)
        writer.control.send("the readers have attached")

    def _listen(self, hand: Hand) -> None:
        try:
            word = hand.control.recv()
        except (EOFError, ConnectionResetError):
            hand.control.close()
            hand.process.join()
            if hand.process.exitcode:
                code = hand.process.exitcode
                raise RuntimeError(f"the {hand.name} process ended with status {code}") from None
            return
        if isinstance(word, _Failure):
            raise RuntimeError(f"the {hand.name} process failed:\n{word.traceback}")
        hand.said.append(word)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for hand in self._hands:
            if kind is None:
                hand.process.join(PATIENCE)
            stuck = hand.process.exitcode is None
            if stuck:
                hand.process.kill()
                hand.process.join()
            hand.control.close()
            if stuck and kind is None:
                raise RuntimeError(f"the {hand.name} process did not end when it was done")


def _work(control: Connection, function: Callable[..., None], args: tuple[Any, ...]) -> None:
    # A benchmark that is killed leaves nobody behind who spins for ever.
    CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    try:
        function(control, *args)
    except BaseException:
        control.send(_Failure(traceback.format_exc()))


# ---- numbers ----


def spread(values: Sequence[float], form: Callable[[float], str]) -> str:
    """The median, and in brackets the smallest and largest, of one number taken several times."""
    return f"{form(statistics.median(values))} ({form(min(values))} to {form(max(values))})"


def _microseconds(value: float) -> str:
    return f"{value:.1f}" if value < 100 else f"{value:,.0f}"


def share(value: float) -> str:
    """Of one core."""
    return f"{value:.2%}" if value < 0.1 else f"{value:.1%}"


def plus_minus(values: Sequence[float]) -> float:
    """Half the distance between the smallest and the largest of them, as a share of the median."""
    return (max(values) - min(values)) / 2 / statistics.median(values)


def row(cells: Iterable[str], widths: Sequence[int]) -> str:
    """One line of a table: the first column to the left, the others to the right."""
    first, *rest = (
        f"{cell:>{width}}" if column else f"{cell:<{width}}"
        for column, (cell, width) in enumerate(zip(cells, widths, strict=True))
    )
    return " ".join([first, *rest]).rstrip()


@dataclass(frozen=True)
class Latency:
    """What one run says about the time from a publish to the resumed task, and about its price."""

    HEADS: ClassVar = ("p50 us", "p99 us", "p99.9 us", "reader CPU")
    WIDTHS: ClassVar = (24, 24, 24, 24)

    messages: int
    p50_us: float
    p99_us: float
    p999_us: float
    cpu: float
    """Seconds of the reader's process per second."""

    @classmethod
    def of(cls, taken_ns: Iterable[int], cpu: float) -> Latency:
        ordered = sorted(taken_ns)
        last = len(ordered) - 1
        p50, p99, p999 = (
            ordered[min(int(len(ordered) * part), last)] / 1e3 for part in (0.5, 0.99, 0.999)
        )
        return cls(len(ordered), p50, p99, p999, cpu)

    @staticmethod
    def cells(runs: Sequence[Latency]) -> list[str]:
        """Several runs, as cells of a table."""
        return [
            spread([run.p50_us for run in runs], _microseconds),
            spread([run.p99_us for run in runs], _microseconds),
            spread([run.p999_us for run in runs], _microseconds),
            spread([run.cpu for run in runs], share),
        ]


# ---- programs ----


def _positive(text: str) -> float:
    value = float(text)
    if not value > 0:  # also refuses NaN
        raise argparse.ArgumentTypeError(f"must be more than 0, not {text}")
    return value


def at_least_one(text: str) -> int:
    """A count, as the type of an option."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, not {text}")
    return value


def parser(description: str, seconds: float, runs: int) -> argparse.ArgumentParser:
    """A command line with what every benchmark understands."""
    found = argparse.ArgumentParser(description=description)
    found.add_argument(
        "--seconds", type=_positive, default=seconds, help="of one run (default: %(default)g)"
    )
    found.add_argument(
        "--runs", type=at_least_one, default=runs, help="of each (default: %(default)d)"
    )
    found.add_argument("--json", metavar="FILE", help="write every run's numbers there as well")
    return found


def machine() -> dict[str, Any]:
    """What the numbers depend on and cannot show."""
    return {
        "cpu": _cpu_model(),
        "cpus": len(os.sched_getaffinity(0)),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "aiospin": aiospin.__version__,
        "backend": aiospin.capabilities().backend,
    }


def introduce(arguments: argparse.Namespace, shown: str) -> None:
    """Say, above the table, what it was measured on and how, and what is shown of several runs."""
    here = machine()
    runs = "1 run" if arguments.runs == 1 else f"{arguments.runs} runs"
    print(
        f"{here['cpus']} CPUs of {here['cpu']}, Linux {here['kernel']}, Python {here['python']}, aiospin "
        f"{here['aiospin']} waiting with {here['backend']}.\n"
        f"Each number is {shown} of {runs} of {arguments.seconds:g} s, each in fresh processes.",
        flush=True,
    )


def write_json(arguments: argparse.Namespace, results: list[dict[str, Any]]) -> None:
    """Write what was measured, and on what, to the file that the command line names."""
    if arguments.json:
        settings = {name: value for name, value in vars(arguments).items() if name != "json"}
        found = {"machine": machine(), "settings": settings, "results": results}
        Path(arguments.json).write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


class Progress:
    """A line on the terminal that says how far a long measurement is; nothing where there is no terminal."""

    def __init__(self, total: int) -> None:
        self._total = total
        self._done = 0
        self._shown = sys.stderr.isatty()

    def step(self, what: str) -> None:
        self._done += 1
        if self._shown:
            print(f"\r\033[K{self._done}/{self._total} {what}", end="", file=sys.stderr, flush=True)

    def clear(self) -> None:
        """Before something else is printed."""
        if self._shown:
            print("\r\033[K", end="", file=sys.stderr, flush=True)


def _cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()  # kernels of other architectures name no model
