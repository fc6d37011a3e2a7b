"""Several broadcasts consumed in one task group, with timeouts and cancellation; on asyncio and on trio.

    python examples/anyio_taskgroup.py            on asyncio and then on trio
    python examples/anyio_taskgroup.py trio       on one of them

A process plays three instruments: "quick" publishes every millisecond, "steady" every 50, "broken" never. The
program follows all three for half a second. It notices which one is silent, and what it stops waiting for is given
back: leaving the task group detaches the readers, and no message is lost to a receive that was cancelled.
"""

from __future__ import annotations

import multiprocessing
import sys
import time
from typing import TYPE_CHECKING

import anyio

import aiospin

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

PERIODS = {"quick": 0.001, "steady": 0.050, "broken": None}  # seconds between two messages
SILENCE = 0.2  # seconds without a message after which an instrument is said to be broken
DURATION = 0.5  # seconds


def instruments(pipe: Connection) -> None:
    """The other process. Ends when it is told to."""
    writers = {name: aiospin.BroadcastWriter.create() for name in PERIODS}
    pipe.send({name: writer.handle for name, writer in writers.items()})
    due = {name: 0.0 for name, period in PERIODS.items() if period}
    while not pipe.poll(0.001):
        now = time.monotonic()
        for name in due:
            if now >= due[name]:
                writers[name].send_sync(b"%.6f" % now)
                due[name] = now + (PERIODS[name] or 0)
    for writer in writers.values():
        writer.close()


async def follow(name: str, handle: aiospin.BroadcastHandle, outcome: dict[str, str]) -> None:
    """Count the messages of one instrument, until it falls silent or is no longer of interest."""
    count = 0
    async with aiospin.BroadcastReader.attach(handle) as reader:
        try:
            while True:
                await reader.receive(timeout=SILENCE)
                count += 1
        except TimeoutError:
            outcome[name] = "silent"
        except anyio.get_cancelled_exc_class():
            outcome[name] = "lively" if count else "silent"
            raise


async def main(handles: dict[str, aiospin.BroadcastHandle]) -> dict[str, str]:
    outcome: dict[str, str] = {}
    with anyio.move_on_after(DURATION):
        async with anyio.create_task_group() as group:
            for name, handle in handles.items():
                group.start_soon(follow, name, handle, outcome)
    return outcome


def run(backend: str) -> bool:
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=instruments, args=(theirs,), daemon=True)
    process.start()
    outcome = anyio.run(main, ours.recv(), backend=backend)
    ours.send("enough")
    process.join()
    print(f"{backend}:", ", ".join(f"{name} is {outcome[name]}" for name in PERIODS))
    return outcome == {"quick": "lively", "steady": "lively", "broken": "silent"}


if __name__ == "__main__":
    results = [run(backend) for backend in sys.argv[1:] or ["asyncio", "trio"]]
    sys.exit(0 if all(results) else 1)
