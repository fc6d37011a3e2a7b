"""No more descriptors, no more shared memory: an operation does without, or says so; nothing is lost or left behind."""

from __future__ import annotations

import textwrap
from pathlib import Path

import pytest
from lifecycle.exercise import SKIPPED
from support import clean, interpreter

TESTS = str(Path(__file__).parent.parent)

# ---- descriptors ----

SCARCE = """
import errno, os, resource, sys
import anyio, trio
import aiospin
from aiospin import BroadcastReader, BroadcastWriter, WaitPolicy, eq, wait_for_flag
from aiospin._waiter import close_default_waiter
from lifecycle import exercise

soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
word = bytearray(8)
aiospin.Flag(word).store(0)  # the stand-in keeps a file that it has opened once

def held():
    listed = os.listdir("/proc/self/fd")  # with the one that the listing took
    return sorted(int(fd) for fd in listed if os.path.exists(f"/proc/self/fd/{fd}"))

def first_free(count):
    '''The limit that leaves so many descriptors: numbers below it that are not taken.'''
    taken, limit = set(held()), 0
    while count or limit in taken:
        count -= limit not in taken
        limit += 1
    return limit

def starved(prepare, operation, check):
    '''Once for each number of descriptors that are left, until there are enough.'''
    outcomes, left = [], 0
    while "done" not in outcomes[-2:-1]:  # once more than it needs
        files, fds = exercise.files(), held()
        with prepare() as thing:
            open_before = held()
            resource.setrlimit(resource.RLIMIT_NOFILE, (first_free(left), hard))
            try:
                operation(thing)
                outcomes.append("done")
            except OSError as error:
                assert error.errno == errno.EMFILE, error
                outcomes.append("EMFILE")
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            if outcomes[-1] == "EMFILE":
                assert set(held()) <= set(open_before), (left, open_before, held())
            check(thing)
        assert (exercise.files(), held()) == (files, fds), left
        left += 1
    return outcomes
"""

PAIR = """
from contextlib import contextmanager

@contextmanager
def pair(policy=None):
    with BroadcastWriter.create(capacity=4096, policy=policy) as writer:
        with BroadcastReader.attach(writer.handle, policy=policy) as reader:
            yield writer, reader
    close_default_waiter()

def works(ends):
    writer, reader = ends
    for number in range(3):
        writer.send_sync(bytes([number]), 30)
        assert reader.receive_sync(30) == bytes([number])
    writer.send_sync(bytes(9000), 30)
    assert reader.receive_sync(30) == bytes(9000)
"""

OPERATIONS = {
    "create": """
        @contextmanager
        def nothing(): yield []
        def create(made): made.append(BroadcastWriter.create(capacity=4096))
        def check(made):
            for writer in made:
                with BroadcastReader.attach(writer.handle) as reader: works((writer, reader))
                writer.close()
        assert starved(nothing, create, check)[0] == "EMFILE"
    """,
    "attach": """
        def attach(ends): BroadcastReader.attach(ends[0].handle).close()
        assert starved(pair, attach, works)[0] == "EMFILE"
    """,
    "send and receive": """
        def exchange(ends):
            ends[0].send_sync(b"a")
            assert ends[1].receive_sync() == b"a"
        assert starved(pair, exchange, works) == ["done"] * 2
    """,
    "send a large message": """
        def check(ends):
            while True:
                try: assert ends[1].receive_nowait() == bytes(9000)
                except aiospin.WouldBlock: break
            works(ends)
        outcomes = starved(pair, lambda ends: ends[0].send_sync(bytes(9000)), check)
        assert outcomes[0] == "EMFILE"
    """,
    "receive a large message": """
        @contextmanager
        def with_one():
            with pair() as ends:
                ends[0].send_sync(bytes(9000))
                ends[0].send_sync(b"next")
                yield ends
        def receive(ends): assert ends[1].receive_sync() == bytes(9000)
        def check(ends):
            rest = ends[1].receive_many_sync()
            assert rest in ([b"next"], [bytes(9000), b"next"]), rest  # a refused one can still be received
            works(ends)
        assert starved(with_one, receive, check)[0] == "EMFILE"
    """,
    "close": """
        @contextmanager
        def unread():
            with pair() as ends:
                ends[0].send_sync(bytes(9000))
                ends[0].send_sync(b"next")
                yield ends
        def close(ends):
            ends[0].close()
            ends[1].close()
        def again(ends):
            close(ends)
            assert ends[0].closed and ends[1].closed
        starved(unread, close, again)  # one that could not remove what is left says so, and can be repeated
    """,
    "waits on a loop": """
        # The loop has its descriptors before, so that only the bell has to do without.
        async def scarce(policy, left):
            with pair(policy) as (writer, reader):
                resource.setrlimit(resource.RLIMIT_NOFILE, (first_free(left), hard))
                try:
                    for number in range(4):
                        receive = lambda: reader.receive(30)
                        assert await exercise._while_waiting(receive, writer.send, bytes([number])) == bytes([number])
                    await exercise.expires_async(lambda: reader.receive(0.005))
                    await exercise.expires_async(lambda: wait_for_flag(word, eq(1), 0.005, policy=policy))
                finally:
                    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for backend in exercise.BACKENDS:
            anyio.run(exercise.broadcast, WaitPolicy("park"), backend=backend)  # imports what it needs
            close_default_waiter()
            for policy in (WaitPolicy(), WaitPolicy("park")):
                for left in range(5):
                    files, fds = exercise.files(), held()
                    anyio.run(scarce, policy, left, backend=backend)
                    assert (exercise.files(), held()) == (files, fds), (backend, left)
    """,
}


@pytest.mark.parametrize("operation", OPERATIONS)
def test_out_of_descriptors(operation: str) -> None:
    """With none left, with one, and so on until there are enough."""
    clean(SCARCE + PAIR + textwrap.dedent(OPERATIONS[operation]), PYTHONPATH=TESTS)


# ---- shared memory ----

FULL = """
import ctypes, errno, os, sys

def mount(options):
    libc = ctypes.CDLL(None, use_errno=True)
    CLONE_NEWNS, MS_REC, MS_PRIVATE = 0x20000, 0x4000, 1 << 18
    if (libc.unshare(CLONE_NEWNS) or libc.mount(b"none", b"/", None, MS_REC | MS_PRIVATE, None)
            or libc.mount(b"tmpfs", b"/dev/shm", b"tmpfs", 0, options)):
        print("no small /dev/shm for this user:", os.strerror(ctypes.get_errno()))
        sys.exit(77)

mount({options!r})
import aiospin, anyio
from aiospin import BroadcastReader, BroadcastWriter, WaitPolicy
from lifecycle import exercise

def full(call, *says):
    try: call()
    except OSError as error:
        assert error.errno == errno.ENOSPC, error
        assert all(word in str(error) for word in says), error
    else: raise AssertionError("there is room")
"""


def small(options: bytes, source: str) -> None:
    """Run a program that has a /dev/shm of its own."""
    done = interpreter(FULL.format(options=options) + source, PYTHONPATH=TESTS)
    if done.returncode == SKIPPED:
        pytest.skip(done.stdout.strip())
    assert (done.returncode, done.stdout + done.stderr) == (0, ""), done.stderr


def test_shared_memory_without_room() -> None:
    """What is there works as long as it is; what needs more says how much, and leaves nothing."""
    small(
        b"size=256k",
        """
full(lambda: BroadcastWriter.create(capacity=1 << 20), "needs 1051200", "262144 are free")
assert exercise.files() == set()
with BroadcastWriter.create(capacity=4096) as writer, BroadcastReader.attach(writer.handle) as reader:
    before = exercise.files()
    with open("/dev/shm/hog", "wb", buffering=0) as hog:
        try:
            while True: hog.write(bytes(4096))
        except OSError: pass
    full(lambda: BroadcastWriter.create(capacity=4096), "are free")
    for send in (writer.send_nowait, writer.send_sync, writer.send_object_nowait, writer.send_object_sync):
        full(lambda: send(bytes(9000)), "are free")
    for send in (writer.send, writer.send_object):
        full(lambda: anyio.run(send, bytes(9000)), "are free")
    full(lambda: writer.acquire_write(9000).__enter__(), "are free")
    assert exercise.files() == before
    for lap in range(200):  # every page of the ring can be written
        writer.send_sync(bytes([lap]) * 1000)
        assert reader.receive_sync() == bytes([lap]) * 1000
    os.unlink("/dev/shm/hog")
    writer.send_sync(bytes(9000))
    assert reader.receive_sync() == bytes(9000)
exercise.everything()
assert exercise.files() == set()
""",
    )


def test_shared_memory_without_names() -> None:
    """No more files can be made there, not even a FIFO: a loop waits without a bell."""
    small(
        b"size=1m,nr_inodes=16",
        """
with BroadcastWriter.create(capacity=4096) as writer, BroadcastReader.attach(writer.handle) as reader:
    number = 0
    try:
        while True:
            open(f"/dev/shm/{number}", "x").close()
            number += 1
    except OSError: pass
    before = exercise.files()
    full(lambda: BroadcastWriter.create(capacity=4096))
    full(lambda: writer.send_sync(bytes(9000)))
    async def exchange():
        for number in range(4):
            message = bytes([number])
            assert await exercise._while_waiting(lambda: reader.receive(30), writer.send, message) == message
        await exercise.expires_async(lambda: reader.receive(0.005))
    for backend in exercise.BACKENDS: anyio.run(exchange, backend=backend)
    assert exercise.files() == before
    for name in range(number): os.unlink(f"/dev/shm/{name}")
assert exercise.files() == set()
""",
    )
