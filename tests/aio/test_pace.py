"""Waits that spin in an event loop: they let others run, and what ends them besides a message still does."""

from __future__ import annotations

import asyncio
import math
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from broadcast_support import Child
from support import COMPILED
from support import settled as until

import aiospin
from aiospin import BroadcastReader, BroadcastWriter, WaitPolicy

LONG = WaitPolicy(mode="loop", max_spin=600.0, price=math.inf)


def balance() -> int:
    """Waits that ended less those that began."""
    now = aiospin.statistics()
    return now.ready + now.spun + now.parked + now.timed_out + now.cancelled - now.waits


async def until_it_spins(reader: BroadcastReader) -> None:
    spin_ns = aiospin.statistics().spin_ns
    await until(lambda: reader._waiting and aiospin.statistics().spin_ns > spin_ns)


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


def test_a_reader_says_whether_prediction_paid(run: Any) -> None:
    async def main() -> None:
        async with (
            BroadcastWriter.create() as writer,
            BroadcastReader.attach(writer.handle, policy=WaitPolicy.latency()) as reader,
            anyio.create_task_group() as group,
        ):

            async def send_after_each(count: int) -> None:
                for number in range(count):
                    await until(lambda: reader._waiting)
                    writer.send_nowait(b"%d" % number)
                    await until(lambda number=number: reader._ring.sequence > number)

            group.start_soon(send_after_each, 20)
            for number in range(20):
                assert await reader.receive() == b"%d" % number
            found = reader.statistics().prediction
            assert (found.predicted > 0) == COMPILED
            assert (found.spun_caught_ns > 0) == COMPILED

    run(main)
