"""multiprocessing.Pipe."""

# ruff: noqa: ARG002  (every transport is opened alike, also where it needs less)

from __future__ import annotations

import asyncio
import multiprocessing
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Any

from _transports.transport import ReaderEnd, Transport, WriterEnd, nothing_to_wait_for

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from multiprocessing.connection import Connection


class Pipe(Transport):
    """multiprocessing.Pipe, one for each reader. It has no batches. In an event loop, as is usual, through a thread."""

    name = "pipe"
    note = (
        "a multiprocessing.Pipe for each reader, to each of which the writer sends; in an event loop "
        "through a thread"
    )

    def meet(self, folder: str, readers: int) -> tuple[Any, list[Any]]:
        pipes = [multiprocessing.Pipe(duplex=False) for _ in range(readers)]
        return [outgoing for _, outgoing in pipes], [incoming for incoming, _ in pipes]

    @contextmanager
    def writer(self, place: list[Connection], readers: int, size: int) -> Iterator[WriterEnd]:
        def send(message: bytes) -> None:
            for end in place:
                end.send_bytes(message)

        yield WriterEnd(nothing_to_wait_for, send)

    @contextmanager
    def reader(self, place: Connection, size: int) -> Iterator[ReaderEnd]:
        yield ReaderEnd(place.recv_bytes)

    @asynccontextmanager
    async def async_writer(
        self, place: list[Connection], readers: int, size: int
    ) -> AsyncIterator[WriterEnd]:
        loop = asyncio.get_running_loop()

        def send_to_each(message: bytes) -> None:
            for end in place:
                end.send_bytes(message)

        async def already_there() -> None:
            pass

        yield WriterEnd(
            already_there, lambda message: loop.run_in_executor(None, send_to_each, message)
        )

    @asynccontextmanager
    async def async_reader(self, place: Connection, size: int) -> AsyncIterator[ReaderEnd]:
        loop = asyncio.get_running_loop()
        yield ReaderEnd(lambda: loop.run_in_executor(None, place.recv_bytes))
