"""Waits that spin in an event loop: they let others run, and what ends them besides a message still does."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import math
import socket
import threading
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from bell_support import balance, watch_slices
from broadcast_support import Child
from support import COMPILED
from support import settled as until

import aiospin
from aiospin import BroadcastReader, BroadcastWriter, WaitPolicy, WouldBlock

LONG = WaitPolicy(mode="loop", max_spin=600.0, price=math.inf)


async def until_it_spins(reader: BroadcastReader) -> None:
    spin_ns = aiospin.statistics().spin_ns
    await until(lambda: reader._ring.suspended and aiospin.statistics().spin_ns > spin_ns)


def test_waits_too_short_to_be_suspended_let_others_run(run: Any) -> None:
    async def main() -> None:
        passes = 0

        async def other() -> None:
            nonlocal passes
            while True:
                await anyio.lowlevel.checkpoint()
                passes += 1

        async with (
            BroadcastWriter.create() as writer,
            BroadcastReader.attach(writer.handle) as reader,
            anyio.create_task_group() as group,
        ):
            group.start_soon(other)
            before = balance()
            for _ in range(1000):
                with pytest.raises(TimeoutError):
                    await reader.receive(1e-9)
            assert passes >= 5
            assert balance() == before
            group.cancel_scope.cancel()

    run(main)


def test_a_close_ends_a_long_spin(run: Any) -> None:
    async def main() -> None:
        async with BroadcastWriter.create() as writer:
            reader = BroadcastReader.attach(writer.handle, policy=LONG)
            before = balance()

            async def receive() -> None:
                with pytest.raises(aiospin.ClosedResourceError):
                    await reader.receive()

            with anyio.fail_after(10):
                async with anyio.create_task_group() as group:
                    group.start_soon(receive)
                    await until_it_spins(reader)
                    reader.close()
            assert balance() == before

    run(main)


def test_the_death_of_the_writer_ends_a_long_spin(run: Any) -> None:
    async def main() -> None:
        with Child("with BroadcastWriter.create() as writer: tell(writer.name); input()") as child:
            reader = BroadcastReader.attach(child.hear(), policy=LONG)
            before = balance()

            async def receive() -> None:
                with pytest.raises(aiospin.BrokenResourceError):
                    await reader.receive()

            with anyio.fail_after(10):
                async with anyio.create_task_group() as group:
                    group.start_soon(receive)
                    await until_it_spins(reader)
                    child.kill()
            assert balance() == before
            reader.close()

    run(main)


def test_a_slice_that_fails_ends_its_wait(
    run_asyncio: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        async with (
            BroadcastWriter.create() as writer,
            BroadcastReader.attach(writer.handle, policy=LONG) as reader,
        ):

            async def receive() -> None:
                with pytest.raises(RuntimeError, match="broken"):
                    await reader.receive()

            with anyio.fail_after(10):
                async with anyio.create_task_group() as group:
                    group.start_soon(receive)
                    await until_it_spins(reader)
                    with monkeypatch.context() as patch:
                        patch.setattr("aiospin._loops._asyncio.core", Broken())
                        await asyncio.sleep(0)
                        await asyncio.sleep(0)
            await writer.send(b"next")
            assert await reader.receive() == b"next"

    class Broken:
        def __getattr__(self, name: str) -> Any:
            raise RuntimeError("broken")

    run_asyncio(main)


def test_what_is_ready_runs_between_two_slices(
    run_asyncio: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Callbacks, what the loop polls, and tasks: each has its turn before the wait spins on."""

    async def main() -> None:
        turns: list[str] = []
        loop = asyncio.get_running_loop()

        def callback() -> None:
            nonlocal next_one
            turns.append("callback")
            next_one = loop.call_soon(callback)

        async def task() -> None:
            while True:
                turns.append("task")
                await asyncio.sleep(0)

        ours, theirs = socket.socketpair()
        with ours, theirs:
            theirs.send(b"never read, so it is always readable")
            async with (
                BroadcastWriter.create() as writer,
                BroadcastReader.attach(writer.handle, policy=LONG) as reader,
                anyio.create_task_group() as group,
            ):
                watch_slices(monkeypatch, reader, lambda: turns.append("slice"))
                next_one = loop.call_soon(callback)
                group.start_soon(task)
                loop.add_reader(ours, turns.append, "poll")
                receiving = asyncio.ensure_future(reader.receive())
                await until(lambda: turns.count("slice") >= 100)
                await writer.send(b"news")
                assert await receiving == b"news"
                loop.remove_reader(ours)
                next_one.cancel()
                group.cancel_scope.cancel()
        slices = [at for at, turn in enumerate(turns) if turn == "slice"]
        assert len(slices) >= 100
        for begin, end in itertools.pairwise(slices):
            assert set(turns[begin + 1 : end]) == {"callback", "task", "poll"}

    run_asyncio(main)


@pytest.mark.parametrize("by_thread", [False, True])
def test_cancelled_in_the_middle_of_a_slice(
    run_asyncio: Any, monkeypatch: pytest.MonkeyPatch, by_thread: bool
) -> None:
    async def main() -> None:
        slices = 0
        loop = asyncio.get_running_loop()

        def begins() -> None:
            nonlocal slices
            slices += 1
            if slices == 5:
                if by_thread:
                    thread = threading.Thread(
                        target=loop.call_soon_threadsafe, args=(receiving.cancel,)
                    )
                    thread.start()
                    thread.join()
                else:
                    receiving.cancel()

        async with (
            BroadcastWriter.create() as writer,
            BroadcastReader.attach(writer.handle, policy=LONG) as reader,
        ):
            watch_slices(monkeypatch, reader, begins)
            before, cancelled = balance(), aiospin.statistics().cancelled
            receiving = asyncio.ensure_future(reader.receive())
            with pytest.raises(asyncio.CancelledError):
                await receiving
            assert slices == 5
            assert aiospin.statistics().cancelled == cancelled + 1
            assert balance() == before
            # and the next wait spins again
            receiving = asyncio.ensure_future(reader.receive())
            await until(lambda: slices > 10)
            await writer.send(b"next")
            assert await receiving == b"next"

    run_asyncio(main)


@pytest.mark.parametrize("forgotten", [False, True])
def test_a_coroutine_that_is_dropped_in_a_spin(run: Any, forgotten: bool) -> None:
    """It ends without the loop, and leaves the loop free for the slices of another wait."""

    async def main() -> None:
        async with (
            BroadcastWriter.create() as writer,
            BroadcastReader.attach(writer.handle, policy=LONG) as reader,
            anyio.create_task_group() as group,
        ):
            before, cancelled = balance(), aiospin.statistics().cancelled
            receiving = reader.receive()
            receiving.send(None)
            if forgotten:
                del receiving
            else:
                receiving.close()
            assert aiospin.statistics().cancelled == cancelled + 1
            assert balance() == before
            group.start_soon(reader.receive)
            await until_it_spins(reader)
            assert aiospin.statistics().live_tickets == 0
            await writer.send(b"next")

    run(main)


def test_a_reader_says_whether_prediction_paid(run: Any) -> None:
    async def main() -> None:
        async with (
            BroadcastWriter.create() as writer,
            BroadcastReader.attach(writer.handle, policy=WaitPolicy.latency()) as reader,
            anyio.create_task_group() as group,
        ):

            async def send_after_each(count: int) -> None:
                for number in range(count):
                    await until(lambda: reader._ring.suspended)
                    writer.send_nowait(b"%d" % number)
                    await until(lambda number=number: reader._ring.sequence > number)

            group.start_soon(send_after_each, 20)
            for number in range(20):
                assert await reader.receive() == b"%d" % number
            found = reader.statistics().prediction
            assert (found.predicted > 0) == COMPILED
            assert (found.spun_caught_ns > 0) == COMPILED

    run(main)


def test_a_writer_says_whether_prediction_paid(run: Any) -> None:
    async def main() -> None:
        async with (
            BroadcastWriter.create(capacity=4096, policy=WaitPolicy.latency()) as writer,
            BroadcastReader.attach(writer.handle) as reader,
            anyio.create_task_group() as group,
        ):
            with contextlib.suppress(WouldBlock):
                while True:
                    writer.send_nowait(bytes(1000))

            async def make_room(times: int) -> None:
                for _ in range(times):
                    await until(lambda: writer._ring.suspended)
                    sent = writer._ring.sequence
                    reader.receive_nowait()
                    await until(lambda sent=sent: writer._ring.sequence > sent)

            group.start_soon(make_room, 20)
            for _ in range(20):
                await writer.send(bytes(1000))
            found = writer.statistics().prediction
            assert (found.predicted > 0) == COMPILED
            assert (found.spun_caught_ns > 0) == COMPILED

    run(main)
