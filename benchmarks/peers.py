"""From publish to the resumed coroutine, and at what price in CPU: aiospin beside what else a Python program can await.

    python benchmarks/peers.py                                   everything; an hour
    python benchmarks/peers.py --traffic 1ms 10ms --loops uvloop --peers aiospin eventfd
    python benchmarks/peers.py --traffic bursts --places same different --runs 5 --json peers.json

A writer process sends messages of 64 bytes, each with the time (CLOCK_MONOTONIC) right before its send; a reader
process, in an event loop, takes the time at which its task is resumed with the message. The writer sleeps in
between, without spinning, by the same code for every peer, so that its own cold start is part of each latency. CPU is
all that of the reader's process, its threads included, in seconds per second. Peers take turns, so that what else the
machine does meets all of them; compare lines within one part of the table. Of fewer than a thousand messages p99.9 is
the slowest.

Traffic: "0.1ms", "1ms", "10ms": steady. "7ms~5%": 7 ms and up to 5 % more or less. "poisson": exponential gaps of 7 ms
on average. "bursts": every 50 ms ten messages, 1 ms apart; the first of each burst is shown by itself. "silence": a
message after 5 s of nothing, and again; the CPU is that of the silence.
"""

from __future__ import annotations

import os
import random
import statistics
import struct
import sys
import time
from dataclasses import asdict, dataclass
from itertools import product
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

from aiospin._cli.bench.arrivals import WARM_UP, arrivals
from aiospin._cli.bench.crew import Crew
from aiospin._cli.bench.loops import run_on
from aiospin._cli.bench.numbers import Latency, row
from aiospin._cli.bench.pacing import paced, sleep_exactly
from aiospin._cli.bench.places import PLACES, cpus_of

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

    from aiospin._cli.bench.arrivals import Due

LOOPS = ("asyncio", "uvloop")
SIZE = 64  # bytes of a message
# At its beginning: a sequence number, and CLOCK_MONOTONIC ns before the send.
STAMP = struct.Struct("<QQ")
PADDING = bytes(SIZE - STAMP.size)
BASELINE = "eventfd"  # the peer that the others are compared with
TRAFFIC = ("0.1ms", "1ms", "10ms", "7ms~5%", "bursts", "poisson", "silence")


# ---- the processes ----


def writer(control: Connection, peer: str, place: Any, cpus: set[int], messages: list[Due]) -> None:
    os.sched_setaffinity(0, cpus)
    sleep_exactly()
    with TRANSPORTS[peer].writer(place, 1, SIZE) as end:
        control.send("open")
        control.recv()  # the reader has attached
        end.wait_for_readers()
        send = end.send
        for sequence in paced(messages):
            send(STAMP.pack(sequence, time.monotonic_ns()) + PADDING)
        control.recv()  # the reader has it all


def reader(
    control: Connection, peer: str, place: Any, cpus: set[int], loop: str, count: int
) -> None:
    os.sched_setaffinity(0, cpus)
    control.recv()  # the writer is open
    control.send(run_on(loop, receive, control, peer, place, count))


async def receive(
    control: Connection, peer: str, place: Any, count: int
) -> tuple[list[int], float]:
    """Nanoseconds from the send to here, of each message; CPU seconds per second after the warm-up."""
    latencies = []
    began = cpu_began = 0
    async with TRANSPORTS[peer].async_reader(place, SIZE) as end:
        control.send("attached")
        take = end.receive
        for due in range(count):
            message = await take()
            now = time.monotonic_ns()
            sequence, sent = STAMP.unpack_from(message)
            if sequence != due:
                raise RuntimeError(f"message {due} came with the sequence number {sequence}")
            latencies.append(now - sent)
            if due == WARM_UP - 1:
                began, cpu_began = now, time.process_time_ns()
        cpu = (time.process_time_ns() - cpu_began) / (time.monotonic_ns() - began)
    return latencies, cpu


# ---- measuring ----


@dataclass(frozen=True)
class Line:
    """One line of the table."""

    peer: str
    loop: str
    place: str
    traffic: str
    group: str


def measure(
    peer: str, loop: str, place: str, traffic: str, messages: list[Due]
) -> dict[Line, Latency]:
    """One run, in fresh processes."""
    writer_cpus, reader_cpus = cpus_of(place)
    seconds = sum(message.gap for message in messages)
    with meeting_folder() as folder, Crew() as crew:
        ours, (theirs,) = TRANSPORTS[peer].meet(folder, 1)
        sender = crew.start(writer, peer, ours, writer_cpus, messages)
        receiver = crew.start(reader, peer, theirs, reader_cpus, loop, len(messages))
        crew.bring_together(sender, [receiver])
        latencies, cpu = crew.hear(receiver, seconds)
        sender.control.send("the reader has it all")
    groups: dict[str, list[int]] = {}
    for message, latency in list(zip(messages, latencies, strict=True))[WARM_UP:]:
        groups.setdefault(message.group, []).append(latency)
    return {
        Line(peer, loop, place, traffic, group): Latency.of(taken, cpu)
        for group, taken in groups.items()
    }


# ---- the table ----

WIDTHS = (18, *Latency.WIDTHS, 12)


def show(found: dict[Line, list[Latency]]) -> None:
    """The part of the table for one traffic, event loop and placement."""
    for group in dict.fromkeys(line.group for line in found):
        part = {line: runs for line, runs in found.items() if line.group == group}
        some = next(iter(part))
        title = ", ".join(filter(None, (some.traffic, group, some.loop, some.place)))
        count = statistics.median_low([run.messages for runs in part.values() for run in runs])
        print(f"\n{title}: {count} messages a run")
        print(row(["", *Latency.HEADS, f"p50/{BASELINE}"], WIDTHS))
        baseline = next((runs for line, runs in part.items() if line.peer == BASELINE), None)
        for line, runs in part.items():
            ratio = "-"
            if baseline:
                pairs = zip(runs, baseline, strict=True)
                ratio = f"{statistics.median(one.p50_us / it.p50_us for one, it in pairs):.2f}"
            print(row([line.peer, *Latency.cells(runs), ratio], WIDTHS), flush=True)


def main() -> int:
    command_line = parser(__doc__.partition("\n")[0], seconds=5.0, runs=3)
    for name, choices, default, text in (
        ("--traffic", TRAFFIC, list(TRAFFIC), "when messages are sent (default: all)"),
        ("--peers", TRANSPORTS, list(TRANSPORTS), "what is compared (default: all)"),
        ("--loops", LOOPS, list(LOOPS), "of the reader (default: both)"),
        ("--places", PLACES, ["unpinned"], "of writer and reader on the CPUs (default: unpinned)"),
    ):
        command_line.add_argument(name, nargs="+", choices=choices, default=default, help=text)
    arguments = command_line.parse_args()
    try:
        for place in arguments.places:
            cpus_of(place)
    except ValueError as error:
        command_line.error(str(error))
    introduce(arguments, "the median (smallest to largest)")
    peers, loops = present(arguments.peers), present_loops(arguments.loops)
    parts = list(product(arguments.traffic, loops, arguments.places))
    progress = Progress(len(parts) * arguments.runs * len(peers))
    results = []
    for traffic, loop, place in parts:
        found: dict[Line, list[Latency]] = {}
        for run in range(arguments.runs):
            # The same for every peer.
            messages = arrivals(traffic)(random.Random(run), arguments.seconds)
            for peer in peers:
                progress.step(f"{traffic}, {loop}, {place}: {peer}")
                for line, one in measure(peer, loop, place, traffic, messages).items():
                    found.setdefault(line, []).append(one)
        progress.clear()
        show(found)
        results += [
            {**asdict(line), "runs": [asdict(one) for one in runs]} for line, runs in found.items()
        ]
    write_json(arguments, results)
    return 0


if __name__ == "__main__":
    sys.exit(main())
