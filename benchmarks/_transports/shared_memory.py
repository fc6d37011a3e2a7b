"""Messages in shared memory without any library, and two ways to learn of them: to look all the time, and an eventfd.

For the comparison of latencies: a blocking writer, which does not wait for its reader, and one reader in an event loop.
"""

# ruff: noqa: ARG002  (every transport is opened alike, also where it needs less)

from __future__ import annotations

import asyncio
import mmap
import os
from contextlib import asynccontextmanager, contextmanager
from multiprocessing import reduction
from pathlib import Path
from typing import TYPE_CHECKING, Any

from _transports.transport import ReaderEnd, Transport, WriterEnd, nothing_to_wait_for

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator


class Slots:
    """Messages in shared memory without any library: a counter that only grows, and slots that are used in turn.

    The counter is written after the message. Python has no release store; x86 needs none, and where one is missing
    the numbers in the messages show it."""

    COUNT = 4096  # messages under way at most; the writer does not look at what was read
    SLOT = 64  # bytes: one message, in a cache line; the counter has one too

    def __init__(self, place: str) -> None:
        with Path(place).open("r+b") as file:
            self._memory = memoryview(mmap.mmap(file.fileno(), 0))
        self.counter = self._memory[:8].cast("Q")

    @classmethod
    def make(cls, place: str) -> None:
        with Path(place).open("wb") as file:
            file.truncate((1 + cls.COUNT) * cls.SLOT)

    def put(self, message: bytes) -> None:
        number = self.counter[0]
        at = (1 + number % self.COUNT) * self.SLOT
        self._memory[at : at + len(message)] = message
        self.counter[0] = number + 1

    def take(self, number: int) -> bytes:
        at = (1 + number % self.COUNT) * self.SLOT
        return bytes(self._memory[at : at + self.SLOT])


class Poll(Transport):
    """A word in shared memory that a task looks at in each pass of its loop."""

    name = "poll"
    note = "messages in shared memory, at whose counter a task looks after each sleep(0)"

    def meet(self, folder: str, readers: int) -> tuple[Any, list[Any]]:
        place = f"{folder}/meet"
        Slots.make(place)
        return place, [place] * readers

    @contextmanager
    def writer(self, place: str, readers: int, size: int) -> Iterator[WriterEnd]:
        yield WriterEnd(nothing_to_wait_for, Slots(place).put)

    @asynccontextmanager
    async def async_reader(self, place: str, size: int) -> AsyncIterator[ReaderEnd]:
        slots = Slots(place)
        counter, taken = slots.counter, 0

        async def receive() -> bytes:
            nonlocal taken
            while counter[0] == taken:  # noqa: ASYNC110  (it is what is measured)
                await asyncio.sleep(0)
            taken += 1
            return slots.take(taken - 1)

        yield ReaderEnd(receive)


class _InheritedFd:
    """A file descriptor that goes along when a process is started."""

    def __init__(self, fd: int) -> None:
        self.fd = fd

    def __del__(self) -> None:
        os.close(self.fd)

    def __reduce__(self) -> tuple[Callable[[Any], _InheritedFd], tuple[Any]]:
        return _InheritedFd._adopt, (reduction.DupFd(self.fd),)

    @staticmethod
    def _adopt(duplicate: Any) -> _InheritedFd:
        return _InheritedFd(duplicate.detach())


class EventFd(Transport):
    """Messages in shared memory; an eventfd, which the event loop watches, says that there are some."""

    name = "eventfd"
    note = "messages in shared memory, and an eventfd that the event loop watches with add_reader"

    def meet(self, folder: str, readers: int) -> tuple[Any, list[Any]]:
        Slots.make(f"{folder}/meet")
        place = f"{folder}/meet", _InheritedFd(os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC))
        return place, [place] * readers

    @contextmanager
    def writer(
        self, place: tuple[str, _InheritedFd], readers: int, size: int
    ) -> Iterator[WriterEnd]:
        put, fd = Slots(place[0]).put, place[1].fd

        def send(message: bytes) -> None:
            put(message)
            os.eventfd_write(fd, 1)

        yield WriterEnd(nothing_to_wait_for, send)

    @asynccontextmanager
    async def async_reader(
        self, place: tuple[str, _InheritedFd], size: int
    ) -> AsyncIterator[ReaderEnd]:
        loop, slots, fd = asyncio.get_running_loop(), Slots(place[0]), place[1].fd
        counter, taken = slots.counter, 0
        waiting: asyncio.Future[None] | None = None

        def wake() -> None:
            os.eventfd_read(fd)
            if waiting is not None and not waiting.done():
                waiting.set_result(None)

        async def receive() -> bytes:
            nonlocal taken, waiting
            while counter[0] == taken:
                waiting = loop.create_future()
                await waiting
            taken += 1
            return slots.take(taken - 1)

        loop.add_reader(fd, wake)
        yield ReaderEnd(receive)
        loop.remove_reader(fd)
