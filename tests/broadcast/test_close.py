"""One's own close: after it everything says so, also to a task or thread that was waiting."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path

import anyio
import pytest
from broadcast_support import SHM, fill, pair, until_waits, waits
from support import running, until

import aiospin
from aiospin import ClosedResourceError, _member


def test_closed_writer(run):
    async def main():
        writer, [reader] = pair()
        async with reader:
            await writer.aclose()
            writer.close()  # twice is harmless
            assert writer.closed
            for call in (
                lambda: writer.send_nowait(b""),
                lambda: writer.send_sync(b""),
                lambda: writer.acquire_write(1).__enter__(),
                lambda: writer.wait_for_readers_sync(0),
                writer.statistics,
                writer.__enter__,
            ):
                with pytest.raises(ClosedResourceError):
                    call()
            for call in (
                lambda: writer.send(b""),
                lambda: writer.acquire_write(1).__aenter__(),
                lambda: writer.wait_for_readers(0),
                writer.__aenter__,
            ):
                with pytest.raises(ClosedResourceError):
                    await call()

    run(main)


def test_closed_reader(run):
    async def main():
        writer, [reader] = pair()
        async with writer:
            writer.send_nowait(b"unread")
            await reader.aclose()
            reader.close()
            assert reader.closed
            for call in (
                reader.receive_nowait,
                reader.receive_sync,
                reader.receive_many_nowait,
                reader.receive_many_sync,
                lambda: reader.acquire_read().__enter__(),
                lambda: next(reader.iter_sync()),
                reader.statistics,
                reader.__enter__,
            ):
                with pytest.raises(ClosedResourceError):
                    call()
            for call in (
                reader.receive,
                reader.receive_many,
                lambda: reader.acquire_read().__aenter__(),
                reader.__anext__,
                reader.__aenter__,
            ):
                with pytest.raises(ClosedResourceError):
                    await call()
            assert writer.statistics().readers == ()

    run(main)


@pytest.fixture
def no_python(monkeypatch):
    """Waits that the core guards by itself ask nothing in Python meanwhile."""
    monkeypatch.setattr(_member, "GUARDED_NS", 3600 * 10**9)


@pytest.mark.usefixtures("no_python")
def test_close_while_a_task_receives(run):
    async def main():
        writer, [reader] = pair()
        async with writer:

            async def receive():
                with pytest.raises(ClosedResourceError):
                    await reader.receive()

            async with anyio.create_task_group() as group:
                group.start_soon(receive)
                await until_waits(reader)
                reader.close()

    run(main)


@pytest.mark.usefixtures("no_python")
def test_close_while_a_task_sends(run):
    async def main():
        writer, [reader] = pair()
        async with reader:
            count = fill(writer)

            async def send():
                with pytest.raises(ClosedResourceError):
                    await writer.send(b"never sent")

            async with anyio.create_task_group() as group:
                group.start_soon(send)
                await until_waits(writer)
                writer.close()
            assert len(reader.receive_many_nowait()) == count
            with pytest.raises(aiospin.EndOfStream):
                reader.receive_nowait()

    run(main)


def ends_closed(call):
    with pytest.raises(ClosedResourceError):
        call()


@pytest.mark.usefixtures("no_python")
def test_close_while_a_thread_receives():
    for _ in range(5):
        writer, [reader] = pair()
        with writer, running(partial(ends_closed, reader.receive_sync)):
            until(partial(waits, reader))
            reader.close()


@pytest.mark.usefixtures("no_python")
def test_close_while_a_thread_sends():
    for _ in range(5):
        writer, [reader] = pair()
        with reader:
            fill(writer)
            with running(partial(ends_closed, partial(writer.send_sync, b""))):
                until(partial(waits, writer))
                writer.close()


def test_statistics_while_a_thread_waits():
    """Who looks into why a send hangs asks for them."""
    writer, [reader] = pair()
    with writer, reader:
        with running(reader.receive_sync) as outcome:
            until(partial(waits, reader))
            assert reader.statistics().sequence == 0
            assert reader.statistics().prediction.predicted == 0
            writer.send_nowait(b"now")
        assert outcome.value == b"now"
        count = fill(writer)
        with running(partial(writer.send_sync, b"")):
            until(partial(waits, writer))
            [held_up_by] = writer.statistics().readers
            assert held_up_by.lag == count
            assert writer.statistics().prediction.predicted == 0
            reader.receive_many_nowait()


def test_close_at_any_time_of_a_thread_that_receives():
    """Without waiting for it to wait: whatever close() meets, the thread ends and nothing else breaks."""
    for turn in range(20):
        writer, [reader] = pair()
        with writer, running(partial(ends_closed, reader.receive_sync)):
            for _ in range(turn % 20):
                waits(reader) if turn % 2 else None
            reader.close()


def assert_released(ring):
    with pytest.raises(ClosedResourceError):
        ring.wait  # noqa: B018


@pytest.mark.parametrize("moment", ["before", "after"])
def test_close_beside_the_end_of_a_wait(moment):
    """No lock keeps the two apart: that of the wait lets go, or close(), or both."""
    writer, [reader] = pair()
    ring = reader._ring

    class Ring:
        def __getattr__(self, name):
            return getattr(ring, name)

        def resume(self, ready):
            if moment == "before":
                reader.close()
            ring.resume(ready)
            if moment == "after":
                reader.close()

    reader._ring = Ring()
    with writer, pytest.raises(TimeoutError):
        reader.receive_sync(1e-3)
    assert_released(ring)


def test_close_while_waits_end():
    def receive_all():
        while True:
            reader.receive_sync()

    for turn in range(100):
        writer, [reader] = pair()
        with writer, running(partial(ends_closed, receive_all)):
            until(partial(waits, reader))
            writer.send_nowait(b"now")
            for _ in range(turn):  # so that the close comes at another moment each time
                reader.closed  # noqa: B018
            reader.close()
        assert_released(reader._ring)


def send_small(writer):
    writer.send_sync(b"small")


def send_large(writer):
    writer.send_sync(b"large" * 1000)


def send_many(writer):
    writer.send_many_sync([b"1", b"2", b"3"])


def send_in_place(writer):
    with writer.acquire_write(8) as slot:
        slot[:] = bytes(8)


@pytest.mark.parametrize("send", [send_small, send_large, send_many, send_in_place])
def test_close_while_a_thread_is_sending(send):
    """In the middle of a call, not of a wait: there are no readers."""

    def send_all():
        while True:
            send(writer)

    for turn in range(30):
        with aiospin.BroadcastWriter.create(capacity=4096) as writer:
            ring = writer._ring
            with running(partial(ends_closed, send_all)):
                until(lambda ring=ring, turn=turn: ring.sequence > 3 * turn)
                writer.close()
        assert_released(ring)
        assert list(Path(SHM).parent.glob(f"aiospin-{writer.name}*")) == []


def test_close_inside_acquire_read():
    writer, [reader] = pair()
    with writer:
        writer.send_nowait(b"1")
        with reader.acquire_read() as view:
            reader.close()
            assert view == b"1"  # the block may go on with what it has
        assert writer.statistics().readers == ()


def test_close_inside_acquire_write():
    writer, [reader] = pair()
    with reader:
        with pytest.raises(ClosedResourceError), writer.acquire_write(1) as slot:  # noqa: PT012 - the block itself is tested
            slot[:] = b"1"
            writer.close()
        with pytest.raises(aiospin.EndOfStream):
            reader.receive_nowait()


def test_dropped_ends_close():
    writer, [reader] = pair()
    name = writer.name
    del reader
    assert writer.statistics().readers == ()
    del writer
    with pytest.raises(FileNotFoundError):
        Path(SHM + name).stat()


def test_reader_can_outlive_the_name():
    writer, [reader] = pair()
    with reader:
        writer.send_nowait(b"last")
        writer.close()
        with pytest.raises(FileNotFoundError):
            aiospin.BroadcastReader.attach(writer.name)
        assert reader.receive_nowait() == b"last"


def test_close_does_not_remove_another_broadcast_of_its_name():
    writer, _ = pair(readers=0)
    os.unlink(SHM + writer.name)
    with aiospin.BroadcastWriter.create(writer.name) as second:
        writer.close()
        aiospin.BroadcastReader.attach(second.handle).close()


def test_the_lock_is_closed_once(monkeypatch):
    """os.close lets other threads run: one that closes, too, must not close what has the number by then."""
    writer, [reader] = pair()
    segment, close, closed = reader._segment, os.close, []

    def close_and_come_again(fd):
        closed.append(fd)
        if len(closed) == 1:
            segment.drop_lock()
        close(fd)

    fd = segment._lock_fd
    with monkeypatch.context() as patch:
        patch.setattr("aiospin._segment.os.close", close_and_come_again)
        segment.drop_lock()
    assert closed == [fd]
    reader.close()
    writer.close()


def test_a_strided_message_is_refused():
    numpy = pytest.importorskip("numpy")
    writer, [reader] = pair()
    strided = numpy.zeros(8, dtype="u1")[::2]
    with writer, reader:
        for send in (writer.send_nowait, writer.send_sync):
            with pytest.raises(BufferError, match="not C-contiguous"):
                send(strided)
        writer.send_nowait(strided.copy())
        assert reader.receive_many_nowait() == [bytes(4)]
