"""What the tests of waits in an event loop share: tasks beside a test, readers that sleep on their bells."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest
from support import COMPILED, settled

import aiospin
from aiospin import BroadcastReader, BroadcastWriter, WaitPolicy
from aiospin._loops._asyncio import AsyncioLoop

PARK = WaitPolicy.powersave()

bells_ring = pytest.mark.skipif(
    not COMPILED,
    reason="the stand-in's writer refuses doorbells: Python has no compare-and-exchange",
)


class Outcome:
    """What a task came to."""

    def __init__(self) -> None:
        self._over = anyio.Event()
        self._value: Any = None
        self._error: Exception | None = None

    async def run(self, body: Callable[..., Awaitable[Any]], *args: object) -> None:
        try:
            self._value = await body(*args)
        except Exception as error:
            self._error = error
        self._over.set()

    @property
    def over(self) -> bool:
        return self._over.is_set()

    async def result(self) -> Any:
        await self._over.wait()
        if self._error is not None:
            raise self._error
        return self._value


@asynccontextmanager
async def running(body: Callable[..., Awaitable[Any]], *args: object) -> AsyncIterator[Outcome]:
    """Run an async function in a task beside the block."""
    outcome = Outcome()
    async with anyio.create_task_group() as group:
        group.start_soon(outcome.run, body, *args)
        yield outcome


async def asleep_on_bell(reader: BroadcastReader) -> None:
    await settled(lambda: reader._bell is not None and reader._bell.sleeper is not None)


async def with_bell(writer: BroadcastWriter, policy: WaitPolicy = PARK) -> BroadcastReader:
    """A reader whose bell the writer has opened."""
    reader = BroadcastReader.attach(writer.handle, policy=policy)
    async with running(reader.receive) as first:
        await settled(lambda: reader._ring.bell() == 1)
        await writer.send(b"first")
        assert await first.result() == b"first"
    return reader


def completions(loop: Any) -> int:
    """Waits that have ended, of which the loop has not heard yet."""
    return len((loop._pending() or ()) if isinstance(loop, AsyncioLoop) else loop._completed)


def balance() -> int:
    """Waits that ended less those that began."""
    now = aiospin.statistics()
    return now.ready + now.spun + now.parked + now.timed_out + now.cancelled - now.waits


class Sliced:
    """A wait that says when a slice of it begins."""

    def __init__(self, wait: Any, begins: Callable[[], None]) -> None:
        self._wait = wait
        self._begins = begins

    def __getattr__(self, name: str) -> Any:
        return getattr(self._wait, name)

    def spin(self, budget_ns: int, hardware: bool) -> Any:
        self._begins()
        return self._wait.spin(budget_ns, hardware)


def watch_slices(
    patch: pytest.MonkeyPatch, reader: BroadcastReader, begins: Callable[[], None]
) -> None:
    """Call a function at the begin of each slice that this reader's waits spin."""
    patch.setattr(reader._target, "wait", Sliced(reader._target.wait, begins))


class Full(asyncio.SelectorEventLoop):
    """A loop that takes no more descriptors for a callback of this name."""

    def __init__(self, callback: str) -> None:
        super().__init__()
        self.refused = 0
        self._callback = callback

    def add_reader(self, fd: Any, callback: Any, *args: Any) -> None:
        if getattr(callback, "__name__", "") == self._callback:
            self.refused += 1
            raise OSError(errno.ENOSPC, "no room for another descriptor")
        super().add_reader(fd, callback, *args)
