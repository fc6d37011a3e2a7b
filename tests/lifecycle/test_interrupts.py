"""Ctrl-C, and signal handlers that raise, in the middle of every operation that can wait: it ends, and all goes on."""

from __future__ import annotations

from pathlib import Path

import pytest
from support import clean

TESTS = str(Path(__file__).parent.parent)

HEAD = """
import asyncio, os, signal, sys, threading, warnings
from itertools import cycle
import anyio
import aiospin
from aiospin import BroadcastReader, BroadcastWriter, Flag, WaitPolicy, eq, wait_for_flag, wait_for_flag_sync
from aiospin._waiter import close_default_waiter
from broadcast_support import fill
from lifecycle import exercise
from support import PATIENCE, running, until

ON_A_LOOP = len(sys.argv) > 1
MAIN = threading.main_thread().ident
POLICIES = {
    "spinning": WaitPolicy(max_spin=3600, predict=False),
    "in the waiter thread": WaitPolicy("thread", max_spin=3600, predict=False),
    "parked": WaitPolicy("park"),
}

def leave(*_): raise SystemExit(3)

signal.signal(signal.SIGTERM, leave)
signal.signal(signal.SIGUSR1, lambda *_: None)
SIGNALS = {signal.SIGINT: KeyboardInterrupt, signal.SIGTERM: SystemExit}
if ON_A_LOOP and sys.version_info < (3, 11):  # of anyio's stand-in for asyncio.Runner
    SIGNALS[signal.SIGINT] = (KeyboardInterrupt, asyncio.CancelledError)

def functions():
    '''The names of those that the main thread is in.'''
    frame = sys._current_frames()[MAIN]
    while frame:
        yield frame.f_code.co_name
        frame = frame.f_back

def interrupted(call, number, waits=None):
    before, over = aiospin.statistics().waits, threading.Event()
    waits = waits or (lambda: aiospin.statistics().waits > before)
    def strike():
        until(waits)
        signal.pthread_kill(MAIN, number)
        # A loop that is just about to poll, for ever, has Python's handler called only when another signal ends that.
        while sys.argv[1:] == ["asyncio"] and not over.wait(0.001): signal.pthread_kill(MAIN, signal.SIGUSR1)
    with running(strike):
        try: call()
        except SIGNALS[number]: return
        finally: over.set()
    raise AssertionError("it was not interrupted")

class Ends:
    '''A broadcast, and a word.'''

    def __init__(self, policy):
        self.policy = policy
        self.word = bytearray(64)
        self.flag = Flag(self.word, dtype="B")
        self.writer = BroadcastWriter.create(capacity=4096, policy=policy)
        self.reader = BroadcastReader.attach(self.writer.handle, policy=policy)

    def fill(self, large):
        '''Leave no room; how many messages that took.'''
        return fill(self.writer, bytes(5000) if large else b"x" * 32)

    def check(self, count):
        '''Everything is as before the operation.'''
        if count:
            until(lambda: aiospin.statistics().live_tickets <= 1)  # of the look after large messages
            assert len(self.reader.receive_many_nowait()) == count
        for number in range(3):
            self.writer.send_sync(bytes([number]), PATIENCE)
            assert self.reader.receive_sync(PATIENCE) == bytes([number])
        self.word.append(0)

    def close(self):
        self.writer.close()
        self.reader.close()

def every(operations, run, signals):
    signals = cycle(signals)  # the number of operations is odd, so that each has every signal
    assert len(operations) % 2
    for policy in POLICIES.values():
        ends = Ends(policy)
        for name, operation in operations.items():
            number = next(signals)
            count = ends.fill("large" in name) if name.startswith("send") else 0
            waits = (lambda: name in functions()) if name.startswith("wait_for_readers") else None
            try:
                interrupted(lambda: run(lambda: operation(ends)), number, waits)
                ends.check(count)
            except BaseException as error:
                raise AssertionError((policy.mode, name, number)) from error
        ends.close()
        close_default_waiter()
        now = aiospin.statistics()
        assert (now.live_tickets, now.pinned_buffers) == (0, 0), now
        assert exercise.files() == set()
"""

BLOCKING = """
every({
    "wait_for_flag_sync": lambda ends: wait_for_flag_sync(ends.word, eq(1), policy=ends.policy),
    "notified": lambda ends: wait_for_flag_sync(ends.word, eq(1), notified=True, policy=ends.policy),
    "callable": lambda ends: wait_for_flag_sync(ends.word, lambda view: view[0] == 1, policy=ends.policy),
    "spinloop": lambda ends: aiospin.spinloop(ends.word, lambda: False),
    "Flag.wait_sync": lambda ends: ends.flag.wait_sync(eq(1), policy=ends.policy),
    "wait_for_readers_sync": lambda ends: ends.writer.wait_for_readers_sync(2),
    "receive_sync": lambda ends: ends.reader.receive_sync(),
    "receive_many_sync": lambda ends: ends.reader.receive_many_sync(),
    "receive_object_sync": lambda ends: ends.reader.receive_object_sync(),
    "acquire_read": lambda ends: ends.reader.acquire_read().__enter__(),
    "iter_sync": lambda ends: next(iter(ends.reader.iter_sync())),
    "send_sync": lambda ends: ends.writer.send_sync(b"later"),
    "send_many_sync": lambda ends: ends.writer.send_many_sync([b"later", b"latest"]),
    "send_object_sync": lambda ends: ends.writer.send_object_sync("later"),
    "send, acquire_write": lambda ends: ends.writer.acquire_write(32).__enter__(),
    "send large": lambda ends: ends.writer.send_sync(bytes(5000)),
    "send large, acquire_write": lambda ends: ends.writer.acquire_write(5000).__enter__(),
}, lambda call: call(), SIGNALS)
"""

ON_A_LOOP = """
async def acquire_read(ends):
    async with ends.reader.acquire_read(): pass

async def acquire_write(ends, nbytes):
    async with ends.writer.acquire_write(nbytes): pass

def on_loop(call):
    backend = sys.argv[1]
    if backend == "uvloop":
        anyio.run(call, backend="asyncio", backend_options={"use_uvloop": True})
    else:
        anyio.run(call, backend=backend)

every({
    "wait_for_flag": lambda ends: wait_for_flag(ends.word, eq(1), policy=ends.policy),
    "notified": lambda ends: wait_for_flag(ends.word, eq(1), notified=True, policy=ends.policy),
    "callable": lambda ends: wait_for_flag(ends.word, lambda view: view[0] == 1, policy=ends.policy),
    "Flag.wait": lambda ends: ends.flag.wait(eq(1), policy=ends.policy),
    "receive": lambda ends: ends.reader.receive(),
    "receive_many": lambda ends: ends.reader.receive_many(),
    "receive_object": lambda ends: ends.reader.receive_object(),
    "acquire_read": acquire_read,
    "iteration": lambda ends: ends.reader.__anext__(),
    "send": lambda ends: ends.writer.send(b"later"),
    "send_many": lambda ends: ends.writer.send_many([b"later", b"latest"]),
    "send_object": lambda ends: ends.writer.send_object("later"),
    "send, acquire_write": lambda ends: acquire_write(ends, 32),
    "send large": lambda ends: ends.writer.send(bytes(5000)),
    "send large, acquire_write": lambda ends: acquire_write(ends, 5000),
}, on_loop, [signal.SIGINT] if sys.argv[1] == "trio" else SIGNALS)  # trio lets no other handler raise
"""


def test_blocking() -> None:
    clean(HEAD + BLOCKING, PYTHONPATH=TESTS)


@pytest.mark.parametrize("backend", ["asyncio", "uvloop", "trio"])
def test_on_a_loop(backend: str) -> None:
    pytest.importorskip(backend)
    clean(HEAD + ON_A_LOOP, backend, PYTHONPATH=TESTS)
