"""Members in other processes: they die, stop, fork, spawn and exit, and nobody else suffers."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from contextlib import ExitStack
from pathlib import Path

import anyio
import anyio.lowlevel
import pytest
from broadcast_support import (
    SHM,
    Child,
    consume,
    fill,
    make_message,
    number_of,
    pair,
    scaled,
    waits,
)
from support import COMPILED, clean, running, until

import aiospin
from aiospin import (
    BroadcastReader,
    BroadcastWriter,
    BrokenResourceError,
    ClosedResourceError,
    _member,
)

SOON = 1.0  # seconds in which a death must be noticed; ten times what it takes

WRITE_ON_DEMAND = """
writer = BroadcastWriter.create(sys.argv[1] if len(sys.argv) > 1 else None, capacity=65536)
tell(writer.name)
while True:
    for number in range(int(told())): writer.send_nowait(str(number).encode())
    tell("sent")
"""

READ = """
reader = BroadcastReader.attach(sys.argv[1])
tell("attached")
"""


# ---- death ----


def test_writer_dies(run):
    async def main():
        with Child(WRITE_ON_DEMAND) as child, BroadcastReader.attach(child.hear()) as reader:
            child.tell("3")
            child.expect("sent")
            child.kill()
            died = time.monotonic()
            for number in range(3):  # what it published is there
                assert await reader.receive() == str(number).encode()
            for _ in range(2):
                with pytest.raises(BrokenResourceError, match=r"writer .* died"):
                    await reader.receive()
            assert time.monotonic() - died < SOON
            with pytest.raises(BrokenResourceError):
                await reader.receive_many()
            with pytest.raises(BrokenResourceError):
                async with reader.acquire_read():
                    pass
        os.unlink(SHM + reader.name)

    run(main)


def test_writer_dies_under_a_blocked_reader(run):
    async def main():
        with Child(WRITE_ON_DEMAND) as child, BroadcastReader.attach(child.hear()) as reader:

            async def receive():
                with pytest.raises(BrokenResourceError):
                    await reader.receive()

            async with anyio.create_task_group() as group:
                group.start_soon(receive)
                while aiospin.statistics().live_tickets == 0:
                    await anyio.lowlevel.checkpoint()
                child.kill()
                died = time.monotonic()
            assert time.monotonic() - died < SOON
            os.unlink(SHM + reader.name)

    run(main)


def test_writer_dies_and_nobody_waits():
    """Those who only look learn of it too."""
    with Child(WRITE_ON_DEMAND) as child, BroadcastReader.attach(child.hear()) as reader:
        child.kill()
        died = time.monotonic()
        with pytest.raises(BrokenResourceError):  # noqa: PT012 - the block itself is tested
            while time.monotonic() - died < SOON:
                with pytest.raises(aiospin.WouldBlock):
                    reader.receive_nowait()
        with pytest.raises(BrokenResourceError):
            reader.receive_sync()
        Path(SHM + reader.name).unlink()


def test_reader_dies_while_it_holds_a_message(run):
    code = READ + "slot = reader.acquire_read(); slot.__enter__(); tell('holds'); told()"

    async def main():
        writer, _ = pair(readers=0)
        async with writer:
            with Child(code, writer.name) as child:
                child.expect("attached")
                fill(writer)
                child.expect("holds")
                with pytest.raises(TimeoutError):
                    await writer.send(b"", timeout=0.01)
                child.kill()
                died = time.monotonic()
                await writer.send(b"on")
                assert time.monotonic() - died < SOON
                assert writer.statistics().readers == ()

    run(main)


def test_reader_dies_under_a_writer_that_only_tries():
    writer, _ = pair(readers=0)
    with writer, Child(READ + "told()", writer.name) as child:
        child.expect("attached")
        fill(writer)
        child.kill()
        died = time.monotonic()
        while time.monotonic() - died < SOON:
            try:
                writer.send_nowait(b"on")
                break
            except aiospin.WouldBlock:
                pass
        else:
            pytest.fail("the dead reader holds the writer")


def test_dead_reader_is_not_counted():
    writer, _ = pair(readers=0)
    with writer:
        with Child(READ + "told()", writer.name) as child:
            child.expect("attached")
            writer.wait_for_readers_sync(1)
            child.kill()
        with pytest.raises(TimeoutError, match="only 0 of 1"):
            writer.wait_for_readers_sync(1, timeout=0)


@pytest.mark.parametrize("overflow", ["block", "drop_oldest"])
def test_dead_reader_is_not_in_the_statistics(overflow):
    """Of a writer that never waited."""
    writer, [reader] = pair(overflow=overflow)
    with writer, reader:
        with Child(READ + "told()", writer.name) as child:
            child.expect("attached")
            pids = [state.pid for state in writer.statistics().readers]
            assert pids == [os.getpid(), child.pid]
            child.kill()
        assert [state.pid for state in writer.statistics().readers] == [os.getpid()]


def test_slot_of_a_dead_reader_is_used_again():
    writer, _ = pair(readers=0, max_readers=1)
    with writer:
        with Child(READ + "told()", writer.name) as child:
            child.expect("attached")
            fill(writer)
            child.kill()
        with BroadcastReader.attach(writer.handle) as reader:
            assert reader.lag == 0
            writer.send_nowait(b"there is room")
            assert reader.receive_nowait() == b"there is room"


def test_one_reader_dies_another_goes_on():
    writer, [reader] = pair()
    with writer, reader, Child(READ + "told()", writer.name) as child:
        child.expect("attached")
        count = fill(writer)
        assert len(reader.receive_many_nowait()) == count
        child.kill()
        writer.send_sync(b"on", timeout=SOON)
        assert reader.receive_nowait() == b"on"


def test_stopped_reader_holds_the_writer_and_is_named(run):
    async def main():
        writer, _ = pair(readers=0)
        async with writer:
            with Child(
                READ + "tell(len([reader.receive_sync() for _ in range(65)]))", writer.name
            ) as c:
                c.expect("attached")
                c.stop()
                assert fill(writer) == 64
                with pytest.raises(TimeoutError, match=rf"pid {c.pid}, 4096 bytes behind"):
                    await writer.send(b"", timeout=0.25)  # it was asked after more than once
                c.signal(signal.SIGCONT)
                await writer.send(b"the 65th")
                c.expect("65")
                c.finish()

    run(main)


# ---- fork ----


def in_child(function):
    """Fork; the exit status of the child is 0 when the function returns."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            function()
            status = 0
        finally:
            os._exit(status)
    return os.waitpid(pid, 0)[1]


def test_forked_child_cannot_use_what_is_its_parents():
    writer, [reader] = pair()
    with writer, reader:
        writer.send_nowait(b"for the parent")

        def use():
            for call in (
                lambda: writer.send_nowait(b""),
                lambda: writer.send_sync(b""),
                writer.statistics,
                reader.receive_nowait,
                reader.receive_sync,
                lambda: reader.acquire_read().__enter__(),
            ):
                try:
                    call()
                except ClosedResourceError:
                    continue
                os._exit(2)
            writer.close()
            reader.close()

        assert in_child(use) == 0
        assert reader.receive_nowait() == b"for the parent"
        writer.send_nowait(b"and on")
        assert reader.receive_nowait() == b"and on"
        BroadcastReader.attach(writer.handle).close()


def test_fork_while_other_threads_are_inside():
    """They are not in the child, which can use nothing of the parent's all the same, and close nothing."""
    pairs = [pair() for _ in range(4)]
    ends = [end for writer, readers in pairs for end in (writer, *readers)]
    (receives, [waits_here]), (sends, [reader]), *_ = pairs
    over = threading.Event()

    def send_and_receive():
        while not over.is_set():
            sends.send_sync(b"x")
            reader.receive_sync()

    def give_back():
        for end in ends:
            assert end.closed
            end.close()
        assert not list(_member._members)

    with ExitStack() as stack:
        for end in ends:
            stack.enter_context(end)
        with running(waits_here.receive_sync), running(send_and_receive):
            until(lambda: waits(waits_here))
            assert [in_child(give_back) for _ in range(10)] == [0] * 10
            over.set()
            receives.send_sync(b"go on")
        for writer, [reader] in pairs:
            writer.send_nowait(b"still open")
            assert reader.receive_nowait() == b"still open"


@pytest.mark.parametrize("wait", ["receive_sync", "send_sync"])
def test_fork_below_the_handler_of_a_signal(wait):
    """The wait goes on below the handler, in the child too: in memory that is still there."""
    children = []
    parent = os.getpid()

    def fork(*_):
        children.append(os.fork())

    writer, [reader] = pair()
    before = signal.signal(signal.SIGALRM, fork)
    try:
        with writer, reader:
            if wait == "send_sync":
                fill(writer)
            signal.setitimer(signal.ITIMER_REAL, 0.02)
            with pytest.raises((TimeoutError, ClosedResourceError)) as ended:
                writer.send_sync(b"x", 1) if wait == "send_sync" else reader.receive_sync(1)
            if os.getpid() != parent:
                os._exit(0 if ended.type is ClosedResourceError else 1)
            assert ended.type is TimeoutError
            assert os.waitpid(children[0], 0)[1] == 0
            assert not reader.closed
    finally:
        signal.signal(signal.SIGALRM, before)
        if os.getpid() != parent:
            os._exit(2)


def test_forked_child_has_broadcasts_of_its_own():
    writer, [reader] = pair()
    with writer, reader:

        def talk():
            with BroadcastReader.attach(writer.handle) as own:
                os.write(up, b"!")
                assert own.receive_sync(10) == b"hello"

        down, up = os.pipe()
        pid = os.fork()
        if pid == 0:
            try:
                talk()
                os._exit(0)
            finally:
                os._exit(1)
        assert os.read(down, 1) == b"!"
        writer.send_nowait(b"hello")
        assert os.waitpid(pid, 0)[1] == 0
        assert reader.receive_nowait() == b"hello"
        os.close(down)
        os.close(up)


FORK = """
member = {member}
tell({name})
pid = os.fork()
if pid == 0:
    signal.pause()
tell(pid)
told()
"""


def test_forked_child_keeps_no_writer_alive():
    code = FORK.format(member="BroadcastWriter.create()", name="member.name")
    with Child(code) as child:
        name = child.hear()
        forked = int(child.hear())
        with BroadcastReader.attach(name) as reader:
            child.kill()
            with pytest.raises(BrokenResourceError):
                reader.receive_sync(SOON)
        with BroadcastWriter.create(name):  # the name is free
            pass
        os.kill(forked, signal.SIGKILL)


def test_forked_child_keeps_no_reader_alive():
    writer, _ = pair(readers=0)
    code = FORK.format(member="BroadcastReader.attach(sys.argv[1])", name="'attached'")
    with writer, Child(code, writer.name) as child:
        child.expect("attached")
        forked = int(child.hear())
        fill(writer)
        child.kill()
        writer.send_sync(b"on", timeout=SOON)
        os.kill(forked, signal.SIGKILL)


def test_fork_while_a_task_waits(run):
    """The child drops the wait, the parent goes on with it."""

    async def main():
        writer, [reader] = pair()
        async with writer, reader:
            received = []

            async def receive():
                received.append(await reader.receive())

            async with anyio.create_task_group() as group:
                group.start_soon(receive)
                while aiospin.statistics().live_tickets == 0:
                    await anyio.lowlevel.checkpoint()
                assert in_child(lambda: None) == 0
                writer.send_nowait(b"for the parent")
            assert received == [b"for the parent"]

    run(main)


# ---- spawn ----


def test_handle_through_spawn():
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    with BroadcastWriter.create() as writer:
        process = context.Process(target=consume, args=(writer.handle, theirs))
        process.start()
        assert ours.poll(20)
        assert ours.recv() == "attached"
        writer.wait_for_readers_sync(1)
        for number in range(3):
            writer.send_nowait(bytes([number]))
    assert ours.poll(20)
    assert ours.recv() == [b"\0", b"\1", b"\2"]
    process.join(20)
    assert process.exitcode == 0
    process.close()
    ours.close()
    theirs.close()


# ---- exit ----


@pytest.mark.parametrize(
    "end",
    [
        "pass",
        "raise SystemExit(0)",
        "del writer, reader",
        "wait(reader.receive_sync)",
        "wait(lambda: anyio.run(reader.receive))",
    ],
)
def test_exit_without_close_is_clean_and_silent(end):
    source = f"""
import contextlib, threading, anyio, aiospin
def wait(function):
    def run():
        with contextlib.suppress(aiospin.ClosedResourceError, aiospin.EndOfStream):
            function()
    threading.Thread(target=run, daemon=True).start()
writer = aiospin.BroadcastWriter.create(); print(writer.name)
reader = aiospin.BroadcastReader.attach(writer.name)
{end}
"""
    name = clean(source).strip()
    assert not Path(SHM + name).exists()


def test_readers_are_told_when_the_writer_exits():
    with (
        Child("writer = BroadcastWriter.create(); tell(writer.name); told()") as child,
        BroadcastReader.attach(child.hear()) as reader,
    ):
        child.tell()
        with pytest.raises(aiospin.EndOfStream):
            reader.receive_sync(20)
        child.finish()


# ---- compiled and pure ----

ECHO = """
from broadcast_support import make_message, number_of
with BroadcastReader.attach(sys.argv[1]) as reader:
    tell(aiospin.capabilities().backend == "python")
    with BroadcastWriter.create(capacity=8192) as back:
        tell(back.name)
        back.wait_for_readers_sync(1)
        for message in reader.iter_sync():
            back.send_sync(make_message(number_of(message), len(message) % 97))
"""


def test_compiled_and_pure_understand_each_other(run):
    """Messages there and answers back through two rings that wrap many times, each side of the other kind."""
    count = scaled(2000, 500)

    async def main():
        async with BroadcastWriter.create(capacity=8192) as writer:
            with Child(ECHO, writer.name, pure=COMPILED) as child:
                child.expect(str(COMPILED))
                async with BroadcastReader.attach(child.hear()) as reader:

                    async def send():
                        await writer.wait_for_readers(1)
                        for number in range(count):
                            await writer.send(make_message(number, number * 31 % 3000))
                        writer.close()

                    async with anyio.create_task_group() as group:
                        group.start_soon(send)
                        numbers = [number_of(message) async for message in reader]
                    assert numbers == list(range(count))
                child.finish()

    run(main)
