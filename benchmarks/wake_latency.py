"""From publish to the resumed coroutine: what a wait costs in time, and what it costs in CPU.

    python benchmarks/wake_latency.py                       every loop, policy and pace
    python benchmarks/wake_latency.py --loops asyncio --policies balanced --periods 1 --json

A writer process publishes 64 bytes at a steady pace; a reader process takes the time at which its task is
resumed, less that of publication (both CLOCK_MONOTONIC, both on one machine). Every line is the median of
several runs, with the smallest and largest beside it: on a shared or virtual machine the spread says how far
to trust it. CPU is that of the reader, its waiter thread included, as a share of one core.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import statistics
import sys
import time
from typing import TYPE_CHECKING, Any

import anyio

import aiospin

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

LOOPS: dict[str, dict[str, Any]] = {
    "asyncio": {"backend": "asyncio"},
    "uvloop": {"backend": "asyncio", "backend_options": {"use_uvloop": True}},
    "trio": {"backend": "trio"},
}
POLICIES = ("latency", "balanced", "powersave")
WARM_UP = 50  # messages at the start of each run that are not counted
PERCENTILES = (50.0, 99.0, 99.9)
MEASURES = ("p50_us", "p99_us", "p99.9_us", "cpu")


def writer(pipe: Connection, period: float, count: int) -> None:
    with aiospin.BroadcastWriter.create() as broadcast:
        pipe.send(broadcast.handle)
        broadcast.wait_for_readers_sync(1, 30)
        due = time.perf_counter()
        for _ in range(count):
            due += period
            while (left := due - time.perf_counter()) > 0:
                # Sleeps to 100 us before, as a sleep overshoots by about 60, and spins the rest.
                if left > 200e-6:
                    time.sleep(left - 100e-6)
            broadcast.send_sync(b"x" * 64)


def reader(pipe: Connection, handle: aiospin.BroadcastHandle, loop: str, policy: str) -> None:
    preset: aiospin.WaitPolicy = getattr(aiospin.WaitPolicy, policy)()
    pipe.send(anyio.run(receive, handle, preset, **LOOPS[loop]))


async def receive(handle: aiospin.BroadcastHandle, policy: aiospin.WaitPolicy) -> dict[str, float]:
    taken: list[int] = []
    async with aiospin.BroadcastReader.attach(handle, policy=policy) as broadcast:
        began, cpu_began = time.perf_counter(), time.process_time()
        async for _ in broadcast:
            taken.append(time.monotonic_ns() - broadcast.published_ns)  # noqa: PERF401
        cpu = (time.process_time() - cpu_began) / (time.perf_counter() - began)
    taken = sorted(taken[WARM_UP:])
    found = {
        f"p{percent:g}_us": taken[min(int(len(taken) * percent / 100), len(taken) - 1)] / 1e3
        for percent in PERCENTILES
    }
    return found | {"cpu": cpu}


def measure(loop: str, policy: str, period: float, seconds: float) -> dict[str, float]:
    """One run, in two fresh processes."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    count = WARM_UP + max(int(seconds / period), 100)
    sender = context.Process(target=writer, args=(theirs, period, count), daemon=True)
    sender.start()
    handle = ours.recv()
    receiver = context.Process(target=reader, args=(theirs, handle, loop, policy), daemon=True)
    receiver.start()
    theirs.close()
    found: dict[str, float] = ours.recv()
    receiver.join()
    sender.join()
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description="Publish to resumed coroutine.")
    parser.add_argument("--loops", nargs="+", choices=list(LOOPS), default=list(LOOPS))
    parser.add_argument("--policies", nargs="+", choices=POLICIES, default=list(POLICIES))
    parser.add_argument(
        "--periods", nargs="+", type=float, default=[0.1, 1, 10], help="ms between two messages"
    )
    parser.add_argument("--seconds", type=float, default=2.0, help="of one run (default: 2)")
    parser.add_argument("--runs", type=int, default=5, help="of each (default: 5)")
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    arguments = parser.parse_args()
    if not arguments.json:
        print(
            f"waiting with {aiospin.capabilities().backend}; median (smallest to largest) of "
            f"{arguments.runs} runs of {arguments.seconds:g} s"
        )
        print(f"{'loop':<8}{'policy':<10}{'period':>8}", *(f"{name:>24}" for name in MEASURES))
    for period in arguments.periods:
        for loop in arguments.loops:
            for policy in arguments.policies:
                runs = [
                    measure(loop, policy, period / 1e3, arguments.seconds)
                    for _ in range(arguments.runs)
                ]
                show(loop, policy, period, runs, arguments.json)
    return 0


def show(
    loop: str, policy: str, period: float, runs: list[dict[str, float]], as_json: bool
) -> None:
    if as_json:
        row: dict[str, Any] = {"loop": loop, "policy": policy, "period_ms": period}
        row |= {name: [run[name] for run in runs] for name in MEASURES}
        print(json.dumps(row), flush=True)
        return
    cells = []
    for name in MEASURES:
        values = [run[name] * (100 if name == "cpu" else 1) for run in runs]
        unit = "%" if name == "cpu" else ""
        spread = f"({min(values):.1f} to {max(values):.1f})"
        cells.append(f"{statistics.median(values):.1f}{unit} {spread}")
    print(f"{loop:<8}{policy:<10}{period:>5g} ms", *(f"{cell:>24}" for cell in cells), flush=True)


if __name__ == "__main__":
    sys.exit(main())
