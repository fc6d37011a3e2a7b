"""Does a wait hold up the other tasks of its event loop? How late a task is that sleeps beside it.

    python benchmarks/loop_health.py
    python benchmarks/loop_health.py --waits aiospin eventfd --loops uvloop --period 1 --runs 5 --json health.json
    python benchmarks/loop_health.py --timer exact

A task of the reader's process does nothing but ``await asyncio.sleep(0.001)``, over and over; it is late by the time
from 1 ms after the call to where it goes on. In the same loop another task takes every message that comes. The writer,
a process of its own, sends in every line alike; in the line "nothing" nobody takes the messages. Each of the others
is divided by that one of the same round, so that what else the machine did is in both; "nothing again" is that once
more, and shows what such a ratio is worth here. The aim is a ratio of 1.10 or less, at p50 and at p99, for the default
policy.

The loops round their timers to whole milliseconds, and do so again after each event: when a message comes 0.3 ms into
the sleep, asyncio polls for another whole one, and the sleep is 0.3 ms late whoever took the message and however. At
one message in nine sleeps that alone decides p99: compare with "eventfd". uvloop's, of a loop that is awake anyhow, may
even end early, which counts as negative. With "--timer exact" the task awaits a timerfd in the loop's poll instead, so
that what is left is the time for which the others had the loop.

CPU is that of the reader's process, sleeps and messages together, in seconds per second.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
import statistics
import sys
import time
from dataclasses import asdict, dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from _measure import (
    Progress,
    introduce,
    meeting_folder,
    parser,
    present_loops,
    write_json,
)
from _transports import TRANSPORTS, present

from aiospin._cli.bench.arrivals import Due
from aiospin._cli.bench.crew import Crew
from aiospin._cli.bench.loops import run_on
from aiospin._cli.bench.numbers import Latency, microseconds, row, share, spread
from aiospin._cli.bench.pacing import paced, sleep_exactly
from aiospin._core import core

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator
    from multiprocessing.connection import Connection

LOOPS = ("asyncio", "uvloop")
TIMERS = ("loop", "exact")
NOTHING = "nothing"  # what the other lines are compared with
AGAIN = "nothing again"
PEERS = ("aiospin", "aiospin-latency", "aiospin-powersave", "eventfd")
SLEEP_NS = 1_000_000
AIM = 1.10
SIZE = 64  # bytes of a message, which begins with its sequence number
WARM_UP = 50  # messages, and the sleeps beside them, that are not counted: a policy that learns has learned
SPARE = 0.5  # seconds that the writer goes on for, so that it does not end before the sleeps do


@dataclass(frozen=True)
class Health:
    """What one run says."""

    sleeps: int
    messages: int
    p50_us: float
    p99_us: float
    cpu: float


# ---- the processes ----


def writer(control: Connection, peer: str, place: Any, messages: list[Due]) -> None:
    sleep_exactly()
    with TRANSPORTS[peer].writer(place, 1, SIZE) as end:
        control.send("open")
        control.recv()  # the reader is there
        for sequence in paced(messages):
            end.send(sequence.to_bytes(8, "little") + bytes(SIZE - 8))
        control.recv()  # the reader is done


def reader(
    control: Connection,
    peer: str | None,
    place: Any,
    loop: str,
    timer: str,
    period: float,
    seconds: float,
) -> None:
    control.recv()  # the writer is open
    control.send(run_on(loop, sleep_beside, control, peer, place, timer, period, seconds))


async def sleep_beside(
    control: Connection, peer: str | None, place: Any, timer: str, period: float, seconds: float
) -> Health:
    """:param peer: how messages are awaited; None: not at all."""
    messages = 0

    async def take_all() -> None:
        nonlocal messages
        if peer is None:
            control.send("here")
            return
        async with TRANSPORTS[peer].async_reader(place, SIZE) as end:
            control.send("attached")
            while True:
                sequence = int.from_bytes((await end.receive())[:8], "little")
                if sequence != messages:
                    raise RuntimeError(f"message {messages} came as number {sequence}")
                messages += 1

    taking = asyncio.create_task(take_all())
    with sleep_of(timer) as sleep:
        await lateness(sleep, WARM_UP * period)
        warm_up, began, cpu_began = messages, time.monotonic_ns(), time.process_time_ns()
        late = await lateness(sleep, seconds)
    cpu = (time.process_time_ns() - cpu_began) / (time.monotonic_ns() - began)
    taken = messages - warm_up
    taking.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await taking
    if peer is not None and taken < 0.5 * seconds / period:
        raise RuntimeError(f"no more than {taken} messages came in {seconds:g} s")
    found = Latency.of(late, cpu)
    return Health(found.messages, taken, found.p50_us, found.p99_us, cpu)


@contextlib.contextmanager
def sleep_of(timer: str) -> Iterator[Callable[[], Awaitable[None]]]:
    """What sleeps for SLEEP_NS."""
    if timer == "loop":
        yield partial(asyncio.sleep, SLEEP_NS / 1e9)
        return
    loop = asyncio.get_running_loop()
    fd = core.timer_open()
    over = asyncio.Event()

    def ring() -> None:
        core.timer_arm(fd, 0)
        over.set()

    async def exactly() -> None:
        over.clear()
        core.timer_arm(fd, core.now_ns() + SLEEP_NS)
        await over.wait()

    loop.add_reader(fd, ring)
    try:
        yield exactly
    finally:
        loop.remove_reader(fd)
        os.close(fd)


async def lateness(sleep: Callable[[], Awaitable[None]], seconds: float) -> list[int]:
    """Nanoseconds by which each sleep of a millisecond ended late."""
    late = []
    now = time.monotonic_ns()
    end = now + int(seconds * 1e9)
    while now < end:
        due = time.monotonic_ns() + SLEEP_NS
        await sleep()
        now = time.monotonic_ns()
        late.append(now - due)
    return late


# ---- measuring ----


def measure(wait: str, loop: str, timer: str, period: float, seconds: float) -> Health:
    """One run, in fresh processes."""
    peer = None if wait in (NOTHING, AGAIN) else wait
    writes = peer or PEERS[0]
    count = math.ceil((seconds + SPARE) / period) + WARM_UP
    with meeting_folder() as folder, Crew() as crew:
        ours, (theirs,) = TRANSPORTS[writes].meet(folder, 1)
        sender = crew.start(writer, writes, ours, [Due(period)] * count)
        receiver = crew.start(reader, peer, theirs, loop, timer, period, seconds)
        crew.bring_together(sender, [receiver])
        found: Health = crew.hear(receiver, WARM_UP * period + seconds)
        sender.control.send("the reader is done")
    return found


# ---- the table ----

WIDTHS = (18, 22, 22, 22, 20, 20, 8)
HEADS = ("p50 us late", "p99 us late", "reader CPU", f"p50/{NOTHING}", f"p99/{NOTHING}", "aim")


def show(found: dict[str, list[Health]]) -> None:
    """The part of the table for one event loop."""
    print(row(["", *HEADS], WIDTHS))
    nothing = found[NOTHING]
    for wait, runs in found.items():
        cells = [
            spread([run.p50_us for run in runs], microseconds),
            spread([run.p99_us for run in runs], microseconds),
            spread([run.cpu for run in runs], share),
        ]
        if wait == NOTHING:
            compared = ["-"] * 3
        else:
            pairs = list(zip(runs, nothing, strict=True))
            p50 = [run.p50_us / it.p50_us for run, it in pairs]
            p99 = [run.p99_us / it.p99_us for run, it in pairs]
            kept = statistics.median(p50) <= AIM and statistics.median(p99) <= AIM
            compared = [spread(p50, plain), spread(p99, plain), "kept" if kept else "missed"]
        print(row([wait, *cells, *compared], WIDTHS), flush=True)


def plain(value: float) -> str:
    return f"{value:.2f}"


def main() -> int:
    command_line = parser(__doc__.partition("\n")[0], seconds=5.0, runs=5)
    for name, choices, text in (
        ("--waits", PEERS, "what is awaited (default: all)"),
        ("--loops", LOOPS, "of the reader (default: both)"),
    ):
        command_line.add_argument(
            name, nargs="+", choices=choices, default=list(choices), help=text
        )
    command_line.add_argument(
        "--period", type=float, default=10.0, help="ms between two messages (default: %(default)g)"
    )
    command_line.add_argument(
        "--timer", choices=TIMERS, default=TIMERS[0], help="of the sleeps (default: %(default)s)"
    )
    arguments = command_line.parse_args()
    if not arguments.period > 0:
        command_line.error("the period must be more than 0 ms")
    introduce(arguments, "the median (smallest to largest)")
    timer = {"loop": "asyncio.sleep()", "exact": "a timerfd"}[arguments.timer]
    print(f"A message of {SIZE} bytes every {arguments.period:g} ms; sleeps are those of {timer}.")
    waits = [NOTHING, *present(arguments.waits), AGAIN]
    loops = present_loops(arguments.loops)
    progress = Progress(len(loops) * arguments.runs * len(waits))
    results = []
    for loop in loops:
        found: dict[str, list[Health]] = {wait: [] for wait in waits}
        for _ in range(arguments.runs):
            for (
                wait
            ) in waits:  # they take turns, so that what else the machine does meets all of them
                progress.step(f"{loop}: {wait}")
                period, seconds = arguments.period / 1e3, arguments.seconds
                found[wait].append(measure(wait, loop, arguments.timer, period, seconds))
        progress.clear()
        print(f"\n{loop}: {min(run.sleeps for run in found[NOTHING])} sleeps a run or more")
        show(found)
        results += [
            {"wait": wait, "loop": loop, "runs": [asdict(run) for run in runs]}
            for wait, runs in found.items()
        ]
    write_json(arguments, results)
    return 0


if __name__ == "__main__":
    sys.exit(main())
