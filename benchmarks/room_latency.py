"""From a reader's release to the writer that goes on: what waiting for room costs in time and in CPU.

    python benchmarks/room_latency.py                       every loop, policy and pace
    python benchmarks/room_latency.py --loops blocking --policies balanced --periods 7 --json room.json

A reader process takes a message at a steady pace, from a ring that is always full: so each makes room for one more, and
the writer waits for it. The reader takes the time right before it releases, the writer when its send returns (both
CLOCK_MONOTONIC, both on one machine), so the send itself is part of it. The reader sleeps in between, and its own cold
start is part of it too. CPU is that of the writer's process, its waiter thread included, as a share of one core.

"spin" is the latency that a core for the writer alone would buy; "blocking" is send_sync() in a plain thread.
"""

from __future__ import annotations

import mmap
import sys
import time
from typing import TYPE_CHECKING

from _measure import measure_latencies, meeting_folder, parser

import aiospin
from aiospin._cli.bench.arrivals import Due
from aiospin._cli.bench.crew import Crew
from aiospin._cli.bench.loops import BLOCKING, LOOPS, run_on
from aiospin._cli.bench.numbers import Latency
from aiospin._cli.bench.pacing import paced, sleep_exactly

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

POLICIES = {
    "spin": aiospin.WaitPolicy(max_spin=3600, predict=False),
    "balanced": aiospin.WaitPolicy.balanced(),
    "powersave": aiospin.WaitPolicy.powersave(),
}
CAPACITY = 4096  # bytes of the ring, the smallest
SIZE = 992  # bytes of a message: with its header a quarter of that, so that each that goes makes room for one
WARM_UP = 50  # sends at the start of each run that are not counted


def clock(path: str) -> memoryview[int]:
    """The word in which the reader says when it released last."""
    with open(path, "r+b") as file:
        return memoryview(mmap.mmap(file.fileno(), mmap.PAGESIZE)).cast("Q")


def reader(control: Connection, path: str, period: float, count: int) -> None:
    sleep_exactly()
    released_ns = clock(path)
    with aiospin.BroadcastReader.attach(control.recv()) as broadcast:
        control.send("attached")
        broadcast.receive_sync(30)
        for _ in paced([Due(period)] * count):
            released_ns[0] = time.monotonic_ns()
            broadcast.receive_sync(30)
        control.recv()  # the writer is done


class Sends:
    """Latencies of the writer's sends, and its CPU."""

    def __init__(self, path: str) -> None:
        self._released_ns = clock(path)
        self._taken: list[int] = []
        self._began = self._cpu_began = 0

    def sent(self) -> None:
        self._taken.append(time.monotonic_ns() - self._released_ns[0])
        if len(self._taken) == WARM_UP:
            self._began, self._cpu_began = time.monotonic_ns(), time.process_time_ns()

    def latency(self) -> Latency:
        cpu = (time.process_time_ns() - self._cpu_began) / (time.monotonic_ns() - self._began)
        return Latency.of(self._taken[WARM_UP:], cpu)


def writer(control: Connection, path: str, loop: str, policy: str, count: int) -> None:
    message = bytes(SIZE)
    with aiospin.BroadcastWriter.create(capacity=CAPACITY, policy=POLICIES[policy]) as broadcast:
        control.send(broadcast.handle)
        broadcast.wait_for_readers_sync(1, 30)
        try:
            while True:
                broadcast.send_nowait(message)
        except aiospin.WouldBlock:
            pass
        found = (
            send_sync(broadcast, message, path, count)
            if loop == BLOCKING
            else run_on(loop, send, broadcast, message, path, count)
        )
    control.send(found)


def send_sync(broadcast: aiospin.BroadcastWriter, message: bytes, path: str, count: int) -> Latency:
    sends = Sends(path)
    for _ in range(count):
        broadcast.send_sync(message)
        sends.sent()
    return sends.latency()


async def send(
    broadcast: aiospin.BroadcastWriter, message: bytes, path: str, count: int
) -> Latency:
    sends = Sends(path)
    for _ in range(count):
        await broadcast.send(message)
        sends.sent()
    return sends.latency()


def measure(loop: str, policy: str, period: float, seconds: float) -> Latency:
    """One run, in two fresh processes."""
    count = WARM_UP + max(int(seconds / period), 100)
    with meeting_folder() as folder, Crew() as crew:
        path = f"{folder}/clock"
        with open(path, "wb") as file:
            file.truncate(mmap.PAGESIZE)
        sender = crew.start(writer, path, loop, policy, count)
        receiver = crew.start(reader, path, period, count)
        receiver.control.send(crew.hear(sender))
        crew.hear(receiver)
        found: Latency = crew.hear(sender, count * period)
        receiver.control.send("the writer is done")
    return found


def main() -> int:
    command_line = parser("Release to resumed writer.", seconds=2.0, runs=5)
    loops = (*LOOPS, BLOCKING)
    command_line.add_argument("--loops", nargs="+", choices=loops, default=list(loops))
    command_line.add_argument("--policies", nargs="+", choices=POLICIES, default=list(POLICIES))
    command_line.add_argument(
        "--periods", nargs="+", type=float, default=[1, 10], help="ms between two releases"
    )
    arguments = command_line.parse_args()
    measure_latencies(arguments, measure)
    return 0


if __name__ == "__main__":
    sys.exit(main())
