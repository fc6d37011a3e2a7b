"""CPU time per second of silence: what a wait costs while nothing happens.

    python benchmarks/idle_cost.py
    python benchmarks/idle_cost.py --json

Each line is a fresh process with one wait that nobody ends: a reader of a broadcast, a word whose writers notify, or
a word whose writers do not, by every policy, in a program on asyncio, uvloop or trio, or blocking. Median
of several runs, with the smallest and largest beside it, as a share of one core.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import multiprocessing
import statistics
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

import anyio

import aiospin

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

LOOPS: dict[str, dict[str, Any] | None] = {
    "asyncio": {"backend": "asyncio"},
    "uvloop": {"backend": "asyncio", "backend_options": {"use_uvloop": True}},
    "trio": {"backend": "trio"},
    "blocking": None,
}
POLICIES = ("latency", "balanced", "powersave")
SUBJECTS = ("broadcast", "notified", "word")
SETTLE = 0.2  # seconds of waiting that are not counted: threads start, the spin is spent


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
        share = cost.share()
        group.cancel_scope.cancel()
    return share


def cost_sync(
    subject: str, policy: aiospin.WaitPolicy, handle: aiospin.BroadcastHandle, seconds: float
) -> float:
    arguments = (subject, policy, handle, seconds + 2 * SETTLE)
    thread = threading.Thread(target=wait_sync, args=arguments)
    thread.start()
    time.sleep(SETTLE)
    cost = Cost()
    time.sleep(seconds)
    share = cost.share()
    thread.join()
    return share


def subject_process(pipe: Connection, loop: str, policy: str, subject: str, seconds: float) -> None:
    preset: aiospin.WaitPolicy = getattr(aiospin.WaitPolicy, policy)()
    options = LOOPS[loop]
    with aiospin.BroadcastWriter.create() as writer:
        if options is None:
            pipe.send(cost_sync(subject, preset, writer.handle, seconds))
        else:
            pipe.send(anyio.run(cost_async, subject, preset, writer.handle, seconds, **options))


def measure(loop: str, policy: str, subject: str, seconds: float) -> float:
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    arguments = (theirs, loop, policy, subject, seconds)
    process = context.Process(target=subject_process, args=arguments, daemon=True)
    process.start()
    theirs.close()
    found: float = ours.recv()
    process.join()
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description="CPU time per second of silence.")
    parser.add_argument("--loops", nargs="+", choices=list(LOOPS), default=list(LOOPS))
    parser.add_argument("--policies", nargs="+", choices=POLICIES, default=list(POLICIES))
    parser.add_argument("--subjects", nargs="+", choices=SUBJECTS, default=list(SUBJECTS))
    parser.add_argument("--seconds", type=float, default=2.0, help="of one run (default: 2)")
    parser.add_argument("--runs", type=int, default=3, help="of each (default: 3)")
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    arguments = parser.parse_args()
    for subject in arguments.subjects:
        for loop in arguments.loops:
            for policy in arguments.policies:
                runs = [
                    measure(loop, policy, subject, arguments.seconds) for _ in range(arguments.runs)
                ]
                if arguments.json:
                    row = {"subject": subject, "loop": loop, "policy": policy, "cpu": runs}
                    print(json.dumps(row), flush=True)
                    continue
                print(
                    f"{subject:<10} {loop:<9} {policy:<10} {statistics.median(runs):8.3%}"
                    f" ({min(runs):.3%} to {max(runs):.3%})",
                    flush=True,
                )
    return 0


if __name__ == "__main__":
    sys.exit(main())
