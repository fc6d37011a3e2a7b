"""CPU time per second of silence: what a wait costs while nothing happens.

    python benchmarks/idle_cost.py
    python benchmarks/idle_cost.py --subjects broadcast --loops asyncio --json idle.json

Each line is a fresh process with one wait that nobody ends, by every policy, in a program on asyncio, uvloop or trio,
or blocking; as a share of one core. The waits:

"broadcast": a reader to which nothing was sent yet.
"parked": a reader that took a message every 2 ms, until no more came; in a loop it has a doorbell by then.
"blocked": a writer whose ring is full, as its reader takes nothing. It should cost no more than a parked reader.
"notified", "word": a word whose writers notify, and one whose writers do not.

"asleep in" says where it was found at the end: in the loop's own poll, in the waiter thread, or in the thread that
blocks.
"""

from __future__ import annotations

import contextlib
import logging
import sys
import threading
import time
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING, Any

import anyio
from _measure import (
    Progress,
    introduce,
    parser,
    present_loops,
    write_json,
)

import aiospin
from aiospin._cli.bench.crew import Crew
from aiospin._cli.bench.loops import BLOCKING, LOOPS, run_on
from aiospin._cli.bench.numbers import row, share, spread

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

POLICIES = ("latency", "balanced", "powersave")
SUBJECTS = ("broadcast", "parked", "blocked", "notified", "word")
READERS = ("broadcast", "parked")
SETTLE = 0.2  # seconds of waiting that are not counted: threads start, the spin is spent
CAPACITY = 4096  # bytes of the ring: the smallest, which the writer that is to be blocked fills
MESSAGE = bytes(64)
TRAFFIC = 50  # messages that the reader took that is parked then
GAP = 2e-3  # seconds between two of them
WIDTHS = (10, 9, 10, 28, 14)


class Cost:
    """CPU time since the wait settled, over the time since then."""

    def __init__(self) -> None:
        self._began = time.perf_counter()
        self._cpu_began = time.process_time()

    def share(self) -> float:
        return (time.process_time() - self._cpu_began) / (time.perf_counter() - self._began)


@dataclass(frozen=True)
class Found:
    """What one run says."""

    cpu: float
    asleep_in: str


async def wait_async(
    subject: str, policy: aiospin.WaitPolicy, writer: aiospin.BroadcastWriter
) -> None:
    if subject in READERS:
        async with aiospin.BroadcastReader.attach(writer.handle, policy=policy) as reader:
            async for _ in reader:
                pass
    elif subject == "blocked":
        async with aiospin.BroadcastReader.attach(writer.handle):
            while True:
                await writer.send(MESSAGE)
    else:
        await aiospin.wait_for_flag(
            bytearray(8), aiospin.ne(0, dtype="u8"), notified=subject == "notified", policy=policy
        )


def wait_sync(
    subject: str, policy: aiospin.WaitPolicy, writer: aiospin.BroadcastWriter, seconds: float
) -> None:
    with contextlib.suppress(TimeoutError):
        if subject in READERS:
            with aiospin.BroadcastReader.attach(writer.handle, policy=policy) as reader:
                while True:
                    reader.receive_sync(seconds)
        elif subject == "blocked":
            with aiospin.BroadcastReader.attach(writer.handle):
                while True:
                    writer.send_sync(MESSAGE, seconds)
        else:
            aiospin.wait_for_flag_sync(
                bytearray(8),
                aiospin.ne(0, dtype="u8"),
                seconds,
                notified=subject == "notified",
                policy=policy,
            )


async def cost_async(
    subject: str, policy: aiospin.WaitPolicy, writer: aiospin.BroadcastWriter, seconds: float
) -> Found:
    async with anyio.create_task_group() as group:
        group.start_soon(wait_async, subject, policy, writer)
        for _ in range(TRAFFIC if subject == "parked" else 0):
            await anyio.sleep(GAP)
            writer.send_nowait(MESSAGE)
        await anyio.sleep(SETTLE)
        cost = Cost()
        await anyio.sleep(seconds)
        found = Found(
            cost.share(), "waiter thread" if aiospin.statistics().live_tickets else "poll"
        )
        group.cancel_scope.cancel()
    return found


def cost_sync(
    subject: str, policy: aiospin.WaitPolicy, writer: aiospin.BroadcastWriter, seconds: float
) -> Found:
    arguments = (subject, policy, writer, seconds + 2 * SETTLE)
    thread = threading.Thread(target=wait_sync, args=arguments)
    thread.start()
    for _ in range(TRAFFIC if subject == "parked" else 0):
        time.sleep(GAP)
        writer.send_nowait(MESSAGE)
    time.sleep(SETTLE)
    cost = Cost()
    time.sleep(seconds)
    found = Found(cost.share(), "own thread")
    thread.join()
    return found


def idle(control: Connection, loop: str, policy: str, subject: str, seconds: float) -> None:
    preset: aiospin.WaitPolicy = getattr(aiospin.WaitPolicy, policy)()
    logging.getLogger("aiospin").setLevel(logging.ERROR)  # a blocked writer says whom it waits for
    with aiospin.BroadcastWriter.create(capacity=CAPACITY, policy=preset) as writer:
        if loop == BLOCKING:
            control.send(cost_sync(subject, preset, writer, seconds))
        else:
            control.send(run_on(loop, cost_async, subject, preset, writer, seconds))


def measure(loop: str, policy: str, subject: str, seconds: float) -> Found:
    with Crew() as crew:
        found: Found = crew.hear(crew.start(idle, loop, policy, subject, seconds), seconds)
    return found


def main() -> int:
    command_line = parser("CPU time per second of silence.", seconds=2.0, runs=3)
    loops = [*LOOPS, BLOCKING]
    command_line.add_argument("--loops", nargs="+", choices=loops, default=loops)
    command_line.add_argument("--policies", nargs="+", choices=POLICIES, default=list(POLICIES))
    command_line.add_argument("--subjects", nargs="+", choices=SUBJECTS, default=list(SUBJECTS))
    arguments = command_line.parse_args()
    introduce(arguments, "the median (smallest to largest)")
    loops = present_loops(arguments.loops)
    print("\n" + row(["wait", "loop", "policy", "CPU", "asleep in"], WIDTHS))
    lines = list(product(arguments.subjects, loops, arguments.policies))
    progress = Progress(len(lines) * arguments.runs)
    results: list[dict[str, Any]] = []
    for subject, loop, policy in lines:
        runs = []
        for _ in range(arguments.runs):
            progress.step(f"{subject}, {loop}, {policy}")
            runs.append(measure(loop, policy, subject, arguments.seconds))
        progress.clear()
        cpu = [run.cpu for run in runs]
        places = ", ".join(sorted({run.asleep_in for run in runs}))
        print(row([subject, loop, policy, spread(cpu, share), places], WIDTHS), flush=True)
        results.append(
            {"subject": subject, "loop": loop, "policy": policy, "cpu": cpu, "asleep_in": places}
        )
    write_json(arguments, results)
    return 0


if __name__ == "__main__":
    sys.exit(main())
