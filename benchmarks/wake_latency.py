"""From publish to the resumed coroutine: what a wait costs in time, and what it costs in CPU.

    python benchmarks/wake_latency.py                       every loop, policy and pace
    python benchmarks/wake_latency.py --loops asyncio --policies balanced --periods 1 --json wake.json
    python benchmarks/wake_latency.py --writer c --periods 0.1      needs a C compiler ($CC, or cc)

A writer process publishes 64 bytes at a steady pace; a reader process takes the time at which its task is
resumed, less that of publication (both CLOCK_MONOTONIC, both on one machine). CPU is that of the reader, its waiter
thread included, as a share of one core. The writer in Python spins before it sends, so it is warm; the one in C,
examples/engine.c, sleeps between two messages. peers.py has a writer in Python that sleeps, and what else a program
can use.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from _measure import measure_latencies, meeting_folder, parser

import aiospin
from aiospin._cli.bench.crew import Crew
from aiospin._cli.bench.loops import LOOPS, run_on
from aiospin._cli.bench.numbers import Latency

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

ROOT = Path(__file__).resolve().parent.parent
POLICIES = ("latency", "balanced", "powersave")
WARM_UP = 50  # messages at the start of each run that are not counted


def writer(control: Connection, period: float, count: int) -> None:
    with aiospin.BroadcastWriter.create() as broadcast:
        control.send(broadcast.handle)
        broadcast.wait_for_readers_sync(1, 30)
        due = time.perf_counter()
        for _ in range(count):
            due += period
            while (left := due - time.perf_counter()) > 0:
                # Sleeps to 100 us before, as a sleep overshoots by about 60, and spins the rest.
                if left > 200e-6:
                    time.sleep(left - 100e-6)
            broadcast.send_sync(b"x" * 64)


def engine(control: Connection, program: str, period: float, count: int) -> None:
    name = Path(program).parent.name
    steps = "--steps", str(count), "--interval-us", str(round(period * 1e6))
    with subprocess.Popen([program, name, *steps], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        if process.stdout.readline():  # it has made the broadcast
            control.send(aiospin.BroadcastHandle(name))
        process.communicate()
    if process.returncode:
        raise RuntimeError(f"the engine ended with status {process.returncode}")


def reader(control: Connection, loop: str, policy: str) -> None:
    preset: aiospin.WaitPolicy = getattr(aiospin.WaitPolicy, policy)()
    control.send(run_on(loop, receive, control.recv(), preset))


async def receive(handle: aiospin.BroadcastHandle, policy: aiospin.WaitPolicy) -> Latency:
    taken: list[int] = []
    async with aiospin.BroadcastReader.attach(handle, policy=policy) as broadcast:
        began, cpu_began = time.perf_counter(), time.process_time()
        async for _ in broadcast:
            taken.append(time.monotonic_ns() - broadcast.published_ns)  # noqa: PERF401
        cpu = (time.process_time() - cpu_began) / (time.perf_counter() - began)
    return Latency.of(taken[WARM_UP:], cpu)


def measure(program: str | None, loop: str, policy: str, period: float, seconds: float) -> Latency:
    """One run, in two fresh processes.

    :param program: the compiled engine, or None for the writer in Python.
    """
    count = WARM_UP + max(int(seconds / period), 100)
    with Crew() as crew:
        sends, where = (writer, ()) if program is None else (engine, (program,))
        sender = crew.start(sends, *where, period, count)
        receiver = crew.start(reader, loop, policy)
        receiver.control.send(crew.hear(sender))
        found: Latency = crew.hear(receiver, count * period)
    return found


def main() -> int:
    command_line = parser("Publish to resumed coroutine.", seconds=2.0, runs=5)
    command_line.add_argument("--loops", nargs="+", choices=LOOPS, default=list(LOOPS))
    command_line.add_argument("--policies", nargs="+", choices=POLICIES, default=list(POLICIES))
    command_line.add_argument(
        "--periods", nargs="+", type=float, default=[0.1, 1, 10], help="ms between two messages"
    )
    command_line.add_argument("--writer", choices=("python", "c"), default="python")
    arguments = command_line.parse_args()
    with meeting_folder() as folder:
        program = compiled(folder) if arguments.writer == "c" else None
        measure_latencies(arguments, partial(measure, program))
    return 0


def compiled(folder: str) -> str:
    """The engine of the examples, in a folder whose name is that of its broadcast."""
    program = f"{folder}/engine"
    compiler = shlex.split(os.environ.get("CC", "cc"))
    options = "-std=gnu11", "-O2", f"-I{aiospin.get_include()}"
    source = str(ROOT / "examples" / "engine.c")
    subprocess.run([*compiler, *options, source, "-o", program], check=True)
    return program


if __name__ == "__main__":
    sys.exit(main())
