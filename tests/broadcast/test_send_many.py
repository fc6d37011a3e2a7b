"""send_many: in order, all of them or a clear account."""

from __future__ import annotations

import pickle

import anyio
import pytest
from broadcast_support import make_message, number_of, pair
from support import mark, running, settled, suspended, until

import aiospin
from aiospin import (
    BatchTimeoutError,
    BusyResourceError,
    ClosedResourceError,
    LaggedError,
    WouldBlock,
)

MODES = pytest.mark.parametrize("overflow", ["block", "drop_oldest"])


def messages(count, size=lambda number: number % 50):
    return [make_message(number, size(number)) for number in range(count)]


@MODES
def test_every_form(run, overflow):
    async def main():
        writer, [reader] = pair(1 << 16, overflow=overflow)
        sent = messages(100)
        async with writer, reader:
            await writer.send_many(sent)
            assert reader.receive_many_nowait() == sent
            writer.send_many_sync(sent)
            assert reader.receive_many_nowait() == sent
            assert writer.send_many_nowait(sent) == 100
            assert reader.receive_many_nowait() == sent
            assert reader.statistics().sequence == 300

    run(main)


def test_any_iterable_of_any_buffers():
    writer, [reader] = pair()
    with writer, reader:
        writer.send_many_sync(bytes([i]) for i in range(3))
        writer.send_many_sync((bytearray(b"a"), memoryview(b"b"), b""))
        writer.send_many_sync([])
        assert writer.send_many_nowait([]) == 0
        assert reader.receive_many_nowait() == [b"\0", b"\1", b"\2", b"a", b"b", b""]


def test_more_than_the_ring_holds(run):
    async def main():
        writer, [reader] = pair(4096)
        sent = messages(500)
        got = []

        async with writer, reader, anyio.create_task_group() as tasks:
            tasks.start_soon(writer.send_many, sent)
            while len(got) < len(sent):
                got += await reader.receive_many()
        assert got == sent

    run(main)


def test_blocking():
    writer, [reader] = pair(4096)
    sent = messages(500)
    got = []
    with writer, reader:
        with running(lambda: writer.send_many_sync(sent)):
            while len(got) < len(sent):
                got += reader.receive_many_sync()
        assert got == sent


@MODES
def test_large_ones_among_them(run, overflow):
    async def main():
        writer, [reader] = pair(8192, overflow=overflow)
        sent = messages(40, lambda number: 6000 if number % 10 == 5 else number)
        async with writer, reader:
            await writer.send_many(sent[:20])
            assert reader.receive_many_nowait() == sent[:20]
            writer.send_many_sync(sent[:20])
            assert writer.send_many_nowait(sent[20:]) == 20
            assert reader.receive_many_nowait() == sent

    run(main)


def test_large_ones_that_have_to_wait(run):
    async def main():
        writer, [reader] = pair(8192)
        sent = messages(40, lambda number: 9000 if number % 3 else 10)
        got = []
        async with writer, reader, anyio.create_task_group() as tasks:
            tasks.start_soon(writer.send_many, sent)
            while len(got) < len(sent):
                got += await reader.receive_many(4)
        assert [number_of(message) for message in got] == list(range(40))

    run(main)


def test_what_finds_no_room_is_told(run):
    async def main():
        writer, [reader] = pair(4096)
        sent = messages(200)
        async with writer, reader:
            first = writer.send_many_nowait(sent)
            assert 0 < first < 200
            with pytest.raises(WouldBlock):
                writer.send_many_nowait(sent[first:])
            got = reader.receive_many_nowait()
            with pytest.raises(TimeoutError, match=r"had no room.* \d+ of \d+ were sent") as caught:
                await writer.send_many(sent[first:], timeout=0.01)
            assert type(caught.value) is BatchTimeoutError
            second = first + caught.value.sent
            assert first < second < 200
            assert f"{caught.value.sent} of {200 - first}" in str(caught.value)
            got += reader.receive_many_nowait()
            assert got == sent[:second]
            with pytest.raises(BatchTimeoutError) as caught:
                writer.send_many_sync(sent[second:], timeout=0)
            got += reader.receive_many_nowait()
            assert got == sent[: second + caught.value.sent]

    run(main)


def test_the_error_can_be_pickled():
    error = pickle.loads(pickle.dumps(BatchTimeoutError("late", 3)))
    assert (type(error), str(error), error.sent) == (BatchTimeoutError, "late", 3)


def test_a_cancelled_one_has_sent_the_first_ones(run):
    async def main():
        writer, [reader] = pair(4096)
        sent = messages(200)
        async with writer, reader:
            mark()
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(writer.send_many, sent)
                await suspended()
                tasks.cancel_scope.cancel()
            got = reader.receive_many_nowait()
            assert 0 < len(got) < 200
            await writer.send(b"next")
            assert [*got, *reader.receive_many_nowait()] == [*sent[: len(got)], b"next"]

    run(main)


def test_a_bad_one_is_found_before_the_first_is_sent():
    writer, [reader] = pair()
    with writer, reader:
        for send in (writer.send_many_nowait, writer.send_many_sync):
            with pytest.raises(TypeError, match="bytes-like"):
                send([b"good", "bad", b"good"])
            with pytest.raises(TypeError):
                send(5)
        with pytest.raises(WouldBlock):
            reader.receive_nowait()


def test_one_with_gaps_ends_the_batch():
    writer, [reader] = pair()
    with writer, reader:
        with pytest.raises(BufferError, match="contiguous"):
            writer.send_many_nowait([b"good", memoryview(b"gaps")[::2], b"never"])
        assert reader.receive_many_nowait() == [b"good"]


def test_one_at_a_time():
    writer, [reader] = pair()
    with writer, reader:
        with writer.acquire_write(1), pytest.raises(BusyResourceError):
            writer.send_many_nowait([b"x"])
        assert len(reader.receive_nowait()) == 1


def test_others_while_it_waits(run):
    async def main():
        writer, [reader] = pair(4096)
        mark()
        async with writer, reader, anyio.create_task_group() as tasks:
            tasks.start_soon(writer.send_many, messages(100))
            await suspended()
            with pytest.raises(BusyResourceError):
                writer.send_nowait(b"x")
            with pytest.raises(BusyResourceError):
                writer.send_many_nowait([b"x"])
            got = 0
            while got < 100:
                got += len(await reader.receive_many())

    run(main)


def test_after_the_close():
    writer, [reader] = pair()
    writer.close()
    with reader:
        for send in (writer.send_many_nowait, writer.send_many_sync):
            with pytest.raises(ClosedResourceError):
                send([b"x"])


def test_a_close_ends_one_that_waits(run):
    async def main():
        writer, [reader] = pair(4096)
        mark()
        async with reader, anyio.create_task_group() as tasks:

            @tasks.start_soon
            async def send():
                with pytest.raises(ClosedResourceError):
                    await writer.send_many(messages(100))

            await suspended()
            writer.close()
            await settled(lambda: reader.lag)
            assert reader.receive_many_nowait()[0] == messages(1)[0]

    run(main)


def test_drop_oldest_never_waits():
    writer, [reader] = pair(4096, overflow="drop_oldest")
    with writer, reader:
        assert writer.send_many_nowait(messages(1000)) == 1000
        with pytest.raises(LaggedError) as lagged:
            reader.receive_nowait()
        rest = [number_of(message) for message in reader.receive_many_nowait()]
        assert rest == list(range(lagged.value.skipped, 1000))


def test_a_parked_reader_is_woken_once():
    """Not by each message, and not only when all have room."""
    writer, [reader] = pair(4096)
    sent = messages(300)
    got = []

    def receive():
        while len(got) < len(sent):
            got.extend(reader.receive_many_sync())

    with writer, reader:
        before = aiospin.statistics()
        with running(receive):
            until(lambda: aiospin.statistics().waits > before.waits)
            writer.send_many_sync(sent)
        assert got == sent
