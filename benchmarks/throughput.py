"""How much goes through: messages and bytes a second, beside what else a Python program can use.

    python benchmarks/throughput.py                    every size, number of readers and loop; ten minutes
    python benchmarks/throughput.py --quick            a small form of it, under a minute
    python benchmarks/throughput.py --sizes 64 --readers 1 --loops uvloop --json throughput.json

One process sends for a while as fast as it can, the last message says how many there were, and every reader, each in
a process of its own, compares the sequence number of every message with the one that is due: what was lost, repeated
or out of order is an error and no number. The time is that from before the first send to the end of the slowest reader.
Every reader gets every message; a rate counts each message once.

The messages are made beforehand, with sequence numbers that begin again after a few, so that the time is that of the
transport. Sent one at a time each is a call, and an await in an event loop; in batches there are several in each call.
In place means that aiospin's writer and reader work in the ring itself (acquire_write, acquire_read): they
write and read the sequence number only, so the rate is what the queue costs, and a program that fills the
message and looks at all of it adds its own time to that. The last lines are copies by memcpy within one process, to
compare with: into one block, which stays in the cache, and into one after the other, as in a ring. --json also has
the CPU time that a message took the writer and each reader.
"""

from __future__ import annotations

import asyncio
import ctypes
import statistics
import sys
import time
from dataclasses import asdict, dataclass
from itertools import cycle
from typing import TYPE_CHECKING, Any

from _measure import (
    Progress,
    at_least_one,
    introduce,
    meeting_folder,
    parser,
    plus_minus,
    present_loops,
    write_json,
)
from _transports import TRANSPORTS, present
from _transports.transport import BACKLOG, BATCH, BATCH_BYTES, ONE

from aiospin._cli.bench.crew import Crew
from aiospin._cli.bench.loops import run_on
from aiospin._cli.bench.numbers import row

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

    from _transports.transport import ReaderEnd, WriterEnd

SYNC = "sync"
RUNTIMES = (SYNC, "asyncio", "uvloop")
PEERS = ("aiospin", "pyzmq", "unix", "pipe")
MEMCPY = "memcpy"
IN_CACHE, THROUGH_RING = "into one block", "through 16 MiB"
MIB = 1 << 20
SIZES = {64: "64 B", 4 << 10: "4 KiB", MIB: "1 MiB"}
# Messages that are made beforehand, and those of a batch: enough that a batch is worth it, few enough that they stay
# in the second-level cache (64 B, 4 KiB) or leave room for others in the ring (1 MiB).
MESSAGES = {64: 256, 4 << 10: 64, MIB: 4}
HEAD = 8  # bytes of the sequence number, at the beginning of each message
LAST = b"\xff" * HEAD  # in place of a sequence number; the count of messages follows


@dataclass(frozen=True)
class Cell:
    """One number of the table."""

    peer: str
    form: str
    runtime: str
    size: int
    readers: int

    @property
    def heads(self) -> list[bytes]:
        """The sequence numbers, until they begin again."""
        return [number.to_bytes(HEAD, "little") for number in range(MESSAGES[self.size])]

    def last(self, count: int) -> bytes:
        """The message that ends a run of so many."""
        return (LAST + count.to_bytes(HEAD, "little")).ljust(self.size, b"\0")


@dataclass(frozen=True)
class Run:
    """What one run of it says. The CPU time of a message does not depend on what else the machine does, as the rate
    does; the larger one bounds the rate, where every process has a core."""

    messages_per_s: float
    writer_cpu_ns: float
    """Of the writer's process, for each message."""
    reader_cpu_ns: float
    """Of a reader's process, for each message."""


@dataclass(frozen=True)
class Lap:
    """What one process says of its part in a run."""

    began_ns: int
    ended_ns: int
    cpu_ns: int
    count: int


class Stopwatch:
    """Begins with what is measured."""

    def __init__(self) -> None:
        self._began_ns, self._cpu_ns = time.monotonic_ns(), time.process_time_ns()

    def lap(self, count: int) -> Lap:
        cpu_ns = time.process_time_ns() - self._cpu_ns
        return Lap(self._began_ns, time.monotonic_ns(), cpu_ns, count)


def check_last(message: bytes | memoryview, count: int) -> int:
    """What came instead of the message that was due: it must be the last one, after as many as were sent."""
    head, sent = bytes(message[:HEAD]), int.from_bytes(message[HEAD : 2 * HEAD], "little")
    if head != LAST:
        number = int.from_bytes(head, "little")
        raise RuntimeError(f"message {count} came with the sequence number {number}")
    if sent != count:
        raise RuntimeError(f"{sent} messages were sent and {count} received")
    return count


# ---- the writer's process ----


def writer(control: Connection, cell: Cell, place: Any, seconds: float) -> None:
    transport = TRANSPORTS[cell.peer]
    if cell.runtime != SYNC:
        run_on(cell.runtime, writer_async, control, cell, place, seconds)
        return
    with transport.writer(place, cell.readers, cell.size) as end:
        control.send("open")
        control.recv()  # the readers have attached
        end.wait_for_readers()
        watch = Stopwatch()
        count = write(end, cell, seconds)
        end.send(cell.last(count))
        control.send(watch.lap(count))
        control.recv()  # the readers have it all: to close before that loses the end of it with some


async def writer_async(control: Connection, cell: Cell, place: Any, seconds: float) -> None:
    transport = TRANSPORTS[cell.peer]
    async with transport.async_writer(place, cell.readers, cell.size) as end:
        control.send("open")
        control.recv()  # the readers have attached
        await end.wait_for_readers()
        watch = Stopwatch()
        count = await write_async(end, cell, seconds)
        await end.send(cell.last(count))
        control.send(watch.lap(count))
        # The same, in a thread: the loop may still have some of it to send.
        await asyncio.to_thread(control.recv)


def write(end: WriterEnd, cell: Cell, seconds: float) -> int:
    """Send for so long; how many."""
    heads, size, count = cell.heads, cell.size, 0
    messages = [head.ljust(size, b"\0") for head in heads]
    send, send_many, acquire = end.send, end.send_many, end.acquire
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if cell.form == ONE:
            for message in messages:
                send(message)
        elif cell.form == BATCH:
            send_many(messages)
        else:
            for head in heads:
                with acquire(size) as slot:
                    slot[:HEAD] = head
        count += len(heads)
    return count


async def write_async(end: WriterEnd, cell: Cell, seconds: float) -> int:
    heads, size, count = cell.heads, cell.size, 0
    messages = [head.ljust(size, b"\0") for head in heads]
    send, send_many, acquire = end.send, end.send_many, end.acquire
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if cell.form == ONE:
            for message in messages:
                await send(message)
        elif cell.form == BATCH:
            await send_many(messages)
        else:
            for head in heads:
                async with acquire(size) as slot:
                    slot[:HEAD] = head
        count += len(heads)
    return count


# ---- a reader's process ----


def reader(control: Connection, cell: Cell, place: Any) -> None:
    transport = TRANSPORTS[cell.peer]
    control.recv()  # the writer is open
    if cell.runtime != SYNC:
        run_on(cell.runtime, reader_async, control, cell, place)
        return
    with transport.reader(place, cell.size) as end:
        control.send("attached")
        watch = Stopwatch()
        control.send(watch.lap(read(end, cell)))


async def reader_async(control: Connection, cell: Cell, place: Any) -> None:
    async with TRANSPORTS[cell.peer].async_reader(place, cell.size) as end:
        control.send("attached")
        watch = Stopwatch()
        control.send(watch.lap(await read_async(end, cell)))


def read(end: ReaderEnd, cell: Cell) -> int:
    """Receive to the end; how many."""
    if cell.form == BATCH:
        batches = Batches(cell)
        while not batches.check(end.receive_many()):
            pass
        return batches.count
    for count, head in enumerate(cycle(cell.heads)):
        if cell.form == ONE:
            message = end.receive()
            if message[:HEAD] != head:
                return check_last(message, count)
        else:
            with end.acquire() as view:
                if view[:HEAD] != head:
                    return check_last(view, count)
    raise AssertionError("a cycle never ends")


async def read_async(end: ReaderEnd, cell: Cell) -> int:
    if cell.form == BATCH:
        batches = Batches(cell)
        while not batches.check(await end.receive_many()):
            pass
        return batches.count
    for count, head in enumerate(cycle(cell.heads)):
        if cell.form == ONE:
            message = await end.receive()
            if message[:HEAD] != head:
                return check_last(message, count)
        else:
            async with end.acquire() as view:
                if view[:HEAD] != head:
                    return check_last(view, count)
    raise AssertionError("a cycle never ends")


class Batches:
    """What is due of messages that come several at a time."""

    def __init__(self, cell: Cell) -> None:
        self.count = 0
        self._period = MESSAGES[cell.size]
        # A stream's chunk may hold more messages than a batch, and one that is completed.
        longest = self._period + BATCH_BYTES // cell.size + 1
        self._due = cell.heads * -(-longest // self._period)

    def check(self, batch: list[bytes]) -> bool:
        """Whether the last of these is the last of all."""
        at = self.count % self._period
        heads = [message[:HEAD] for message in batch]
        if heads == self._due[at : at + len(heads)]:
            self.count += len(batch)
            return False
        for message, due in zip(batch, self._due[at:], strict=False):
            if message[:HEAD] != due:
                check_last(message, self.count)
                return True
            self.count += 1
        raise AssertionError("one of them differs")


def memcpy(control: Connection, cell: Cell, seconds: float) -> None:
    """Copies of the messages by the C library, into one block or into one after the other of as many bytes as
    aiospin's ring has."""
    size, blocks = cell.size, BACKLOG // cell.size if cell.form == THROUGH_RING else 1
    source = ctypes.create_string_buffer(MESSAGES[size] * size)
    target = ctypes.create_string_buffer(blocks * size)
    copy, count = ctypes.memmove, 0
    to, of = ctypes.addressof(target), ctypes.addressof(source)
    watch = Stopwatch()
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        for block in range(0, blocks * size, size):
            copy(to + block, of + block % len(source), size)
        count += blocks
    control.send(watch.lap(count))


# ---- measuring ----


def measure(cell: Cell, seconds: float) -> Run:
    """One run, in fresh processes."""
    with meeting_folder() as folder, Crew() as crew:
        if cell.peer == MEMCPY:
            sent = crew.hear(crew.start(memcpy, cell, seconds), seconds)
            received = []
        else:
            ours, theirs = TRANSPORTS[cell.peer].meet(folder, cell.readers)
            sender = crew.start(writer, cell, ours, seconds)
            receivers = [crew.start(reader, cell, place) for place in theirs]
            crew.bring_together(sender, receivers)
            sent = crew.hear(sender, seconds)
            received = [crew.hear(receiver, seconds) for receiver in receivers]
            sender.control.send("the readers have it all")
    if any(lap.count != sent.count for lap in received):
        counts = [lap.count for lap in received]
        raise RuntimeError(f"{sent.count} messages were sent and {counts} received")
    took_ns = max(lap.ended_ns for lap in [sent, *received]) - sent.began_ns
    return Run(
        messages_per_s=sent.count / took_ns * 1e9,
        writer_cpu_ns=sent.cpu_ns / sent.count,
        reader_cpu_ns=sum(lap.cpu_ns for lap in received) / cell.readers / sent.count,
    )


def cells_of(peers: list[str], runtimes: list[str], size: int, readers: int) -> list[Cell]:
    """What there is to measure at one size and number of readers, in the order of the table."""
    found = [
        Cell(peer, form, runtime, size, readers)
        for peer in peers
        for form in TRANSPORTS[peer].forms
        for runtime in runtimes
    ]
    if size >= MIB:
        found += [Cell(MEMCPY, form, SYNC, size, readers) for form in (IN_CACHE, THROUGH_RING)]
    return found


WIDTHS = (37, *(13, 10, 5) * len(RUNTIMES))


def show(runs: dict[Cell, list[Run]]) -> None:
    """The part of the table for one size and number of readers."""
    size, readers = next((cell.size, cell.readers) for cell in runs)
    title = f"{SIZES[size]} to {readers} reader{'s' if readers > 1 else ''}"
    print()
    print(row([title, *(cell for runtime in RUNTIMES for cell in ("", runtime, ""))], WIDTHS))
    print(row(["", *("messages/s", "bytes/s", "±") * len(RUNTIMES)], WIDTHS))
    for line in dict.fromkeys((cell.peer, cell.form) for cell in runs):
        shown = [", ".join(line)]
        for runtime in RUNTIMES:
            found = runs.get(Cell(*line, runtime, size, readers))
            if found is None:
                shown += ["-", "", ""]
                continue
            rates = [run.messages_per_s for run in found]
            rate = statistics.median(rates)
            shown += [f"{rate:,.0f}", bytes_per_second(rate * size), f"{plus_minus(rates):.0%}"]
        print(row(shown, WIDTHS), flush=True)


def bytes_per_second(rate: float) -> str:
    scale, unit = (1e9, "GB/s") if rate >= 1e9 else (1e6, "MB/s") if rate >= 1e6 else (1e3, "kB/s")
    return f"{rate / scale:.1f} {unit}"


def main() -> int:
    command_line = parser(__doc__.partition("\n")[0], seconds=0.5, runs=3)
    for name, choices, text in (
        ("--peers", PEERS, "what is compared (default: all)"),
        ("--sizes", SIZES, "of a message, in bytes (default: all)"),
        ("--loops", RUNTIMES, "blocking, or in an event loop (default: all)"),
    ):
        kind = type(next(iter(choices)))
        command_line.add_argument(
            name, nargs="+", type=kind, choices=choices, default=list(choices), help=text
        )
    command_line.add_argument(
        "--readers", nargs="+", type=at_least_one, default=[1, 4], help="how many (default: 1 4)"
    )
    command_line.add_argument(
        "--quick", action="store_true", help="by default, fewer of these, and one short run of each"
    )
    if command_line.parse_known_args()[0].quick:
        command_line.set_defaults(seconds=0.1, runs=1, sizes=[64, MIB], loops=[SYNC, "asyncio"])
    arguments = command_line.parse_args()
    introduce(arguments, "the median, and ± half the distance from the slowest to the fastest,")
    peers, runtimes = present(arguments.peers), present_loops(arguments.loops)
    parts = [
        cells_of(peers, runtimes, size, readers)
        for size in arguments.sizes
        for readers in arguments.readers
    ]
    progress = Progress(sum(map(len, parts)) * arguments.runs)
    results = []
    for cells in parts:
        runs: dict[Cell, list[Run]] = {cell: [] for cell in cells}
        for _ in range(arguments.runs):  # in turn: what else the machine does meets all of them
            for cell in cells:
                progress.step(f"{SIZES[cell.size]}: {cell.peer}, {cell.form}, {cell.runtime}")
                runs[cell].append(measure(cell, arguments.seconds))
        progress.clear()
        show(runs)
        results += [
            {**asdict(cell), "runs": [asdict(run) for run in found]} for cell, found in runs.items()
        ]
    write_json(arguments, results)
    return 0


if __name__ == "__main__":
    sys.exit(main())
