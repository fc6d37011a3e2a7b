"""A reader that sleeps in its loop's own poll, on a doorbell: woken, told of the writer's death, and left behind
by nobody."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import gc
import os
import random
import select
import selectors
import subprocess
import sys
import termios
import threading
import time
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from bell_support import PARK, Full, asleep_on_bell, balance, bells_ring, running, with_bell
from broadcast_support import Child, pair
from support import COMPILED, environment, of_a_child
from support import settled as until

import aiospin
from aiospin import BroadcastReader, BroadcastWriter
from aiospin._bell import Bell


def bells() -> set[str]:
    ours = f"aiospin-{os.getpid()}-"
    return {name for name in os.listdir("/dev/shm") if name.startswith(ours) and ".bell-" in name}


def remove_bells() -> None:
    for name in bells():
        Path("/dev/shm", name).unlink()


def leave_over(path: Path) -> None:
    path.write_bytes(b"left over")


def write_to(name: str, count: int = 1000) -> None:
    with open(f"/dev/shm/{name}", "r+b", buffering=0) as bell:
        bell.write(b"x" * count)


@bells_ring
def test_is_woken_for_each_message(run: Any) -> None:
    async def main() -> None:
        async with BroadcastWriter.create() as writer:
            reader = await with_bell(writer)
            before = aiospin.statistics()
            for number in range(20):
                async with running(reader.receive) as received:
                    await asleep_on_bell(reader)
                    await writer.send(b"%d" % number)
                    assert await received.result() == b"%d" % number
            after = aiospin.statistics()
            assert after.parked - before.parked == 20
            assert after.live_tickets == 0  # the waiter thread had nothing to do
            assert len(bells()) == 1
            await reader.aclose()
            assert bells() == set()

    run(main)


@bells_ring
def test_the_timeout_is_kept(run: Any) -> None:
    async def main() -> None:
        async with BroadcastWriter.create() as writer, await with_bell(writer) as reader:
            for _ in range(3):
                with pytest.raises(TimeoutError):
                    await reader.receive(20e-3)
            async with running(reader.receive, 30.0) as received:
                await writer.send(b"on time")
                assert await received.result() == b"on time"

    run(main)


@bells_ring
def test_cancelled_on_the_bell_loses_nothing(run: Any) -> None:
    async def main() -> None:
        async with BroadcastWriter.create() as writer, await with_bell(writer) as reader:
            for number in range(20):
                async with anyio.create_task_group() as group:
                    group.start_soon(reader.receive)
                    await asleep_on_bell(reader)
                    group.cancel_scope.cancel()
                await writer.send(b"%d" % number)
                assert await reader.receive() == b"%d" % number

    run(main)


@bells_ring
def test_a_message_and_a_cancel_at_once(run: Any) -> None:
    async def main() -> None:
        async with BroadcastWriter.create() as writer, await with_bell(writer) as reader:
            for number in range(20):
                got: list[bytes] = []

                async def receive(got: list[bytes] = got) -> None:
                    got.append(await reader.receive())

                async with anyio.create_task_group() as group:
                    group.start_soon(receive)
                    await asleep_on_bell(reader)
                    writer.send_nowait(b"%d" % number)
                    group.cancel_scope.cancel()
                assert got or await reader.receive() == b"%d" % number

    run(main)


@bells_ring
def test_close_wakes_the_sleeper(run: Any) -> None:
    async def main() -> None:
        async with BroadcastWriter.create() as writer:
            for close in (BroadcastReader.close, in_a_thread):
                reader = await with_bell(writer)
                async with running(reader.receive) as received:
                    await asleep_on_bell(reader)
                    close(reader)
                    with pytest.raises(aiospin.ClosedResourceError):
                        await received.result()

    def in_a_thread(reader: BroadcastReader) -> None:
        thread = threading.Thread(target=reader.close)
        thread.start()
        thread.join()

    run(main)


@bells_ring
def test_the_end_of_the_stream_rings(run: Any) -> None:
    async def main() -> None:
        writer = BroadcastWriter.create()
        reader = await with_bell(writer)
        async with running(reader.receive) as received:
            await asleep_on_bell(reader)
            writer.close()
            with pytest.raises(aiospin.EndOfStream):
                await received.result()
        reader.close()

    run(main)


WRITER = """
with BroadcastWriter.create(capacity=4096) as writer:
    tell(writer.name)
    for line in sys.stdin:
        writer.send_sync(line.strip().encode())
        tell("sent")
"""


@pytest.mark.skipif(
    not COMPILED and sys.version_info < (3, 13),
    reason="Python has timers with a descriptor from 3.13 on, and without them nobody sleeps on a bell",
)
def test_the_death_of_the_writer_ends_the_sleep(run: Any) -> None:
    """The kernel closes its end of the FIFO: no thread asks every tenth of a second whether it lives."""

    async def main() -> None:
        with Child(WRITER, pure=False) as child:
            async with BroadcastReader.attach(child.hear(), policy=PARK) as reader:
                async with running(reader.receive) as received:
                    await until(lambda: reader._ring.bell() == 1)
                    child.tell("hello")
                    assert await received.result() == b"hello"
                child.expect("sent")  # and has seen to the bell
                async with running(reader.receive) as received:
                    await asleep_on_bell(reader)
                    assert aiospin.statistics().live_tickets == 0
                    child.kill()
                    with pytest.raises(aiospin.BrokenResourceError):
                        await received.result()
                # and whoever asks again is told again
                with pytest.raises(aiospin.BrokenResourceError):
                    await reader.receive()

    run(main)


def test_a_denied_fifo_leaves_the_waiter_thread(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(*_: object) -> None:
        raise PermissionError(errno.EPERM, "denied")

    async def main() -> None:
        async with (
            BroadcastWriter.create() as writer,
            BroadcastReader.attach(writer.handle, policy=PARK) as reader,
        ):
            monkeypatch.setattr(os, "mkfifo", denied)
            for number in range(3):
                async with running(reader.receive) as received:
                    await until(lambda: aiospin.statistics().live_tickets == 1)
                    await writer.send(b"%d" % number)
                    assert await received.result() == b"%d" % number
            assert bells() == set()

    run(main)


def test_a_writer_that_cannot_open_it_says_so(run: Any) -> None:
    async def main() -> None:
        async with (
            BroadcastWriter.create() as writer,
            BroadcastReader.attach(writer.handle, policy=PARK) as reader,
        ):
            for number in range(3):
                async with running(reader.receive) as received:
                    await until(lambda: aiospin.statistics().live_tickets == 1)
                    remove_bells()
                    await writer.send(b"%d" % number)
                    assert await received.result() == b"%d" % number

    run(main)


@bells_ring
def test_what_a_dead_reader_left_is_replaced(run: Any) -> None:
    async def main() -> None:
        async with BroadcastWriter.create() as writer:
            leave_over(writer._segment.companion("bell-0"))
            async with await with_bell(writer) as reader, running(reader.receive) as received:
                await asleep_on_bell(reader)
                await writer.send(b"rung")
                assert await received.result() == b"rung"

    run(main)


@bells_ring
def test_a_reader_moves_from_loop_to_loop(run: Any) -> None:
    made: list[Any] = []

    async def begin() -> None:
        writer = BroadcastWriter.create()
        made.append((writer, await with_bell(writer)))

    async def go_on() -> None:
        [(writer, reader)] = made
        for number in range(3):
            async with running(reader.receive) as received:
                await asleep_on_bell(reader)
                await writer.send(b"%d" % number)
                assert await received.result() == b"%d" % number

    run(begin)
    run(go_on)
    run(go_on)
    [(writer, reader)] = made
    reader.close()
    writer.close()


@bells_ring
def test_many_readers_sleep_on_one_loop(run: Any) -> None:
    async def main() -> None:
        async with BroadcastWriter.create(max_readers=64) as writer:
            readers = [BroadcastReader.attach(writer.handle, policy=PARK) for _ in range(32)]
            got = 0

            async def receive(reader: BroadcastReader) -> None:
                nonlocal got
                for number in range(5):
                    assert await reader.receive() == b"%d" % number
                    got += 1

            async with anyio.create_task_group() as group:
                for reader in readers:
                    group.start_soon(receive, reader)
                for number in range(5):
                    await writer.send(b"%d" % number)
                    await until(lambda number=number: got == 32 * (number + 1))
            for reader in readers:
                reader.close()

    run(main)


@bells_ring
def test_a_forked_child_leaves_the_bell_alone(run: Any) -> None:
    """It neither removes the FIFO nor keeps the writer's end open."""

    async def main() -> None:
        async with BroadcastWriter.create() as writer, await with_bell(writer) as reader:
            assert of_a_child(lambda: reader._bell is None and not bell_descriptors())
            async with running(reader.receive) as received:
                await asleep_on_bell(reader)
                await writer.send(b"still there")
                assert await received.result() == b"still there"

    def bell_descriptors() -> list[str]:
        paths = []
        for fd in os.listdir("/proc/self/fd"):
            try:
                paths.append(os.readlink(f"/proc/self/fd/{fd}"))
            except OSError:
                continue
        return [path for path in paths if ".bell-" in path]

    run(main)


def pending_rings(reader: BroadcastReader) -> int:
    """Bytes in its FIFO."""
    assert reader._bell is not None
    answer = fcntl.ioctl(reader._bell.fifo, termios.FIONREAD, bytes(4))
    return int.from_bytes(answer, sys.byteorder)


@bells_ring
def test_a_bell_that_rings_for_nothing_is_no_message(run: Any) -> None:
    async def main() -> None:
        async with BroadcastWriter.create() as writer, await with_bell(writer) as reader:
            [name] = bells()
            async with running(reader.receive) as received:
                await asleep_on_bell(reader)
                write_to(name)
                await until(lambda: pending_rings(reader) == 0)
                await asleep_on_bell(reader)
                await writer.send(b"news")
                assert await received.result() == b"news"

    run(main)


@bells_ring
def test_a_ring_wakes_once_and_is_taken_out_of_the_fifo(run: Any) -> None:
    """It is taken out after its message, when the reader may be asleep again."""

    async def main() -> None:
        async with BroadcastWriter.create() as writer, await with_bell(writer) as reader:
            spurious = aiospin.statistics().spurious
            async with anyio.create_task_group() as group:
                group.start_soon(take, reader)
                for _ in range(20):
                    await asleep_on_bell(reader)
                    await writer.send(b"news")
                    await until(lambda: reader.lag == 0)
                await asleep_on_bell(reader)
                await until(lambda: pending_rings(reader) == 0)
                assert aiospin.statistics().spurious == spurious
                group.cancel_scope.cancel()

    async def take(reader: BroadcastReader) -> None:
        async for _ in reader:
            pass

    run(main)


class EdgeTriggered(selectors.EpollSelector):
    """Tells of a ring once, as mio and others do, where asyncio's and libuv's poll tell as long as it is there."""

    def register(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        key = super().register(fileobj, events, data)
        self._selector.modify(key.fd, select.EPOLLIN | select.EPOLLET)  # type: ignore[attr-defined]
        return key


@bells_ring
def test_rings_do_not_pile_up_in_an_edge_triggered_loop() -> None:
    async def main() -> None:
        async with BroadcastWriter.create() as writer, await with_bell(writer) as reader:
            for _ in range(5):
                async with running(reader.receive) as received:
                    await asleep_on_bell(reader)
                    await writer.send(b"news")
                    assert await received.result() == b"news"
                assert pending_rings(reader) <= 1

    with contextlib.closing(asyncio.SelectorEventLoop(EdgeTriggered())) as loop:
        loop.run_until_complete(main())


@bells_ring
def test_a_ring_that_is_drained_with_an_older_one_is_heard(
    run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The writer rings between the reader's look at its bell and its read of the FIFO."""
    for loop in ("_asyncio", "_trio"):  # no second chance
        monkeypatch.setattr(f"aiospin._loops.{loop}.LOOK_AGAIN_NS", 3600 * 10**9)
    drain = Bell.drain

    async def main() -> None:
        async with BroadcastWriter.create() as writer, await with_bell(writer) as reader:
            [name] = bells()
            async with running(reader.receive) as received:
                await asleep_on_bell(reader)

                def drained(bell: Bell) -> bool:
                    monkeypatch.setattr(Bell, "drain", drain)
                    writer.send_nowait(b"news")
                    return drain(bell)

                monkeypatch.setattr(Bell, "drain", drained)
                write_to(name, 1)
                assert await received.result() == b"news"
            assert Bell.drain is drain

    run(main)


@bells_ring
def test_no_ring_is_lost_whenever_it_comes(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Around every step of a reader that parks, takes a message, and reads the FIFO after that."""
    for loop in ("_asyncio", "_trio"):  # no second chance
        monkeypatch.setattr(f"aiospin._loops.{loop}.LOOK_AGAIN_NS", 3600 * 10**9)
    count = 5000
    chance = random.Random(count)

    def send(writer: BroadcastWriter) -> None:
        for number in range(count):
            writer.send_sync(number.to_bytes(4, "little"))
            time.sleep(chance.random() * 1e-4)

    async def main() -> None:
        async with BroadcastWriter.create() as writer, await with_bell(writer) as reader:
            parks = aiospin.statistics().parks
            thread = threading.Thread(target=send, args=(writer,))
            thread.start()
            try:
                for number in range(count):
                    assert await reader.receive() == number.to_bytes(4, "little")
            finally:
                thread.join()
            assert aiospin.statistics().parks - parks > 10

    run(main)


def test_pair_is_what_it_was() -> None:
    """Blocking receives of a reader that has a bell go by the word."""
    writer, [reader] = pair()
    with writer, reader:
        writer.send_sync(b"x")
        assert reader.receive_sync(1) == b"x"
        assert bells() == set()


@bells_ring
def test_a_close_leaves_the_bell_of_the_next_reader_alone(run: Any) -> None:
    """Between a close and the end of its wait the slot may be another's, with a FIFO of the same name."""

    async def main() -> None:
        async with BroadcastWriter.create() as writer:
            old = await with_bell(writer)
            async with running(old.receive) as received:
                await asleep_on_bell(old)
                old.close()
                assert bells() == set()
                new = BroadcastReader.attach(writer.handle, policy=PARK)
                assert new.statistics().slot == 0
                assert new._bell is not None
                assert not new._bell.ready()  # asks for it
                with pytest.raises(aiospin.ClosedResourceError):
                    await received.result()
            assert len(bells()) == 1
            await writer.send(b"first")
            assert await new.receive() == b"first"
            async with running(new.receive) as received:
                await asleep_on_bell(new)
                await writer.send(b"rung")
                assert await received.result() == b"rung"
            new.close()

    run(main)


@bells_ring
@pytest.mark.parametrize("who", ["another thread", "a signal's handler"])
def test_a_close_while_the_file_is_made(monkeypatch: pytest.MonkeyPatch, who: str) -> None:
    """At the end of a program the loop of a daemon thread may be about to sleep for the first time."""
    mkfifo = os.mkfifo
    closers: list[threading.Thread] = []

    def close_and_make(path: Path, mode: int) -> None:
        if who == "another thread":
            closers.append(threading.Thread(target=reader.close))
            closers[0].start()
            closers[0].join(0.1)  # it is to wait for us: should it not, let it be done
        else:
            reader.close()
        mkfifo(path, mode)

    with BroadcastWriter.create() as writer:
        reader = BroadcastReader.attach(writer.handle)
        with monkeypatch.context() as patch:
            patch.setattr(os, "mkfifo", close_and_make)
            reader._begin_waiting()
            assert reader._bell is not None
            assert not reader._bell.ready()
            for closer in closers:
                closer.join()
        assert bells() == set()
        with BroadcastReader.attach(writer.handle) as new:
            assert new.statistics().slot == reader._ring.slot
            assert not reader._bell.ready()
            assert new._ring.bell() == 0
        reader._stop_waiting(False)
        assert (reader._bell.fifo, reader._bell.timer) == (-1, -1)


@bells_ring
def test_who_has_left_does_not_wake_the_next_in_its_slot() -> None:
    """A wait that a close from another thread ends still has its ring for a while."""
    with BroadcastWriter.create() as writer:
        old = BroadcastReader.attach(writer.handle)
        old._begin_waiting()
        old.close()
        with BroadcastReader.attach(writer.handle) as new:
            assert new.statistics().slot == old._ring.slot
            assert new._bell is not None
            old._ring.bell_request()
            assert new._ring.bell() == 0
            assert not new._bell.ready()
            writer.send_nowait(b"x")
            assert new.receive_nowait() == b"x"
            assert new._bell.ready()
            assert new._bell.park()
            assert not old._ring.bell_unpark()
            assert not old._ring.bell_park()
            assert new._ring.bell_unpark()
        old._stop_waiting(False)


@bells_ring
def test_a_ring_and_the_timer_at_once(run_asyncio: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A ring for nothing begins the next sleep, and the timer of the one before does not end that of the new one."""
    monkeypatch.setattr("aiospin._loops._asyncio.LOOK_AGAIN_NS", 20_000_000)

    async def main() -> None:
        async with BroadcastWriter.create() as writer, await with_bell(writer) as reader:
            [name] = bells()
            async with running(reader.receive, 0.5) as received:
                for _ in range(3):
                    await asleep_on_bell(reader)
                    assert reader._bell is not None
                    due_ns = reader._bell.sleeper.until_ns
                    write_to(name, 1)
                    while time.monotonic_ns() <= due_ns:
                        pass  # the loop is held up, and finds both in one poll
                    await anyio.lowlevel.checkpoint()
                    await anyio.lowlevel.checkpoint()
                with anyio.move_on_after(10), pytest.raises(TimeoutError):
                    await received.result()
                assert received.over

    run_asyncio(main)


@bells_ring
def test_waits_that_a_close_ends_are_counted(run: Any) -> None:
    async def main() -> None:
        async with BroadcastWriter.create() as writer:
            reader = await with_bell(writer)
            before = balance()
            async with running(reader.receive) as received:
                await asleep_on_bell(reader)
                reader.close()
                with pytest.raises(aiospin.ClosedResourceError):
                    await received.result()
            assert balance() == before

    run(main)


@bells_ring
def test_a_loop_that_cannot_poll_the_bell_has_the_waiter_thread() -> None:
    async def main() -> None:
        async with BroadcastWriter.create() as writer, await with_bell(writer) as reader:
            for number in range(3):
                async with running(reader.receive) as received:
                    await until(lambda: aiospin.statistics().live_tickets == 1)
                    await writer.send(b"%d" % number)
                    assert await received.result() == b"%d" % number
            assert bells() == set()
            assert loop.refused == 1

    loop = Full("_due")
    try:
        loop.run_until_complete(main())
    finally:
        loop.close()


def descriptors() -> list[str]:
    paths = []
    for fd in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            paths.append(os.readlink(f"/proc/self/fd/{fd}"))
    return sorted(path for path in paths if ".bell-" in path or "timerfd" in path)


@bells_ring
def test_a_loop_that_ends_first_keeps_no_descriptors() -> None:
    """It was told to let go of them, and closed before it came to that."""

    async def begin() -> None:
        reader = await with_bell(writer)
        async with running(reader.receive) as received:
            await asleep_on_bell(reader)
            await writer.send(b"rung")
            await received.result()
        assert len(descriptors()) == len(before) + 3  # the writer's end too
        loop = asyncio.get_running_loop()
        loop.stop()
        closing = threading.Thread(target=reader.close)
        closing.start()
        closing.join()

    before = descriptors()
    writer = BroadcastWriter.create()
    loop = asyncio.new_event_loop()
    task = loop.create_task(begin())
    loop.run_forever()
    task.result()
    loop.close()
    del task, loop
    writer.close()
    gc.collect()
    assert descriptors() == before
    assert bells() == set()


SLEEPER_IN_A_DAEMON_THREAD = """
import asyncio, sys, threading
from aiospin import BroadcastReader, WaitPolicy

asleep = threading.Event()

async def main():
    reader = BroadcastReader.attach(sys.argv[1], policy=WaitPolicy.powersave())
    receiving = asyncio.ensure_future(reader.receive())
    while reader._ring.bell() != 1:
        await asyncio.sleep(0)
    print("asked for a bell", flush=True)
    await receiving
    while reader._ring.bell() != 2:  # the writer sees to it after the message is there to be received
        await asyncio.sleep(0)
    receiving = asyncio.ensure_future(reader.receive())
    while reader._bell.sleeper is None:
        await asyncio.sleep(0)
    asleep.set()
    await receiving

threading.Thread(target=lambda: asyncio.run(main()), daemon=True).start()
asleep.wait()
"""


@bells_ring
def test_the_interpreter_ends_quietly_beside_a_sleeper() -> None:
    """Its thread is a daemon, and ends with the process, not with an error."""
    with (
        BroadcastWriter.create() as writer,
        subprocess.Popen(
            [sys.executable, "-c", SLEEPER_IN_A_DAEMON_THREAD, writer.name],
            env=environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as child,
    ):
        assert child.stdout is not None
        assert child.stdout.readline() == "asked for a bell\n"
        writer.send_nowait(b"here it is")
        _, errors = child.communicate(timeout=30)
        assert (child.returncode, errors) == (0, "")


@bells_ring
def test_an_interrupt_right_after_the_fifo_was_made(monkeypatch: pytest.MonkeyPatch) -> None:
    make = os.mkfifo

    def interrupted(path: Path, mode: int) -> None:
        make(path, mode)
        raise KeyboardInterrupt

    with BroadcastWriter.create() as writer:
        reader = BroadcastReader.attach(writer.handle)
        monkeypatch.setattr(os, "mkfifo", interrupted)
        with pytest.raises(KeyboardInterrupt):
            reader._bell.ready()
        assert not reader._bell._path.exists()
        assert not reader._bell.ready()
        reader.close()
