"""The soak: a writer, readers that come and go, and somebody who kills them, for as many messages as one likes.

    python tests/soak/soak.py [--messages 10000000] [--seconds N] [--seed N] [--readers 4] [--kill-every SECONDS]

It runs in rounds. A round is a broadcast of a random capacity, in "block" or "drop_oldest" mode, with one writer,
which ends it by closing it or is killed in the middle; the next writer takes over its name while readers still
read what the last one left. Readers attach, stay for a few messages or to the end, receive in one of all the ways that
there are, leave, attach again; at random they are stopped, continued or killed.

Every message has a size that both sides know, a number and a checksum, so that a reader knows what must come next.
Nothing may be lost, torn or out of order between attaching and leaving; in "drop_oldest" mode exactly what LaggedError
says is missing. Who reads to the end must find the end where the writer left it. Private memory, descriptors and files
must not grow. The first violation ends it with exit status 1, the seed and the facts. The seed fixes what is sent, how
it is received and who is killed, not what the scheduler makes of it.
"""

from __future__ import annotations

import argparse
import contextlib
import faulthandler
import json
import mmap
import os
import random
import select
import signal
import subprocess
import sys
import time
import traceback
import zlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final, NoReturn

import anyio

import aiospin
from aiospin import (
    BroadcastReader,
    BroadcastWriter,
    BrokenResourceError,
    EndOfStream,
    LaggedError,
    WaitPolicy,
    WouldBlock,
)

MAX_READERS: Final = (
    8  # slots; more than readers, so that those of the dead are not always needed at once
)
CAPACITIES: Final = (4096, 1 << 16, 1 << 18, 1 << 18)  # bytes
SMALL: Final = (
    1 << 15
)  # bytes; a capacity below it costs a change of process for every few messages,
SMALL_PART: Final = 20  # so such a round has this many times fewer of them
HEAD: Final = 12  # bytes of checksum and number in front of a message that has room for them
ROUND_BITS: Final = 40  # of a message's number, below those of its round
SIZES: Final = 4096  # sizes of a round before they come again
STALL: Final = 20.0  # seconds without any progress that count as a hang
QUIET: Final = 1.0  # seconds without a message after which the readers have come to the end
TICK: Final = 0.01  # seconds between two looks of the conductor
SAMPLE_EVERY: Final = 0.5  # seconds
PROGRESS_EVERY: Final = 5.0  # seconds
GROWTH: Final = (
    16 << 20
)  # bytes of private memory that one process may gain: a batch of large messages has as much
MORE_FILES: Final = (
    2 * MAX_READERS
)  # descriptors that one process may gain: of the doorbells, for example
MAX_ROUNDS: Final = 1 << 14
BACKENDS: Final = [
    (name, options)
    for name, options, needs in (
        ("asyncio", {}, "asyncio"),
        ("asyncio", {"use_uvloop": True}, "uvloop"),
        ("trio", {}, "trio"),
    )
    if find_spec(needs)
]
# Seldom one that spins for long: with more of them than cores it is the scheduler that is tested.
POLICIES: Final = [
    WaitPolicy.latency(),
    *3 * [WaitPolicy.balanced(), WaitPolicy.powersave(), WaitPolicy(mode="thread")],
]


class ViolationError(Exception):
    """What must not be."""


# ---- messages ----


def make(number: int, size: int, pool: bytes) -> bytes:
    """A message of this size."""
    if size < HEAD:
        return short(number, size)
    at = number % 1009
    rest = number.to_bytes(8, "little") + pool[at : at + size - HEAD]
    return zlib.crc32(rest).to_bytes(4, "little") + rest


def short(number: int, size: int) -> bytes:
    """One that has no room for a number and a checksum."""
    return (number * 0x9E3779B97F4A7C15 % (1 << 96)).to_bytes(12, "big")[12 - size :]


def verify(message: bytes | memoryview, number: int, size: int) -> None:
    """Is it the message with this number?"""
    if len(message) != size:
        raise ViolationError(f"message {number:#x} has {len(message)} bytes, should have {size}")
    if size < HEAD:
        if message != short(number, size):
            raise ViolationError(
                f"message {number:#x} is {bytes(message)!r}, not {short(number, size)!r}"
            )
        return
    if zlib.crc32(message[4:]) != int.from_bytes(message[:4], "little"):
        raise ViolationError(f"message {number:#x} is torn")
    got = int.from_bytes(message[4:HEAD], "little")
    if got != number:
        raise ViolationError(f"out of order or lost: message {got:#x} came, {number:#x} should")


def sizes_of(choose: random.Random, capacity: int, largest: int) -> list[int]:
    """Mostly small, some up to an eighth of the capacity, a few as large as they may be."""
    sizes = []
    for _ in range(SIZES):
        dice = choose.random()
        if dice < 0.95:
            sizes.append(choose.randint(1, 200))
        elif dice < 0.995:
            sizes.append(choose.randint(1, capacity // 8))
        else:
            sizes.append(choose.randint(1, largest))
    return sizes


# ---- what all processes share ----


class Board:
    """Numbers in shared memory that outlive those who wrote them."""

    # Indices: the running round, whether it shall end, two words for each reader, three for each round.
    _ROUND, _HURRY, _READERS, _ROUNDS = 0, 1, 8, 64

    def __init__(self) -> None:
        self._words = memoryview(mmap.mmap(-1, 8 * (self._ROUNDS + 3 * MAX_ROUNDS))).cast("Q")

    @property
    def running(self) -> int:
        """The number of the round."""
        return self._words[self._ROUND]

    @running.setter
    def running(self, number: int) -> None:
        self._words[self._ROUND] = number

    @property
    def hurry(self) -> bool:
        """The writer shall come to an end."""
        return bool(self._words[self._HURRY])

    def end(self) -> None:
        self._words[self._HURRY] = 1

    def begin(self, number: int, count: int) -> None:
        """So many sends of this round have begun."""
        self._words[self._ROUNDS + 3 * number] = count

    def begun(self, number: int) -> int:
        return self._words[self._ROUNDS + 3 * number]

    def sent(self, number: int, count: int) -> None:
        """So many have returned."""
        self._words[self._ROUNDS + 3 * number + 1] = count

    def done(self, number: int) -> int:
        return self._words[self._ROUNDS + 3 * number + 1]

    def opened(self, number: int, inode: int) -> None:
        """The segment of this round."""
        self._words[self._ROUNDS + 3 * number + 2] = inode

    def inode(self, number: int) -> int:
        return self._words[self._ROUNDS + 3 * number + 2]

    def add(self, reader: int, received: int, lagged: int) -> None:
        self._words[self._READERS + 2 * reader] += received
        self._words[self._READERS + 2 * reader + 1] += lagged

    @property
    def received(self) -> int:
        return sum(self._words[self._READERS : self._ROUNDS : 2])

    @property
    def lagged(self) -> int:
        return sum(self._words[self._READERS + 1 : self._ROUNDS : 2])


@dataclass(frozen=True)
class Settings:
    seed: int
    messages: int  # of the whole run
    name: str
    large: bool  # whether messages beyond half the capacity are taken
    board: Board
    reports: int  # the writing end of the pipe to the conductor

    def inode(self) -> int:
        """Of the segment that has the name now; 0 for none."""
        try:
            return os.stat(f"/dev/shm/aiospin-{self.name}").st_ino
        except FileNotFoundError:
            return 0

    def choose(self, *what: object) -> random.Random:
        return random.Random(f"{self.seed} {what}")

    def round(self, number: int) -> Round:
        return Round(self, number)

    def report(self, **facts: object) -> None:
        os.write(
            self.reports, json.dumps(facts).encode() + b"\n"
        )  # below PIPE_BUF, so in one piece


class Round:
    """What is known of a round beforehand."""

    def __init__(self, settings: Settings, number: int) -> None:
        choose = settings.choose("round", number)
        messages = min(max(settings.messages // 10, 2000), 1_000_000)
        self.number = number
        self.overflow = "drop_oldest" if choose.random() < 0.3 else "block"
        self.capacity = choose.choice(CAPACITIES)
        self.largest = 4 * self.capacity if settings.large else self.capacity // 2
        self.writer_dies = choose.random() < 0.5
        self.count = messages // (SMALL_PART if self.capacity < SMALL else 1)
        self.part = choose.random()  # of the messages that are sent before it dies
        self.sizes = sizes_of(choose, self.capacity, self.largest)
        self.pool = choose.randbytes(self.largest + 1009)

    def size(self, n: int) -> int:
        return self.sizes[n % SIZES]

    def message(self, n: int) -> bytes:
        return make(self.number << ROUND_BITS | n, self.size(n), self.pool)


# ---- the writer ----


class Sender:
    """Sends the messages of a round, a stretch of them in one way, the next in another."""

    def __init__(self, settings: Settings, number: int) -> None:
        self._settings = settings
        self._round = settings.round(number)
        self._choose = settings.choose("writer", number)
        self._n = 0

    def run(self) -> None:
        this, choose = self._round, self._choose
        with BroadcastWriter.create(
            self._settings.name,
            capacity=this.capacity,
            max_readers=MAX_READERS,
            overflow=this.overflow,
            policy=choose.choice(POLICIES),
        ) as writer:
            self._settings.board.opened(this.number, self._settings.inode())
            writer.wait_for_readers_sync(1, timeout=STALL)
            lossy = this.overflow == "drop_oldest"
            ways: list[Callable[[BroadcastWriter, int], Any]] = [
                self._blocking,
                self._awaiting,
                self._in_place,
            ]
            while self._n < this.count and not self._settings.board.hurry:
                stretch = choose.randint(1, 300 if lossy else 4000)
                choose.choice(ways)(writer, min(self._n + stretch, this.count))
                if lossy or choose.random() < 0.3:
                    # Readers park meanwhile. A writer that never waits is otherwise only overtaking them.
                    time.sleep(choose.random() * 3e-3)

    def _next(self) -> bytes:
        message = self._round.message(self._n)
        self._n += 1
        self._settings.board.begin(self._round.number, self._n)
        return message

    def _was_sent(self) -> None:
        self._settings.board.sent(self._round.number, self._n)

    def _blocking(self, writer: BroadcastWriter, until: int) -> None:
        while self._n < until:
            writer.send_sync(self._next())
            self._was_sent()

    def _in_place(self, writer: BroadcastWriter, until: int) -> None:
        while self._n < until:
            message = self._next()
            with writer.acquire_write(len(message)) as view:
                view[:] = message
            self._was_sent()

    def _awaiting(self, writer: BroadcastWriter, until: int) -> None:
        async def main() -> None:
            while self._n < until:
                await writer.send(self._next())
                self._was_sent()

        on_a_loop(self._choose, main)


# ---- a reader ----


class InterruptionError(Exception):
    """What a reader raises while it holds a message."""


@dataclass
class Stay:
    """From one attach to the leaving after it."""

    settings: Settings
    reader: int
    round: Round
    choose: random.Random
    next: int  # number of the message that must come next
    wanted: int  # messages before it leaves

    def take(self, message: bytes | memoryview) -> None:
        verify(message, self.round.number << ROUND_BITS | self.next, self.round.size(self.next))
        self._go_on(1, 0)

    def take_all(self, messages: list[bytes]) -> None:
        for message in messages:
            self.take(message)

    def lagged(self, skipped: int) -> None:
        if self.round.overflow == "block" or skipped < 1:
            raise ViolationError(
                f"LaggedError({skipped}) in {self.round.overflow} mode before message {self.next}"
            )
        self._go_on(0, skipped)

    def _go_on(self, received: int, lagged: int) -> None:
        self.next += received + lagged
        self.wanted -= received
        self.settings.board.add(self.reader, received, lagged)

    def patience(self) -> float:
        return self.choose.random() ** 3 * 2e-3  # seconds, mostly next to none

    # The ways to receive one or some messages; each is called again and again.

    def receive(self, reader: BroadcastReader) -> None:
        self.take(reader.receive_sync())

    def batch(self, reader: BroadcastReader) -> None:
        self.take_all(reader.receive_many_sync(self.choose.randint(1, 400)))

    def iterate(self, reader: BroadcastReader) -> None:
        for message in reader.iter_sync():
            self.take(message)
            if self.wanted <= 0:
                return
        raise EndOfStream

    def in_place(self, reader: BroadcastReader) -> None:
        with reader.acquire_read() as view:
            self.take(view)

    def interrupted(self, reader: BroadcastReader) -> None:
        with contextlib.suppress(InterruptionError), reader.acquire_read() as view:
            self.take(view)
            raise InterruptionError

    def poll(self, reader: BroadcastReader) -> None:
        try:
            self.take(reader.receive_nowait())
        except WouldBlock:
            time.sleep(0)

    def impatient(self, reader: BroadcastReader) -> None:
        with contextlib.suppress(TimeoutError):
            self.take(reader.receive_sync(timeout=self.patience()))

    async def receive_async(self, reader: BroadcastReader) -> None:
        self.take(await reader.receive())

    async def batch_async(self, reader: BroadcastReader) -> None:
        self.take_all(await reader.receive_many(self.choose.randint(1, 400)))

    async def iterate_async(self, reader: BroadcastReader) -> None:
        async for message in reader:
            self.take(message)
            if self.wanted <= 0:
                return
        raise EndOfStream

    async def in_place_async(self, reader: BroadcastReader) -> None:
        async with reader.acquire_read() as view:
            self.take(view)

    async def impatient_async(self, reader: BroadcastReader) -> None:
        with contextlib.suppress(TimeoutError):
            self.take(await reader.receive(timeout=self.patience()))

    async def cancelled_async(self, reader: BroadcastReader) -> None:
        with anyio.move_on_after(self.patience()):
            self.take(await reader.receive())

    def run(self, reader: BroadcastReader) -> str:
        """Receive until it has enough ("left"), the writer closed ("closed") or died ("died")."""
        blocking = [self.receive, self.batch, self.iterate, self.in_place]
        blocking += [self.interrupted, self.poll, self.impatient]
        awaiting = [self.receive_async, self.batch_async, self.iterate_async, self.in_place_async]
        awaiting += [self.impatient_async, self.cancelled_async]
        try:
            if self.choose.random() < 0.5:
                self._block(self.choose.choice(blocking), reader)
            else:
                on_a_loop(self.choose, self._await, self.choose.choice(awaiting), reader)
        except EndOfStream:
            return "closed"
        except BrokenResourceError:
            return "died"
        return "left"

    def _block(self, some: Callable[[BroadcastReader], None], reader: BroadcastReader) -> None:
        while self.wanted > 0:
            try:
                some(reader)
            except LaggedError as error:
                self.lagged(error.skipped)

    async def _await(
        self, some: Callable[[BroadcastReader], Awaitable[None]], reader: BroadcastReader
    ) -> None:
        while self.wanted > 0:
            try:
                await some(reader)
            except LaggedError as error:
                self.lagged(error.skipped)


def read(settings: Settings, index: int, life: int) -> NoReturn:
    """Attach, stay, leave, for ever."""
    board, choose = settings.board, settings.choose("reader", index, life)
    known = settings.round(board.running)
    while True:
        number = board.running
        inode = board.inode(number)
        before = board.done(number)
        try:
            reader = BroadcastReader.attach(settings.name, policy=choose.choice(POLICIES))
        except (FileNotFoundError, BrokenResourceError):  # between two rounds
            time.sleep(TICK / 10)
            continue
        with reader:
            after = board.begun(number)
            if not inode or settings.inode() != inode:
                continue  # it may be of the round before, dead or closed; of this round it is when the name is
            first = reader.statistics().sequence
            if not before <= first <= after:
                raise ViolationError(
                    f"attached before message {first}, but {before} to {after} were sent"
                )
            if known.number != number:
                known = settings.round(number)
            wanted = choose.choice([20, 1000, 30_000, sys.maxsize])
            stay = Stay(settings, index, known, choose, first, choose.randint(1, wanted))
            end = stay.run(reader)
            settings.report(
                round=number,
                reader=index,
                first=first,
                next=stay.next,
                end=end,
                at=time.monotonic(),
            )


def on_a_loop(
    choose: random.Random, function: Callable[..., Awaitable[None]], *arguments: object
) -> None:
    backend, options = choose.choice(BACKENDS)
    anyio.run(function, *arguments, backend=backend, backend_options=options)


# ---- the conductor ----


def fork(body: Callable[[], object], settings: Settings) -> int:
    """Run it in a child. What it raises is reported."""
    pid = os.fork()
    if pid:
        return pid
    status = 1
    try:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        faulthandler.register(signal.SIGUSR1, all_threads=True)
        body()
        status = 0
    except ViolationError as violation:
        settings.report(violation=str(violation))
    except BaseException:
        settings.report(violation=traceback.format_exc(limit=-6)[:3000])
    finally:
        os._exit(status)


@dataclass
class Samples:
    """Of one process: private memory in bytes, open descriptors."""

    who: str
    memory: list[int] = field(default_factory=list)
    files: list[int] = field(default_factory=list)

    def take(self, pid: int) -> None:
        try:
            status = Path(f"/proc/{pid}/status").read_text()
            files = len(os.listdir(f"/proc/{pid}/fd"))
        except OSError:  # it has just ended
            return
        for line in status.splitlines():
            if line.startswith("RssAnon:"):
                self.memory.append(int(line.split()[1]) * 1024)
                self.files.append(files)

    def growth(self) -> tuple[int, int]:
        """From when it had settled to the end."""
        settled = len(self.memory) // 4
        if settled < 4:
            return 0, 0
        early, late = slice(settled, 2 * settled), slice(-settled, None)
        return (
            max(self.memory[late]) - max(self.memory[early]),
            max(self.files[late]) - max(self.files[early]),
        )

    def check(self) -> tuple[int, int]:
        memory, files = growth = self.growth()
        if memory > GROWTH:
            raise ViolationError(
                f"the private memory of {self.who} grew by {memory} bytes: {self.memory}"
            )
        if files > MORE_FILES:
            raise ViolationError(f"the descriptors of {self.who} grew by {files}: {self.files}")
        return growth


@dataclass
class Ending:
    """How a round ended."""

    killed_at: float | None  # CLOCK_MONOTONIC seconds
    least: int  # messages sent for certain
    most: int
    told: list[str]  # what readers may be told
    next: int | None = None  # what readers that read to the end found, all the same


class Conductor:
    """Starts, stops, kills and looks."""

    def __init__(self, options: argparse.Namespace) -> None:
        self._options = options
        self._reports, writing = os.pipe()
        os.set_blocking(self._reports, False)
        name = f"soak-{os.getpid()}"
        self._settings = Settings(
            options.seed, options.messages, name, takes_large_messages(), Board(), writing
        )
        self._board = self._settings.board
        self._choose = self._settings.choose("conductor")
        self._readers: dict[int, int] = {}  # pid of each index
        self._writer = 0  # pid
        self._samples: dict[int, Samples] = {}
        self._endings: dict[int, Ending] = {}
        self._early: list[dict[str, Any]] = []  # reports on a round that has not ended
        self._text = b""
        self._sent = self._lives = 0
        self._kills = {"reader": 0, "writer": 0, "stopped": 0}
        self._stays = {"left": 0, "closed": 0, "died": 0}
        self._worst = {"memory": 0, "descriptors": 0, "files": 0, "notice": 0.0}
        self._next_kill = self._next_sample = self._next_line = self._started = 0.0
        self._moved = (0, 0.0)

    def run(self) -> None:
        self._started = time.monotonic()
        print(
            f"soak: seed {self._options.seed}, {self._options.messages:,} messages, backend "
            f"{aiospin.capabilities().backend}, messages of up to "
            f"{'4 x the' if self._settings.large else 'half the'} capacity",
            flush=True,
        )
        try:
            number = 0
            while self._sent < self._options.messages and not self._board.hurry:
                number += 1
                self._run_round(number)
            self._let_readers_finish()
        finally:
            for pid in [*self._readers.values(), self._writer]:
                if pid:
                    with contextlib.suppress(ProcessLookupError, ChildProcessError):
                        os.kill(pid, signal.SIGKILL)
                        os.waitpid(pid, 0)
        self._check_that_nothing_is_left()
        self._summary(number)

    def _run_round(self, number: int) -> None:
        this = self._settings.round(number)
        self._board.running = number
        self._writer = fork(Sender(self._settings, number).run, self._settings)
        self._samples[self._writer] = Samples(f"the writer of round {number}")
        killed_at = None
        while True:
            self._tick(this)
            if this.writer_dies and self._board.done(number) > this.count * this.part:
                at = time.monotonic()
                if self._kill(self._writer):  # it may have ended in time
                    killed_at = at
                    self._kills["writer"] += 1
                break
            if self._has_ended(self._writer):
                break
        self._writer = 0
        least, most = self._board.done(number), self._board.begun(number)
        in_full = this.count if not self._board.hurry else least
        if killed_at is None and (least, most) != (in_full, in_full):
            raise ViolationError(f"{least} of {this.count} messages were sent")
        told = (
            ["closed"]
            if killed_at is None
            else ["died", "closed"]
            if least == in_full
            else ["died"]
        )
        self._endings[number] = Ending(killed_at, least, most, told)
        self._sent += least
        early, self._early = self._early, []
        for report in early:
            self._judge(report)

    def _let_readers_finish(self) -> None:
        """To the end of the last round, after which there is nothing to attach to."""
        since = time.monotonic()
        while time.monotonic() - since < QUIET:
            before = self._board.received
            self._drain()
            time.sleep(TICK)
            if self._board.received != before:
                since = time.monotonic()

    def _tick(self, this: Round) -> None:
        now = time.monotonic()
        for index in range(self._options.readers):
            if index not in self._readers:
                self._lives += 1
                life = self._lives
                pid = fork(
                    lambda index=index, life=life: read(self._settings, index, life), self._settings
                )
                self._readers[index] = pid
                self._samples[pid] = Samples(f"reader {index}, life {life}")
        if now > self._started + self._options.seconds:
            self._board.end()
        if now > self._next_kill:
            if self._next_kill:
                self._strike()
            self._next_kill = now + self._choose.expovariate(1 / self._options.kill_every)
        if now > self._next_sample:
            self._next_sample = now + SAMPLE_EVERY
            self._sample(this)
        if now > self._next_line:
            self._next_line = now + PROGRESS_EVERY
            self._progress()
        progress = self._board.received + self._board.done(this.number) + self._lives
        if progress != self._moved[0]:
            self._moved = (progress, now)
        elif now - self._moved[1] > STALL:
            self._show_stacks()
            raise ViolationError(
                f"nothing moved for {STALL:g} s; the stacks of all processes are above"
            )
        self._drain()
        select.select([self._reports], [], [], TICK)

    def _strike(self) -> None:
        """Kill a reader, or stop it for a while."""
        index, pid = self._choose.choice(list(self._readers.items()))
        if self._choose.random() < 0.25:
            os.kill(pid, signal.SIGSTOP)
            time.sleep(self._choose.random() * 0.3)
            os.kill(pid, signal.SIGCONT)
            self._kills["stopped"] += 1
        else:
            del self._readers[index]
            if not self._kill(pid):
                raise ViolationError(f"reader {index} has ended")
            self._kills["reader"] += 1

    def _kill(self, pid: int) -> bool:
        """False: it had ended already."""
        os.kill(pid, signal.SIGKILL)
        _, status = os.waitpid(pid, 0)
        return self._judge_end(pid, status)

    def _has_ended(self, pid: int) -> bool:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            self._judge_end(pid, status)
        return bool(ended)

    def _judge_end(self, pid: int, status: int) -> bool:
        """True: it was killed; False: it ended well."""
        samples = self._samples.pop(pid)
        self._drain()  # it has reported why it ended badly
        if status and status != signal.SIGKILL:
            raise ViolationError(f"{samples.who} ended with {status:#x}")
        memory, descriptors = samples.check()
        self._worst["memory"] = max(self._worst["memory"], memory)
        self._worst["descriptors"] = max(self._worst["descriptors"], descriptors)
        return status != 0

    def _sample(self, this: Round) -> None:
        for pid, samples in self._samples.items():
            samples.take(pid)
        files = self._files()
        self._worst["files"] = max(self._worst["files"], len(files))
        # Each large message has a record in the ring, of 64 bytes; what is not a message is a segment or a bell.
        messages = [name for name in files if ".message-" in name]
        if len(messages) > this.capacity // 64 * 2 or len(files) - len(messages) > 4 * MAX_READERS:
            raise ViolationError(f"there are {len(files)} files: {sorted(files)[:40]}")

    def _files(self) -> list[str]:
        return [name for name in os.listdir("/dev/shm") if f"aiospin-{self._settings.name}" in name]

    # What readers report.

    def _drain(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while piece := os.read(self._reports, 1 << 16):
                self._text += piece
        *lines, self._text = self._text.split(b"\n")
        for line in lines:
            report = json.loads(line)
            if "violation" in report:
                raise ViolationError(report["violation"])
            self._judge(report)

    def _judge(self, report: dict[str, Any]) -> None:
        ending = self._endings.get(report["round"])
        if ending is None and report["end"] != "left":
            if report in self._early:
                raise ViolationError(f"a reader says that a round is over that is not: {report}")
            self._early.append(report)
            return
        self._stays[report["end"]] += 1
        if report["end"] == "left":
            return
        assert ending is not None
        if report["end"] not in ending.told:
            raise ViolationError(f"a reader says {report}, but the writer: {ending}")
        if ending.next is None:
            ending.next = report["next"]
        if report["next"] != ending.next or not ending.least <= report["next"] <= ending.most:
            raise ViolationError(f"a reader found another end than there was: {report}, {ending}")
        if ending.killed_at is not None:
            self._worst["notice"] = max(self._worst["notice"], report["at"] - ending.killed_at)

    def _show_stacks(self) -> None:
        for pid in [self._writer, *self._readers.values()]:
            print(
                f"process {pid}, {'the writer' if pid == self._writer else 'a reader'}:",
                file=sys.stderr,
                flush=True,
            )
            os.kill(pid, signal.SIGUSR1)
            time.sleep(0.2)

    def _check_that_nothing_is_left(self) -> None:
        """But for what those who were killed left, which `aiospin gc` removes."""
        BroadcastWriter.create(self._settings.name).close()  # the name is nobody's
        subprocess.run(
            [sys.executable, "-m", "aiospin", "gc", self._settings.name],
            stdout=subprocess.DEVNULL,
            check=True,
        )
        if files := self._files():
            raise ViolationError(f"files are left: {files}")

    def _progress(self) -> None:
        sent = self._sent + self._board.done(self._board.running)
        seconds = time.monotonic() - self._started
        print(
            f"{seconds:6.0f} s  round {self._board.running}  sent {sent:,}  received {self._board.received:,}  "
            f"killed {self._kills['reader']} readers, {self._kills['writer']} writers  "
            f"{sent / max(seconds, 1e-9):,.0f}/s",
            flush=True,
        )

    def _summary(self, rounds: int) -> None:
        seconds = time.monotonic() - self._started
        print(
            f"passed: {self._sent:,} messages in {rounds} rounds and {seconds:.0f} s, "
            f"{self._board.received:,} received, {self._board.lagged:,} told as lagged; lost, torn, out of order: 0\n"
            f"killed: {self._kills['reader']} readers, {self._kills['writer']} writers; stopped: "
            f"{self._kills['stopped']}; stays: {self._stays['left']} left, {self._stays['closed']} to the close, "
            f"{self._stays['died']} to the death, which was told within {self._worst['notice']:.3f} s\n"
            f"grown at most: private memory {self._worst['memory']:,} bytes, descriptors "
            f"{self._worst['descriptors']}; files at most {self._worst['files']}, at the end 0"
        )


def takes_large_messages() -> bool:
    """Whether this build sends messages beyond half the capacity, in files of their own."""
    with BroadcastWriter.create(capacity=4096) as writer:
        try:
            writer.send_nowait(bytes(4096))
        except ValueError:
            return False
    return True


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--messages", type=int, default=10_000_000)
    parser.add_argument(
        "--seconds", type=float, default=1e9, help="to end after at most, with fewer"
    )
    parser.add_argument("--seed", type=int, default=int.from_bytes(os.urandom(4), "little"))
    parser.add_argument("--readers", type=int, default=4, choices=range(1, MAX_READERS + 1))
    parser.add_argument(
        "--kill-every", type=float, default=0.5, help="seconds between two kills, on average"
    )
    options = parser.parse_args()
    try:
        Conductor(options).run()
    except ViolationError as violation:
        print(f"FAILED, seed {options.seed}: {violation}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
