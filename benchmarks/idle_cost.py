"""CPU time per second of silence: what a wait costs while nothing happens.

    python benchmarks/idle_cost.py
    python benchmarks/idle_cost.py --subjects broadcast --loops asyncio --json idle.json

Each line is a fresh process with one wait that nobody ends: a reader of a broadcast, a word whose writers notify, or
a word whose writers do not, by every policy, in a program on asyncio, uvloop or trio, or blocking; as a share of one
core.
"""

from __future__ import annotations

import contextlib
import sys
import threading
import time
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
SUBJECTS = ("broadcast", "notified", "word")
SETTLE = 0.2  # seconds of waiting that are not counted: threads start, the spin is spent
WIDTHS = (10, 9, 10, 28)


class Cost:
    """CPU time since the wait settled, over the time since then."""

    def __init__(self) -> None:
        self._began = time.perf_counter()
        self._cpu_began = time.process_time()

    def share(self) -> float:
        return (time.process_time() - self._cpu_began) / (time.perf_counter() - self._began)


async def wait_async(
    subject: str, policy: aiospin.WaitPolicy, handle: aiospin.BroadcastHandle
) -> None:
    if subject == "broadcast":
        async with aiospin.BroadcastReader.attach(handle, policy=policy) as reader:
            await reader.receive()
    await aiospin.wait_for_flag(
        bytearray(8), aiospin.ne(0, dtype="u8"), notified=subject == "notified", policy=policy
    )


def wait_sync(
    subject: str, policy: aiospin.WaitPolicy, handle: aiospin.BroadcastHandle, seconds: float
) -> None:
    with contextlib.suppress(TimeoutError):
        if subject == "broadcast":
            with aiospin.BroadcastReader.attach(handle, policy=policy) as reader:
                reader.receive_sync(seconds)
        aiospin.wait_for_flag_sync(
            bytearray(8),
            aiospin.ne(0, dtype="u8"),
            seconds,
            notified=subject == "notified",
            policy=policy,
        )


async def cost_async(
    subject: str, policy: aiospin.WaitPolicy, handle: aiospin.BroadcastHandle, seconds: float
) -> float:
    async with anyio.create_task_group() as group:
        group.start_soon(wait_async, subject, policy, handle)
        await anyio.sleep(SETTLE)
        cost = Cost()
        await anyio.sleep(seconds)
        found = cost.share()
        group.cancel_scope.cancel()
    return found


def cost_sync(
    subject: str, policy: aiospin.WaitPolicy, handle: aiospin.BroadcastHandle, seconds: float
) -> float:
    arguments = (subject, policy, handle, seconds + 2 * SETTLE)
    thread = threading.Thread(target=wait_sync, args=arguments)
    thread.start()
    time.sleep(SETTLE)
    cost = Cost()
    time.sleep(seconds)
    found = cost.share()
    thread.join()
    return found


def idle(control: Connection, loop: str, policy: str, subject: str, seconds: float) -> None:
    preset: aiospin.WaitPolicy = getattr(aiospin.WaitPolicy, policy)()
    with aiospin.BroadcastWriter.create() as writer:
        if loop == BLOCKING:
            control.send(cost_sync(subject, preset, writer.handle, seconds))
        else:
            control.send(run_on(loop, cost_async, subject, preset, writer.handle, seconds))


def measure(loop: str, policy: str, subject: str, seconds: float) -> float:
    with Crew() as crew:
        found: float = crew.hear(crew.start(idle, loop, policy, subject, seconds), seconds)
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
    print("\n" + row(["wait", "loop", "policy", "CPU"], WIDTHS))
    lines = list(product(arguments.subjects, loops, arguments.policies))
    progress = Progress(len(lines) * arguments.runs)
    results: list[dict[str, Any]] = []
    for subject, loop, policy in lines:
        runs = []
        for _ in range(arguments.runs):
            progress.step(f"{subject}, {loop}, {policy}")
            runs.append(measure(loop, policy, subject, arguments.seconds))
        progress.clear()
        print(row([subject, loop, policy, spread(runs, share)], WIDTHS), flush=True)
        results.append({"subject": subject, "loop": loop, "policy": policy, "cpu": runs})
    write_json(arguments, results)
    return 0


if __name__ == "__main__":
    sys.exit(main())
