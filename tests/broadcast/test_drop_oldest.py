"""drop_oldest: the writer never waits, and a lapped reader is told exactly what it missed."""

from __future__ import annotations

import pickle

import pytest
from broadcast_support import Child, make_message, number_of, pair, scaled
from support import running

import aiospin
from aiospin import BroadcastReader, LaggedError


def lossy(capacity=4096, readers=1):
    return pair(capacity, readers, overflow="drop_oldest")


def test_nothing_is_lost_while_there_is_room():
    writer, [reader] = lossy()
    with writer, reader:
        for _ in range(20):
            for number in range(10):
                writer.send_nowait(bytes([number]))
            assert reader.receive_many_nowait() == [bytes([i]) for i in range(10)]


def test_lapped_reader_is_told_how_much_it_missed(run):
    async def main():
        writer, [reader] = lossy()
        async with writer, reader:
            for number in range(1000):
                await writer.send(number.to_bytes(4, "little"))
            with pytest.raises(LaggedError) as caught:
                await reader.receive()
            skipped = caught.value.skipped
            assert 1000 - 64 <= skipped < 1000
            assert str(skipped) in str(caught.value)
            rest = [number async for number in numbers(reader, writer)]
            assert rest == list(range(skipped, 1000))  # the oldest left, and then without a gap

    async def numbers(reader, writer):
        writer.close()
        async for message in reader:
            yield int.from_bytes(message, "little")

    run(main)


def test_every_form_tells():
    writer, [reader] = lossy()
    with writer, reader:
        for receive in (
            reader.receive_nowait,
            reader.receive_sync,
            reader.receive_many_nowait,
            reader.receive_many_sync,
            lambda: reader.acquire_read().__enter__(),
            lambda: next(reader.iter_sync()),
        ):
            for _ in range(200):
                writer.send_nowait(bytes(4))
            with pytest.raises(LaggedError) as caught:
                receive()
            assert caught.value.skipped + len(reader.receive_many_nowait()) == 200


@pytest.mark.parametrize(
    ("skipped", "says"), [(1, "1 message was overwritten"), (2, "2 messages were overwritten")]
)
def test_the_error_says_how_many(skipped, says):
    error = LaggedError(skipped)
    assert str(error).startswith(says)
    assert pickle.loads(pickle.dumps(error)).skipped == skipped


def test_lag_in_the_middle_of_the_stream():
    writer, [reader] = lossy()
    with writer, reader:
        for number in range(3):
            writer.send_nowait(bytes([number]))
        assert reader.receive_nowait() == b"\0"
        for _ in range(100):
            writer.send_nowait(b"new")
        with pytest.raises(LaggedError) as caught:
            reader.receive_nowait()
        rest = reader.receive_many_nowait()
        assert 1 + caught.value.skipped + len(rest) == 103


def test_lag_is_told_before_the_end():
    writer, [reader] = lossy()
    with reader:
        for _ in range(100):
            writer.send_nowait(b"x")
        writer.close()
        with pytest.raises(LaggedError) as caught:
            reader.receive_nowait()
        assert caught.value.skipped + len(reader.receive_many_nowait()) == 100
        with pytest.raises(aiospin.EndOfStream):
            reader.receive_nowait()


def test_readers_do_not_affect_each_other():
    writer, [fast, slow] = lossy(readers=2)
    with writer, fast, slow:
        for number in range(500):
            writer.send_nowait(number.to_bytes(4, "little"))
            assert fast.receive_nowait() == number.to_bytes(4, "little")
        with pytest.raises(LaggedError):
            slow.receive_nowait()


def test_acquired_message_is_a_copy_that_stays():
    writer, [reader] = lossy()
    with writer, reader:
        writer.send_nowait(b"keep me" * 10)
        with reader.acquire_read() as view:
            for _ in range(500):
                writer.send_nowait(b"overwrites")
            assert view == b"keep me" * 10
        with pytest.raises(LaggedError):
            reader.receive_nowait()


def test_acquire_write_never_waits():
    writer, [reader] = lossy()
    with writer, reader:
        for _ in range(300):
            with writer.acquire_write(100) as slot:
                slot[:] = bytes(100)
        assert writer.statistics().messages == 300


def test_largest_messages_of_a_lossy_ring():
    writer, [reader] = lossy(4096)
    with writer, reader:
        for number in range(50):
            writer.send_nowait(bytes([number]) * writer.max_message)
            assert reader.receive_nowait() == bytes([number]) * writer.max_message
        for _ in range(10):
            writer.send_nowait(bytes(writer.max_message))
        with pytest.raises(LaggedError) as caught:
            reader.receive_nowait()
        assert caught.value.skipped + len(reader.receive_many_nowait()) == 10


def account(reader, receive):
    """Read to the end: every message is whole, every gap is announced. (received, skipped)"""
    expected = received = skipped = 0
    while True:
        try:
            messages = receive()
        except LaggedError as lag:
            expected += lag.skipped
            skipped += lag.skipped
        except aiospin.EndOfStream:
            return received, skipped
        else:
            for message in messages:
                assert number_of(message) == expected
                expected += 1
                received += 1


def test_never_torn_between_threads():
    count = scaled(30_000, 2_000)
    messages = [make_message(number, number * 37 % 700) for number in range(count)]
    writer, readers = lossy(8192, readers=2)
    one, two = readers
    with one, two:
        with (
            running(lambda: account(one, lambda: [one.receive_sync()])) as first,
            running(lambda: account(two, two.receive_many_sync)) as second,
            writer,
        ):
            for message in messages:
                writer.send_nowait(message)
        for outcome in (first, second):
            received, skipped = outcome.value
            assert received + skipped == count


ACCOUNT = """
from broadcast_support import number_of
with BroadcastReader.attach(sys.argv[1]) as reader:
    tell("attached")
    expected = received = skipped = 0
    while True:
        try:
            message = reader.receive_sync()
        except aiospin.LaggedError as lag:
            expected += lag.skipped
            skipped += lag.skipped
        except aiospin.EndOfStream:
            break
        else:
            assert number_of(message) == expected, (number_of(message), expected)
            expected += 1
            received += 1
    tell(received, skipped)
"""


def test_never_torn_between_processes():
    count = scaled(60_000, 5_000)
    messages = [make_message(number, number * 37 % 700) for number in range(count)]
    writer, _ = lossy(8192, readers=0)
    with writer, Child(ACCOUNT, writer.name) as one, Child(ACCOUNT, writer.name) as two:
        for child in (one, two):
            child.expect("attached")
        for message in messages:
            writer.send_nowait(message)
        writer.close()
        for child in (one, two):
            received, skipped = map(int, child.finish().split())
            assert received + skipped == count


def test_reader_that_joins_a_lapped_ring_starts_with_the_next_message():
    writer, _ = lossy(readers=0)
    with writer:
        for _ in range(300):
            writer.send_nowait(b"old")
        with BroadcastReader.attach(writer.handle) as reader:
            assert reader.lag == 0
            writer.send_nowait(b"new")
            assert reader.receive_nowait() == b"new"
