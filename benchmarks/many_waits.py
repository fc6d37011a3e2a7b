"""Many waits in one process: what each of 1 to 10,000 tasks waits for its own word, and what that costs.

    python benchmarks/many_waits.py
    python benchmarks/many_waits.py --waits 1 1000 --loops uvloop --kinds notified unnotified --json many.json

N tasks each await a word of 4 bytes of one shared mapping; a writer, another process, stores to one of the words every
millisecond, drawn by chance with a fixed seed, and each task that is resumed waits for the next store to its word. The
time is taken right before the store and where the task goes on (both CLOCK_MONOTONIC, both on one machine). The writer
sleeps in between, so that its own cold start is part of each latency. "notified": it calls Flag.notify() after the
store and the waits know that (notified=True); the kernel lets one thread sleep on 127 words, so waits beyond those
look every ``max_sleep`` of their policy. "unnotified": it only stores, and all of them look.

CPU is that of the reading process, its threads and its tasks' own Python together, in seconds per second. Threads are
those beside the main one, as the kernel counts them: one serves all waits. Of fewer than a thousand messages p99.9 is
the slowest.
"""

from __future__ import annotations

import asyncio
import mmap
import os
import random
import sys
import time
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

from _measure import (
    Progress,
    at_least_one,
    introduce,
    meeting_folder,
    parser,
    present_loops,
    write_json,
)

import aiospin
from aiospin._cli.bench.arrivals import WARM_UP, Due
from aiospin._cli.bench.crew import Crew
from aiospin._cli.bench.loops import run_on
from aiospin._cli.bench.numbers import Latency, row
from aiospin._cli.bench.pacing import paced, sleep_exactly

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

LOOPS = ("asyncio", "uvloop")
POLICIES = ("latency", "balanced", "powersave")
KINDS = ("notified", "unnotified")
WAITS = (1, 10, 100, 1_000, 10_000)
PERIOD = 1e-3  # seconds between two stores
DTYPE = "uint32"
WORD = 4  # bytes
STAMP = 8  # bytes: CLOCK_MONOTONIC ns before a store


@dataclass(frozen=True)
class Plan:
    """Which word is stored to with each message, which both processes know."""

    waits: int
    messages: int

    @property
    def words(self) -> list[int]:
        return random.Random(self.waits).choices(range(self.waits), k=self.messages)

    def map(self, place: str) -> tuple[memoryview, memoryview]:
        """The words, and behind them, on pages of their own, the stamps of the messages."""
        stamps_at = -(-self.waits * WORD // mmap.PAGESIZE) * mmap.PAGESIZE
        with Path(place).open("a+b") as file:
            file.truncate(stamps_at + self.messages * STAMP)
            memory = memoryview(mmap.mmap(file.fileno(), 0))
        return memory[: self.waits * WORD], memory[stamps_at:].cast("Q")


@dataclass(frozen=True)
class Found:
    """What one run says."""

    latency: Latency
    threads: int
    """Beside the main one."""


# ---- the processes ----


def writer(control: Connection, plan: Plan, place: str, notifies: bool) -> None:
    sleep_exactly()
    words, stamps = plan.map(place)
    flags = [aiospin.Flag(words, dtype=DTYPE, offset=at) for at in range(0, len(words), WORD)]
    counts = [0] * plan.waits
    order = plan.words
    control.send("open")
    control.recv()  # the reader waits for every word
    for message in paced([Due(PERIOD)] * plan.messages):
        word = order[message]
        counts[word] += 1
        flag, value = flags[word], counts[word]
        stamps[message] = time.monotonic_ns()
        flag.store(value)
        if notifies:
            flag.notify()
    control.recv()  # the reader has them all


def reader(
    control: Connection, plan: Plan, place: str, notified: bool, policy: str, loop: str
) -> None:
    control.recv()  # the writer is open
    preset: aiospin.WaitPolicy = getattr(aiospin.WaitPolicy, policy)()
    control.send(run_on(loop, wait_for_all, control, plan, place, notified, preset))


async def wait_for_all(
    control: Connection, plan: Plan, place: str, notified: bool, policy: aiospin.WaitPolicy
) -> Found:
    words, stamps = plan.map(place)
    messages_of: list[list[int]] = [[] for _ in range(plan.waits)]
    for message, word in enumerate(plan.words):
        messages_of[word].append(message)
    latencies = [0] * plan.messages
    resumed = 0
    began = cpu_began = 0
    cost: asyncio.Future[float] = asyncio.get_running_loop().create_future()

    async def wait_for_word(number: int) -> None:
        nonlocal resumed, began, cpu_began
        word = words[number * WORD : (number + 1) * WORD]
        messages = messages_of[number]
        seen = 0
        while True:
            value = await aiospin.wait_for_flag(
                word, aiospin.ge(seen + 1, dtype=DTYPE), notified=notified, policy=policy
            )
            now = time.monotonic_ns()
            # More than one, where the next came before the task was resumed.
            for message in messages[seen:value]:
                latencies[message] = now - stamps[message]
            resumed += value - seen
            seen = value
            if not began and resumed >= WARM_UP:
                began, cpu_began = now, time.process_time_ns()
            if resumed == plan.messages:
                spent = time.process_time_ns() - cpu_began
                cost.set_result(spent / (time.monotonic_ns() - began))

    tasks = [asyncio.create_task(wait_for_word(number)) for number in range(plan.waits)]
    await asyncio.sleep(0)  # each of them waits now
    control.send("waiting")
    ends: list[asyncio.Future[Any]] = [cost, *tasks]
    for end in (await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED))[0]:
        end.result()  # of a task only if it failed
    threads = len(os.listdir("/proc/self/task")) - 1
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
    return Found(Latency.of(latencies[WARM_UP:], cost.result()), threads)


# ---- measuring ----


def measure(waits: int, kind: str, policy: str, loop: str, seconds: float) -> Found:
    """One run, in fresh processes."""
    plan = Plan(waits, WARM_UP + max(round(seconds / PERIOD), 1))
    notified = kind == "notified"
    with meeting_folder() as folder, Crew() as crew:
        place = f"{folder}/words"
        sender = crew.start(writer, plan, place, notified)
        receiver = crew.start(reader, plan, place, notified, policy, loop)
        crew.bring_together(sender, [receiver])
        found: Found = crew.hear(receiver, plan.messages * PERIOD)
        sender.control.send("the reader has them all")
    return found


# ---- the table ----

WIDTHS = (8, *Latency.WIDTHS, 8)


def main() -> int:
    command_line = parser(__doc__.partition("\n")[0], seconds=5.0, runs=3)
    command_line.add_argument(
        "--waits",
        nargs="+",
        type=at_least_one,
        default=list(WAITS),
        help="concurrent ones (default: 1 to 10000)",
    )
    for name, choices, default, text in (
        ("--kinds", KINDS, ["notified"], "whether the writer notifies (default: notified)"),
        ("--policies", POLICIES, ["balanced"], "of the waits (default: balanced)"),
        ("--loops", LOOPS, list(LOOPS), "of the reading process (default: both)"),
    ):
        command_line.add_argument(name, nargs="+", choices=choices, default=default, help=text)
    arguments = command_line.parse_args()
    introduce(arguments, "the median (smallest to largest)")
    loops = present_loops(arguments.loops)
    parts = list(product(arguments.kinds, arguments.policies, loops))
    progress = Progress(len(parts) * len(arguments.waits) * arguments.runs)
    results: list[dict[str, Any]] = []
    for kind, policy, loop in parts:
        progress.clear()
        print(f"\n{kind}, {policy}, {loop}: a store every {PERIOD * 1e3:g} ms")
        print(row(["waits", *Latency.HEADS, "threads"], WIDTHS), flush=True)
        for waits in arguments.waits:
            runs = []
            for _ in range(arguments.runs):
                progress.step(f"{kind}, {policy}, {loop}: {waits}")
                runs.append(measure(waits, kind, policy, loop, arguments.seconds))
            progress.clear()
            threads = max(run.threads for run in runs)
            cells = Latency.cells([run.latency for run in runs])
            print(row([f"{waits:,}", *cells, f"{threads}"], WIDTHS), flush=True)
            shown = [{**asdict(run.latency), "threads": run.threads} for run in runs]
            results.append(
                {"waits": waits, "kind": kind, "policy": policy, "loop": loop, "runs": shown}
            )
    write_json(arguments, results)
    return 0


if __name__ == "__main__":
    sys.exit(main())
