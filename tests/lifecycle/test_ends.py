"""A program, a loop or a thread ends while broadcasts are waited for: at once, silent, and the other side is told."""

from __future__ import annotations

import asyncio
import gc
import os
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from broadcast_support import Child, fill, until_waits
from lifecycle.exercise import POLICIES
from support import PATIENCE, running, until

import aiospin
from aiospin import BroadcastReader, BroadcastWriter

# ---- the program ----

WAITS = """
import asyncio
try: BaseExceptionGroup
except NameError: from exceptiongroup import BaseExceptionGroup  # before Python 3.11
from broadcast_support import fill, until_waits, waits
from lifecycle.exercise import POLICIES

name = sys.argv[1]
readers, writers, witnesses = [], [], []

def begin():
    for number, policy in enumerate(POLICIES.values()):
        writers.append(BroadcastWriter.create(f"{name}-full-{number}", capacity=4096, policy=policy))
        witnesses.append(BroadcastReader.attach(writers[-1].handle))
        fill(writers[-1])
        readers.append(BroadcastReader.attach(name, policy=policy))

def blocking():
    begin()
    for end in (*readers, *writers):
        wait = end.receive_sync if end in readers else lambda end=end: end.send_sync(b"later")
        threading.Thread(target=wait, daemon=True).start()
    while not all(waits(end) for end in (*readers, *writers)): time.sleep(0)

async def receive(reader):
    while True: await reader.receive()  # the first messages, until it may sleep on its bell

async def all_wait():
    for end in (*readers, *writers): await until_waits(end)
    tell("waiting")
    await anyio.to_thread.run_sync(told)  # somebody sends meanwhile, and then has nothing more to say
    for end in (*readers, *writers): await until_waits(end)

async def wait_for_all(group):
    begin()
    for reader in readers: group.start_soon(receive, reader)
    for writer in writers:
        group.start_soon(writer.send, b"later")
        group.start_soon(writer.wait_for_readers, 2)
    await all_wait()

async def main():
    async with anyio.create_task_group() as group:
        await wait_for_all(group)
        end(group)

class Group:  # for tasks that nobody waits for
    def __init__(self): self.tasks = []
    def start_soon(self, function, *args):
        self.tasks.append(asyncio.ensure_future(function(*args)))
        self.tasks[-1]._log_destroy_pending = False

def end(group): sys.exit(3)
"""

PROGRAMS = {
    "sys.exit in a task": """
async def main():
    await wait_for_all(Group())
    sys.exit(3)
asyncio.run(main())
""",
    "sys.exit in a task of a group": """
try: anyio.run(main, backend="asyncio")
except BaseExceptionGroup: sys.exit(3)
""",
    "sys.exit in a task of trio": """
try: anyio.run(main, backend="trio")
except BaseExceptionGroup: sys.exit(3)
""",
    "tasks that are cancelled": """
def end(group): group.cancel_scope.cancel()
anyio.run(main, backend="asyncio")
sys.exit(3)
""",
    "a loop that nobody closes": """
async def main(group): await wait_for_all(group)
group, loop = Group(), asyncio.new_event_loop()
loop.run_until_complete(main(group))
sys.exit(3)
""",
    "a loop that is closed under its waits": """
async def main(group): await wait_for_all(group)
group, loop = Group(), asyncio.new_event_loop()
loop.run_until_complete(main(group))
loop.close()
sys.exit(3)
""",
    "a loop in a daemon thread": """
there = threading.Event()
def end(group): there.set()
threading.Thread(target=lambda: asyncio.run(main()), daemon=True).start()
there.wait()
sys.exit(3)
""",
    "trio in a daemon thread": """
there = threading.Event()
def end(group): there.set()
threading.Thread(target=lambda: anyio.run(main, backend="trio"), daemon=True).start()
there.wait()
sys.exit(3)
""",
    "blocking in daemon threads": """
blocking()
tell("waiting")
told()
while not all(waits(end) for end in writers): time.sleep(0)
sys.exit(3)
""",
}


def files(name: str) -> list[str]:
    return [file for file in os.listdir("/dev/shm") if name in file]


@pytest.mark.parametrize("program", PROGRAMS)
def test_the_end_of_a_program(program: str) -> None:
    """Its writers end their streams, its readers leave, and nothing of them is left."""
    if "trio" in program:
        pytest.importorskip("trio")
    name = f"{os.getpid()}-{list(PROGRAMS).index(program)}-end"
    with (
        BroadcastWriter.create(name, capacity=4096) as writer,
        Child(WAITS + PROGRAMS[program], name) as child,
        ExitStack() as ends,
    ):
        child.expect("waiting")
        for number in range(3):
            writer.send_sync(bytes([number]), PATIENCE)
        names = [f"{name}-full-{number}" for number in range(len(POLICIES))]
        theirs = [ends.enter_context(BroadcastReader.attach(full)) for full in names]
        child.tell()
        out, err = child._process.communicate(timeout=PATIENCE)
        assert (child._process.returncode, out + err) == (3, b""), (out + err).decode()
        for reader in theirs:
            # Its writer may have had room at last, when its other reader left.
            assert list(reader.iter_sync()) in ([], [b"later"])
        assert writer.statistics().readers == ()
        assert writer._segment.path.name in files(name)
    assert files(name) == []


SENDERS = """
name = sys.argv[1]
writers = [BroadcastWriter.create(f"{name}-{number}", capacity=4096) for number in range(5)]
inside = threading.Event()

def never(*args):
    made(*args)
    inside.set()
    threading.Event().wait()

def send(writer, message):
    while True: writer.send_sync(message)

async def send_in_loop(writer, message):
    while True: await writer.send(message)

def fill_in_place(writer, nbytes):
    while True:
        with writer.acquire_write(nbytes): pass

for number, (target, *args) in enumerate([
    (send, b"small"),
    (send, b"large" * 10_000),
    (anyio.run, send_in_loop, b"small"),
    (fill_in_place, 50_000),
    (send, b"it gets no further" * 1000),
]):
    args.insert(1 if target is anyio.run else 0, writers[number])
    if number == 4: made, os.posix_fallocate = os.posix_fallocate, never
    threading.Thread(target=target, args=args, daemon=True).start()
    while number < 4 and writers[number].statistics().messages < 10: time.sleep(0)
inside.wait()
sys.exit(3)
"""


def test_daemon_threads_send_until_the_end() -> None:
    name = f"{os.getpid()}-sends"
    with Child(SENDERS, name) as child:
        out, err = child._process.communicate(timeout=PATIENCE)
    assert (child._process.returncode, out + err) == (3, b""), (out + err).decode()
    assert files(name) == []


ONE_FAILS = """
writers = [BroadcastWriter.create(f"{sys.argv[1]}-{number}", capacity=4096) for number in range(3)]
# Else they would be closed when the interpreter drops them.
threading.Thread(target=lambda writers: threading.Event().wait(), args=[writers], daemon=True).start()
close = BroadcastWriter.close
failed = []

def fail_once(writer):
    close(writer)
    if not failed:
        failed.append(writer)
        raise OSError("as from a file system that is gone")

BroadcastWriter.close = fail_once
"""


def test_one_that_cannot_be_closed_keeps_no_other_open() -> None:
    name = f"{os.getpid()}-fails"
    with Child(ONE_FAILS, name) as child:
        _, err = child._process.communicate(timeout=PATIENCE)
    assert b"a file system that is gone" in err
    assert files(name) == []


LOCK_HOLDER = """
import atexit
import aiospin._member
lock = threading.Lock()

def holds_it(reader):
    with lock: reader.receive_sync()

# What is registered last runs first: the lock is wanted after the broadcasts were closed.
atexit.unregister(aiospin._member._close_all)
atexit.register(lock.acquire)
atexit.register(aiospin._member._close_all)
writer = BroadcastWriter.create(capacity=4096)
reader = BroadcastReader.attach(writer.handle)
threading.Thread(target=holds_it, args=[reader], daemon=True).start()
while not reader._ring.suspended: time.sleep(0)
sys.exit(3)
"""


def test_a_daemon_thread_has_a_lock_that_an_exit_handler_wants() -> None:
    """As the thread of a program that logs has that of its handler, which logging takes at the end."""
    with Child(LOCK_HOLDER) as child:
        child._process.communicate(timeout=PATIENCE)
    assert child._process.returncode == 3


# ---- the loop ----


@pytest.mark.parametrize("how", POLICIES)
def test_a_loop_is_closed_under_them(
    run_asyncio: Any, how: str, capfd: pytest.CaptureFixture[str]
) -> None:
    """A reader and a writer that wait there can still be closed, and go once their tasks are gone."""
    made: list[Any] = []

    async def look() -> None:
        made.append(type(asyncio.get_running_loop()))

    run_asyncio(look)
    policy = POLICIES[how]

    async def begin(reader: BroadcastReader, full: BroadcastWriter) -> list[Any]:
        for number in range(3):  # until it may sleep on its bell
            receiving = asyncio.ensure_future(reader.receive())
            await until_waits(reader)
            writer.send_nowait(bytes([number]))
            assert await receiving == bytes([number])
        tasks = [asyncio.ensure_future(wait) for wait in (reader.receive(), full.send(b"later"))]
        for task in tasks:
            task._log_destroy_pending = False  # type: ignore[attr-defined]  # asyncio's own complaint
        for end in (reader, full):
            await until_waits(end)
        return tasks

    def descriptors() -> list[str]:
        links = Path("/proc/self/fd").iterdir()
        return sorted(os.readlink(link) for link in links if link.exists() or link.is_symlink())

    before, pins = descriptors(), aiospin.statistics().pinned_buffers
    loop = made.pop()()
    with BroadcastWriter.create(capacity=4096) as writer:
        reader = BroadcastReader.attach(writer.handle, policy=policy)
        full = BroadcastWriter.create(capacity=4096, policy=policy)
        with BroadcastReader.attach(full.handle) as slow:
            count = fill(full)
            tasks = loop.run_until_complete(begin(reader, full))
            loop.close()
            reader.close()
            full.close()
            assert writer.statistics().readers == ()
            assert len(list(slow.iter_sync())) == count
    del tasks, loop, reader, full

    def are_gone() -> bool:
        gc.collect()  # a task and what it waits for refer to each other
        return aiospin.statistics().pinned_buffers == pins and descriptors() == before

    until(are_gone)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("how", ["default", "park"])
def test_two_loops_in_two_threads(run: Any, how: str) -> None:
    """They play ping-pong over two broadcasts of one process, and each has a reader of the other's besides."""
    policy, rounds = POLICIES[how], 30

    async def play(mine: BroadcastWriter, theirs: BroadcastWriter, serve: bool) -> None:
        with (
            BroadcastReader.attach(theirs.handle, policy=policy) as reader,
            BroadcastReader.attach(theirs.handle, policy=policy) as other,
        ):
            await mine.wait_for_readers(2, PATIENCE)
            for number in range(rounds):
                if serve:
                    await mine.send(bytes([number]), PATIENCE)
                for each in (reader, other):
                    assert await each.receive(PATIENCE) == bytes([number])
                if not serve:
                    await mine.send(bytes([number]), PATIENCE)

    with (
        BroadcastWriter.create(capacity=4096, policy=policy) as ping,
        BroadcastWriter.create(capacity=4096, policy=policy) as pong,
        running(lambda: run(play, ping, pong, True)),
    ):
        run(play, pong, ping, False)
