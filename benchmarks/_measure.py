"""What the benchmarks have in common and ``aiospin bench`` has not: their command lines, and their JSON.

What measures is shared with it and lies in aiospin/_cli/bench: fresh processes, event loops, when messages are sent,
and how numbers are shown.

A number here is that of a process that has done nothing else before: what a process learned, allocated or warmed up
in one measurement would be part of the next. Every number is taken several times and shown with its spread, which on a
shared or virtual machine says how far to trust it.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from dataclasses import asdict
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aiospin._cli.bench.loops import missing
from aiospin._cli.bench.machine import describe, machine
from aiospin._cli.bench.numbers import Latency, row

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


def present_loops(names: Sequence[str]) -> list[str]:
    """Those that are installed here, if they need to be; says why of the others. What is no loop is always here."""
    reasons = {name: missing(name) for name in names}
    for name, reason in reasons.items():
        if reason is not None:
            print(f"  {name}: left out: {reason}", flush=True)
    return [name for name, reason in reasons.items() if reason is None]


def meeting_folder() -> tempfile.TemporaryDirectory[str]:
    """Where processes find each other, in memory: a file there that they map costs no writing to a disk."""
    return tempfile.TemporaryDirectory(prefix="bench-", dir="/dev/shm")


def plus_minus(values: Sequence[float]) -> float:
    """Half the distance between the smallest and the largest of them, as a share of the median."""
    return (max(values) - min(values)) / 2 / statistics.median(values)


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


def introduce(arguments: argparse.Namespace, shown: str) -> None:
    """Say, above the table, what it was measured on and how, and what is shown of several runs."""
    runs = "1 run" if arguments.runs == 1 else f"{arguments.runs} runs"
    print(
        f"{describe(machine())}\n"
        f"Each number is {shown} of {runs} of {arguments.seconds:g} s, each in fresh processes.",
        flush=True,
    )


def write_json(arguments: argparse.Namespace, results: list[dict[str, Any]]) -> None:
    """Write what was measured, and on what, to the file that the command line names."""
    if arguments.json:
        settings = {name: value for name, value in vars(arguments).items() if name != "json"}
        found = {"machine": asdict(machine()), "settings": settings, "results": results}
        Path(arguments.json).write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


def measure_latencies(
    arguments: argparse.Namespace, measure: Callable[[str, str, float, float], Latency]
) -> None:
    """The table, and the JSON, of what is measured for each of the command line's periods (ms), loops and policies.

    :param measure: one run: loop, policy, period and length in seconds.
    """
    introduce(arguments, "the median (smallest to largest)")
    lines = list(product(arguments.periods, present_loops(arguments.loops), arguments.policies))
    widths = (9, 10, 8, *Latency.WIDTHS)
    print("\n" + row(["loop", "policy", "period", *Latency.HEADS], widths))
    progress = Progress(len(lines) * arguments.runs)
    results: list[dict[str, Any]] = []
    for period, loop, policy in lines:
        runs = []
        for _ in range(arguments.runs):
            progress.step(f"{period:g} ms, {loop}, {policy}")
            runs.append(measure(loop, policy, period / 1e3, arguments.seconds))
        progress.clear()
        print(row([loop, policy, f"{period:g} ms", *Latency.cells(runs)], widths), flush=True)
        shown = [asdict(run) for run in runs]
        results.append({"loop": loop, "policy": policy, "period_ms": period, "runs": shown})
    write_json(arguments, results)


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
