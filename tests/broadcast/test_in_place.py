"""acquire_write and acquire_read: messages in place, and every road out of the block."""

from __future__ import annotations

import time

import anyio
import pytest
from broadcast_support import fill, pair, until_waits
from support import running

import aiospin
from aiospin import BusyResourceError, WouldBlock


def test_with_and_async_with(run):
    async def main():
        writer, [reader] = pair()
        async with writer, reader:
            with writer.acquire_write(3) as slot:
                assert (len(slot), slot.readonly, slot.format) == (3, False, "B")
                slot[:] = b"abc"
                with pytest.raises(WouldBlock):
                    reader.receive_nowait()  # not before the block ends
            async with writer.acquire_write(3) as slot:
                slot[:] = b"def"
            with reader.acquire_read() as view:
                assert (bytes(view), view.readonly) == (b"abc", True)
                with pytest.raises(TypeError):
                    view[0] = 0
            async with reader.acquire_read() as view:
                assert bytes(view) == b"def"

    run(main)


def test_views_are_dead_after_the_block():
    writer, [reader] = pair()
    with writer, reader:
        with writer.acquire_write(3) as slot:
            slot[:] = b"abc"
        with pytest.raises(ValueError, match="released"):
            slot[0]
        with reader.acquire_read() as view:
            pass
        with pytest.raises(ValueError, match="released"):
            view[0]


@pytest.mark.parametrize("size", [0, 1, 2048])
def test_sizes_in_place(size):
    writer, [reader] = pair(4096)
    with writer, reader:
        for _ in range(10):
            with writer.acquire_write(size) as slot:
                slot[:] = b"\xa5" * size
            with reader.acquire_read() as view:
                assert bytes(view) == b"\xa5" * size


def test_arrays_in_place():
    numpy = pytest.importorskip("numpy")
    writer, [reader] = pair(1 << 16)
    expected = numpy.arange(1000, dtype="float64")
    with writer, reader:
        for _ in range(20):
            with writer.acquire_write(expected.nbytes) as slot:
                numpy.frombuffer(slot, dtype="float64")[:] = expected
            with reader.acquire_read() as view:
                array = numpy.frombuffer(view, dtype="float64")
                assert array.flags.aligned
                assert (array == expected).all()
                del array


def test_array_kept_beyond_the_block():
    """It is not to be used, but it is not a crash either, even when the broadcast is gone."""
    numpy = pytest.importorskip("numpy")
    writer, [reader] = pair()
    with writer, reader:
        with writer.acquire_write(8) as slot:
            kept = numpy.frombuffer(slot, dtype="uint8")
            kept[:] = 7
        with reader.acquire_read() as view:
            read = numpy.frombuffer(view, dtype="uint8")
    assert kept.sum() + read.sum() == 2 * 7 * 8
    del kept, read


def test_exception_publishes_nothing(run):
    async def main():
        writer, [reader] = pair()
        async with writer, reader:
            with pytest.raises(KeyError), writer.acquire_write(5) as slot:  # noqa: PT012 - the block itself is tested
                slot[:] = b"wrong"
                raise KeyError
            with pytest.raises(KeyError):
                async with writer.acquire_write(5):
                    raise KeyError
            with pytest.raises(WouldBlock):
                reader.receive_nowait()
            writer.send_nowait(b"right")
            assert reader.receive_nowait() == b"right"
            assert writer.statistics().messages == 1

    run(main)


def test_cancelled_block_publishes_nothing(run):
    async def main():
        writer, [reader] = pair()
        async with writer, reader:
            with anyio.CancelScope() as scope:
                async with writer.acquire_write(5) as slot:
                    slot[:] = b"wrong"
                    scope.cancel()
                    await anyio.sleep_forever()
            assert reader.lag == 0
            await writer.send(b"right")
            assert await reader.receive() == b"right"

    run(main)


@pytest.mark.parametrize("overflow", ["block", "drop_oldest"])
def test_exception_releases_the_message(run, overflow):
    async def main():
        writer, [reader] = pair(overflow=overflow)
        async with writer, reader:
            for message in (b"1", b"2", b"3"):
                writer.send_nowait(message)
            with pytest.raises(KeyError), reader.acquire_read() as view:  # noqa: PT012 - the block itself is tested
                assert view == b"1"
                raise KeyError
            with pytest.raises(KeyError):  # noqa: PT012 - the block itself is tested
                async with reader.acquire_read() as view:
                    assert view == b"2"
                    raise KeyError
            assert reader.lag == 1
            assert await reader.receive() == b"3"

    run(main)


def test_cancelled_block_releases_the_message(run):
    async def main():
        writer, [reader] = pair()
        async with writer, reader:
            count = fill(writer)
            with anyio.CancelScope() as scope:
                async with reader.acquire_read():
                    scope.cancel()
                    await anyio.sleep_forever()
            assert reader.lag == count - 1
            writer.send_nowait(b"there is room for one")

    run(main)


def test_acquired_message_keeps_the_writer_waiting(run):
    async def main():
        writer, [reader] = pair()
        async with writer, reader:
            writer.send_nowait(b"held")
            with reader.acquire_read() as view:
                fill(writer)
                async with anyio.create_task_group() as group:
                    group.start_soon(writer.send, b"waited")
                    await until_waits(writer)
                    assert view == b"held"
                    group.cancel_scope.cancel()
            writer.send_nowait(b"x" * 32)

    run(main)


def test_acquire_write_waits(run):
    async def main():
        writer, [reader] = pair()
        async with writer, reader:
            count = fill(writer)

            async def write():
                async with writer.acquire_write(2) as slot:
                    slot[:] = b"ok"

            async with anyio.create_task_group() as group:
                group.start_soon(write)
                await until_waits(writer)
                assert len(reader.receive_many_nowait()) == count
            assert reader.receive_nowait() == b"ok"

    run(main)


# ---- one at a time ----


def test_open_claim_makes_the_writer_busy(run):
    async def main():
        writer, [reader] = pair()
        async with writer, reader:
            with writer.acquire_write(1) as slot:
                slot[:] = b"1"
                with pytest.raises(BusyResourceError, match="already"):
                    writer.send_nowait(b"")
                with pytest.raises(BusyResourceError):
                    writer.send_sync(b"")
                with pytest.raises(BusyResourceError):
                    await writer.send(b"")
                with pytest.raises(BusyResourceError), writer.acquire_write(1):
                    pass
            assert reader.receive_many_nowait() == [b"1"]

    run(main)


@pytest.mark.parametrize("overflow", ["block", "drop_oldest"])
def test_open_message_makes_the_reader_busy(run, overflow):
    async def main():
        writer, [reader] = pair(overflow=overflow)
        async with writer, reader:
            writer.send_nowait(b"1")
            writer.send_nowait(b"2")
            with reader.acquire_read() as view:
                for receive in (
                    reader.receive_nowait,
                    reader.receive_sync,
                    reader.receive_many_nowait,
                    reader.receive_many_sync,
                    lambda: next(reader.iter_sync()),
                ):
                    with pytest.raises(BusyResourceError):
                        receive()
                with pytest.raises(BusyResourceError):
                    await reader.receive()
                with pytest.raises(BusyResourceError):
                    await reader.receive_many()
                with pytest.raises(BusyResourceError):
                    async with reader.acquire_read():
                        pass
                assert view == b"1"
            assert reader.receive_nowait() == b"2"

    run(main)


def test_second_consumer_in_another_task(run):
    async def main():
        writer, [reader] = pair()
        async with writer, reader:
            received = []

            async def receive():
                received.append(await reader.receive())

            async with anyio.create_task_group() as group:
                group.start_soon(receive)
                await until_waits(reader)
                for call in (reader.receive, reader.receive_many, reader.__anext__):
                    with pytest.raises(BusyResourceError):
                        await call()
                with pytest.raises(BusyResourceError):
                    async with reader.acquire_read():
                        pass
                for call in (reader.receive_sync, reader.receive_many_sync):
                    with pytest.raises(BusyResourceError):
                        call()
                writer.send_nowait(b"for the first")
            assert received == [b"for the first"]

    run(main)


def test_second_producer_in_another_task(run):
    async def main():
        writer, [reader] = pair()
        async with writer, reader:
            fill(writer)
            async with anyio.create_task_group() as group:
                group.start_soon(writer.send, b"first")
                await until_waits(writer)
                with pytest.raises(BusyResourceError):
                    await writer.send(b"second")
                with pytest.raises(BusyResourceError):
                    writer.send_sync(b"second")
                with pytest.raises(BusyResourceError):
                    async with writer.acquire_write(1):
                        pass
                reader.receive_many_nowait()
            assert reader.receive_many_nowait() == [b"first"]

    run(main)


def test_two_consumers_in_threads_never_hang():
    """Each gets messages or BusyResourceError; together they get every message once."""
    writer, [reader] = pair(65536)
    count = 5000
    with reader:

        def consume():
            received = []
            while True:
                try:
                    received.append(int.from_bytes(reader.receive_sync(), "little"))
                except BusyResourceError:
                    continue
                except aiospin.EndOfStream:
                    return received

        with running(consume) as first, running(consume) as second, writer:
            for number in range(count):
                writer.send_sync(number.to_bytes(4, "little"))
        assert sorted(first.value + second.value) == list(range(count))
        assert first.value == sorted(first.value)
        assert second.value == sorted(second.value)


def test_slot_that_was_not_entered():
    writer, [reader] = pair()
    with writer, reader:
        for slot in (writer.acquire_write(1), reader.acquire_read()):
            with pytest.raises(RuntimeError, match="not entered"):
                slot.__exit__(None, None, None)


def test_slot_can_be_entered_again():
    writer, [reader] = pair()
    with writer, reader:
        write, read = writer.acquire_write(1), reader.acquire_read()
        for byte in (b"1", b"2"):
            with write as slot:
                slot[:] = byte
            with read as view:
                assert view == byte


def test_slot_entered_twice_at_once():
    writer, [reader] = pair()
    with writer, reader:
        slot = writer.acquire_write(1)
        with slot as view:
            view[:] = b"1"
            with pytest.raises(BusyResourceError):
                slot.__enter__()
        assert reader.receive_nowait() == b"1"


# ---- the timeout ----


def wait_beyond(seconds):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        pass


def test_the_timeout_begins_with_the_block():
    """Not where the slot is made, so it may be kept for a while."""
    writer, [reader] = pair()
    with writer, reader:
        reading, writing = reader.acquire_read(0.02), writer.acquire_write(1, 0.02)
        wait_beyond(0.03)
        begin = time.monotonic()
        with pytest.raises(TimeoutError, match=r"within 0\.02 s"):
            reading.__enter__()
        assert time.monotonic() - begin >= 0.02
        fill(writer)
        begin = time.monotonic()
        with pytest.raises(TimeoutError, match=r"within 0\.02 s"):
            writing.__enter__()
        assert time.monotonic() - begin >= 0.02
        with reading as view:  # it is there by now
            assert len(view) == 32
        reader.receive_many_nowait()
        with writing as slot:
            slot[:] = b"1"
        assert reader.receive_nowait() == b"1"


def test_the_same_in_a_loop(run):
    async def main():
        writer, [reader] = pair()
        async with writer, reader:
            reading, writing = reader.acquire_read(0.02), writer.acquire_write(1, 0.02)
            wait_beyond(0.03)
            begin = time.monotonic()
            with pytest.raises(TimeoutError, match=r"within 0\.02 s"):
                await reading.__aenter__()
            assert time.monotonic() - begin >= 0.02
            fill(writer)
            begin = time.monotonic()
            with pytest.raises(TimeoutError, match=r"within 0\.02 s"):
                await writing.__aenter__()
            assert time.monotonic() - begin >= 0.02
            async with reading as view:
                assert len(view) == 32

    run(main)


def test_a_bad_timeout_is_refused_where_it_is_written():
    writer, [reader] = pair()
    with writer, reader:
        for wrong, error in ((-1, ValueError), (float("nan"), ValueError), ("1", TypeError)):
            with pytest.raises(error, match="timeout must be"):
                reader.acquire_read(wrong)
            with pytest.raises(error, match="timeout must be"):
                writer.acquire_write(1, wrong)
