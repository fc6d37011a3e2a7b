"""Sending and receiving: every form, every size, waiting for messages and for room."""

from __future__ import annotations

import asyncio
import os

import anyio
import anyio.lowlevel
import pytest
from anyio.abc import ObjectReceiveStream, ObjectSendStream
from broadcast_support import Child, fill, pair, until_waits, waits
from support import running, until

import aiospin
from aiospin import BroadcastReader, EndOfStream, WouldBlock


def test_ends_are_anyio_streams():
    writer, [reader] = pair()
    with writer, reader:
        assert isinstance(writer, ObjectSendStream)
        assert isinstance(reader, ObjectReceiveStream)


def test_all_forms(run):
    async def main():
        writer, [reader] = pair()
        async with writer, reader:
            await writer.send(b"1")
            writer.send_nowait(b"2")
            writer.send_sync(b"3")
            async with writer.acquire_write(1) as slot:
                slot[:] = b"4"
            assert await reader.receive() == b"1"
            assert reader.receive_nowait() == b"2"
            assert reader.receive_sync() == b"3"
            async with reader.acquire_read() as view:
                assert view == b"4"
            with pytest.raises(WouldBlock):
                reader.receive_nowait()

    run(main)


@pytest.mark.parametrize(
    "data", [b"abcd", bytearray(b"abcd"), memoryview(b"abcd"), memoryview(b"xabcd")[1:]]
)
def test_anything_with_contiguous_bytes_is_a_message(data):
    writer, [reader] = pair()
    with writer, reader:
        writer.send_nowait(data)
        assert reader.receive_nowait() == b"abcd"


def test_arrays_are_messages():
    numpy = pytest.importorskip("numpy")
    array = numpy.arange(12, dtype="float32").reshape(3, 4)
    writer, [reader] = pair()
    with writer, reader:
        writer.send_nowait(array)
        assert reader.receive_nowait() == array.tobytes()
        with pytest.raises((BufferError, ValueError)):
            writer.send_nowait(array[:, 1])  # not contiguous
        writer.send_nowait(b"still works")
        assert reader.receive_nowait() == b"still works"


@pytest.mark.parametrize("data", ["text", 7, None, [1]])
def test_what_is_no_message(run, data):
    async def main():
        writer, [reader] = pair()
        async with writer, reader:
            for send in (writer.send_nowait, writer.send_sync):
                with pytest.raises(TypeError, match=type(data).__name__):
                    send(data)
            with pytest.raises(TypeError, match=type(data).__name__):
                await writer.send(data)
            assert reader.lag == 0

    run(main)


def test_sizes_from_nothing_to_the_largest():
    writer, [reader] = pair(8192)
    with writer, reader:
        for size in (
            0,
            1,
            31,
            32,
            33,
            63,
            64,
            65,
            1000,
            writer.max_message - 1,
            writer.max_message,
        ):
            message = bytes(i % 251 for i in range(size))
            writer.send_nowait(message)
            assert reader.receive_nowait() == message


def test_bad_sizes_in_place():
    writer, [reader] = pair(8192)
    with writer, reader:
        with pytest.raises(ValueError, match="nbytes"):
            writer.acquire_write(-1)
        with pytest.raises(TypeError, match="nbytes"):
            writer.acquire_write(1.5)


@pytest.mark.parametrize("size", [1, 33, 97, 1000, 1361, 2047, 2048])
def test_wrap_around(size):
    """Odd sizes, so that records end everywhere; the largest fits an empty ring at every position."""
    writer, [reader] = pair(4096)
    with writer, reader:
        for number in range(300):
            message = bytes([number % 256]) * (size - number % min(size, 7))
            writer.send_nowait(message)
            assert reader.receive_nowait() == message
        assert writer.statistics().messages == reader.statistics().sequence == 300


def test_every_reader_gets_every_message():
    writer, readers = pair(readers=3)
    with writer:
        for number in range(5):
            writer.send_nowait(bytes([number]))
        for reader in readers:
            assert [reader.receive_nowait() for _ in range(5)] == [bytes([i]) for i in range(5)]
            reader.close()


def test_without_readers_nothing_holds_the_writer():
    writer, _ = pair(readers=0)
    with writer:
        for _ in range(1000):
            writer.send_nowait(bytes(100))
        assert writer.statistics().messages == 1000


def test_reader_starts_with_the_next_message():
    writer, [first] = pair()
    with writer, first:
        writer.send_nowait(b"before")
        with BroadcastReader.attach(writer.handle) as second:
            assert (first.lag, second.lag) == (1, 0)
            writer.send_nowait(b"after")
            assert second.statistics().sequence == 1
            assert second.receive_nowait() == b"after"
        assert [first.receive_nowait(), first.receive_nowait()] == [b"before", b"after"]


def test_lag_and_statistics():
    writer, [fast, slow] = pair(readers=2)
    with writer, fast, slow:
        for _ in range(3):
            writer.send_nowait(b"x")
        fast.receive_nowait()
        assert (fast.lag, slow.lag) == (2, 3)
        found = writer.statistics()
        assert (found.messages, found.capacity) == (3, 4096)
        assert [(r.slot, r.lag) for r in found.readers] == [(0, 2), (1, 3)]
        assert fast.statistics().sequence == 1
        assert fast.statistics().published_ns == fast.published_ns > 0
        assert slow.published_ns == 0
        with slow.acquire_read():
            assert slow.lag == 3  # not released yet
        assert slow.lag == 2


# ---- full ----


def test_full_ring_blocks(run):
    async def main():
        writer, [reader] = pair(4096)
        async with writer, reader:
            assert fill(writer) == 4096 // 64
            with pytest.raises(WouldBlock):
                writer.send_nowait(b"")
            with pytest.raises(TimeoutError):
                await writer.send(b"", timeout=0)
            async with anyio.create_task_group() as group:
                group.start_soon(writer.send, b"waited")
                await until_waits(writer)
                assert len(reader.receive_many_nowait()) == 64
            assert reader.receive_nowait() == b"waited"

    run(main)


def test_slowest_reader_holds_the_writer(run):
    async def main():
        writer, [fast, slow] = pair(4096, readers=2)
        async with writer, fast, slow:
            fill(writer)
            fast.receive_many_nowait()
            async with anyio.create_task_group() as group:
                group.start_soon(writer.send, b"waited")
                await until_waits(writer)
                slow.close()  # leaving is releasing
            assert fast.receive_nowait() == b"waited"

    run(main)


def test_send_sync_waits_for_a_release():
    writer, [reader] = pair(4096)
    with writer, reader:
        fill(writer)
        with running(lambda: writer.send_sync(b"waited")):
            until(lambda: waits(writer))
            assert len(reader.receive_many_nowait()) == 64
        assert reader.receive_nowait() == b"waited"


RECEIVE_ON_DEMAND = """
with BroadcastReader.attach(sys.argv[1]) as reader:
    tell("attached")
    while (line := told()) != "end":
        tell(*(len(m) for m in reader.receive_many_sync(int(line))))
"""


def test_send_waits_for_another_process(run):
    async def main():
        writer, _ = pair(4096, readers=0)
        async with writer:
            with Child(RECEIVE_ON_DEMAND, writer.name) as child:
                child.expect("attached")
                fill(writer)
                async with anyio.create_task_group() as group:
                    group.start_soon(writer.send, b"four")
                    await until_waits(writer)
                    child.tell("64")
                    assert child.hear() == " ".join(["32"] * 64)
                child.tell("1")
                child.expect("4")
                child.tell("end")
                child.finish()

    run(main)


def test_timeout_of_a_send_names_who_is_waited_for(run):
    async def main():
        writer, _ = pair(4096, readers=0)
        async with writer:
            with Child(RECEIVE_ON_DEMAND, writer.name) as child:
                child.expect("attached")
                fill(writer)
                who = f"the reader in slot 0, with pid {child.pid}, 4096 bytes behind"
                said = rf"had no room within 0\.02 s: it waits for {who}$"
                with pytest.raises(TimeoutError, match=said):
                    await writer.send(b"", timeout=0.02)
                with pytest.raises(TimeoutError, match=said):
                    async with writer.acquire_write(1, timeout=0.02):
                        pass

                def block():
                    with pytest.raises(TimeoutError, match=said):
                        writer.send_sync(b"", timeout=0.02)

                with running(block):
                    pass
                child.tell("end")
                child.finish()

    run(main)


def test_long_wait_for_room_is_logged_once(run, caplog, monkeypatch):
    monkeypatch.setattr("aiospin._writer.PATIENCE_NS", 50_000_000)

    async def main():
        writer, [reader] = pair(4096)
        async with writer, reader:
            fill(writer)
            for waits_so_far in (1, 2):
                with pytest.raises(TimeoutError):
                    await writer.send(b"", timeout=0.35)  # three looks at who lives
                assert len(caplog.records) == waits_so_far
            [record, _] = caplog.records
            assert (record.name, record.levelname) == ("aiospin", "WARNING")
            said = record.getMessage()
            assert f"slot 0, with pid {os.getpid()}, is 4096 bytes behind" in said

    run(main)


def test_long_blocking_wait_for_room_is_logged_once(caplog, monkeypatch):
    monkeypatch.setattr("aiospin._writer.PATIENCE_NS", 50_000_000)
    writer, [reader] = pair(4096)
    with writer, reader:
        fill(writer)
        with pytest.raises(TimeoutError):
            writer.send_sync(b"", timeout=0.35)
        assert len(caplog.records) == 1


# ---- empty ----


def test_timeout_of_a_receive(run):
    async def main():
        writer, [reader] = pair()
        async with writer, reader:
            for timeout in (0, 0.01):
                with pytest.raises(TimeoutError, match="no message came"):
                    await reader.receive(timeout)
                with pytest.raises(TimeoutError, match="no message came"):
                    await reader.receive_many(timeout=timeout)
                with pytest.raises(TimeoutError, match="no message came"):
                    async with reader.acquire_read(timeout):
                        pass
            writer.send_nowait(b"not lost")
            assert await reader.receive(timeout=0) == b"not lost"

    run(main)


def test_timeout_of_a_blocking_receive():
    writer, [reader] = pair()
    with writer, reader:
        for receive in (reader.receive_sync, lambda timeout: reader.receive_many_sync(8, timeout)):
            for timeout in (0, 0.01):
                with pytest.raises(TimeoutError, match="no message came"):
                    receive(timeout)
        with pytest.raises(TimeoutError), reader.acquire_read(timeout=0.01):
            pass


@pytest.mark.parametrize("timeout", [-1, float("nan"), "1", True])
def test_bad_timeouts(run, timeout):
    async def main():
        writer, [reader] = pair()
        async with writer, reader:
            expected = pytest.raises((ValueError, TypeError), match="timeout")
            for call in (
                lambda: writer.send(b"", timeout),
                lambda: reader.receive(timeout),
                lambda: reader.receive_many(8, timeout),
                lambda: writer.wait_for_readers(0, timeout),
            ):
                with expected:
                    await call()
            for call in (
                lambda: writer.send_sync(b"", timeout),
                lambda: writer.acquire_write(1, timeout),
                lambda: reader.acquire_read(timeout),
                lambda: reader.receive_sync(timeout),
                lambda: reader.receive_many_sync(8, timeout),
                lambda: writer.wait_for_readers_sync(0, timeout),
            ):
                with expected:
                    call()
            assert writer.statistics().messages == 0

    run(main)


def test_receive_waits(run):
    async def main():
        writer, [reader] = pair()
        async with writer, reader:
            received = []

            async def receive():
                received.append(await reader.receive())
                received.append(await reader.receive_many())
                async with reader.acquire_read() as view:
                    received.append(bytes(view))

            async with anyio.create_task_group() as group:
                group.start_soon(receive)
                for count, message in enumerate((b"1", b"2", b"3")):
                    while len(received) < count:
                        await anyio.lowlevel.checkpoint()
                    await until_waits(reader)
                    writer.send_nowait(message)
            assert received == [b"1", [b"2"], b"3"]

    run(main)


def test_receive_sync_waits():
    writer, [reader] = pair()
    with writer, reader:
        received = []

        def receive():
            received.append(reader.receive_sync())
            received.append(reader.receive_many_sync())
            with reader.acquire_read() as view:
                received.append(bytes(view))

        with running(receive):
            for count, message in enumerate((b"1", b"2", b"3")):
                until(lambda count=count: len(received) == count)
                until(lambda: waits(reader))
                writer.send_nowait(message)
        assert received == [b"1", [b"2"], b"3"]


def test_batches(run):
    async def main():
        writer, [reader] = pair()
        async with writer, reader:
            for number in range(9):
                writer.send_nowait(bytes([number]))
            assert await reader.receive_many(2) == [b"\0", b"\1"]
            assert reader.receive_many_nowait(3) == [b"\2", b"\3", b"\4"]
            assert reader.receive_many_sync(1) == [b"\5"]
            assert await reader.receive_many() == [b"\6", b"\7", b"\x08"]
            with pytest.raises(WouldBlock):
                reader.receive_many_nowait()
            for bad, error in ((0, ValueError), (-1, ValueError), (1.5, TypeError)):
                with pytest.raises(error, match="max_messages"):
                    reader.receive_many_nowait(bad)

    run(main)


# ---- the end ----


def test_end_of_stream_comes_after_the_last_message(run):
    async def main():
        writer, [reader] = pair()
        async with reader:
            writer.send_nowait(b"last")
            await writer.aclose()
            assert await reader.receive() == b"last"
            for _ in range(2):
                with pytest.raises(EndOfStream):
                    await reader.receive()
                with pytest.raises(EndOfStream):
                    reader.receive_nowait()
                with pytest.raises(EndOfStream):
                    reader.receive_sync()
                with pytest.raises(EndOfStream):
                    await reader.receive_many()
                with pytest.raises(EndOfStream):
                    reader.receive_many_nowait()
                with pytest.raises(EndOfStream):
                    reader.receive_many_sync()
                with pytest.raises(EndOfStream):
                    async with reader.acquire_read():
                        pass

    run(main)


def test_batch_before_the_end():
    writer, [reader] = pair()
    with reader:
        writer.send_nowait(b"1")
        writer.send_nowait(b"2")
        writer.close()
        assert reader.receive_many_nowait() == [b"1", b"2"]
        with pytest.raises(EndOfStream):
            reader.receive_many_nowait()


def test_close_ends_a_waiting_reader(run):
    async def main():
        writer, [reader] = pair()
        async with reader:

            async def receive():
                with pytest.raises(EndOfStream):
                    await reader.receive()

            async with anyio.create_task_group() as group:
                group.start_soon(receive)
                await until_waits(reader)
                writer.close()

    run(main)


def test_iteration(run):
    async def main():
        writer, [reader] = pair()
        async with reader:
            received = []

            async def consume():
                received.extend([message async for message in reader])

            async with anyio.create_task_group() as group:
                group.start_soon(consume)
                for number in range(5):
                    await writer.send(bytes([number]))
                    await anyio.lowlevel.checkpoint()
                writer.close()
            assert received == [bytes([i]) for i in range(5)]

    run(main)


def test_blocking_iteration():
    writer, [reader] = pair()
    with reader:
        for number in range(5):
            writer.send_nowait(bytes([number]))
        writer.close()
        assert list(reader.iter_sync()) == [bytes([i]) for i in range(5)]


def test_end_of_stream_in_another_process():
    code = """
with BroadcastReader.attach(sys.argv[1]) as reader:
    tell("attached")
    tell(*(m.decode() for m in reader.iter_sync()))
    try: reader.receive_nowait()
    except aiospin.EndOfStream: tell("end")
"""
    writer, _ = pair(readers=0)
    with writer, Child(code, writer.name) as child:
        child.expect("attached")
        writer.send_nowait(b"a")
        writer.send_nowait(b"b")
        writer.close()
        assert child.finish() == "a b\nend\n"


# ---- cancelling ----


def test_cancelled_receive_loses_nothing(run):
    """Cancel at every point of time that the scheduler makes of it, against a writer that goes on."""
    rounds = 500

    async def main():
        writer, [reader] = pair()
        async with writer, reader:
            received = []

            async def receive(scope):
                with scope:
                    received.append(await reader.receive())

            for number in range(rounds):
                scope = anyio.CancelScope()
                async with anyio.create_task_group() as group:
                    group.start_soon(receive, scope)
                    for _ in range(number % 4):
                        await anyio.lowlevel.checkpoint()
                    if number % 2:
                        writer.send_nowait(number.to_bytes(4, "little"))
                        scope.cancel()
                    else:
                        scope.cancel()
                        writer.send_nowait(number.to_bytes(4, "little"))
            while reader.lag:
                received.append(reader.receive_nowait())
            assert [int.from_bytes(m, "little") for m in received] == list(range(rounds))

    run(main)


def test_timed_out_receive_loses_nothing():
    """10,000 timeouts against a writer in another thread that sends all the time."""
    writer, [reader] = pair(65536)
    with writer, reader:
        rounds = 10_000

        def send():
            for number in range(rounds):
                writer.send_sync(number.to_bytes(4, "little"))

        received = []
        timeouts = 0
        with running(send):
            while len(received) < rounds:
                try:
                    received.append(reader.receive_sync(timeout=timeouts % 3 * 1e-6))
                except TimeoutError:
                    timeouts += 1
        assert [int.from_bytes(m, "little") for m in received] == list(range(rounds))


def test_cancels_against_a_sending_thread(run_asyncio):
    async def main():
        rounds = 1_000 if asyncio.get_running_loop().get_debug() else 10_000
        writer, [reader] = pair(65536)
        async with writer, reader:

            def send():
                for number in range(rounds):
                    writer.send_sync(number.to_bytes(4, "little"))

            received = []
            with running(send):
                while len(received) < rounds:
                    task = asyncio.create_task(reader.receive())
                    for _ in range(len(received) % 3):
                        await asyncio.sleep(0)
                    task.cancel()
                    try:
                        received.append(await task)
                    except asyncio.CancelledError:
                        received.extend(reader.receive_many_nowait(1) if reader.lag else ())
            assert [int.from_bytes(m, "little") for m in received] == list(range(rounds))

    run_asyncio(main)


def test_cancelled_send_sends_nothing(run):
    async def main():
        writer, [reader] = pair()
        async with writer, reader:
            count = fill(writer)
            async with anyio.create_task_group() as group:
                group.start_soon(writer.send, b"cancelled")
                await until_waits(writer)
                group.cancel_scope.cancel()
            assert len(reader.receive_many_nowait()) == count
            assert reader.lag == 0
            await writer.send(b"next")
            assert reader.receive_nowait() == b"next"

    run(main)


def test_ready_receives_let_other_tasks_run(run):
    async def main():
        writer, [reader] = pair(1 << 20)
        async with writer, reader:
            ticks = 0

            async def tick():
                nonlocal ticks
                while True:
                    ticks += 1
                    await anyio.lowlevel.checkpoint()

            async with anyio.create_task_group() as group:
                group.start_soon(tick)
                await anyio.lowlevel.checkpoint()
                before = ticks
                for _ in range(1000):
                    await writer.send(b"x")
                    await reader.receive()
                assert ticks > before
                group.cancel_scope.cancel()

    run(main)


# ---- joining ----


def test_wait_for_readers(run):
    async def main():
        writer, _ = pair(readers=0)
        async with writer:
            await writer.wait_for_readers(0)
            with pytest.raises(TimeoutError, match="only 0 of 1 readers"):
                await writer.wait_for_readers(1, timeout=0.01)
            with pytest.raises(ValueError, match="n must be"):
                await writer.wait_for_readers(17)
            reader = None
            async with anyio.create_task_group() as group:
                group.start_soon(writer.wait_for_readers, 1)
                await anyio.lowlevel.checkpoint()
                reader = BroadcastReader.attach(writer.handle)
            reader.close()

    run(main)


def test_wait_for_readers_sync():
    writer, _ = pair(readers=0)
    with writer:
        with pytest.raises(TimeoutError, match="only 0 of 2 readers"):
            writer.wait_for_readers_sync(2, timeout=0.01)
        with running(lambda: writer.wait_for_readers_sync(2)):
            readers = [BroadcastReader.attach(writer.handle) for _ in range(2)]
        for reader in readers:
            reader.close()


def test_blocking_on_the_loop_warns(run):
    async def main():
        writer, [reader] = pair()
        async with writer, reader:
            with (
                pytest.warns(RuntimeWarning, match=r"receive_sync\(\) blocks.*await receive\(\)"),
                pytest.raises(TimeoutError),
            ):
                reader.receive_sync(0.001)
            with (
                pytest.warns(RuntimeWarning, match=r"await receive_many\(\)"),
                pytest.raises(TimeoutError),
            ):
                reader.receive_many_sync(8, 0.001)
            with (
                pytest.warns(RuntimeWarning, match=r"async with acquire_read\(\)"),
                pytest.raises(TimeoutError),
                reader.acquire_read(0.001),
            ):
                pass
            fill(writer)
            with (
                pytest.warns(RuntimeWarning, match=r"await send\(\)") as caught,
                pytest.raises(TimeoutError),
            ):
                writer.send_sync(b"", timeout=0.001)
            assert caught[0].filename == __file__  # it points at the caller
            with (
                pytest.warns(RuntimeWarning, match=r"async with acquire_write\(\)") as caught,
                pytest.raises(TimeoutError),
                writer.acquire_write(1, 0.001),
            ):
                pass
            assert caught[0].filename == __file__
            with (
                pytest.warns(RuntimeWarning, match=r"await wait_for_readers\(\)") as caught,
                pytest.raises(TimeoutError),
            ):
                writer.wait_for_readers_sync(2, timeout=0.002)
            assert caught[0].filename == __file__
            reader.receive_sync()  # what does not wait does not warn

    run(main)


def test_idle_broadcast_resumes(run):
    """Parked for good: the wait slept in the kernel, and a message ends it."""

    async def main():
        policy = aiospin.WaitPolicy.powersave()
        with (
            aiospin.BroadcastWriter.create() as writer,
            BroadcastReader.attach(writer.handle, policy=policy) as reader,
        ):
            before = aiospin.statistics()

            async def send_when_parked():
                while aiospin.statistics().parks < before.parks + 1:  # noqa: ASYNC110 - counters tell nobody
                    await anyio.sleep(0.001)
                writer.send_nowait(b"after a while")

            async with anyio.create_task_group() as group:
                group.start_soon(send_when_parked)
                assert await reader.receive() == b"after a while"

    run(main)
