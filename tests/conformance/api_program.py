"""Waits and broadcasts through the public API on each backend, each in a process of its own.

    python api_program.py [BACKEND...]    without names all that are supported here

Needs nothing but aiospin, so that it runs where there is no pytest: in an emulated machine too. The
backend is chosen when aiospin is imported, so each runs in a child that imports it; what takes
long to import is imported before, once. Prints a line RESULT for each (tests/emulated/README.md).
"""

from __future__ import annotations

import asyncio
import mmap
import os
import platform
import sys
import time
import traceback
from collections.abc import Callable

WAITS = 24  # of each kind
MESSAGES = 200
TIMEOUT = 0.01  # seconds of a wait that nobody ends
PATIENCE = 60.0  # seconds; nothing here takes a hundredth of it

# A word of each width, with others on the same line that change all the time.
WORDS = [("B", 3), ("H", 6), ("I", 12), ("Q", 24)]
TURN = 64  # offset of the word by which the two processes take turns, on a line of its own
WIDEST = 7  # values stay small enough for the narrowest word


def forked(body: Callable[[], None]) -> Callable[[], None]:
    """Run it in a child process. Calling the result waits for its end, which must be a good one."""
    sys.stdout.flush()
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            body()
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            os._exit(status)

    def join() -> None:
        _, status = os.waitpid(pid, 0)
        if status:
            raise SystemExit(f"error: a child ended with status {status:#x}")

    return join


# ---- words ----


def store_in_turn(memory: mmap.mmap, turns: int) -> None:
    """The other process: each time it is told, change a word's neighbours, and then the word."""
    import aiospin

    turn = aiospin.Flag(memory, dtype="I", offset=TURN)
    for number in range(1, turns + 1):
        aiospin.wait_for_flag_sync(memory, aiospin.eq(number, dtype="I", offset=TURN), PATIENCE)
        width, offset = WORDS[number % len(WORDS)]
        value = number % WIDEST + 1
        for neighbour in (offset - 1, offset + {"B": 1, "H": 2, "I": 4, "Q": 8}[width]):
            aiospin.Flag(memory, dtype="B", offset=neighbour).store(value)
        aiospin.Flag(memory, dtype=width, offset=offset).store(value)
    del turn


def wait_in_turn(memory: mmap.mmap) -> tuple[int, int]:
    """Waits that ended with what they waited for, of so many."""
    import aiospin

    turn = aiospin.Flag(memory, dtype="I", offset=TURN)
    ways = [
        lambda predicate: asyncio.run(
            # the waiter thread, whatever the loop has to do
            aiospin.wait_for_flag(
                memory, predicate, PATIENCE, policy=aiospin.WaitPolicy(mode="thread", max_spin=0.02)
            )
        ),
        lambda predicate: asyncio.run(aiospin.wait_for_flag(memory, predicate, PATIENCE)),
        lambda predicate: aiospin.wait_for_flag_sync(
            memory, predicate, PATIENCE, policy=aiospin.WaitPolicy.latency()
        ),
    ]
    good = 0
    for number in range(1, WAITS * len(ways) + 1):
        width, offset = WORDS[number % len(WORDS)]
        aiospin.Flag(memory, dtype=width, offset=offset).store(0)
        turn.store(number)
        value = number % WIDEST + 1
        good += ways[number % len(ways)](aiospin.eq(value, dtype=width, offset=offset)) == value
    return good, WAITS * len(ways)


def time_out(memory: mmap.mmap) -> tuple[int, int]:
    """Waits that nobody ended and that lasted their time, of so many."""
    import aiospin

    never = aiospin.eq(255, dtype="B", offset=128)
    good = 0
    for policy in (aiospin.WaitPolicy(mode="thread", max_spin=1.0), aiospin.WaitPolicy.latency()):
        start = time.monotonic()
        try:
            asyncio.run(aiospin.wait_for_flag(memory, never, TIMEOUT, policy=policy))
        except TimeoutError:
            good += time.monotonic() - start >= TIMEOUT
        start = time.monotonic()
        try:
            aiospin.wait_for_flag_sync(memory, never, TIMEOUT, policy=policy)
        except TimeoutError:
            good += time.monotonic() - start >= TIMEOUT
    return good, 4


# ---- messages ----


def read_all(name: str) -> None:
    import aiospin

    with aiospin.BroadcastReader.attach(name, policy=aiospin.WaitPolicy.latency()) as reader:
        for number in range(MESSAGES):
            message = reader.receive_sync(PATIENCE)
            if message != b"%d" % number * (number % 50 + 1):
                raise SystemExit(f"error: message {number} is {message!r}")


def broadcast() -> tuple[int, int]:
    """Messages that a reader in another process got whole and in order, of so many."""
    import aiospin

    ready, tell = os.pipe()
    # forked before there is a writer, so that it inherits nothing of it
    join = forked(lambda: read_all(os.read(ready, 1000).decode()))
    with aiospin.BroadcastWriter.create(capacity=65536) as writer:
        os.write(tell, str(writer.handle).encode())
        writer.wait_for_readers_sync(1, PATIENCE)
        for number in range(MESSAGES):
            writer.send_sync(b"%d" % number * (number % 50 + 1), PATIENCE)
        join()
    os.close(ready)
    os.close(tell)
    return MESSAGES, MESSAGES


# ---- one backend ----


def conform(backend: str) -> None:
    os.environ["AIOSPIN_BACKEND"] = backend
    import aiospin

    used = aiospin.capabilities().backend
    if used != backend:
        raise SystemExit(f"error: AIOSPIN_BACKEND={backend} chose {used}")
    messages = broadcast()
    with mmap.mmap(-1, mmap.PAGESIZE) as memory:
        turns = WAITS * 3
        join = forked(lambda: store_in_turn(memory, turns))
        waits = wait_in_turn(memory)
        join()
        timeouts = time_out(memory)
    passed = all(good == of for good, of in (messages, waits, timeouts))
    print(
        f"RESULT suite=api arch={platform.machine()} backend={backend} "
        f"python={platform.python_version()} waits={waits[0]}/{waits[1]} "
        f"timeouts={timeouts[0]}/{timeouts[1]} messages={messages[0]}/{messages[1]} "
        f"verdict={'passed' if passed else 'failed'}",
        flush=True,
    )
    if not passed:
        raise SystemExit(1)


def supported() -> list[str]:
    """Asked for in a child: this process must not import aiospin before the backend is chosen."""
    answer, tell = os.pipe()

    def ask() -> None:
        import aiospin

        os.write(tell, " ".join(aiospin.capabilities().supported).encode())

    forked(ask)()
    os.close(tell)
    with os.fdopen(answer) as text:
        return text.read().split()


def main() -> None:
    for backend in sys.argv[1:] or supported():
        forked(lambda backend=backend: conform(backend))()  # type: ignore[misc]


if __name__ == "__main__":
    main()
